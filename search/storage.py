"""Where a study lives: its folder and its Optuna storage."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage

from promptgraft.search.owners import GRACE_S, HEARTBEAT_S
from promptgraft.search.reports import trial_folder
from promptgraft.spaces import InvalidInputError


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder that holds everything about one study.

    Attributes:
        path: By default `runs/<study name>`.
    """

    path: Path

    @property
    def database(self) -> Path:
        """The study's SQLite file, unless another storage is named."""
        return self.path / "study.db"

    @property
    def artifacts(self) -> Path:
        """Files of trials."""
        return self.path / "artifacts"

    @property
    def stages(self) -> Path:
        """Finished stages, shared by all trials."""
        return self.path / "stages"

    @property
    def bundle(self) -> Path:
        """The exported winner."""
        return self.path / "bundle"

    def trial(self, number: int) -> Path:
        """Files of one trial."""
        return trial_folder(self.artifacts, number)

    def storage_url(self) -> str:
        """URL of the SQLite file."""
        return f"sqlite:///{self.database.resolve()}"


def open_storage(url: str) -> RDBStorage:
    """Open an Optuna storage; SQLite in WAL mode, so that readers never wait for the driver.

    Args:
        url: An SQLAlchemy URL.

    Raises:
        InvalidInputError: If the storage can't be opened.
    """
    try:
        if url.startswith("sqlite:///"):
            Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # Heartbeats.
            storage = RDBStorage(url, heartbeat_interval=HEARTBEAT_S, grace_period=GRACE_S)
    except (ValueError, ImportError, OSError, RuntimeError, sqlalchemy.exc.SQLAlchemyError) as error:
        safe = sqlalchemy.engine.make_url(url).render_as_string(hide_password=True) if "://" in url else url
        raise InvalidInputError(f"can't open the storage {safe}: {error}") from error
    if storage.engine.dialect.name == "sqlite":
        sqlalchemy.event.listen(storage.engine, "connect", _tune_sqlite)
        storage.engine.dispose()  # So that the connection that created the tables is opened anew.
    return storage


def _tune_sqlite(connection: Any, record: Any) -> None:  # noqa: ARG001
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()


def load_existing(name: str, url: str) -> optuna.Study:
    """Load a study that a run has started.

    Raises:
        InvalidInputError: If there is none.
    """
    missing = url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).is_file()
    if not missing:
        try:
            return optuna.load_study(study_name=name, storage=open_storage(url))
        except KeyError:
            missing = True
    raise InvalidInputError(f"study {name!r} has not been started; start it with: promptgraft run STUDY.yaml")

"""A study's Optuna storage: SQLite in WAL mode, or PostgreSQL."""

import sqlite3
import time
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage

from promptgraft.search.storage.heartbeats import GRACE_S, HEARTBEAT_S
from promptgraft.spaces import InvalidInputError, masked, masked_url

_ATTEMPTS = 20
# What `postgresql://` means: SQLAlchemy's own choice, psycopg2, is no longer developed.
_POSTGRESQL = "postgresql+psycopg"


def open_storage(url: str) -> RDBStorage:
    """Open an Optuna storage: SQLite in WAL mode, so that readers never wait for a driver, or PostgreSQL.

    Args:
        url: An SQLAlchemy URL.

    Raises:
        InvalidInputError: If it can't be opened, or can't do the job.
    """
    engine_kwargs, url = _settings(url)
    try:
        if url.startswith("sqlite:///"):
            Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        storage = _connect(url, engine_kwargs)
    except ImportError as error:
        raise InvalidInputError("PostgreSQL needs psycopg: pip install 'promptgraft[postgres]'") from error
    except RuntimeError as error:
        raise InvalidInputError(_schema_message(url, error)) from error
    except (ValueError, OSError, sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise InvalidInputError(f"can't open the storage {masked_url(url)}: {first_line(error)}") from error
    if storage.engine.dialect.name == "sqlite":
        sqlalchemy.event.listen(storage.engine, "connect", _tune_sqlite)
        storage.engine.dispose()  # So that the connection that created the tables is opened anew.
        with storage.engine.connect() as connection:
            mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
        if mode != "wal":
            raise InvalidInputError(
                f"{masked_url(url)} can't be put into WAL mode (it is in mode {mode!r}), so readers and drivers would "
                "block each other; put it on a local disk, or use PostgreSQL"
            )
    return storage


def _connect(url: str, engine_kwargs: dict[str, Any]) -> RDBStorage:
    """Open a storage and create its tables; again if another process is creating them at this moment."""
    for attempt in range(_ATTEMPTS):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # Heartbeats.
                return RDBStorage(
                    url, engine_kwargs=engine_kwargs, heartbeat_interval=HEARTBEAT_S, grace_period=GRACE_S
                )
        except sqlalchemy.exc.DBAPIError as error:
            raced = isinstance(error, sqlalchemy.exc.IntegrityError) or "already exists" in str(error)
            if attempt == _ATTEMPTS - 1 or not raced:
                raise
            time.sleep(0.2)
    raise AssertionError("unreachable")


def upgrade_storage(url: str) -> tuple[str, str]:
    """Bring the database's schema up to the installed Optuna's; an SQLite file is copied first.

    The copy stands beside the database, with `.before-upgrade` behind its name.

    Returns:
        The revisions before and after.

    Raises:
        InvalidInputError: If there is no such database, or it is newer than the installed Optuna.
    """
    engine_kwargs, url = _settings(url)
    path = Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None
    if path is not None and not path.is_file():
        raise InvalidInputError(f"there is no database at {path}")
    storage = RDBStorage(url, engine_kwargs=engine_kwargs, skip_compatibility_check=True)
    before, head = storage.get_current_version(), storage.get_head_version()
    if before not in storage.get_all_versions():
        raise InvalidInputError(
            f"{masked_url(url)} has schema {before}, which the installed Optuna {optuna.__version__} doesn't know; "
            "it was written by a newer one: pip install --upgrade optuna"
        )
    if before != head:
        if path is not None:
            copy = path.with_name(f"{path.name}.before-upgrade")
            with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
                source.backup(target)
        storage.upgrade()
    return before, storage.get_current_version()


def _settings(url: str) -> tuple[dict[str, Any], str]:
    """Return engine settings and the URL with its driver, or refuse a storage that can't do the job."""
    try:
        parsed = sqlalchemy.engine.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        raise InvalidInputError(
            f"{masked_url(url)} is no storage URL; expected sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"
        ) from error
    kind = parsed.get_backend_name()
    if kind == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise InvalidInputError("a study in memory dies with its process; expected sqlite:///FILE")
        return {}, url
    if kind == "postgresql":
        parsed = parsed.set(drivername=_POSTGRESQL)
        # A connection that the server dropped is noticed and made anew.
        return {"pool_pre_ping": True}, parsed.render_as_string(hide_password=False)
    raise InvalidInputError(
        f"a study can't be stored in {kind!r}: its drivers share a lock and a clock, which promptgraft has for "
        "sqlite:///FILE and postgresql://USER:PASSWORD@HOST/DATABASE"
    )


def first_line(error: BaseException) -> str:
    """Say what a database said, in its first line, whichever libraries have wrapped it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(getattr(error, "orig", error)).strip().splitlines()
    return masked(lines[0]) if lines else type(error).__name__


def _schema_message(url: str, error: RuntimeError) -> str:
    if "no longer compatible" not in str(error):
        return f"can't open the storage {masked_url(url)}: {first_line(error)}"
    if "updating optuna" in str(error):
        return (
            f"{masked_url(url)} was written by a newer Optuna than the installed {optuna.__version__}: "
            "pip install --upgrade optuna"
        )
    return (
        f"{masked_url(url)} was written by another version of Optuna than the installed {optuna.__version__}; bring "
        f"its schema up to date with: promptgraft upgrade --storage {masked_url(url)}"
    )


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

"""Everything of Optuna that promptgraft uses and Optuna doesn't promise to keep, in one place.

Optuna removes public names in major releases only, and announces it beforehand; a name with an underscore, a table's
layout or a key of its system attributes may change in any minor one. So `pyproject.toml` admits the minor releases
that `tests/search/storage/test_optuna_private.py` was run with, and that test names the part that a new one broke.
"""

import sqlite3
from contextlib import closing
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import optuna
import sqlalchemy
import sqlalchemy.orm
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.search_space import IntersectionSearchSpace
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial

# Keys of a trial's system attributes: what `study.enqueue_trial` fixes, and how Optuna's
# `RetryHeartbeatStaleTrialCallback` records which trial a retry stands for.
_FIXED, _FIRST, _HISTORY = "fixed_params", "failed_trial", "retry_history"


def storage_of(study: optuna.Study) -> BaseStorage:
    """Return the storage that a study reads through: for a database, Optuna's cache in front of it."""
    return study._storage


def database_of(study: optuna.Study) -> RDBStorage | None:
    """Return the database that holds a study; None if it is in memory."""
    storage = storage_of(study)
    found = getattr(storage, "_backend", storage)
    return found if isinstance(found, RDBStorage) else None


class _CurrentDatabase(RDBStorage):
    """A database with the installed Optuna's schema, opened without Alembic.

    `RDBStorage` loads Alembic to compare the schema's version, in a third of the time that `promptgraft status` takes.
    """

    def __init__(
        self, url: str, engine_kwargs: dict[str, Any], heartbeat_interval: int | None, grace_period: int | None
    ) -> None:
        self.url, self.engine_kwargs = url, engine_kwargs
        self.skip_compatibility_check = True
        self.heartbeat_interval, self.grace_period = heartbeat_interval, grace_period
        self.heartbeat_stale_trial_callback = self.failed_trial_callback = None
        self.engine = sqlalchemy.engine.create_engine(url, **engine_kwargs)
        self.scoped_session = sqlalchemy.orm.scoped_session(sqlalchemy.orm.sessionmaker(bind=self.engine))

    @cached_property
    def _version_manager(self) -> Any:  # type: ignore[override]  # An attribute there.
        """What Optuna asks for versions; Optuna Dashboard does."""
        literal = self.url.replace("{", "{{").replace("}", "}}")  # Optuna fills in what is in braces.
        return RDBStorage(literal, self.engine_kwargs, skip_compatibility_check=True)._version_manager


def open_current(
    path: Path, url: str, engine_kwargs: dict[str, Any], heartbeat_interval: int | None, grace_period: int | None
) -> RDBStorage | None:
    """Open an SQLite database that the installed Optuna has set up; None for any other one, which has to be checked.

    Args:
        path: The database's file.
        url: Its SQLAlchemy URL; the other arguments are those of `RDBStorage`.
        engine_kwargs: Settings of SQLAlchemy's engine.
        heartbeat_interval: Seconds between two heartbeats.
        grace_period: Seconds without one until a trial is stale.
    """
    revisions = Path(optuna.__file__).parent / "storages" / "_rdb" / "alembic" / "versions"
    newest = max((file.stem.rstrip("_") for file in revisions.glob("v*.py")), default=None)
    if newest is None or not path.is_file():
        return None
    query = "SELECT v.library_version, a.version_num FROM version_info v, alembic_version a"
    try:
        with closing(sqlite3.connect(path)) as database:
            found = database.execute(query).fetchall()
    except sqlite3.Error:
        return None
    if found != [(optuna.__version__, newest)]:
        return None
    return _CurrentDatabase(url, engine_kwargs, heartbeat_interval, grace_period)


def trial_id_of(trial: FrozenTrial) -> int:
    """Return the id that a storage knows a trial by."""
    return trial._trial_id


def last_beats(storage: RDBStorage, study_id: int) -> dict[int, str]:
    """Return the last heartbeat of each running trial, by its id: a text that changes with every beat."""
    query = sqlalchemy.text(
        "SELECT h.trial_id, h.heartbeat FROM trial_heartbeats h JOIN trials t ON t.trial_id = h.trial_id "
        "WHERE t.study_id = :study_id AND t.state = 'RUNNING'"
    )
    with storage.engine.connect() as connection:
        return {trial_id: str(beat) for trial_id, beat in connection.execute(query, {"study_id": study_id})}


def has_heartbeat(storage: RDBStorage, trial_id: int) -> bool:
    """Whether a trial's heart ever beat."""
    query = sqlalchemy.text("SELECT count(*) FROM trial_heartbeats WHERE trial_id = :trial_id")
    with storage.engine.connect() as connection:
        return bool(connection.execute(query, {"trial_id": trial_id}).scalar())


def silent_seconds(storage: RDBStorage, trial_id: int) -> float | None:
    """Return how long ago a trial's last heartbeat was, by the database's clock; None if it never beat."""
    query = sqlalchemy.text(
        "SELECT heartbeat, CURRENT_TIMESTAMP AS present FROM trial_heartbeats WHERE trial_id = :trial_id"
    ).columns(heartbeat=sqlalchemy.DateTime, present=sqlalchemy.DateTime)
    with storage.engine.connect() as connection:
        row = connection.execute(query, {"trial_id": trial_id}).first()
    if row is None:
        return None
    # PostgreSQL stores the session's local time without its zone.
    silent: float = (row.present.replace(tzinfo=None) - row.heartbeat.replace(tzinfo=None)).total_seconds()
    return max(0.0, silent)


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a distribution holds a value.

    Raises:
        ValueError: If the value is of a type that it can't hold.
    """
    return bool(distribution._contains(distribution.to_internal_repr(value)))


def share_search_space(sampler: BaseSampler, common: IntersectionSearchSpace) -> None:
    """Give TPE what the trials have in common: built anew, it looks at each of them again for every draw."""
    if isinstance(sampler, TPESampler):
        sampler._search_space = common


def enqueued_parameters(trial: FrozenTrial) -> dict[str, Any]:
    """Return the parameters that `study.enqueue_trial` fixed for a trial: name -> value."""
    return dict(trial.system_attrs.get(_FIXED, {}))


def retry_history(trial: FrozenTrial) -> list[int]:
    """Return the numbers of the trials that a trial runs again, the first one first."""
    return list(trial.system_attrs.get(_HISTORY, []))


def retry_attrs(trial: FrozenTrial) -> dict[str, Any]:
    """Return the system attributes of the trial that runs another one again, as Optuna's own retries have them."""
    history = [*retry_history(trial), trial.number]
    return {**trial.system_attrs, _FIRST: history[0], _HISTORY: history}


def study_over(name: str, storage: object, pruner: BasePruner) -> optuna.Study:
    """Return a study that reads through something that only looks like a storage.

    Args:
        name: The study's name, which the storage knows.
        storage: Answers what a pruner asks a `BaseStorage`.
        pruner: The study's pruner.
    """
    return optuna.Study(name, cast("BaseStorage", storage), pruner=pruner)


def trial_for_note(study: optuna.Study, storage: RDBStorage, trial_id: int) -> Any:
    """Return what Optuna Dashboard's `save_note` needs of a live trial; a real one would ask the sampler again."""
    return SimpleNamespace(storage=storage, study=study, _trial_id=trial_id)

"""One driver at a time: a lock on a study that all its drivers share, and that dies with its holder."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

import optuna
import sqlalchemy
from filelock import Timeout
from optuna.storages import RDBStorage

from promptgraft.objectives.file_store import file_lock
from promptgraft.search.storage.database import sqlite_file
from promptgraft.search.storage.optuna_private import database_of
from promptgraft.spaces import PromptgraftError

LOCK_TIMEOUT_S = 60
# What PostgreSQL calls the end of `lock_timeout`.
_LOCK_NOT_AVAILABLE = "55P03"


class StudyLockedError(PromptgraftError, TimeoutError):
    """Another driver has held the study's lock for longer than it ever should."""


@contextmanager
def study_lock(storage: RDBStorage, study_name: str) -> Iterator[None]:
    """Hold the study's lock, so that two drivers never start the same candidate or adopt the same orphan.

    The lock is a file beside an SQLite database, or an advisory lock of PostgreSQL: both are released by the
    system when their holder dies.

    Raises:
        StudyLockedError: If it isn't free within `LOCK_TIMEOUT_S`.
    """
    if storage.engine.dialect.name == "sqlite":
        path = sqlite_file(storage.url)
        assert path is not None
        file = path.with_name(f"{path.name}.lock")
        try:
            lock = file_lock(file, LOCK_TIMEOUT_S)
            lock.acquire()
        except Timeout as error:
            raise StudyLockedError(_message(study_name)) from error
        except OSError as error:
            if error.errno is not None:  # Of a disk that is read only, it doesn't say which.
                error.filename = error.filename or str(file)
            raise
        try:
            yield
        finally:
            lock.release()
        return
    key = int.from_bytes(sha256(f"promptgraft/{study_name}".encode()).digest()[:8], signed=True)
    with storage.engine.connect() as connection, connection.begin():
        try:
            connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'"))
            connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
        except sqlalchemy.exc.OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                raise  # The server went away, which is waited for.
            raise StudyLockedError(_message(study_name)) from error
        yield


@contextmanager
def lock_of(study: optuna.Study) -> Iterator[None]:
    """Hold a study's lock, as `study_lock` does; a study in memory has no other process to be kept from.

    Raises:
        StudyLockedError: If it isn't free within `LOCK_TIMEOUT_S`.
    """
    database = database_of(study)
    if database is None:
        yield
        return
    with study_lock(database, study.study_name):
        yield


def _message(study_name: str) -> str:
    return (
        f"study {study_name!r} was locked by another driver for {LOCK_TIMEOUT_S} s; is one stopped (SIGSTOP) "
        "or its disk or database not answering?"
    )

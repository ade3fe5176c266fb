"""A study's Optuna storage: SQLite in WAL mode, or PostgreSQL."""

import functools
import itertools
import logging
import os
import sqlite3
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import optuna
import sqlalchemy
from optuna.storages import RDBStorage

from promptgraft.search.storage.attributes import StudyRecord
from promptgraft.search.storage.heartbeats import GRACE_S, HEARTBEAT_S
from promptgraft.search.storage.optuna_private import open_current
from promptgraft.spaces import InvalidInputError, did_you_mean, masked, masked_url

logger = logging.getLogger(__name__)

_ATTEMPTS = 20
# What follows the name of a database in those of its copies.
_COPIES = ("copy", "before-upgrade")
# Of errors that may be over by the next try.
_PASSING = ("locked", "busy", "refused", "timeout", "timed out", "starting up", "shutting down", "closed", "too many")
# What `postgresql://` means: SQLAlchemy's own choice, psycopg2, is no longer developed.
_POSTGRESQL = "postgresql+psycopg"


class StorageAwayError(InvalidInputError, ConnectionError):
    """The storage can't be opened now, but may be later: it is locked, or its server doesn't answer."""


class DamagedDatabaseError(InvalidInputError):
    """The database is damaged."""


class NotStartedError(InvalidInputError):
    """There is no such study in a storage."""


def open_storage(url: str) -> RDBStorage:
    """Open an Optuna storage: SQLite in WAL mode, so that readers never wait for a driver, or PostgreSQL.

    Args:
        url: An SQLAlchemy URL.

    Raises:
        InvalidInputError: If it can't be opened, or can't do the job.
        StorageAwayError: If it can't be opened now.
        DamagedDatabaseError: If it is damaged; later reads and writes raise this error, too.
    """
    engine_kwargs, url = _settings(url)
    path = sqlite_file(url)
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        storage = _connect(url, engine_kwargs)
        if path is None:
            return storage
        sqlalchemy.event.listen(storage.engine, "handle_error", functools.partial(_name_damage, path))
        sqlalchemy.event.listen(storage.engine, "connect", _tune_sqlite)
        storage.engine.dispose()  # So that the connection that created the tables is opened anew.
        with storage.engine.connect() as connection:
            mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
    except ImportError as error:
        raise InvalidInputError("PostgreSQL needs psycopg: pip install 'promptgraft[postgres]'") from error
    except RuntimeError as error:
        raise InvalidInputError(_schema_message(url, error)) from error
    except InvalidInputError:
        raise
    except (ValueError, OSError, sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise _opening_error(url, path, error) from error
    if mode != "wal":
        raise InvalidInputError(
            f"{masked_url(url)} can't be put into WAL mode (it is in mode {mode!r}), so readers and drivers would "
            "block each other; put it on a local disk, or use PostgreSQL"
        )
    return storage


def _opening_error(url: str, path: Path | None, error: Exception) -> InvalidInputError:
    reason = first_line(error)
    if path is not None and _tells_damage(reason):
        return DamagedDatabaseError(_damage_message(path, reason))
    kind = StorageAwayError if any(sign in reason.lower() for sign in _PASSING) else InvalidInputError
    return kind(f"can't open the storage {masked_url(url)}: {reason}")


def _tells_damage(reason: str) -> bool:
    return "malformed" in reason or "not a database" in reason or "disk image" in reason


def _damage_message(path: Path, reason: str) -> str:
    copies = sorted(path.parent.glob(f"{path.name}.*"), key=lambda copy: copy.stat().st_mtime)
    kept = [copy for copy in copies if copy.name.removeprefix(f"{path.name}.").startswith(_COPIES)]
    if not kept:
        return (
            f"the database {path} is damaged ({reason}), and there is no copy; save what can be read of it with: "
            f"sqlite3 {path} .recover"
        )
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(kept[-1].stat().st_mtime))
    return (
        f"the database {path} is damaged ({reason}); the last copy is {kept[-1]}, of {when}: move the damaged file and "
        "its -wal and -shm away, copy that one to its place and run the same command"
    )


def _name_damage(path: Path, context: Any) -> None:
    """Say which database is damaged, in place of an error of SQLite that doesn't."""
    reason = str(context.original_exception)
    if _tells_damage(reason):
        raise DamagedDatabaseError(_damage_message(path, reason)) from context.original_exception


def keep_copy(url: str) -> None:
    """Copy an SQLite database that is sound beside itself, for the day when it is damaged.

    Raises:
        DamagedDatabaseError: If it is damaged already.
    """
    path = sqlite_file(_settings(url)[1])
    if path is None or not path.is_file():
        return
    try:
        with closing(sqlite3.connect(path)) as database:
            found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found == "ok":
            copy_database(path, path.with_name(f"{path.name}.copy"))
            return
    except (sqlite3.OperationalError, OSError) as error:
        logger.warning("no copy of %s is kept: %s", path, error)
        return
    except sqlite3.DatabaseError as error:
        found = str(error)
    raise DamagedDatabaseError(_damage_message(path, found.splitlines()[0]))


def _connect(url: str, engine_kwargs: dict[str, Any]) -> RDBStorage:
    """Open a storage and create its tables; again if another process is creating them at this moment."""
    path = sqlite_file(url)
    current = None if path is None else open_current(path, url, engine_kwargs, HEARTBEAT_S, GRACE_S)
    if current is not None:
        return current
    for attempt in range(_ATTEMPTS):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # Heartbeats.
                return RDBStorage(
                    _literal(url), engine_kwargs=engine_kwargs, heartbeat_interval=HEARTBEAT_S, grace_period=GRACE_S
                )
        except sqlalchemy.exc.DBAPIError as error:
            raced = isinstance(error, sqlalchemy.exc.IntegrityError) or "already exists" in str(error)
            if attempt == _ATTEMPTS - 1 or not raced:
                raise
            time.sleep(0.2)
    raise AssertionError("unreachable")


def upgrade_storage(url: str) -> tuple[str, str]:
    """Bring the database's schema up to the installed Optuna's; an SQLite file is copied first.

    The copy stands beside the database, with `.before-upgrade` behind its name, and a number if there is one already.

    Returns:
        The revisions before and after.

    Raises:
        InvalidInputError: If there is no such database, or it is newer than the installed Optuna.
    """
    engine_kwargs, url = _settings(url)
    path = sqlite_file(url)
    if path is not None and not path.is_file():
        raise InvalidInputError(f"there is no database at {path}")
    storage = RDBStorage(_literal(url), engine_kwargs=engine_kwargs, skip_compatibility_check=True)
    before, head = storage.get_current_version(), storage.get_head_version()
    if before not in storage.get_all_versions():
        raise InvalidInputError(
            f"{masked_url(url)} has schema {before}, which the installed Optuna {optuna.__version__} doesn't know; "
            "it was written by a newer one: pip install --upgrade optuna"
        )
    if before != head:
        if path is not None:
            copy_database(path, _free_name(path.with_name(f"{path.name}.before-upgrade")))
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
        if str(parsed.database).startswith("~"):
            url = url.replace(str(parsed.database), str(Path(str(parsed.database)).expanduser()), 1)
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


def sqlite_url(path: Path) -> str:
    """Return the storage URL of an SQLite file, whatever signs are in its name."""
    place = str(path.resolve())
    url = sqlalchemy.URL.create("sqlite", database=place).render_as_string()
    if sqlalchemy.engine.make_url(url).database == place:
        return url
    return f"sqlite:///file:{quote(place)}?uri=true"  # Before version 2.1, SQLAlchemy can't have a question mark in it.


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite storage, without the URL's options; None for another database."""
    parsed = sqlalchemy.engine.make_url(url)
    if parsed.get_backend_name() != "sqlite" or parsed.database is None:
        return None
    if parsed.database.startswith("file:"):  # The URIs that SQLite itself knows.
        return Path(unquote(parsed.database.removeprefix("file:").partition("?")[0]))
    return Path(parsed.database)


def _literal(url: str) -> str:
    """Return a URL as Optuna takes it, which fills in what is in braces."""
    return url.replace("{", "{{").replace("}", "}}")


def copy_database(path: Path, copy: Path) -> None:
    """Copy an SQLite database that may be in use; the copy is whole or isn't there."""
    partial = copy.with_name(f"{copy.name}.{os.getpid()}.partial")
    try:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(partial)) as target:
            source.backup(target)
        partial.replace(copy)
    finally:
        partial.unlink(missing_ok=True)


def _free_name(path: Path) -> Path:
    """Return a path, with a number behind it if there is a file already."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(found for found in itertools.chain([path], numbered) if not found.exists())


def stored_studies(url: str) -> list[str]:
    """Return the names of the studies in a storage; none where there is no database.

    Raises:
        InvalidInputError: If it can't be opened.
    """
    storage = _open_stored(url)
    return [] if storage is None else _names_in(storage, url)


def load_existing(name: str, url: str) -> optuna.Study:
    """Load a study that a run has started.

    Raises:
        NotStartedError: If there is none.
    """
    storage = _open_stored(url)
    known: list[str] = []
    if storage is not None:
        with suppress(KeyError), _explained_errors(url):
            found = optuna.load_study(study_name=name, storage=storage)
            StudyRecord.of(found)  # Fails here, with a message, if the attributes' table is damaged.
            return found
        known = _names_in(storage, url)
        storage.engine.dispose()  # A server has few connections, and a study may be looked for again and again.
    path = sqlite_file(_settings(url)[1])
    where = masked_url(url) if path is None else path.resolve()
    there = f"it holds {', '.join(known)}; {did_you_mean(name, known)}" if known else "there is no study in it"
    raise NotStartedError(f"study {name!r} has not been started in {where}: {there}")


def _open_stored(url: str) -> RDBStorage | None:
    """Open a storage, unless there is no database."""
    path = sqlite_file(_settings(url)[1])
    if path is not None and not (path.is_file() and path.stat().st_size):
        return None  # Opening it would create its tables.
    return open_storage(url)


def _names_in(storage: RDBStorage, url: str) -> list[str]:
    with _explained_errors(url):
        return sorted(optuna.get_all_study_names(storage))


@contextmanager
def _explained_errors(url: str) -> Iterator[None]:
    """Say what is wrong with a storage, in place of an error of the libraries that read it."""
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise _opening_error(url, sqlite_file(_settings(url)[1]), error) from error

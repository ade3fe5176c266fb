"""A storage that goes away for a moment, at any of the statements that a run sends it."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.trial import create_trial

from promptgraft.search.running.finals import Confirmation
from promptgraft.search.running.repeat_workers import Job
from promptgraft.search.running.starting import _started_ledger
from promptgraft.search.storage import (
    Outcome,
    RunFolder,
    StorageLostError,
    open_storage,
    until_storage_answers,
    waiting,
)
from promptgraft.search.study import Study, load_study
from promptgraft.search.trials import Limits

WriteStudy = Callable[..., Path]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_FIRST_PAUSE_S", 0.0)


@contextmanager
def away_at(storage: RDBStorage, statement: int) -> Iterator[Callable[[], bool]]:
    """Fail one statement of a storage as a server does that goes away; tells whether it came to that."""
    numbers, failed = itertools.count(), []

    def fail(*arguments: Any) -> None:
        if next(numbers) == statement:
            failed.append(arguments[2])
            raise sqlalchemy.exc.OperationalError(arguments[2], None, ConnectionError("the server went away"))

    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", fail)
    try:
        yield lambda: bool(failed)
    finally:
        sqlalchemy.event.remove(storage.engine, "before_cursor_execute", fail)


def stored_in(folder: Path) -> RDBStorage:
    folder.mkdir()
    return open_storage(f"sqlite:///{folder / 'study.db'}")


def attrs_of(storage: RDBStorage) -> dict[str, Any]:
    attrs = optuna.load_study(study_name="tiny", storage=storage).user_attrs
    return attrs | {"edits": [entry["edits"] for entry in attrs.get("edits", [])], "token": None}


def start(study: Study, storage: RDBStorage) -> None:
    folder = RunFolder(Path(str(storage.engine.url.database)).parent)
    until_storage_answers(lambda: _started_ledger(study, storage, folder, Limits(3, None, None)))


def test_a_run_starts_though_the_storage_goes_away_at_any_statement(write_study: WriteStudy, tmp_path: Path) -> None:
    """And so does one that goes on with an edited file: what it records is what an undisturbed one does."""
    first, edited = load_study(write_study()), load_study(write_study(budget={"trials": 5}))
    undisturbed = stored_in(tmp_path / "undisturbed")
    start(first, undisturbed)
    before = attrs_of(undisturbed)
    start(edited, undisturbed)
    expected = attrs_of(undisturbed)
    assert len(expected["edits"]) == 1
    for number in itertools.count():
        storage = stored_in(tmp_path / str(number))
        with away_at(storage, 5 * number) as was_away:
            start(first, storage)
        assert attrs_of(storage) == before
        with away_at(storage, 5 * number) as was_away_again:
            start(edited, storage)
        assert attrs_of(storage) == expected
        if not was_away() and not was_away_again():
            break
    assert number > 5


def test_judging_goes_on_though_the_storage_goes_away_at_any_statement(write_study: WriteStudy, tmp_path: Path) -> None:
    study, storage = load_study(write_study(judging={"finalists": 1, "repeats": 2})), stored_in(tmp_path / "run")
    start(study, storage)
    stored = optuna.load_study(study_name="tiny", storage=storage)
    confirmation = Confirmation(study, stored, "", Limits(3, None, 10.0), None, lambda line: None)
    candidate = {"template": "a", "steps": 4}
    costs = {"prompt_tokens": 3, "trainable_parameters": 1, "latency_ms": 1.0, "seconds": 1.0}
    stored.add_trial(create_trial(value=0.5, user_attrs={"candidate": candidate, "best_step": 4, **costs}))
    (missing,) = confirmation.jobs()
    job = Job(missing.attr, "a repeat", lambda runner: None)

    def record() -> None:
        confirmation._record(job, Outcome(0.5, {}, 1.0))

    def is_spent() -> bool:
        return confirmation._is_spent(job)

    for call in (confirmation.is_needed, is_spent, confirmation.nothing_judged, record):
        expected, statements = call(), 0
        for statement in itertools.count():
            with away_at(storage, statement) as was_away:
                assert call() == expected
            if not was_away():
                break
            statements += 1
        assert statements > 0, call
    assert stored.user_attrs[job.attr] == {"value": 0.5, "seconds": 1.0}
    assert [left.name for left in confirmation.jobs()] == ["rerun 2 of trial 0", "rerun 3 of trial 0"]


def test_who_waits_for_too_long_gets_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.2)
    monkeypatch.setattr(waiting, "_FIRST_PAUSE_S", 0.05)

    def gone() -> None:
        raise sqlalchemy.exc.OperationalError("SELECT 1", None, ConnectionError("the server is gone"))

    with pytest.raises(StorageLostError, match=r"not answered for 0 s \(.*the server is gone.*run the same command"):
        until_storage_answers(gone)
    with pytest.raises(ZeroDivisionError):
        until_storage_answers(lambda: 1 // 0)

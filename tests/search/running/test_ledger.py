"""What the ledger writes is what happened, whatever storage fixture holds the study."""

import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from promptgraft.objectives.data import TaskSpec
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec
from promptgraft.search.running import StudyLedger
from promptgraft.search.running.retries import Loss
from promptgraft.search.running.run_state import RunState
from promptgraft.search.running.searcher import FINISHED, StudySearcher
from promptgraft.search.storage import Pulses, heartbeats, open_storage
from promptgraft.search.trials import Limits, best_trial, compute_seconds
from promptgraft.spaces import Candidate, Categorical, Float, SearchSpace
from tests.support.studies import WIDE, four_templates, open_ledger, sqlite_url

OpenLedger = Callable[..., StudyLedger]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def ledger(request: pytest.FixtureRequest) -> OpenLedger:
    """Open the study of a folder, in each kind of storage."""
    url_of = sqlite_url if request.param == "sqlite" else request.getfixturevalue("postgres_url")

    def opened(folder: Path, searched: SearchSpace = WIDE, pruner: str = "none") -> StudyLedger:
        return open_ledger(folder, searched, url=url_of(folder), pruner=pruner, n_startup_trials=3)

    return opened


def finish(book: StudyLedger, value: float) -> Candidate:
    asked = book.ask()
    assert asked is not None
    book.report(asked.number, 0, value, compared=False)
    book.complete(asked.number, value)
    return asked.candidate


def test_sqlite_is_in_wal_mode(tmp_path: Path) -> None:
    storage = open_storage(sqlite_url(tmp_path))
    with storage.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1


def test_states_and_curves_are_recorded_when_they_happen(ledger: OpenLedger, tmp_path: Path) -> None:
    book = ledger(tmp_path)
    complete, pruned, failed = (book.ask() for _ in range(3))
    assert complete is not None
    assert pruned is not None
    assert failed is not None
    seen = book.study.get_trials()
    assert [trial.state for trial in seen] == [TrialState.RUNNING] * 3
    assert all(trial.user_attrs["candidate_key"] and trial.params for trial in seen)
    for step, value in ((0, 0.5), (8, 0.7)):
        book.report(complete.number, step, value, compared=step != 8)
    book.complete(complete.number, 0.7)
    book.report(pruned.number, 0, 0.1, compared=True)
    book.prune(pruned.number, 0.1)
    book.fail(failed.number, "out of luck")
    trials = book.study.get_trials()
    assert [t.state for t in trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert trials[0].value == 0.7
    assert trials[0].intermediate_values == {0: 0.5, 8: 0.7}
    assert trials[1].intermediate_values == {0: 0.1}
    assert trials[2].user_attrs["cause"] == "out of luck"
    assert book.counts() == {"COMPLETE": 1, "PRUNED": 1, "FAIL": 1}
    assert book.cut_off == 0


def test_the_study_s_pruner_decides_and_never_at_the_last_step(ledger: OpenLedger, tmp_path: Path) -> None:
    book = ledger(tmp_path, pruner="median")
    for _ in range(6):
        finish(book, 0.9)
    for final in (False, True):
        asked = book.ask()
        assert asked is not None
        assert book.report(asked.number, 0, 0.1, compared=not final) is not final


def test_no_candidate_is_tried_twice(ledger: OpenLedger, tmp_path: Path) -> None:
    """In 50 trials in a space of 60 points, with a sampler that repeats itself if it is let."""
    searched = four_templates(Categorical("frozen_layers", (0, 1, 2, 3, 4)), Categorical("alpha", (0.0, 0.2, 0.4)))
    book = ledger(tmp_path, searched)
    seen = [finish(book, index % 7 / 7) for index in range(50)]
    assert len({candidate.key for candidate in seen}) == 50


def test_an_exhausted_space_ends_the_search(ledger: OpenLedger, tmp_path: Path) -> None:
    book = ledger(tmp_path, four_templates())
    assert len({finish(book, 0.5).key for _ in range(4)}) == 4
    assert book.ask() is None
    assert book.exhausted


def test_a_resumed_study_goes_on_as_if_it_had_not_stopped(ledger: OpenLedger, tmp_path: Path) -> None:
    """And a resumed sampler doesn't draw its first candidates again."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = ledger(tmp_path / "whole")
    expected = [finish(whole, index / 10) for index in range(8)]
    first = ledger(tmp_path / "parts")
    found = [finish(first, index / 10) for index in range(4)]
    second = ledger(tmp_path / "parts")
    found += [finish(second, index / 10) for index in range(4, 8)]
    assert found == expected
    assert len({candidate.key for candidate in found}) == 8


def test_interrupted_trials_are_failed_and_queued_again(ledger: OpenLedger, tmp_path: Path) -> None:
    book = ledger(tmp_path)
    finish(book, 0.5)
    lost = book.ask()
    assert lost is not None
    assert book.interrupt(Loss.STOPPED, "stopped") == 1
    assert book.counts() == {"COMPLETE": 1, "FAIL": 1, "WAITING": 1}
    assert book.cut_off == 1
    assert book.failure_rate == 0
    again = ledger(tmp_path).ask()
    assert again is not None
    assert again.candidate == lost.candidate
    trial = book.study.get_trials()[again.number]
    assert trial.user_attrs["retry_of"] == lost.number
    assert trial.state == TrialState.RUNNING


def test_orphans_of_a_dead_driver_are_found_and_live_ones_are_left(ledger: OpenLedger, tmp_path: Path) -> None:
    book = ledger(tmp_path)
    orphan, alive = book.ask(), book.ask()
    assert orphan is not None
    assert alive is not None
    owner = book.frozen(orphan.number).user_attrs["owner"]
    book.set_attrs(orphan.number, {"owner": {**owner, "ticks": owner["ticks"] - 100}})
    other = ledger(tmp_path)
    assert other.adopt_orphans() == 1
    states = [trial.state for trial in other.study.get_trials()]
    assert states == [TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING]


def test_a_user_s_own_enqueued_trial_is_run_first(ledger: OpenLedger, tmp_path: Path) -> None:
    book = ledger(tmp_path)
    book.study.enqueue_trial({"alpha": 0.25})
    asked = book.ask()
    assert asked is not None
    assert asked.candidate.alpha == 0.25
    assert book.frozen(asked.number).params["alpha"] == 0.25
    assert "learning_rate" in book.frozen(asked.number).params


def steps_and_alpha(*choices: int, high: float = 1.0) -> SearchSpace:
    return four_templates(Categorical("steps", choices), Float("alpha", 0, high))


@pytest.mark.parametrize("edited", [steps_and_alpha(200, 300), steps_and_alpha(200, 300, 400, high=0.5)])
def test_what_an_edited_space_no_longer_holds_is_not_run_again_and_the_search_goes_on(
    ledger: OpenLedger, tmp_path: Path, edited: SearchSpace
) -> None:
    book = ledger(tmp_path, steps_and_alpha(200, 300, 400))
    for alpha in (0.75, 0.25):
        book.study.enqueue_trial({"steps": 400, "alpha": alpha})
        assert book.ask() is not None
    assert book.interrupt(Loss.STOPPED, "stopped") == 2
    book.study.enqueue_trial({"steps": 400, "alpha": 0.75})  # Never started.
    other = ledger(tmp_path, edited)
    for _ in range(3):
        asked = other.ask()
        assert asked is not None
        other.complete(asked.number, 0.5)
    trials = other.study.get_trials()
    causes = [str(trials[number].user_attrs.get("cause")) for number in (2, 3, 4)]
    lost = "steps 400" if edited == steps_and_alpha(200, 300) else "alpha 0.75"
    assert lost in causes[0]
    assert "the edited space no longer holds" in causes[0]
    assert f"the space doesn't hold {lost}" in causes[2]
    goes_on = TrialState.FAIL if lost == "steps 400" else TrialState.COMPLETE
    assert [trials[number].state for number in (2, 3, 4)] == [TrialState.FAIL, goes_on, TrialState.FAIL]
    assert other.failure_rate == 0
    if lost == "steps 400":
        assert all(400 not in trial.params.values() for trial in trials[5:])
    assert other.finished == 3


def test_at_equal_values_the_lower_loss_wins(ledger: OpenLedger, tmp_path: Path) -> None:
    book = ledger(tmp_path)
    for value, loss in ((0.8, 0.6), (0.8, 0.4), (0.7, 0.1)):
        asked = book.ask()
        assert asked is not None
        book.set_attrs(asked.number, {"validation_loss": loss})
        book.complete(asked.number, value)
    winner = best_trial(book.study)
    assert winner is not None
    assert winner.number == 1


@pytest.mark.parametrize("failures", [5, 6])
def test_the_failure_rate_waits_for_enough_trials(ledger: OpenLedger, tmp_path: Path, failures: int) -> None:
    book = ledger(tmp_path)
    for _ in range(failures):
        asked = book.ask()
        assert asked is not None
        book.fail(asked.number, "always")
    assert book.failure_rate == (1.0 if failures == 6 else 0.0)


def hand_over(book: StudyLedger, number: int, **changes: object) -> None:
    """Make a live trial look like that of a driver elsewhere."""
    book.set_attrs(number, {"owner": {**book.frozen(number).user_attrs["owner"], **changes}})


def test_two_drivers_share_a_study_without_a_duplicate(ledger: OpenLedger, tmp_path: Path) -> None:
    searched = four_templates(Categorical("frozen_layers", (0, 1, 2)))
    books = ledger(tmp_path, searched), ledger(tmp_path, searched)
    started = [book.ask(wanted=10) for _ in range(5) for book in books]
    assert all(started)
    assert len({asked.candidate.key for asked in started if asked}) == 10
    assert books[0].ask(wanted=10) is None
    for book in books:
        assert book.adopt_orphans() == 0
        for number in list(book.live):
            book.complete(number, 0.5)
    for book in books:
        book.refresh()
        assert book.finished == 10
        assert book.counts() == {"COMPLETE": 10}


def test_a_driver_learns_from_the_other_one(ledger: OpenLedger, tmp_path: Path) -> None:
    """After the same finished trials, both draw what one driver alone would have drawn."""
    (tmp_path / "alone").mkdir()
    (tmp_path / "two").mkdir()
    alone = ledger(tmp_path / "alone")
    expected = [finish(alone, index / 10) for index in range(8)]
    books = ledger(tmp_path / "two"), ledger(tmp_path / "two")
    assert [finish(books[index % 2], index / 10) for index in range(8)] == expected


def test_a_trial_of_another_host_is_an_orphan_once_its_heart_stops(ledger: OpenLedger, tmp_path: Path) -> None:
    book = ledger(tmp_path)
    asked = book.ask()
    assert asked is not None
    hand_over(book, asked.number, machine="elsewhere")
    other, now = ledger(tmp_path), [0.0]
    other._pulses = Pulses(lambda: now[0])
    assert other.adopt_orphans() == 0
    now[0] = heartbeats.GRACE_S - 1
    assert other.adopt_orphans() == 0
    now[0] = heartbeats.GRACE_S
    assert other.adopt_orphans() == 1
    assert other.counts() == {"FAIL": 1, "WAITING": 1}
    # The driver was only asleep: it lets go of the trial, and what it found is found again by the retry.
    assert book.report(asked.number, 0, 0.5, compared=True)
    assert not book.live
    assert book.counts() == {"FAIL": 1, "WAITING": 1}


def adopt_the_silent(book: StudyLedger) -> None:
    """Adopt orphans as a driver does that has heard nothing of them for long enough."""
    now = [0.0]
    book._pulses = Pulses(lambda: now[0])
    assert book.adopt_orphans() == 0
    now[0] = heartbeats.GRACE_S
    assert book.adopt_orphans() == 1


@pytest.mark.parametrize("step", [timedelta(days=-1), timedelta(minutes=-10), timedelta(days=1)], ids=str)
def test_a_clock_that_is_set_makes_no_orphan_of_a_live_trial(
    ledger: OpenLedger, tmp_path: Path, step: timedelta
) -> None:
    """Between two looks the driver elsewhere has beaten, by whatever clock: it lives."""
    book = ledger(tmp_path)
    asked = book.ask()
    assert asked is not None
    hand_over(book, asked.number, machine="elsewhere")
    other, now = ledger(tmp_path), [0.0]
    other._pulses = Pulses(lambda: now[0])
    for beat in range(4):
        moment = sqlalchemy.bindparam(
            "moment", datetime.now(UTC) + step + timedelta(seconds=20 * beat), sqlalchemy.DateTime
        )
        with other.storage.engine.begin() as connection:  # The database's clock is set, and goes on from there.
            connection.execute(sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = :moment").bindparams(moment))
        assert other.adopt_orphans() == 0
        now[0] += heartbeats.GRACE_S - 1
    now[0] += 2
    assert other.adopt_orphans() == 1, "now it is silent"


def test_an_orphan_found_a_day_later_ran_until_its_heart_stopped(ledger: OpenLedger, tmp_path: Path) -> None:
    book = ledger(tmp_path)
    asked = book.ask()
    assert asked is not None
    hand_over(book, asked.number, machine="elsewhere")
    started = book.frozen(asked.number).datetime_start
    assert started is not None
    with book.storage.engine.begin() as connection:
        times = sqlalchemy.text("SELECT heartbeat FROM trial_heartbeats").columns(heartbeat=sqlalchemy.DateTime)
        beat = connection.execute(times).scalar_one()
        for table, column, moment in (
            ("trials", "datetime_start", started - timedelta(days=1)),
            ("trial_heartbeats", "heartbeat", beat - timedelta(days=1) + timedelta(seconds=40)),
        ):
            change = sqlalchemy.text(f"UPDATE {table} SET {column} = :moment")
            connection.execute(change.bindparams(sqlalchemy.bindparam("moment", moment, sqlalchemy.DateTime)))
    other = ledger(tmp_path)
    adopt_the_silent(other)
    used = compute_seconds(other.trials, time.time())
    assert used == pytest.approx(40, abs=2), "to the second of the database's clock"


def test_searching_goes_on_when_the_last_trial_s_end_made_room(ledger: OpenLedger, tmp_path: Path) -> None:
    state = RunState(disk_full="the disk quota is used up")
    task = TaskSpec("unread.csv", {"text": "text"}, "label")
    spec = ObjectiveSpec(BackboneSpec("unread", "encoder", 64), task, None, WIDE)
    searcher = StudySearcher(ledger(tmp_path), Limits(5), spec, 0, state, lambda: None)
    assert searcher.suggest("a") == FINISHED

    def check_disk() -> None:
        state.disk_full = None

    searcher.check_disk = check_disk
    assert isinstance(searcher.suggest("b"), dict)
    state.disk_full = "the disk quota is used up"
    assert searcher.suggest("c") is None, "one trial is live, and may free its checkpoint"


def test_a_trial_whose_driver_died_before_its_first_heartbeat_becomes_an_orphan_too(
    ledger: OpenLedger, tmp_path: Path
) -> None:
    book = ledger(tmp_path)
    asked = book.ask()
    assert asked is not None
    hand_over(book, asked.number, machine="elsewhere")
    with book.storage.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM trial_heartbeats")
    other = ledger(tmp_path)
    assert other.adopt_orphans() == 0
    with other.storage.engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM trial_heartbeats").scalar() == 1


def test_a_lost_trial_is_run_again_at_most_k_times_with_its_history(ledger: OpenLedger, tmp_path: Path) -> None:
    book = ledger(tmp_path)
    first = book.ask()
    assert first is not None
    asked, history = first, []
    for _ in range(3):
        history.append(asked.number)
        assert book.lose(asked.number, Loss.WORKER_DIED, "killed")
        again = book.ask()
        assert again is not None
        assert again.candidate == first.candidate
        asked = again
        assert optuna.storages.RetryHeartbeatStaleTrialCallback.retry_history(book.frozen(asked.number)) == history
    for _ in range(5):
        assert book.lose(asked.number, Loss.PREEMPTED, "the node is gone")
        again = book.ask()
        assert again is not None
        asked = again
    assert not book.lose(asked.number, Loss.WORKER_DIED, "killed")
    trials = book.study.get_trials()
    assert "not run again, since it was lost 4 times" in trials[asked.number].user_attrs["cause"]
    assert book.counts() == {"FAIL": 9}
    assert sum("interrupted" in trial.user_attrs for trial in trials) == 5
    new = book.ask()
    assert new is not None
    assert new.candidate != first.candidate


def test_a_crash_between_a_retry_and_the_end_of_the_lost_trial_makes_no_second_retry(
    ledger: OpenLedger, tmp_path: Path
) -> None:
    class CrashError(Exception):
        pass

    book = ledger(tmp_path)
    asked = book.ask()
    assert asked is not None

    def crash(*args: object, **kwargs: object) -> None:
        raise CrashError

    book.storage.set_trial_user_attr = crash  # type: ignore[method-assign]
    with pytest.raises(CrashError):
        book.lose(asked.number, Loss.WORKER_DIED, "killed")
    other = ledger(tmp_path)
    assert other.counts() == {"RUNNING": 1, "WAITING": 1}
    owner = asdict(book.owner) | {"started": 0.0, "ticks": 1}
    other.storage.set_trial_user_attr(book.frozen(asked.number)._trial_id, "owner", owner)
    assert other.adopt_orphans() == 1
    assert other.counts() == {"FAIL": 1, "WAITING": 1}


def test_a_retry_does_not_shift_the_random_numbers(ledger: OpenLedger, tmp_path: Path) -> None:
    (tmp_path / "calm").mkdir()
    (tmp_path / "rough").mkdir()
    calm = ledger(tmp_path / "calm")
    expected = [finish(calm, index / 10) for index in range(8)]
    rough, found = ledger(tmp_path / "rough"), []
    for index in range(8):
        asked = rough.ask()
        assert asked is not None
        if index % 3 == 0:
            rough.lose(asked.number, Loss.ORPHANED, "killed")
            rough = ledger(tmp_path / "rough")
        else:
            rough.complete(asked.number, index / 10)
            found.append(asked.candidate)
            continue
        found.append(finish(rough, index / 10))
    assert found == expected

"""What the ledger writes is what happened, whatever storage fixture holds the study."""

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from promptgraft.search.ledger import StudyLedger, best_trial
from promptgraft.search.storage import open_storage
from promptgraft.search.study_file import EngineSection
from promptgraft.spaces import Candidate, Categorical, Float, SearchSpace, StudyFacts, Template, Verbalizer

FACTS = StudyFacts(n_layers=6, has_head=True, has_source=True)


def space(*parameters: object) -> SearchSpace:
    templates = tuple(Template(name, f"{name} {{{{ text }}}} {{{{ label }}}}") for name in "abcd")
    verbalizers = (Verbalizer("v", {"no": ("bad",), "yes": ("good",)}),)
    return SearchSpace(templates, verbalizers, tuple(parameters), FACTS)  # type: ignore[arg-type]


WIDE = space(Float("learning_rate", 1e-5, 1e-2, log=True), Float("alpha", 0, 1))


def ledger(folder: Path, searched: SearchSpace = WIDE, pruner: str = "none", seed: int = 0) -> StudyLedger:
    storage = open_storage(f"sqlite:///{folder / 'study.db'}")
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize", load_if_exists=True)
    sampler = EngineSection.model_validate({"name": "tpe", "n_startup_trials": 3})
    return StudyLedger(study, storage, searched, sampler, EngineSection(name=pruner), seed)


def finish(book: StudyLedger, value: float) -> Candidate:
    asked = book.ask()
    assert asked is not None
    book.report(asked.number, 0, value, final=True)
    book.complete(asked.number, value)
    return asked.candidate


def test_sqlite_is_in_wal_mode(tmp_path: Path) -> None:
    with ledger(tmp_path).storage.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1


def test_states_and_curves_are_recorded_when_they_happen(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    complete, pruned, failed = (book.ask() for _ in range(3))
    assert complete is not None
    assert pruned is not None
    assert failed is not None
    seen = book.study.get_trials()
    assert [trial.state for trial in seen] == [TrialState.RUNNING] * 3
    assert all(trial.user_attrs["candidate_key"] and trial.params for trial in seen)
    for step, value in ((0, 0.5), (8, 0.7)):
        book.report(complete.number, step, value, final=step == 8)
    book.complete(complete.number, 0.7)
    book.report(pruned.number, 0, 0.1, final=False)
    book.prune(pruned.number)
    book.fail(failed.number, "out of luck")
    trials = book.study.get_trials()
    assert [t.state for t in trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert trials[0].value == 0.7
    assert trials[0].intermediate_values == {0: 0.5, 8: 0.7}
    assert trials[1].intermediate_values == {0: 0.1}
    assert trials[2].user_attrs["cause"] == "out of luck"
    assert book.counts() == {"COMPLETE": 1, "PRUNED": 1, "FAIL": 1}


def test_the_study_s_pruner_decides_and_never_at_the_last_step(tmp_path: Path) -> None:
    book = ledger(tmp_path, pruner="median")
    for _ in range(6):
        finish(book, 0.9)
    for final in (False, True):
        asked = book.ask()
        assert asked is not None
        assert book.report(asked.number, 0, 0.1, final=final) is not final


def test_no_candidate_is_tried_twice_in_200_trials(tmp_path: Path) -> None:
    """In a space of 240 points, with a sampler that repeats itself a third of the time if it is let."""
    searched = space(
        Categorical("frozen_layers", (0, 1, 2, 3, 4)),
        Categorical("alpha", (0.0, 0.2, 0.4)),
        Categorical("steps", (4, 8, 16, 32)),
    )
    book = ledger(tmp_path, searched)
    seen = [finish(book, index % 7 / 7) for index in range(200)]
    assert len({candidate.key for candidate in seen}) == 200


def test_an_exhausted_space_ends_the_search(tmp_path: Path) -> None:
    book = ledger(tmp_path, space())
    assert len({finish(book, 0.5).key for _ in range(4)}) == 4
    assert book.ask() is None
    assert book.exhausted


def test_a_resumed_study_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
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


def test_interrupted_trials_are_failed_and_queued_again(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    finish(book, 0.5)
    lost = book.ask()
    assert lost is not None
    assert book.interrupt("stopped") == 1
    assert book.counts() == {"COMPLETE": 1, "FAIL": 1, "WAITING": 1}
    assert book.failure_rate == 0
    again = ledger(tmp_path).ask()
    assert again is not None
    assert again.candidate == lost.candidate
    trial = book.study.get_trials()[again.number]
    assert trial.user_attrs["retry_of"] == lost.number
    assert trial.state == TrialState.RUNNING


def test_orphans_of_a_dead_driver_are_found_and_live_ones_are_left(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    orphan, alive = book.ask(), book.ask()
    assert orphan is not None
    assert alive is not None
    owner = book.frozen(orphan.number).user_attrs["owner"]
    book.set_attrs(orphan.number, {"owner": {**owner, "started": owner["started"] - 100}})
    other = ledger(tmp_path)
    assert other.adopt_orphans() == 1
    states = [trial.state for trial in other.study.get_trials()]
    assert states == [TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING]


def test_a_user_s_own_enqueued_trial_is_run_first(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    book.study.enqueue_trial({"alpha": 0.25})
    asked = book.ask()
    assert asked is not None
    assert asked.candidate.alpha == 0.25
    assert book.frozen(asked.number).params["alpha"] == 0.25
    assert "learning_rate" in book.frozen(asked.number).params


def test_at_equal_values_the_lower_loss_wins(tmp_path: Path) -> None:
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
def test_the_failure_rate_waits_for_enough_trials(tmp_path: Path, failures: int) -> None:
    book = ledger(tmp_path)
    for _ in range(failures):
        asked = book.ask()
        assert asked is not None
        book.fail(asked.number, "always")
    assert book.failure_rate == (1.0 if failures == 6 else 0.0)

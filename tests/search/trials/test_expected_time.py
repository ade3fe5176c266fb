"""What a candidate will take, from trials of known length; and a search that leaves queued what would end too late."""

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from promptgraft.objectives.data import TaskSpec
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec, SourceTraining
from promptgraft.search.running.retries import Loss
from promptgraft.search.running.run_state import RunState
from promptgraft.search.running.searcher import FINISHED, StudySearcher
from promptgraft.search.storage import candidate_attrs, new_owner
from promptgraft.search.trials import Limits
from promptgraft.search.trials.expected_time import ExpectedTimes
from promptgraft.spaces import Candidate, Categorical, SearchSpace, StudyFacts
from tests.support.specs import TEMPLATES, VERBALIZERS
from tests.support.studies import four_templates, open_ledger

FACTS = StudyFacts(6, has_head=True, has_source=True)
SPACE = SearchSpace(TEMPLATES, VERBALIZERS, (), FACTS)
SPEC = ObjectiveSpec(
    BackboneSpec("unread", "encoder", 64),
    TaskSpec("unread.csv", {"text": "text"}, "label"),
    None,
    SPACE,
    source_training=SourceTraining(batch_size=16, frozen_layers=3),
)
PROBE = Candidate("t", "", head="probe", steps=0, frozen_layers=6)
FOLDS = 3


def finished(
    candidate: Candidate, seconds: float, folds: int = FOLDS, until: int | None = None
) -> tuple[FrozenTrial, float]:
    """A trial with what it took; it was pruned after so many folds, each of which ended at a step."""
    state = TrialState.COMPLETE if folds == FOLDS else TrialState.PRUNED
    last = candidate.steps if until is None else until
    reports = {fold * (candidate.steps + 1) + step: 0.5 for fold in range(folds) for step in {0, last}}
    attrs = candidate_attrs(candidate, new_owner())
    return create_trial(state=state, value=0.5, user_attrs=attrs, intermediate_values=reports), seconds


def expected(*trials: tuple[FrozenTrial, float]) -> Callable[[Candidate], float]:
    took = {id(trial): seconds for trial, seconds in trials}
    return ExpectedTimes([trial for trial, _ in trials], SPEC, lambda trial: took[id(trial)]).of


def trained(steps: int, frozen_layers: int = 3, **changes: object) -> Candidate:
    return Candidate("t", "", head="probe", steps=steps, frozen_layers=frozen_layers, **changes)  # type: ignore[arg-type]


def test_nothing_is_expected_before_a_trial_tells() -> None:
    assert expected()(trained(100)) == 0
    assert expected(finished(PROBE, 6))(trained(100)) == pytest.approx(6), "that of the folds at least"


def test_a_trial_takes_the_time_of_its_folds_and_of_its_updates() -> None:
    of = expected(finished(PROBE, 6), finished(trained(100), 36), finished(PROBE, 600, folds=3), finished(PROBE, 6))
    assert of(PROBE) == pytest.approx(6)
    assert of(trained(200)) == pytest.approx(6 + 2 * 30)
    assert of(trained(100, batch_size=32)) == pytest.approx(6 + 2 * 30)
    assert of(trained(100, alpha=0.5)) == pytest.approx(6 + 2 * 30), "source rows beside those of the target"
    assert of(trained(100, alpha=1.0)) == pytest.approx(6 + 30)
    assert of(trained(50, contrastive_steps=50)) == pytest.approx(6 + 30)
    assert of(trained(100, self_training=0.9)) == pytest.approx(6 + 2 * 30)


def test_a_trial_that_ended_early_counts_for_what_it_trained() -> None:
    of = expected(finished(PROBE, 6), finished(trained(100), 6 + 30, until=40))
    assert of(trained(100)) == pytest.approx(6 + 75)


def test_the_share_of_layers_counts_where_none_had_as_many_frozen() -> None:
    """The second was pruned after one of three folds: the whole takes three times as much."""
    half = finished(trained(100, frozen_layers=3), 36)
    assert expected(finished(PROBE, 6), half)(trained(100, frozen_layers=0)) == pytest.approx(6 + 4 * 30)
    whole = finished(trained(100, frozen_layers=0), 2 + 50, folds=1)
    assert expected(finished(PROBE, 6), half, whole)(trained(100, frozen_layers=0)) == pytest.approx(6 + 3 * 50)


def test_a_source_stage_is_paid_for_once() -> None:
    of = expected(finished(PROBE, 6), finished(trained(0, source_steps=60, source_objective="contrastive"), 36))
    assert of(trained(0, source_steps=60, source_objective="contrastive")) == pytest.approx(6)
    assert of(trained(0, source_steps=120, source_objective="contrastive")) == pytest.approx(6 + 2 * 30)
    assert of(trained(0, source_steps=60)) == pytest.approx(6 + 30), "another objective, so another stage"


def test_source_rows_have_a_pace_of_their_own() -> None:
    """An update on target rows takes 0.3 s, one on source rows in a stage or beside those 0.9 s."""
    staged = finished(trained(0, source_steps=60, source_objective="contrastive"), 6 + 54)
    of = expected(finished(PROBE, 6), finished(trained(100), 6 + 90), staged)
    assert of(trained(50)) == pytest.approx(6 + 45)
    assert of(trained(50, alpha=0.5)) == pytest.approx(6 + 45 + 3 * 45)
    both = finished(trained(100, alpha=0.5), 6 + 90 + 270)
    assert expected(finished(PROBE, 6), finished(trained(100), 6 + 90), both)(
        trained(0, source_steps=60)
    ) == pytest.approx(6 + 54)


def test_a_ledger_leaves_queued_what_would_end_too_late(tmp_path: Path) -> None:
    space = four_templates(Categorical("steps", (10, 500)))
    book = open_ledger(tmp_path, space)
    for template, steps in zip(space.templates, (500, 10), strict=False):
        book.study.enqueue_trial({"template": template.id, "steps": steps})
    asked = [book.ask(allows=lambda _: lambda candidate: candidate.steps < 100) for _ in range(5)]
    assert [own and own.number for own in asked] == [1, 2, 3, 4, None]
    assert {own.candidate.steps for own in asked if own} == {10}
    assert (book.nothing_fits, book.exhausted) == (True, False)
    assert book.study.trials[0].state == TrialState.WAITING
    later = book.ask()
    assert later is not None
    assert (later.number, later.candidate.steps, book.nothing_fits) == (0, 500, False)


def test_a_trial_that_was_cut_off_goes_on_whatever_it_takes(tmp_path: Path) -> None:
    book = open_ledger(tmp_path)
    asked = book.ask()
    assert asked is not None
    book.lose(asked.number, Loss.STOPPED, "the run was stopped")
    again = book.ask(allows=lambda _: lambda _: False)
    assert again is not None
    assert again.candidate == asked.candidate
    assert book.ask(allows=lambda _: lambda _: False) is None


def test_a_search_ends_when_all_that_is_left_takes_too_long(tmp_path: Path) -> None:
    book = open_ledger(tmp_path, four_templates(Categorical("steps", (500,))))
    book.study.add_trial(_took(Candidate("b", "v", steps=500), 400))
    for steps in (0, 0):
        book.study.add_trial(_took(Candidate("a", "v", steps=steps, frozen_layers=6), 2))
    book.refresh()
    ends_at = time.time() + 100
    searcher = StudySearcher(book, Limits(9, ends_at, 100), SPEC, 0, RunState(slots=1), lambda: None)
    assert searcher.suggest("x") is None
    assert searcher.suggest("x") == FINISHED
    assert searcher.ended_because == "the time is up: 1m 40s (what is left to try takes longer than that)"
    assert not searcher.needs_help


def test_what_has_just_ended_tells_too(tmp_path: Path) -> None:
    """The ledger of another driver hasn't seen them yet."""
    book = open_ledger(tmp_path, four_templates(Categorical("steps", (500,))))
    searcher = StudySearcher(book, Limits(9, time.time() + 100, 100), SPEC, 0, RunState(slots=1), lambda: None)
    for candidate, seconds in ((Candidate("b", "v", steps=500), 400), (Candidate("a", "v", steps=0), 2)):
        book.study.add_trial(_took(candidate, seconds))
    book.study.add_trial(_took(Candidate("a", "v", steps=0), 2))
    assert [searcher.suggest("x"), searcher.suggest("x")] == [None, FINISHED]


def _took(candidate: Candidate, seconds: float) -> FrozenTrial:
    trial, _ = finished(candidate, seconds)
    assert trial.datetime_complete is not None
    trial.datetime_start = trial.datetime_complete - timedelta(seconds=seconds)
    return trial

"""What the scheduler makes of the messages of a worker."""

from pathlib import Path
from types import SimpleNamespace

from optuna.trial import TrialState

from promptgraft.objectives.progress import StageProgress
from promptgraft.search.reporting import status_lines, summarize
from promptgraft.search.running.run_state import RunState
from promptgraft.search.running.scheduler import MESSAGE, StudyScheduler
from promptgraft.search.running.searcher import JOB
from promptgraft.search.storage import TrialRecord
from promptgraft.search.trials import Evaluated, FoldScores, Message, TrialJob, TrialSummary
from tests.support.studies import WIDE, open_ledger


class Seen:
    """A run's callback that remembers what it was called with."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_stage(self, number: int, message: StageProgress) -> None:
        self.calls.append(f"{number}: {message}")

    def on_evaluated(self, number: int, message: Evaluated) -> None:
        self.calls.append(f"{number}: {message.value}")

    def on_trial_ending(self, number: int, messages: list[Evaluated]) -> None:
        """Write no note."""

    def on_trial_ended(self, number: int, state: TrialState, value: float | None, cause: str) -> None:
        self.calls.append(f"{number}: {state.name} {value} {cause}")


def test_a_trial_in_its_source_stage_is_seen_and_not_judged(tmp_path: Path) -> None:
    """By its driver, by `status`, and in the cause of a timeout; its curve is left alone."""
    book, callback = open_ledger(tmp_path, WIDE), Seen()
    scheduler = StudyScheduler(book, RunState(), callback)
    asked = book.ask()
    assert asked is not None
    ray_trial = SimpleNamespace(config={JOB: TrialJob(asked.number, asked.candidate, seed=0)})

    def says(message: Message) -> str:
        return scheduler.on_trial_result(None, ray_trial, {MESSAGE: message})  # type: ignore[arg-type]

    assert scheduler.where(0) == "before its first report"
    assert says(StageProgress("source stage", 120, 10_000)) == "CONTINUE"
    assert scheduler.where(0) == "in its source stage, update 120 of 10000"
    assert "  trial 0   source stage, update 120 of 10000" in status_lines(summarize(book.study))
    assert not book.frozen(0).intermediate_values
    assert says(Evaluated(0, 0.5)) == "CONTINUE"
    assert scheduler.where(0) == "after its report at step 0"
    assert summarize(book.study).stages == {}
    assert says(StageProgress("contrastive stage", 1, 2)) == "CONTINUE"
    assert summarize(book.study).stages == {0: "contrastive stage, update 1 of 2"}
    book.fail(0, "another driver took it for an orphan")
    assert says(StageProgress("contrastive stage", 2, 2)) == "CONTINUE", "to keep the stage from nobody"
    assert says(Evaluated(2, 0.5)) == "STOP"
    assert callback.calls == [
        "0: source stage, update 120 of 10000",
        "0: 0.5",
        "0: contrastive stage, update 1 of 2",
    ]


def test_a_trial_that_is_pruned_between_folds_keeps_what_its_folds_had(tmp_path: Path) -> None:
    """So that the verdict can compare it with the winner on the same folds."""
    book, callback = open_ledger(tmp_path, WIDE), Seen()
    scheduler = StudyScheduler(book, RunState(), callback)
    best = FoldScores((0.9, 0.92, 0.88), tuple(0.9 + row % 2 / 100 for row in range(60)))
    behind = FoldScores((0.5, 0.6), tuple(0.5 + row % 2 / 100 for row in range(40)))
    says = []
    for _ in range(2):
        asked = book.ask()
        assert asked is not None
        ray_trial = SimpleNamespace(config={JOB: TrialJob(asked.number, asked.candidate, seed=0)})
        summary = TrialSummary(0.9, 8, fold_values=best.fold_values) if asked.number == 0 else None
        message = Evaluated(8, 0.9 if summary else 0.6, fold=1, scores=best if summary else behind, summary=summary)
        says.append(scheduler.on_trial_result(None, ray_trial, {MESSAGE: message}))  # type: ignore[arg-type]
    assert says == ["STOP", "STOP"]
    stored = book.study.get_trials()
    assert [trial.state for trial in stored] == [TrialState.COMPLETE, TrialState.PRUNED]
    assert [TrialRecord.of(trial).fold_values for trial in stored] == [[0.9, 0.92, 0.88], [0.5, 0.6]]
    assert callback.calls[-1] == "1: PRUNED 0.55 behind the best after fold 2"

"""The scheduler half of the Ray Tune join: every result goes to the study, whose pruner decides who goes on.

Ray's own OptunaSearch tells a trial that a scheduler stopped as COMPLETE, and Optuna's pruners never see it. See
docs/decisions/0002-optuna-ray-join.md.
"""

import json
import logging
from pathlib import Path
from typing import Any, Protocol

from optuna.study import StudyDirection
from optuna.trial import TrialState
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from promptgraft.objectives.file_store import DiskFullError
from promptgraft.objectives.progress import StageProgress
from promptgraft.search.running.ledger import StudyLedger
from promptgraft.search.running.retries import Loss, lost_worker
from promptgraft.search.running.run_state import RunState
from promptgraft.search.running.searcher import JOB
from promptgraft.search.sampling import FoldRace
from promptgraft.search.storage import CONFUSION, LOSSES, STAGE, VALIDATION
from promptgraft.search.trials import Evaluated, Failed, Job, Message, SideJobDone, TrialJob
from promptgraft.spaces import PromptgraftError

logger = logging.getLogger(__name__)

# Where a result of Ray's has what the worker says.
MESSAGE = "message"


class RunCallback(Protocol):
    """What a run calls as trials go on, to show it and to write notes."""

    def on_stage(self, number: int, message: StageProgress) -> None:
        """A live trial is in a stage that takes long."""

    def on_evaluated(self, number: int, message: Evaluated) -> None:
        """A live trial was evaluated."""

    def on_trial_ending(self, number: int, messages: list[Evaluated]) -> None:
        """A trial is about to be recorded as COMPLETE or PRUNED."""

    def on_trial_ended(self, number: int, state: TrialState, value: float | None, cause: str) -> None:
        """A trial has ended, and its state is recorded."""


class StudyScheduler(FIFOScheduler):  # type: ignore[misc]
    """Reports every result to the study and stops the trials that its pruner gives up.

    Args:
        ledger: The study.
        state: How the run stands.
        callback: Called at every evaluation and every end.

    Attributes:
        evaluations: What live trials have reported, by number.
        stages: Where live trials were in a stage that takes long, by number, when they last reported that.
        race: The race between folds.
    """

    def __init__(self, ledger: StudyLedger, state: RunState, callback: RunCallback) -> None:
        super().__init__()
        self.ledger = ledger
        self.state = state
        self.callback = callback
        self.evaluations: dict[int, list[Evaluated]] = {}
        self.stages: dict[int, StageProgress] = {}
        self.race = FoldRace(maximize=ledger.study.directions[0] == StudyDirection.MAXIMIZE)

    def __getstate__(self) -> dict[str, Any]:
        """Give Ray's own snapshots nothing: the study is the state."""
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Record what a worker says of its job; see `TrialScheduler`."""
        job: Job = trial.config[JOB]
        goes_on = False
        try:
            goes_on = self._record(job, result[MESSAGE])
        except PromptgraftError as error:
            self.state.error = error
            tune_controller.request_stop_experiment()
        if not goes_on and isinstance(job, TrialJob):
            self.evaluations.pop(job.number, None)
            self.stages.pop(job.number, None)
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP  # type: ignore[no-any-return]

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Record a job whose worker died, or was killed because the trial took too long."""
        job: Job = trial.config[JOB]
        try:
            if isinstance(job, TrialJob):
                self._record_loss(job.number, trial)
            elif (kind := self.state.side_jobs_of(job)) is not None:
                kind.on_worker_lost(job, "the worker died")
        except PromptgraftError as error:
            self.state.error = error
            tune_controller.request_stop_experiment()

    def _record(self, job: Job, message: Message) -> bool:
        """Record a message; return whether its job goes on."""
        if not isinstance(job, TrialJob):
            self._record_side_job(job, message)
            return False
        if isinstance(message, StageProgress):
            # It goes on in any case: a worker that is stopped here keeps the stage from all others until its next job.
            self._record_stage(job.number, message)
            return True
        if job.number not in self.ledger.live:
            return False
        if isinstance(message, Failed):
            self._record_failure(job.number, message)
            return False
        assert isinstance(message, Evaluated)
        return self._record_evaluation(job.number, message)

    def _record_side_job(self, job: Job, message: Message) -> None:
        kind = self.state.side_jobs_of(job)
        if kind is None:
            return
        if isinstance(message, Failed) and message.interrupted:
            kind.on_worker_lost(job, message.cause)
        elif isinstance(message, SideJobDone | Failed):
            kind.on_result(job, message)

    def _record_failure(self, number: int, message: Failed) -> None:
        if not message.interrupted:
            self.ledger.fail(number, message.cause)
            self.callback.on_trial_ended(number, TrialState.FAIL, None, message.cause)
            return
        self.ledger.lose(number, Loss.STOPPED, message.cause)
        self.callback.on_trial_ended(number, TrialState.FAIL, None, f"{message.cause}; queued again")
        raise DiskFullError(f"{message.cause}. Make room and run the same command")

    def _record_stage(self, number: int, message: StageProgress) -> None:
        if number in self.ledger.live:
            self.ledger.set_attrs(number, {STAGE: str(message)})
        if number in self.ledger.live:
            self.stages[number] = message
            self.callback.on_stage(number, message)

    def where(self, number: int) -> str:
        """Say what a live trial reported last."""
        if number in self.stages:
            return f"in its {self.stages[number]}"
        seen = self.evaluations.get(number)
        return f"after its report at step {seen[-1].step}" if seen else "before its first report"

    def _record_evaluation(self, number: int, message: Evaluated) -> bool:
        """Tell the study of an evaluation; return whether the trial goes on."""
        messages = self.evaluations.setdefault(number, [])
        messages.append(message)
        if self.stages.pop(number, None) is not None:
            self.ledger.set_attrs(number, {STAGE: None})
            if number not in self.ledger.live:
                return False
        if len(messages) == 1:
            # What it costs decides which trials the pruner compares it with.
            self.ledger.set_attrs(number, message.figures)
        if number not in self.ledger.live:
            return False
        is_last = message.summary is not None
        # Rows of another fold aren't comparable with those that the pruner has seen of other trials.
        is_compared = not is_last and message.fold == 0
        is_pruned = self.ledger.report(number, message.step, message.value, compared=is_compared)
        if number not in self.ledger.live:
            return False
        self.callback.on_evaluated(number, message)
        if message.scores is not None:
            if is_last:
                self.race.finished(message.scores)
            elif self.race.is_behind(message.scores):
                is_pruned = True
        if is_pruned or is_last:
            self._end(number, messages, is_pruned=is_pruned)
            return False
        return True

    def _record_loss(self, number: int, trial: Trial) -> None:
        self.evaluations.pop(number, None)
        self.stages.pop(number, None)
        if number not in self.ledger.live:
            return
        if number in self.state.overdue:
            cause = self.state.overdue.pop(number)
            self.ledger.fail(number, cause)
        else:
            loss, cause = lost_worker(Path(trial.error_file).read_text())
            if self.ledger.lose(number, loss, cause):
                cause += "; queued again"
        self.callback.on_trial_ended(number, TrialState.FAIL, None, cause)

    def _end(self, number: int, messages: list[Evaluated], *, is_pruned: bool) -> None:
        last = messages[-1]
        self.ledger.set_attrs(number, trial_attributes(messages))
        if number not in self.ledger.live:
            return
        self.callback.on_trial_ending(number, messages)
        if is_pruned or last.summary is None:
            value = last.scores.value if last.scores else last.value
            self.ledger.prune(number, value)
            at = f"behind the best after fold {last.fold + 1}" if last.scores else f"at step {last.step}"
            self.callback.on_trial_ended(number, TrialState.PRUNED, value, at)
        else:
            self.ledger.complete(number, last.summary.value)
            self.callback.on_trial_ended(number, TrialState.COMPLETE, last.summary.value, "")


def trial_attributes(messages: list[Evaluated]) -> dict[str, Any]:
    """Collect the user attributes of a trial: figures as numbers, so that the dashboard can sort them."""
    last = messages[-1]
    attrs: dict[str, Any] = {f"{VALIDATION}{name}": value for name, value in last.metrics.items()}
    attrs |= last.cost
    attrs |= last.summary.attributes() if last.summary else {}
    if last.summary is None and last.scores is not None:  # Pruned between folds.
        attrs["fold_values"] = list(last.scores.fold_values)
    attrs |= {CONFUSION: last.confusion} if last.confusion else {}
    losses = [{"step": entry.step, "L_s": entry.source_loss, "L_t": entry.target_loss} for entry in messages[1:]]
    attrs[LOSSES] = json.dumps(losses)
    return attrs

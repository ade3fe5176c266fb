"""Where Ray Tune and Optuna meet: the study decides, Ray only runs.

Ray's own OptunaSearch tells a trial that a scheduler stopped as COMPLETE, and Optuna's pruners never see
it. Here the searcher asks the persistent study, and the scheduler reports every result to it and stops a
trial when the study's pruner says so. See docs/decisions/0002-optuna-ray-join.md.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from optuna.trial import TrialState
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from promptgraft.objectives.files import DiskFullError
from promptgraft.search.budget import Limits
from promptgraft.search.errands import Errand
from promptgraft.search.ledger import StudyLedger
from promptgraft.search.pool import wording_of
from promptgraft.search.reports import Report
from promptgraft.search.retries import Loss, lost_worker
from promptgraft.spaces import PromptgraftError

logger = logging.getLogger(__name__)

FINISHED: str = Searcher.FINISHED
# The number of what runs as a trial of Ray's and is none of the study's.
NO_TRIAL = -1


class StudySearcher(Searcher):  # type: ignore[misc]
    """Gives Ray the study's next candidate, as long as the budget lasts.

    Args:
        ledger: The study.
        limits: What the run may use.
        seed: Seed of every trial.

    Attributes:
        max_concurrent: Trials at a time; may change while the search runs.
        disk_full: Why there is no room for another trial, if so, when last looked at.
        look_at_disk: Looks again and sets `disk_full`.
        fatal: What keeps the search from going on, if anything does.
        errands: What workers do beside trials, most urgent first.
    """

    def __init__(self, ledger: StudyLedger, limits: Limits, seed: int) -> None:
        super().__init__()
        self.ledger = ledger
        self.limits = limits
        self.seed = seed
        self.max_concurrent = 1
        self.disk_full: str | None = None
        self.look_at_disk: Callable[[], None] = lambda: None
        self.fatal: PromptgraftError | None = None
        self.errands: Sequence[Errand] = ()
        self._look_again_at = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Give Ray's own snapshots nothing: the study is the state."""
        return {}

    @property
    def ended_because(self) -> str | None:
        """Why no further trial starts, if so."""
        if self.ledger.finished >= self.limits.trials:
            return f"all {self.limits.trials} trials are finished"
        reached = self.limits.reached(self.ledger.trials, time.time())
        if reached is not None:
            return reached
        if self._fails_too_often:
            rate, allowed = self.ledger.failure_rate, self.limits.max_failure_rate
            return f"{rate:.0%} of the trials failed (allowed: {allowed:.0%})"
        if self.ledger.exhausted:
            return "the space holds no allowed candidate that was not tried"
        return self.disk_full

    @property
    def needs_help(self) -> bool:
        """Whether it ended for a reason that someone has to look into, rather than by its budget."""
        return self.ledger.finished < self.limits.trials and (self._fails_too_often or self.disk_full is not None)

    @property
    def _fails_too_often(self) -> bool:
        return self.ledger.failure_rate > self.limits.max_failure_rate

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # noqa: ARG002
        """Return the next trial's configuration; None while live trials may still fail, or fill their places."""
        if self.fatal is not None:
            return FINISHED
        running = len(self.ledger.live) + sum(errand.running for errand in self.errands)
        if self.ended_because is not None:
            if running:  # A round of growth may bring what an exhausted space lacks.
                return None
            if not self._has_room_again():
                return FINISHED
        if running >= self.max_concurrent or time.monotonic() < self._look_again_at:
            return None
        try:
            for errand in self.errands:
                work = errand.next_work()
                if work is not None:
                    return {"number": NO_TRIAL, "errand": errand.name, "work": work}
            asked = self.ledger.ask(self.limits.trials)
        except PromptgraftError as error:
            self.fatal = error
            return FINISHED
        if asked is None:
            # The rest is running, here or with another driver: look whether it was finished in a second.
            self._look_again_at = time.monotonic() + 1
            return None
        return {
            "number": asked.number,
            "candidate": asked.candidate.to_dict(),
            **wording_of(self.ledger.space, asked.candidate),
            "seed": self.seed,
        }

    def errand_of(self, config: Mapping[str, Any]) -> Errand | None:
        """Return the errand that a trial of Ray's was run for; None if it is one of the study's."""
        return next((errand for errand in self.errands if errand.name == config.get("errand")), None)

    def _has_room_again(self) -> bool:
        """Tell whether the end of the last trial made room on the disk, if that was all that was missing."""
        if self.disk_full is None or self.ended_because != self.disk_full:
            return False
        try:
            self.look_at_disk()
        except PromptgraftError as error:
            self.fatal = error
            return False
        return self.disk_full is None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: every end goes through the scheduler."""

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: results are reported by the scheduler, which also sees the one that stops a trial."""

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Keep Ray's limit ourselves: without this Ray asks for trials that then wait, RUNNING in the study."""
        self.max_concurrent = max_concurrent
        return True

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: the study is the state."""


class HardEnd(Stopper):  # type: ignore[misc]
    """Stops what still runs when the time is over or a signal came; the driver queues it again.

    Args:
        ends_at: Seconds since the epoch; None for never.
        is_stopped: Tells whether a signal came.
    """

    def __init__(self, ends_at: float | None, is_stopped: Callable[[], bool]) -> None:
        self.ends_at = ends_at
        self.is_stopped = is_stopped

    def __getstate__(self) -> dict[str, Any]:
        """Give Ray's own snapshots nothing: the study is the state."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        """Stop no trial by its result."""
        return False

    def stop_all(self) -> bool:
        """Whether to stop all."""
        return self.is_stopped() or (self.ends_at is not None and time.time() > self.ends_at)


class TrialListener(Protocol):
    """Is told what happens to trials, to show it and to write notes."""

    def reported(self, number: int, report: Report) -> None:
        """A live trial was evaluated."""

    def finishing(self, number: int, reports: list[Report]) -> None:
        """A trial is about to be told as COMPLETE or PRUNED."""

    def ended(self, number: int, state: TrialState, value: float | None, cause: str) -> None:
        """A trial was told."""


class StudyScheduler(FIFOScheduler):  # type: ignore[misc]
    """Reports every result to the study and stops the trials that its pruner gives up.

    Args:
        ledger: The study.
        searcher: Is told what keeps the search from going on.
        listener: Is told of every report and every end.

    Attributes:
        overdue: Trials that were killed because they took too long, with the cause.
    """

    def __init__(self, ledger: StudyLedger, searcher: StudySearcher, listener: TrialListener) -> None:
        super().__init__()
        self.ledger = ledger
        self.searcher = searcher
        self.listener = listener
        self.reports: dict[int, list[Report]] = {}
        self.overdue: dict[int, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Give Ray's own snapshots nothing: the study is the state."""
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Record a report; see `TrialScheduler`."""
        number, report = int(trial.config["number"]), result["report"]
        goes_on = False
        try:
            errand = self.searcher.errand_of(trial.config)
            if errand is not None and report.interrupted:
                errand.worker_died(trial.config["work"], report.failure or "")
            elif errand is not None:
                errand.told(trial.config["work"], report.found, report.failure)
            elif number in self.ledger.live:
                goes_on = self._record(number, report)
        except PromptgraftError as error:
            self.searcher.fatal = error
            tune_controller.request_stop_experiment()
        if not goes_on:
            self.reports.pop(number, None)
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP  # type: ignore[no-any-return]

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Record a trial whose worker died, or was killed because the trial took too long."""
        number = int(trial.config["number"])
        self.reports.pop(number, None)
        errand = self.searcher.errand_of(trial.config)
        if number not in self.ledger.live and errand is None:
            return
        try:
            if errand is not None:
                errand.worker_died(trial.config["work"], "the worker died")
                return
            if number in self.overdue:
                cause = self.overdue.pop(number)
                self.ledger.fail(number, cause)
            else:
                loss, cause = lost_worker(Path(trial.error_file).read_text())
                if self.ledger.lose(number, loss, cause):
                    cause += "; queued again"
            self.listener.ended(number, TrialState.FAIL, None, cause)
        except PromptgraftError as error:
            self.searcher.fatal = error
            tune_controller.request_stop_experiment()

    def _record(self, number: int, report: Report) -> bool:
        """Tell the study of a report; return whether the trial goes on."""
        if report.failure is not None and report.interrupted:
            self.ledger.lose(number, Loss.STOPPED, report.failure)
            self.listener.ended(number, TrialState.FAIL, None, f"{report.failure}; queued again")
            raise DiskFullError(f"{report.failure}. Make room and run the same command")
        if report.failure is not None:
            self.ledger.fail(number, report.failure)
            self.listener.ended(number, TrialState.FAIL, None, report.failure)
            return False
        reports = self.reports.setdefault(number, [])
        reports.append(report)
        if len(reports) == 1:
            self.ledger.set_attrs(number, report.figures)  # What it costs decides whom the pruner compares it with.
        if number not in self.ledger.live:
            return False
        stop = self.ledger.report(number, report.step, report.value, final=report.final)
        if number not in self.ledger.live:
            return False
        self.listener.reported(number, report)
        if stop or report.final:
            self._end(number, reports, pruned=stop)
            return False
        return True

    def _end(self, number: int, reports: list[Report], *, pruned: bool) -> None:
        last = reports[-1]
        self.ledger.set_attrs(number, trial_attrs(reports))
        if number not in self.ledger.live:
            return
        self.listener.finishing(number, reports)
        if pruned:
            self.ledger.prune(number, last.value)
            self.listener.ended(number, TrialState.PRUNED, last.value, f"at step {last.step}")
        else:
            value = float(last.summary["value"])
            self.ledger.complete(number, value)
            self.listener.ended(number, TrialState.COMPLETE, value, "")


def trial_attrs(reports: list[Report]) -> dict[str, Any]:
    """Collect the user attributes of a trial: figures as numbers, so that the dashboard can sort them."""
    last = reports[-1]
    attrs: dict[str, Any] = {f"validation_{name}": value for name, value in last.metrics.items()}
    attrs |= last.cost | {name: value for name, value in last.summary.items() if name != "value"}
    attrs["confusion"] = last.confusion
    losses = [{"step": r.step, "L_s": r.source_loss, "L_t": r.target_loss} for r in reports[1:]]
    attrs["losses"] = json.dumps(losses)
    return attrs

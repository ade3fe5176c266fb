"""The scheduler half of the Ray Tune join: every result goes to the study, whose pruner decides who goes on.

Ray's own OptunaSearch tells a trial that a scheduler stopped as COMPLETE, and Optuna's pruners never see it. See
docs/decisions/0002-optuna-ray-join.md.
"""

import json
import logging
from pathlib import Path
from typing import Any, Protocol

from optuna.trial import TrialState
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from promptgraft.objectives.file_store import DiskFullError
from promptgraft.search.running.ledger import StudyLedger
from promptgraft.search.running.retries import Loss, lost_worker
from promptgraft.search.running.searcher import StudySearcher
from promptgraft.search.trials import Report
from promptgraft.spaces import PromptgraftError

logger = logging.getLogger(__name__)


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

"""Where Ray Tune and Optuna meet: the study decides, Ray only runs.

Ray's own OptunaSearch tells a trial that a scheduler stopped as COMPLETE, and Optuna's pruners never see
it. Here the searcher asks the persistent study, and the scheduler reports every result to it and stops a
trial when the study's pruner says so. See docs/decisions/0002-optuna-ray-join.md.
"""

import json
import logging
import time
from typing import Any, Protocol

from optuna.trial import TrialState
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from promptgraft.search.ledger import StudyLedger
from promptgraft.search.reports import Report

logger = logging.getLogger(__name__)


class StudySearcher(Searcher):  # type: ignore[misc]
    """Gives Ray the study's next candidate, as long as the budget lasts.

    Args:
        ledger: The study.
        wanted: Finished trials to reach.
        deadline: `time.monotonic()` after which no trial starts; None for no limit.
        max_failure_rate: Share of failed trials beyond which no trial starts.
        seed: Seed of every trial.
    """

    def __init__(
        self, ledger: StudyLedger, wanted: int, deadline: float | None, max_failure_rate: float, seed: int
    ) -> None:
        super().__init__()
        self.ledger = ledger
        self.wanted = wanted
        self.deadline = deadline
        self.max_failure_rate = max_failure_rate
        self.seed = seed
        self.max_concurrent: int | None = None
        self.numbers: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Give Ray's own snapshots nothing: the study is the state."""
        return {}

    @property
    def ended_because(self) -> str | None:
        """Why no further trial starts, if so."""
        if self.ledger.finished >= self.wanted:
            return f"all {self.wanted} trials are finished"
        if self.deadline is not None and time.monotonic() > self.deadline:
            return "the time is up"
        if self.ledger.failure_rate > self.max_failure_rate:
            return f"{self.ledger.failure_rate:.0%} of the trials failed (allowed: {self.max_failure_rate:.0%})"
        if self.ledger.exhausted:
            return "the space holds no candidate that was not tried"
        return None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial's configuration; None while live trials may still fail, or fill their places."""
        if self.ended_because is not None:
            return None if self.ledger.live else Searcher.FINISHED
        full = self.max_concurrent is not None and len(self.ledger.live) >= self.max_concurrent
        if full or self.ledger.finished + len(self.ledger.live) >= self.wanted:
            return None
        asked = self.ledger.ask()
        if asked is None:
            return None
        self.numbers[trial_id] = asked.number
        return {"number": asked.number, "candidate": asked.candidate.to_dict(), "seed": self.seed}

    def on_trial_complete(
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,  # noqa: ARG002
        error: bool = False,
    ) -> None:
        """Record a trial whose worker died; all others ended in the scheduler."""
        number = self.numbers.pop(trial_id)
        if error and number in self.ledger.live:
            self.ledger.fail(number, "the worker died: killed, out of memory, or it could not start")

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
        listener: Is told of every report and every end.
    """

    def __init__(self, ledger: StudyLedger, listener: TrialListener) -> None:
        super().__init__()
        self.ledger = ledger
        self.listener = listener
        self.reports: dict[int, list[Report]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Give Ray's own snapshots nothing: the study is the state."""
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:  # noqa: ARG002
        """Record a report; see `TrialScheduler`."""
        number, report = int(trial.config["number"]), result["report"]
        if number not in self.ledger.live:
            return TrialScheduler.STOP  # type: ignore[no-any-return]
        if report.failure is not None:
            self.reports.pop(number, None)
            self.ledger.fail(number, report.failure)
            self.listener.ended(number, TrialState.FAIL, None, report.failure)
            return TrialScheduler.STOP  # type: ignore[no-any-return]
        reports = self.reports.setdefault(number, [])
        reports.append(report)
        pruned = self.ledger.report(number, report.step, report.value, final=report.final)
        self.listener.reported(number, report)
        if not (pruned or report.final):
            return TrialScheduler.CONTINUE  # type: ignore[no-any-return]
        self._end(number, self.reports.pop(number), pruned)
        return TrialScheduler.STOP  # type: ignore[no-any-return]

    def _end(self, number: int, reports: list[Report], pruned: bool) -> None:
        last = reports[-1]
        self.ledger.set_attrs(number, trial_attrs(reports))
        self.listener.finishing(number, reports)
        if pruned:
            self.ledger.prune(number)
            self.listener.ended(number, TrialState.PRUNED, last.value, f"at step {last.step}")
        else:
            value = float(last.summary["value"])
            self.ledger.complete(number, value)
            self.listener.ended(number, TrialState.COMPLETE, value, "")


def trial_attrs(reports: list[Report]) -> dict[str, Any]:
    """Collect the user attributes of a trial: figures as numbers, so that the dashboard can sort them."""
    last = reports[-1]
    attrs: dict[str, Any] = {f"validation_{name}": value for name, value in last.metrics.items()}
    attrs |= {name: value for name, value in last.summary.items() if name != "value"}
    attrs["confusion"] = last.confusion
    losses = [{"step": r.step, "L_s": r.source_loss, "L_t": r.target_loss} for r in reports[1:]]
    attrs["losses"] = json.dumps(losses)
    return attrs

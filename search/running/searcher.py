"""The searcher half of the Ray Tune join: Ray asks the study what to try next.

See docs/decisions/0002-optuna-ray-join.md.
"""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.search.running.ledger import StudyLedger
from promptgraft.search.running.run_state import RunState
from promptgraft.search.sampling import wording_of
from promptgraft.search.trials import Job, Limits, TrialJob
from promptgraft.spaces import PromptgraftError

logger = logging.getLogger(__name__)

FINISHED: str = Searcher.FINISHED
# Where a trial of Ray's has its job in its configuration.
JOB = "job"


class StudySearcher(Searcher):  # type: ignore[misc]
    """Gives Ray the study's next candidate, as long as the budget lasts.

    Args:
        ledger: The study.
        limits: What the run may use.
        spec: The study's fixed part.
        seed: Seed of every trial.
        state: How the run stands.
        check_disk: Looks at the disk again, and says so in the state.
    """

    def __init__(
        self,
        ledger: StudyLedger,
        limits: Limits,
        spec: ObjectiveSpec,
        seed: int,
        state: RunState,
        check_disk: Callable[[], None],
    ) -> None:
        super().__init__()
        self.ledger = ledger
        self.limits = limits
        self.spec = spec
        self.seed = seed
        self.state = state
        self.check_disk = check_disk
        self._look_again_at = 0.0
        self._nothing_fits: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Give Ray's own snapshots nothing: the study is the state."""
        return {}

    @property
    def ended_because(self) -> str | None:
        """Why no further trial starts, if so."""
        if self.ledger.finished >= self.limits.trials:
            return self.limits.all_finished(self.ledger.finished)
        reached = self.limits.reached(self.ledger.trials, time.time())
        if reached is not None or self._nothing_fits is not None:
            return reached or self._nothing_fits
        if self._fails_too_often:
            rate, allowed = self.ledger.failure_rate, self.limits.max_failure_rate
            return f"{rate:.0%} of the trials failed (allowed: {allowed:.0%})"
        if self.ledger.exhausted:
            return "the space holds no allowed candidate that was not tried"
        return self.state.disk_full

    @property
    def needs_help(self) -> bool:
        """Whether it ended for a reason that someone has to look into, rather than by its budget."""
        is_short = self.ledger.finished < self.limits.trials
        return is_short and (self._fails_too_often or self.state.disk_full is not None)

    @property
    def _fails_too_often(self) -> bool:
        return self.ledger.failure_rate > self.limits.max_failure_rate

    def suggest(self, trial_id: str) -> dict[str, Job] | str | None:  # noqa: ARG002
        """Return the next job; None while live trials may still fail, or fill their places."""
        if self.state.error is not None:
            return FINISHED
        running = len(self.ledger.live) + sum(kind.running for kind in self.state.side_jobs)
        if self.ended_because is not None:
            if running:  # A round of growth may bring what an exhausted space lacks.
                return None
            if not self._has_room_again():
                return FINISHED
        if running >= self.state.slots or time.monotonic() < self._look_again_at:
            return None
        try:
            job = self._next_job()
        except PromptgraftError as error:
            self.state.error = error
            return FINISHED
        if job is None:
            # The rest is running, here or with another driver: look whether it was finished in a second.
            self._look_again_at = time.monotonic() + 1
            return None
        return {JOB: job}

    def _next_job(self) -> Job | None:
        for kind in self.state.side_jobs:
            job = kind.next_job()
            if job is not None:
                return job
        asked = self.ledger.ask(self.limits.trials, partial(self.limits.allows, spec=self.spec, now=time.time()))
        if asked is None:
            if self.ledger.nothing_fits and not self.ledger.live:
                self._nothing_fits = self.limits.nothing_fits(self.ledger.trials, time.time())
            return None
        wording = wording_of(self.ledger.space, asked.candidate)
        return TrialJob(asked.number, asked.candidate, self.seed, **wording)

    def _has_room_again(self) -> bool:
        """Tell whether the end of the last trial made room on the disk, if that was all that was missing."""
        if self.state.disk_full is None or self.ended_because != self.state.disk_full:
            return False
        try:
            self.check_disk()
        except PromptgraftError as error:
            self.state.error = error
            return False
        return self.state.disk_full is None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: every end goes through the scheduler."""

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: results are reported by the scheduler, which also sees the one that stops a trial."""

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Keep Ray's limit ourselves: without this Ray asks for trials that then wait, RUNNING in the study."""
        self.state.slots = max_concurrent
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

"""What a driver looks after between results: trials that hang, orphans of other drivers, the end of the time."""

import logging
import time
from collections.abc import Callable
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

from promptgraft.search.running.ray_session import RayLostError, RaySession
from promptgraft.search.running.run_state import RunState
from promptgraft.search.running.scheduler import StudyScheduler
from promptgraft.search.running.searcher import JOB
from promptgraft.search.trials import TrialJob
from promptgraft.spaces import PromptgraftError

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
TIDY_EVERY_S = 10.0
ADOPT_EVERY_S = 30.0


class StudyWatchdog(tune.Callback):  # type: ignore[misc]
    """Looks after a run once a second.

    Args:
        state: How the run stands.
        scheduler: Knows the study, and what live trials have reported.
        session: The Ray that runs the trials.
        trial_timeout_s: Wall time after which a trial is killed; None for no limit.
        count_slots: Returns how many trials fit into the cluster as it is now.
        tidy: Deletes what isn't needed any more, and looks at the disk.
    """

    def __init__(
        self,
        state: RunState,
        scheduler: StudyScheduler,
        session: RaySession,
        *,
        trial_timeout_s: float | None,
        count_slots: Callable[[], int],
        tidy: Callable[[], None],
    ) -> None:
        self.ledger = scheduler.ledger
        self.state = state
        self.scheduler = scheduler
        self.session = session
        self.trial_timeout_s = trial_timeout_s
        self.count_slots = count_slots
        self.tidy = tidy
        self._running: dict[int, tuple[float, Trial]] = {}
        self._look_at = time.monotonic()
        self._tidy_at = time.monotonic() + TIDY_EVERY_S
        self._adopt_at = time.monotonic() + ADOPT_EVERY_S

    def __getstate__(self) -> dict[str, Any]:
        """Give Ray's own snapshots nothing: the study is the state."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """Note when a worker took up a trial."""
        job = trial.config[JOB]
        if isinstance(job, TrialJob):
            self._running[job.number] = (time.monotonic(), trial)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """Forget Ray's statistics of a trial: they are kept to the end, 50 kB a trial, and nobody reads them."""
        trial.run_metadata.metric_analysis.clear()
        trial.run_metadata.metric_n_steps.clear()

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:  # noqa: ARG002
        """Look after things, once a second; Ray calls this many times a second."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY_S
        if not self.session.is_alive:
            raise RayLostError("a process of the local Ray has ended")
        self._kill_overdue(now)
        if now >= self._tidy_at:
            self._tidy_at = now + TIDY_EVERY_S
            self.tidy()
        if now >= self._adopt_at:
            self._adopt_at = now + ADOPT_EVERY_S
            self.state.slots = self.count_slots()
            try:
                adopted = self.ledger.adopt_orphans()
            except PromptgraftError as error:
                self.state.error = error
                return
            if adopted:
                logger.warning("%d trials of another driver that died are recorded as FAIL and queued again", adopted)

    def _kill_overdue(self, now: float) -> None:
        self._running = {number: entry for number, entry in self._running.items() if number in self.ledger.live}
        if self.trial_timeout_s is None:
            return
        for number, (started, trial) in self._running.items():
            actor = trial.temporary_state.ray_actor
            if now - started > self.trial_timeout_s and number not in self.state.overdue and actor is not None:
                where = self.scheduler.where(number)
                self.state.overdue[number] = (
                    f"longer than budget.trial_timeout ({self.trial_timeout_s:g} s); killed {where}"
                )
                ray.kill(actor)

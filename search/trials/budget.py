"""How long a search may go on, what it has used, and when it will end."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.search.storage import TrialRecord
from promptgraft.search.study import BudgetSection, next_moment
from promptgraft.search.trials.expected_time import ExpectedTimes
from promptgraft.search.trials.ranking import FINISHED
from promptgraft.search.wording import duration, size
from promptgraft.spaces import Candidate, InvalidInputError

# Trials that a forecast looks back on, and those it needs at least.
_RECENT, _FEWEST = 50, 3


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may use.

    Attributes:
        trials: Finished trials to reach, earlier runs included.
        ends_at: When the run must be over, seconds since the epoch; None for no limit.
        time_s: Length of the run up to then; None for no limit.
        compute_s: Time of all trials of the study together, every driver's; None for no limit.
        disk_bytes: Files of the study; None for no limit.
        max_failure_rate: Share of failed trials.
        reserve: Share of time and compute that is kept for judging the winner.
        gpu_hours: GPU-hours of all trials together, at `gpus` for each; None for no limit.
        gpus: GPUs of a trial.
    """

    trials: int
    ends_at: float | None = None
    time_s: float | None = None
    compute_s: float | None = None
    disk_bytes: int | None = None
    max_failure_rate: float = 1.0
    reserve: float = 0.0
    gpu_hours: float | None = None
    gpus: float = 0.0

    @classmethod
    def of(
        cls, budget: BudgetSection, trials: int | None, timeout_s: float | None, now: float, gpus: float = 0.0
    ) -> "Limits":
        """Put together what the study file and the command line say.

        Args:
            budget: The study file's section.
            trials: The command line's number, if given.
            timeout_s: The command line's time, if given.
            now: Start of the run, seconds since the epoch.
            gpus: GPUs of a trial.

        Raises:
            InvalidInputError: If the deadline has passed.
        """
        timeout_s = timeout_s or budget.timeout
        ends = [now + timeout_s] if timeout_s else []
        if budget.deadline is not None:
            try:
                ends.append(next_moment(budget.deadline, now))
            except ValueError as error:
                raise InvalidInputError(f"budget.deadline: {error}, got {budget.deadline!r}") from error
        ends_at = min(ends, default=None)
        return cls(
            trials or budget.trials,
            ends_at,
            None if ends_at is None else ends_at - now,
            budget.compute,
            budget.disk,
            budget.max_failure_rate,
            budget.reserve,
            budget.gpu_hours,
            gpus,
        )

    @property
    def search_ends_at(self) -> float | None:
        """When the search must be over, so that the reserve is left."""
        if self.ends_at is None or self.time_s is None:
            return None
        return self.ends_at - self.reserve * self.time_s

    @property
    def total_compute_s(self) -> float | None:
        """Time that all trials may take together, by compute or by GPU-hours, whichever is less; None for no limit."""
        limits = [self.compute_s]
        if self.gpu_hours is not None and self.gpus:
            limits.append(self.gpu_hours * 3600 / self.gpus)
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def search_compute_s(self) -> float | None:
        """Time that the search's trials may take together, so that the reserve is left."""
        total = self.total_compute_s
        return None if total is None else total * (1 - self.reserve)

    def reached(self, trials: Sequence[FrozenTrial], now: float) -> str | None:
        """Say which limit keeps another trial from starting, if one does.

        A trial is not started that, by the median of the others, would end too late; those that run are expected to
        use as much as the others, too.
        """
        finished = sum(trial.state in FINISHED for trial in trials)
        if finished >= self.trials:
            return self.all_finished(finished)
        usual = _usual_s(trials, now)
        return self._over(trials, now, usual, f" (a trial takes {duration(usual)})" if usual >= 1 else "")

    def _over(self, trials: Sequence[FrozenTrial], now: float, seconds: float, takes: str) -> str | None:
        """Say which limit keeps a trial that takes so many seconds from starting, if one does.

        Args:
            trials: The study's trials.
            now: Seconds since the epoch.
            seconds: What the trial takes.
            takes: The same in words, appended.
        """
        kept = f", of which {self.reserve:.0%} are kept for judging the winner" if self.reserve else ""
        time_s, compute_s = self._left_s(trials, now)
        if self.time_s is not None and seconds > time_s:
            return f"the time is up: {duration(self.time_s)}{kept}{takes}"
        if seconds > compute_s:
            return f"{self._compute_in_words(compute_seconds(trials, now))}{kept}{takes}"
        return None

    def nothing_fits(self, trials: Sequence[FrozenTrial], now: float) -> str | None:
        """Say which limit keeps all that is left to try from starting."""
        more = math.nextafter(min(self._left_s(trials, now)), math.inf)
        return self._over(trials, now, more, " (what is left to try takes longer than that)")

    def allows(self, trials: Sequence[FrozenTrial], spec: ObjectiveSpec, now: float) -> Callable[[Candidate], bool]:
        """Return what tells whether a candidate would end in time, by what it is expected to take."""
        left_s = min(self._left_s(trials, now))
        if left_s == math.inf:
            return lambda _candidate: True
        expected = ExpectedTimes(trials, spec, lambda trial: _seconds(trial, now))
        return lambda candidate: expected.of(candidate) <= left_s

    def _left_s(self, trials: Sequence[FrozenTrial], now: float) -> tuple[float, float]:
        """Return the time and the compute that are left for another trial."""
        time_s = compute_s = math.inf
        if self.search_ends_at is not None:
            time_s = self.search_ends_at - now
        if self.search_compute_s is not None:
            usual = _usual_s(trials, now)
            running = [_seconds(trial, now) for trial in trials if trial.state == TrialState.RUNNING]
            to_come = sum(max(0.0, usual - seconds) for seconds in running)
            compute_s = self.search_compute_s - compute_seconds(trials, now) - to_come
        return time_s, compute_s

    def all_finished(self, finished: int) -> str:
        """Say that no more trials are wanted."""
        if finished > self.trials:
            return (
                f"{finished} trials are finished, more than the {self.trials} asked for; name a larger number for more"
            )
        return f"all {self.trials} trials are finished"

    def _compute_in_words(self, used_s: float) -> str:
        if self.compute_s is not None and self.compute_s == self.total_compute_s:
            return f"the compute is used up: {duration(used_s)} of {duration(self.compute_s)}"
        return f"the GPU-hours are used up: {_gpu_use(used_s, self)}"

    def record(self) -> dict[str, Any]:
        """Return the limits as JSON types."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a search will end, if it goes on as it has.

    Attributes:
        limit: What will end it: `trials`, `time` or `compute`.
        ends_at: When, seconds since the epoch.
        trials: Finished trials by then.
    """

    limit: str
    ends_at: float
    trials: int

    def __str__(self) -> str:
        local = time.strftime("%a %H:%M", time.localtime(self.ends_at))
        return f"ends {local} with about {self.trials} trials ({self.limit})"


def forecast(trials: Sequence[FrozenTrial], limits: Limits, concurrent: int, now: float) -> Forecast | None:
    """Estimate the end from how long recent trials took, gaps between runs left out.

    Args:
        trials: The study's trials.
        limits: What the run may use.
        concurrent: Trials at a time.
        now: Seconds since the epoch.

    Returns:
        None while fewer than three trials are finished.
    """
    ended = [trial for trial in trials if trial.state.is_finished() and not TrialRecord.of(trial).is_interrupted]
    recent = sorted(ended, key=_ended_at)[-_RECENT:]
    done = sum(trial.state in FINISHED for trial in recent)
    if done < _FEWEST:
        return None
    seconds = max(sum(_seconds(trial, now) for trial in recent), 1e-3)
    finished_per_s = done * concurrent / seconds
    finished = sum(trial.state in FINISHED for trial in trials)
    left_s = {"trials": (limits.trials - finished) / finished_per_s}
    if limits.search_ends_at is not None:
        left_s["time"] = limits.search_ends_at - now
    if limits.search_compute_s is not None:
        left_s["compute"] = (limits.search_compute_s - compute_seconds(trials, now)) / concurrent
    limit = min(left_s, key=lambda name: left_s[name])
    left = max(0.0, left_s[limit])
    return Forecast(limit, now + left, min(limits.trials, finished + round(left * finished_per_s)))


def compute_seconds(trials: Sequence[FrozenTrial], now: float) -> float:
    """Add up the time of all trials: failed, pruned and running ones too."""
    return sum(_seconds(trial, now) for trial in trials)


def describe_use(trials: Sequence[FrozenTrial], limits: Limits, disk_bytes: int | None, now: float) -> dict[str, str]:
    """Say what was used of each limit."""
    finished = sum(trial.state in FINISHED for trial in trials)
    used = {"trials": f"{finished} of {limits.trials}"}
    if limits.ends_at is not None:
        left = f"{duration(limits.ends_at - now)} left" if limits.ends_at > now else "over"
        used["time"] = left if limits.time_s is None else f"{left} of {duration(limits.time_s)}"
    compute = duration(compute_seconds(trials, now))
    used["compute"] = compute if limits.compute_s is None else f"{compute} of {duration(limits.compute_s)}"
    if limits.gpus:
        used["gpu_hours"] = _gpu_use(compute_seconds(trials, now), limits)
    failed = sum(trial.state == TrialState.FAIL and not TrialRecord.of(trial).is_interrupted for trial in trials)
    rate = failed / (failed + finished) if failed else 0.0
    used["failures"] = f"{rate:.0%} of at most {limits.max_failure_rate:.0%}"
    if disk_bytes is not None:
        used["disk"] = size(disk_bytes) + ("" if limits.disk_bytes is None else f" of {size(limits.disk_bytes)}")
    return used


def _gpu_use(used_s: float, limits: Limits) -> str:
    """Say how many GPU-hours were used, and of how many.

    Args:
        used_s: Time of all trials together. Each counts with the GPUs that a trial gets now.
        limits: What the run may use.
    """
    used = f"{used_s / 3600 * limits.gpus:.3g}"
    return used if limits.gpu_hours is None else f"{used} of {limits.gpu_hours:g}"


def _seconds(trial: FrozenTrial, now: float) -> float:
    if trial.datetime_start is None:
        return 0.0
    orphan_s = TrialRecord.of(trial).ran_s
    if orphan_s is not None:
        return float(orphan_s)
    if trial.datetime_complete is not None:
        # Optuna's times are local ones: where the clock is put back, an end may lie before its start.
        return max(0.0, (trial.datetime_complete - trial.datetime_start).total_seconds())
    return max(0.0, now - trial.datetime_start.timestamp()) if trial.state == TrialState.RUNNING else 0.0


def _usual_s(trials: Sequence[FrozenTrial], now: float) -> float:
    return _median([_seconds(trial, now) for trial in trials if trial.state in FINISHED][-_RECENT:])


def _ended_at(trial: FrozenTrial) -> float:
    return trial.datetime_complete.timestamp() if trial.datetime_complete is not None else 0.0


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0

"""Once a search has ended, its finalists race on other seeds and splits; the winner meets its controls on fresh ones.

What is found is recorded in the study one by one: it stays, whatever happens, and the next run does the rest. See
`search.judging` for the finalists and `search.comparison` for the controls.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from promptgraft.search.budget import Limits, compute_seconds
from promptgraft.search.comparison import (
    BEST_TARGET_ONLY,
    CONTROL,
    FRESH,
    NAMES,
    TARGET_ONLY,
    WINNER,
    WITH_SOURCE,
    control_attr,
    control_outcomes,
    prediction_file,
)
from promptgraft.search.judging import REPEAT, next_repeats, verdict
from promptgraft.search.learning_curves import CURVE, curve_attr, fewer_rows
from promptgraft.search.ranking import ranked_trials
from promptgraft.search.ray_session import places
from promptgraft.search.studies import Study
from promptgraft.search.tie_set import MIN_REPEATS
from promptgraft.spaces import Candidate

# Makes a runner begin: RepeatRunner -> Ray's reference to the outcome.
Start = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Job:
    """One repeat of a finalist or of a control.

    Attributes:
        attr: User attribute of the study that its outcome is recorded under.
        name: What it is, for people.
        start: Begins it.
    """

    attr: str
    name: str
    start: Start


class Confirmation:
    """Runs the repeats that are missing, on workers of their own.

    Args:
        study: The checked study, with the templates that joined.
        stored: Its record.
        files: URL of its files.
        limits: What the run may use; the reserve is for this.
        at_most: Repeats at a time; None for as many as fit.
        say: Shows a line.
    """

    def __init__(
        self,
        study: Study,
        stored: optuna.Study,
        files: str,
        limits: Limits,
        at_most: int | None,
        say: Callable[[str], None],
    ) -> None:
        self.study = study
        self.stored = stored
        self.files = files
        self.limits = limits
        self.at_most = at_most
        self.say = say

    def jobs(self) -> list[Job]:
        """Return what can be run next: the finalists' next round, or controls of the winner as far as it is known.

        Two repeats of everything come first: with less, nothing can be said, and time may end at any moment.
        """
        rounds = next_repeats(self.stored)
        if rounds and rounds[0][1] <= MIN_REPEATS:
            return self._finalists(rounds)
        whole = self.study.file.judging.repeats
        return self._controls(MIN_REPEATS) or self._finalists(rounds) or self._controls(whole) or self._curves(whole)

    def _finalists(self, rounds: Sequence[tuple[FrozenTrial, int]]) -> list[Job]:
        def job(candidate: dict[str, Any], number: int, step: int, repeat: int) -> Job:
            name = f"repeat {repeat} of trial {number}"
            return Job(f"{REPEAT}{number}_{repeat}", name, lambda runner: runner.train.remote(candidate, step, repeat))

        return [
            job(trial.user_attrs["candidate"], trial.number, trial.user_attrs["best_step"], repeat)
            for trial, repeat in rounds
        ]

    def _controls(self, repeats: int) -> list[Job]:
        winner, section = verdict(self.stored).winner, self.study.file.judging
        if winner is None or not section.controls:
            return []
        number = winner.number
        found = control_outcomes(self.stored.user_attrs, number)
        starts = self._fitted(number) | self._trained()
        return [
            Job(
                control_attr(number, name, repeat),
                f"fresh repeat {repeat - FRESH + 1} of {NAMES[name]}",
                start(repeat),
            )
            for repeat in range(FRESH, FRESH + repeats)
            for name, start in starts.items()
            if repeat not in found.get(name, {})
        ]

    def _curves(self, repeats: int) -> list[Job]:
        """Return what the learning curves miss: the winner on fewer rows."""
        trial = verdict(self.stored).winner
        if trial is None or not self.study.file.judging.curves:
            return []
        attrs = trial.user_attrs
        source = self.study.sources.get(attrs["candidate"].get("source", ""))
        points = fewer_rows(len(self.study.target.train), len(source.train) if source else 0, attrs["candidate"])

        def start(part: str, count: int, repeat: int) -> Start:
            job = (attrs["candidate"], attrs["best_step"], repeat, None, {part: count})
            return lambda runner: runner.train.remote(*job)

        jobs = [
            Job(
                curve_attr(trial.number, part, count, repeat),
                f"fresh repeat {repeat - FRESH + 1} of the winner on {count} {part} rows",
                start(part, count, repeat),
            )
            for repeat in range(FRESH, FRESH + repeats)
            for part, count in points
        ]
        return [job for job in jobs if job.attr not in self.stored.user_attrs]

    def _fitted(self, number: int) -> dict[str, Callable[[int], Start]]:
        """Return the controls that are no candidates."""
        from promptgraft.objectives.controls import FITTED

        def start(control: str) -> Callable[[int], Start]:
            return lambda repeat: (
                lambda runner: runner.fit.remote(control, repeat, prediction_file(number, control, repeat))
            )

        return {name: start(name) for name in FITTED if name in self.study.file.judging.controls}

    def _trained(self) -> dict[str, Callable[[int], Start]]:
        """Return the winner and the controls that are candidates."""
        from promptgraft.objectives.controls import Arm, trained_controls

        wanted = self.study.file.judging.controls
        trial = verdict(self.stored).winner
        assert trial is not None
        winner = Arm(Candidate.from_values(trial.user_attrs["candidate"]), trial.user_attrs["best_step"])
        target, sources = self.study.target, self.study.sources
        source = sources.get(winner.candidate.source, next(iter(sources.values()), None))
        shared = source is not None and set(target.labels) <= set(source.labels)
        controls = trained_controls(winner, self.study.objective.space, shared)
        arms = {WINNER: winner} | {name: arm for name, arm in controls.items() if name in wanted}
        if source is not None and TARGET_ONLY in wanted:
            ran = [entry for entry in ranked_trials(self.stored) if "best_step" in entry.user_attrs]
            others = [Arm(Candidate.from_values(t.user_attrs["candidate"]), t.user_attrs["best_step"]) for t in ran]
            other = next((arm for arm in others if arm.uses_source != winner.uses_source), None)
            if other is not None:
                arms[BEST_TARGET_ONLY if winner.uses_source else WITH_SOURCE] = other

        def start(name: str, arm: Arm) -> Callable[[int], Start]:
            def begin(repeat: int) -> Start:
                file = prediction_file(trial.number, name, repeat)
                return lambda runner: runner.train.remote(arm.candidate.to_dict(), arm.step, repeat, file)

            return begin

        return {name: start(name, arm) for name, arm in arms.items()}

    def run(self, total: Mapping[str, float]) -> None:
        """Run what is missing, as far as time and compute allow; a Ray must be there.

        Args:
            total: Ray's resources.

        Raises:
            RayError: If a worker died.
        """
        import ray

        from promptgraft.search.worker import RepeatRunner

        resources = self.study.file.resources
        actor = ray.remote(RepeatRunner).options(num_cpus=resources.cpu, num_gpus=resources.gpu)
        spec = ray.put(replace(self.study.objective, files=self.files))
        idle = [
            actor.remote(spec, resources.cpu, self.study.file.seed)
            for _ in range(places(resources, total, self.at_most))
        ]
        while waiting := self.jobs():
            if not self._all(waiting, idle):
                return

    def _all(self, waiting: Sequence[Job], idle: list[Any]) -> bool:
        """Run jobs, each on the next idle runner; return whether there was time for all of them."""
        import ray

        left, running = list(waiting), dict[Any, tuple[Any, Job]]()
        while left or running:
            while left and idle and not self._is_spent():
                job, runner = left.pop(0), idle.pop()
                running[job.start(runner)] = (runner, job)
            if not running:
                self.say(f"time or compute is used up: {len(left)} repeats were not run")
                return False
            (done,), _ = ray.wait(list(running))
            runner, job = running.pop(done)
            idle.append(runner)
            self._record(job, ray.get(done))
        return True

    def _record(self, job: Job, outcome: Mapping[str, Any]) -> None:
        self.stored.set_user_attr(job.attr, dict(outcome))
        metric = self.study.file.metric
        result = f"{metric} {outcome['value']:.4f}" if "value" in outcome else f"failed: {outcome['failure']}"
        self.say(f"{job.name}  {result}")

    def _is_spent(self) -> bool:
        """Whether another repeat would end too late, by what those before it took."""
        now = time.time()
        seconds: list[float] = [
            outcome.get("seconds", 0.0)
            for attr, outcome in self.stored.user_attrs.items()
            if attr.startswith((REPEAT, CONTROL, CURVE))
        ]
        usual = sorted(seconds)[len(seconds) // 2] if seconds else 0.0
        if self.limits.ends_at is not None and now + usual > self.limits.ends_at:
            return True
        if self.limits.compute_s is None:
            return False
        used = compute_seconds(self.stored.get_trials(deepcopy=False), now) + sum(seconds)
        return used + usual > self.limits.compute_s

"""Once a search has ended, its finalists are run again on other seeds and splits; see `search.judging`.

Repeats are recorded in the study one by one: what was run stays, whatever happens, and the next run does the rest.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from promptgraft.search.budget import Limits, compute_seconds
from promptgraft.search.judging import REPEAT, finalists_of, repeats
from promptgraft.search.ray_session import places
from promptgraft.search.studies import Study


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

    def missing(self) -> list[tuple[FrozenTrial, int]]:
        """Return the trials and repeats to run, in turns: all finalists have had a repeat before any has the next."""
        found = repeats(self.stored)
        trials, numbers = finalists_of(self.stored), range(1, self.study.file.judging.repeats + 1)
        return [(trial, n) for n in numbers for trial in trials if n not in found.get(trial.number, {})]

    def run(self, total: Mapping[str, float]) -> None:
        """Run what is missing, as far as time and compute allow; a Ray must be there.

        Args:
            total: Ray's resources.

        Raises:
            RayError: If a worker died.
        """
        import ray

        from promptgraft.search.worker import RepeatRunner

        waiting, resources = self.missing(), self.study.file.resources
        count = min(len(waiting), places(resources, total, self.at_most))
        actor = ray.remote(RepeatRunner).options(num_cpus=resources.cpu, num_gpus=resources.gpu)
        spec = ray.put(replace(self.study.objective, files=self.files))
        idle = [actor.remote(spec, resources.cpu, self.study.file.seed) for _ in range(count)]
        running: dict[Any, tuple[Any, FrozenTrial, int]] = {}
        while waiting or running:
            while waiting and idle and not self._is_spent():
                trial, repeat = waiting.pop(0)
                runner = idle.pop()
                step = trial.user_attrs["best_step"]
                job = runner.run.remote(trial.user_attrs["candidate"], step, repeat)
                running[job] = (runner, trial, repeat)
            if not running:
                self.say(f"time or compute is used up: {len(waiting)} repeats were not run")
                return
            (done,), _ = ray.wait(list(running))
            runner, trial, repeat = running.pop(done)
            idle.append(runner)
            self._record(trial, repeat, ray.get(done))

    def _record(self, trial: FrozenTrial, repeat: int, outcome: Mapping[str, Any]) -> None:
        self.stored.set_user_attr(f"{REPEAT}{trial.number}_{repeat}", dict(outcome))
        metric = self.study.file.metric
        result = f"{metric} {outcome['value']:.4f}" if "value" in outcome else f"failed: {outcome['failure']}"
        self.say(f"repeat {repeat} of trial {trial.number}  {result}")

    def _is_spent(self) -> bool:
        """Whether another repeat would end too late, by what those before it took."""
        now = time.time()
        seconds: list[float] = [
            entry.get("seconds", 0.0) for own in repeats(self.stored).values() for entry in own.values()
        ]
        usual = sorted(seconds)[len(seconds) // 2] if seconds else 0.0
        if self.limits.ends_at is not None and now + usual > self.limits.ends_at:
            return True
        if self.limits.compute_s is None:
            return False
        used = compute_seconds(self.stored.get_trials(deepcopy=False), now) + sum(seconds)
        return used + usual > self.limits.compute_s

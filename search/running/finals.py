"""Once a search has ended, its finalists race on other seeds and splits; the winner meets its controls on fresh ones.

If the search was in lower precision, its finalists are scored in float32 first. What is found is recorded in the study
one by one: it stays, whatever happens, and the next run does the rest. See `search.judging.verdict` for the finalists
and `search.judging.transfer_gain` for the controls.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial

from promptgraft.search.judging import (
    BEST_TARGET_ONLY,
    FRESH,
    MIN_REPEATS,
    NAMES,
    TARGET_ONLY,
    WINNER,
    WITH_SOURCE,
    control_logits_file,
    fewer_rows,
    outcome_line,
    reach_verdict,
    record_float32_scores,
    repeat_name,
    rescoring_jobs,
    trials_to_rescore,
)
from promptgraft.search.running.ray_session import trial_slots
from promptgraft.search.storage import (
    CONTROL,
    CURVE,
    REPEAT,
    Outcome,
    StudyRecord,
    TrialRecord,
    control_attr,
    curve_attr,
    repeat_attr,
    write_study,
)
from promptgraft.search.study import Study
from promptgraft.search.trials import Limits, compute_seconds, ranked_trials

if TYPE_CHECKING:
    from promptgraft.objectives.measures import TrainedControl

logger = logging.getLogger(__name__)

# Workers in a row that may die.
MAX_LOST = 3
# Makes a runner begin: RepeatRunner -> Ray's reference to the outcome.
Start = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Job:
    """One repeat of a finalist or of a control.

    Attributes:
        attr: User attribute of the study that its outcome is recorded under.
        name: What it is, for people.
        start: Begins it.
        about: What is recorded with its outcome: the `trial`, where further trials may bring a better one in its place.
    """

    attr: str
    name: str
    start: Start
    about: Mapping[str, int] = field(default_factory=dict)

    def is_done(self, record: StudyRecord) -> bool:
        """Whether its outcome is recorded in a study."""
        outcome = record.outcome(self.attr)
        return outcome is not None and outcome.trial == self.about.get("trial")


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
        """Return what can be run next, most urgent first: what the race misses, or controls of the winner so far.

        Where time or compute may end, two repeats of everything come first: with less, nothing can be said. Otherwise
        the race comes first, since controls are those of its winner.
        """
        judged, whole = reach_verdict(self.stored), self.study.file.judging.repeats
        missing, winner = judged.missing, judged.winner
        is_endless = self.limits.ends_at is None and self.limits.compute_s is None
        if winner is None or (missing and (is_endless or missing[0][1] <= MIN_REPEATS)):
            return self._finalists(missing)
        return (
            self._controls(winner, MIN_REPEATS)
            or self._finalists(missing)
            or self._controls(winner, whole)
            or self._curves(winner, whole)
        )

    def _finalists(self, missing: Sequence[tuple[FrozenTrial, int]]) -> list[Job]:
        def job(candidate: dict[str, Any], number: int, step: int, repeat: int) -> Job:
            place = number, repeat
            return Job(
                repeat_attr(*place), repeat_name(*place), lambda runner: runner.train.remote(candidate, step, repeat)
            )

        return [
            job(record.values, trial.number, record.best_step or 0, repeat)
            for trial, repeat in missing
            for record in [TrialRecord.of(trial)]
        ]

    def _controls(self, winner: FrozenTrial, repeats: int) -> list[Job]:
        if not self.study.file.judging.controls:
            return []
        record, number = StudyRecord.of(self.stored), winner.number
        other = self._other(winner)
        starts = self._fitted(number) | self._trained(winner, other)
        about = {_name_of_other(winner): {"trial": other.number}} if other else {}
        jobs = [
            Job(
                control_attr(number, name, repeat),
                f"fresh repeat {repeat - FRESH + 1} of {NAMES[name]}",
                start(repeat),
                about.get(name, {}),
            )
            for repeat in range(FRESH, FRESH + repeats)
            for name, start in starts.items()
        ]
        return [job for job in jobs if not job.is_done(record)]

    def _curves(self, trial: FrozenTrial, repeats: int) -> list[Job]:
        """Return what the learning curves miss: the winner on fewer rows."""
        if not self.study.file.judging.curves:
            return []
        own = TrialRecord.of(trial)
        source = self.study.sources.get(own.values.get("source", ""))
        points = fewer_rows(len(self.study.target.train), len(source.train) if source else 0, own.values)

        def start(part: str, count: int, repeat: int) -> Start:
            job = (own.values, own.best_step, repeat, None, {part: count})
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
        done = StudyRecord.of(self.stored)
        return [job for job in jobs if not job.is_done(done)]

    def _fitted(self, number: int) -> dict[str, Callable[[int], Start]]:
        """Return the controls that are no candidates."""
        from promptgraft.objectives.measures import FITTED

        def start(control: str) -> Callable[[int], Start]:
            return lambda repeat: (
                lambda runner: runner.fit.remote(control, repeat, control_logits_file(number, control, repeat))
            )

        return {name: start(name) for name in FITTED if name in self.study.file.judging.controls}

    def _trained(self, trial: FrozenTrial, other: FrozenTrial | None) -> dict[str, Callable[[int], Start]]:
        """Return the winner and the controls that are candidates."""
        from promptgraft.objectives.measures import trained_controls

        winner, wanted = _arm(trial), self.study.file.judging.controls
        target, sources = self.study.target, self.study.sources
        source = sources.get(winner.candidate.source, next(iter(sources.values()), None))
        shared = source is not None and set(target.labels) <= set(source.labels)
        controls = trained_controls(winner, self.study.objective.space, shared)
        arms = {WINNER: winner} | {name: arm for name, arm in controls.items() if name in wanted}
        if other is not None:
            arms[_name_of_other(trial)] = _arm(other)

        def start(name: str, arm: "TrainedControl") -> Callable[[int], Start]:
            def begin(repeat: int) -> Start:
                file = control_logits_file(trial.number, name, repeat)
                return lambda runner: runner.train.remote(arm.candidate.to_dict(), arm.step, repeat, file)

            return begin

        return {name: start(name, arm) for name, arm in arms.items()}

    def _other(self, winner: FrozenTrial) -> FrozenTrial | None:
        """Return the best trial of the search that differs from the winner in whether it uses the source."""
        if not self.study.sources or TARGET_ONLY not in self.study.file.judging.controls:
            return None
        ran = (trial for trial in ranked_trials(self.stored) if TrialRecord.of(trial).best_step is not None)
        uses_source = _arm(winner).candidate.uses_source
        return next((trial for trial in ran if _arm(trial).candidate.uses_source != uses_source), None)

    def is_needed(self) -> bool:
        """Whether anything is left to do."""
        return bool(trials_to_rescore(self.stored, self.study) or self.jobs())

    def run(self, total: Mapping[str, float]) -> None:
        """Do what is left, as far as time and compute allow; a Ray must be there.

        Args:
            total: Ray's resources.

        Raises:
            RayError: If one worker after the other died, or what a worker did ended for no fault of the candidate's.
        """
        import ray

        from promptgraft.search.workers import RepeatRunner

        self._score_in_float32()
        resources = self.study.file.resources
        actor = ray.remote(RepeatRunner).options(num_cpus=resources.cpu, num_gpus=resources.gpu)
        spec = ray.put(replace(self.study.objective, files=self.files))
        room, idle, running = trial_slots(resources, total, self.at_most), list[Any](), dict[Any, tuple[Any, Job]]()
        lost = 0
        while (waiting := self.jobs()) or running:
            begun = {job.attr for _, job in running.values()}
            left = [job for job in waiting if job.attr not in begun]
            while left and len(running) < room and not self._is_spent():
                job = left.pop(0)
                runner = idle.pop() if idle else actor.remote(spec, resources.cpu, self.study.file.seed)
                running[job.start(runner)] = (runner, job)
            if not running:
                self.say(f"time or compute is used up: {len(left)} repeats were not run")
                return
            (done,), _ = ray.wait(list(running))
            runner, job = running.pop(done)
            try:
                outcome = ray.get(done)
            except ray.exceptions.RayActorError:
                lost += 1
                if lost > MAX_LOST:
                    raise
                logger.warning("a worker died at %s, which is run again", job.name)
                continue
            lost = 0
            idle.append(runner)
            self._record(job, outcome)

    def _score_in_float32(self) -> None:
        """Score finalists again of a search that was in lower precision; see `search.judging.float32_rescoring`."""
        import ray

        from promptgraft.search.workers import score_finalists

        pending, resources = trials_to_rescore(self.stored, self.study), self.study.file.resources
        if pending:
            spec = replace(self.study.objective, files=self.files)
            task = ray.remote(score_finalists).options(num_cpus=resources.cpu, num_gpus=resources.gpu)
            record_float32_scores(self.stored, ray.get(task.remote(spec, resources.cpu, rescoring_jobs(pending))))
            self.say(f"finalists: {len(pending)} trials scored again in float32")

    def _record(self, job: Job, outcome: Outcome) -> None:
        write_study(self.stored, job.attr, replace(outcome, trial=job.about.get("trial")))
        self.say(outcome_line(job.name, outcome, self.study.file.metric))

    def _is_spent(self) -> bool:
        """Whether another repeat would end too late, by what those before it took."""
        now = time.time()
        seconds = StudyRecord.of(self.stored).seconds(REPEAT, CONTROL, CURVE)
        usual = sorted(seconds)[len(seconds) // 2] if seconds else 0.0
        if self.limits.ends_at is not None and now + usual > self.limits.ends_at:
            return True
        if self.limits.compute_s is None:
            return False
        used = compute_seconds(self.stored.get_trials(deepcopy=False), now) + sum(seconds)
        return used + usual > self.limits.compute_s


def _arm(trial: FrozenTrial) -> "TrainedControl":
    from promptgraft.objectives.measures import TrainedControl

    record = TrialRecord.of(trial)
    return TrainedControl(record.candidate, record.best_step or 0)


def _name_of_other(winner: FrozenTrial) -> str:
    return BEST_TARGET_ONLY if _arm(winner).candidate.uses_source else WITH_SOURCE

"""Once a search has ended, its finalists race on other seeds and splits; the winner meets its controls on fresh ones.

A single finalist meets its controls on the repeats that it has; see `search.judging.transfer_gain.fresh_repeats`.

If the search was in lower precision, its finalists are scored in float32 first. What is found is recorded in the study
one by one: it stays, whatever happens, and the next run does the rest. See `search.judging.verdict` for the finalists
and `search.judging.transfer_gain` for the controls.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FrozenTrial, TrialState

from promptgraft.search.judging import (
    BEST_TARGET_ONLY,
    FRESH,
    MIN_REPEATS,
    TARGET_ONLY,
    WINNER,
    WITH_SOURCE,
    control_logits_file,
    control_names,
    fewer_rows,
    fresh_repeats,
    is_compared_on_folds,
    outcome_line,
    reach_verdict,
    record_float32_scores,
    repeat_name,
    rescoring_jobs,
    rival_of,
    trials_to_rescore,
)
from promptgraft.search.running.ray_session import (
    LocalRay,
    RayLostError,
    RaySession,
    ray_error_in_words,
    ray_session,
    trial_slots,
)
from promptgraft.search.running.repeat_workers import (
    Job,
    RepeatWorkers,
    Start,
    WorkersLostError,
    repeat_runners,
    shared_tasks,
)
from promptgraft.search.storage import (
    CONTROL,
    CURVE,
    REPEAT,
    SHARED,
    Outcome,
    StudyRecord,
    TrialRecord,
    control_attr,
    curve_attr,
    repeat_attr,
    until_storage_answers,
    wait_for_storage,
    write_study,
)
from promptgraft.search.study import Study
from promptgraft.search.trials import Limits, compute_seconds
from promptgraft.spaces import BACKBONE

if TYPE_CHECKING:
    from promptgraft.objectives.measures import TrainedControl


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
        # Gets how many repeats are done, and how many are left.
        self.show: Callable[[int, int], None] = _unseen

    @wait_for_storage
    def jobs(self) -> list[Job]:
        """Return what can be run next, most urgent first: what the race misses, or controls of the winner so far.

        Where time or compute may end, two repeats of everything come first: with less, nothing can be said. Otherwise
        the race comes first, since controls are those of its winner.
        """
        judged = reach_verdict(self.stored)
        missing, winner = judged.missing, judged.winner
        is_endless = self.limits.ends_at is None and self.limits.total_compute_s is None
        if winner is None:
            return self._finalists(missing)
        fresh = fresh_repeats(self.stored, winner.number)
        least = MIN_REPEATS if fresh.start == FRESH else fresh[MIN_REPEATS - 1]
        if missing and (is_endless or missing[0][1] <= least):
            return self._finalists(missing)
        return (
            self._controls(winner, fresh[:MIN_REPEATS])
            or self._finalists(missing)
            or self._controls(winner, fresh)
            or self._curves(winner, fresh)
        )

    @wait_for_storage
    def count_left(self) -> int:
        """Count what is left as things stand: of the race, the controls and the learning curves."""
        judged = reach_verdict(self.stored)
        found, winner = self._finalists(judged.missing), judged.winner
        if winner is not None:
            fresh = fresh_repeats(self.stored, winner.number)
            found += self._controls(winner, fresh) + self._curves(winner, fresh)
        return len({job.attr for job in found})

    def _finalists(self, missing: Sequence[tuple[FrozenTrial, int]]) -> list[Job]:
        """Return repeats of the race; those that are compared with controls, too, predict the test rows."""
        has_controls = bool(self.study.file.judging.controls)

        def job(trial: FrozenTrial, repeat: int) -> Job:
            record, place = TrialRecord.of(trial), (trial.number, repeat)
            candidate, step = record.values, record.best_step or 0
            is_compared = has_controls and repeat in fresh_repeats(self.stored, trial.number)
            file = control_logits_file(trial.number, WINNER, repeat) if is_compared else None
            return Job(
                repeat_attr(*place),
                repeat_name(*place),
                lambda runner: runner.train.remote(candidate, step, repeat, file),
                expected_s=compute_seconds([trial], time.time()),
            )

        return [job(trial, repeat) for trial, repeat in missing]

    def _controls(self, winner: FrozenTrial, repeats: range) -> list[Job]:
        """Return what the comparison misses: what was a trial as a baseline is not run again."""
        if not self.study.file.judging.controls:
            return []
        record, number = StudyRecord.of(self.stored), winner.number
        other = self._other(winner)
        fitted, trained = self._fitted(winner), self._trained(winner, other)
        if repeats.start != FRESH:  # Then it has had them in the race.
            del trained[WINNER]
        starts = {name: start for name, start in (fitted | trained).items() if name not in self.study.file.baselines}
        about = {_name_of_other(winner): {"trial": other.number}} if other else {}

        def attr(name: str, repeat: int) -> str:
            own = control_attr(number, name, repeat)  # Where older versions recorded those of all winners, too.
            is_own = name in trained or self.study.file.backbones or record.outcome(own)
            return own if is_own else control_attr(SHARED, name, repeat)

        names = control_names(self.stored)
        jobs = [
            Job(
                attr(name, repeat),
                f"fresh rerun {repeat - repeats.start + 1} of {names[name]}",
                start(repeat),
                about.get(name, {}),
            )
            for repeat in repeats
            for name, start in starts.items()
        ]
        return [job for job in jobs if not job.is_done(record)]

    def _curves(self, trial: FrozenTrial, repeats: range) -> list[Job]:
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
                f"fresh rerun {repeat - repeats.start + 1} of the winner on {count} {part} rows",
                start(part, count, repeat),
            )
            for repeat in repeats
            for part, count in points
        ]
        done = StudyRecord.of(self.stored)
        return [job for job in jobs if not job.is_done(done)]

    def _fitted(self, winner: FrozenTrial) -> dict[str, Callable[[int], Start]]:
        """Return the controls that are no candidates: they are the same for every winner on a backbone."""
        from promptgraft.objectives.measures import FITTED

        backbone = TrialRecord.of(winner).values.get(BACKBONE, "")
        owner = winner.number if backbone else SHARED

        def start(control: str) -> Callable[[int], Start]:
            return lambda repeat: (
                lambda runner: runner.fit.remote(control, repeat, control_logits_file(owner, control, repeat), backbone)
            )

        return {name: start(name) for name in FITTED if name in self.study.file.judging.controls}

    def _trained(self, trial: FrozenTrial, other: FrozenTrial | None) -> dict[str, Callable[[int], Start]]:
        """Return the winner and the controls that are candidates."""
        from promptgraft.objectives.measures import trained_controls

        winner, wanted = _arm(trial), self.study.file.judging.controls
        target, sources = self.study.target, self.study.sources
        source = sources.get(winner.candidate.source, next(iter(sources.values()), None))
        shared = source is not None and set(target.labels) <= set(source.labels)
        objective = self.study.objective.on(winner.candidate.backbone)
        controls = trained_controls(winner, objective.space, shared, objective.training_on(winner.candidate.source))
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
        """Return the winner's rival if it is to be repeated; see `search.judging.rival`."""
        if not self.study.sources or TARGET_ONLY not in self.study.file.judging.controls:
            return None
        rival = rival_of(self.stored, winner)
        return None if rival is None or is_compared_on_folds(winner, rival) else rival

    @wait_for_storage
    def is_needed(self) -> bool:
        """Whether anything is left to do."""
        return bool(trials_to_rescore(self.stored, self.study) or self.jobs())

    def judge(self, address: str | None, local: LocalRay) -> str | None:
        """Do what is left on a Ray of its own; see `run`.

        Args:
            address: Ray cluster to join; a local one is started if None.
            local: The local Ray.

        Returns:
            Why it could not be done, in words; None if it was, or time or compute was used up.

        Raises:
            StorageLostError: If the study's storage is away for too long.
        """
        import ray

        try:
            with ray_session(address, local) as session:
                self.run(session)
        except (ray.exceptions.RayError, RayLostError, WorkersLostError) as error:
            return f"the finalists could not be judged: {ray_error_in_words(error)}. The same command goes on with it"
        return None

    @wait_for_storage
    def nothing_judged(self) -> str | None:
        """Say why there is no verdict, if a repeat of every trial that might have won has failed; None if there is."""
        judged = reach_verdict(self.stored)
        if not self.study.file.judging.finalists or not judged.failed or judged.trials:
            return None
        first = judged.failed[0]
        return (
            f"no finalist could be judged: a rerun of every trial failed, that of trial {first.number} with: "
            f"{first.failure}. Failed reruns are not run again: mend what failed and run more trials, or another "
            "study"
        )

    def run(self, session: RaySession) -> None:
        """Do what is left, as far as time and compute allow.

        Args:
            session: The Ray that runs it.

        Raises:
            RayError: If what a worker did ended for no fault of the candidate's.
            RayLostError: If the local Ray has died.
            WorkersLostError: If one worker after the other died.
            StorageLostError: If the study's storage is away for too long.
        """
        self._score_in_float32()
        resources = self.study.file.resources
        room = trial_slots(resources, session.resources(), self.at_most)
        workers = RepeatWorkers(repeat_runners(self.study, self.files), lambda: session.is_alive)
        done = 0
        while True:
            self.show(done, self.count_left())
            left = [job for job in self.jobs() if not workers.has(job)]
            while left and workers.running < room and not self._is_spent(left[0]):
                workers.begin(left.pop(0))
            # Where nothing else can be tried, nothing else will show whether it was the machine's fault.
            is_idle = not workers.running
            ended = workers.failed() if is_idle else workers.next_outcomes()
            for job, outcome in ended:
                self._record(job, outcome)
            done += len(ended)
            if is_idle and not ended:
                if left:
                    self.say(f"time or compute is used up: reruns left out: {len(left)}")
                return

    def _score_in_float32(self) -> None:
        """Score finalists again of a search that was in lower precision; see `search.judging.float32_rescoring`."""
        import ray

        from promptgraft.search.workers import score_finalists

        pending, resources = self._to_rescore(), self.study.file.resources
        if not pending:
            return
        spec = replace(self.study.objective, files=self.files)
        task = ray.remote(score_finalists).options(num_cpus=resources.cpu, num_gpus=resources.gpu)
        jobs = rescoring_jobs(self.stored, pending)
        scores = ray.get(task.remote(spec, shared_tasks(self.study), resources.cpu, jobs))
        until_storage_answers(lambda: record_float32_scores(self.stored, scores))
        self.say(f"finalists: {len(pending)} trials scored again in float32")

    @wait_for_storage
    def _to_rescore(self) -> list[FrozenTrial]:
        return trials_to_rescore(self.stored, self.study)

    def _record(self, job: Job, outcome: Outcome) -> None:
        recorded = replace(outcome, trial=job.about.get("trial"))
        until_storage_answers(lambda: write_study(self.stored, job.attr, recorded))
        self.say(outcome_line(job.name, outcome, self.study.file.metric))

    @wait_for_storage
    def _is_spent(self, job: Job) -> bool:
        """Whether a repeat would end too late, or exceed the compute budget.

        That of a trial is expected to take what the trial took, anything else what repeats usually take.
        """
        now = time.time()
        seconds = StudyRecord.of(self.stored).seconds(REPEAT, CONTROL, CURVE)
        expected = job.expected_s
        if expected is None:
            expected = sorted(seconds)[len(seconds) // 2] if seconds else 0.0
        if self.limits.ends_at is not None and now + expected > self.limits.ends_at:
            return True
        if self.limits.total_compute_s is None:
            return False
        used = compute_seconds(self.stored.get_trials(deepcopy=False), now) + sum(seconds)
        return used + expected > self.limits.total_compute_s


def _unseen(_done: int, _left: int) -> None:
    """Show nothing."""


def _arm(trial: FrozenTrial) -> "TrainedControl":
    from promptgraft.objectives.measures import TrainedControl

    record = TrialRecord.of(trial)
    step = record.candidate.steps if trial.state == TrialState.PRUNED else record.best_step
    return TrainedControl(record.candidate, step or 0)


def _name_of_other(winner: FrozenTrial) -> str:
    return BEST_TARGET_ONLY if _arm(winner).candidate.uses_source else WITH_SOURCE

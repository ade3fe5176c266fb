"""Ray actors that run repeats, and what becomes of a repeat whose worker dies.

A repeat may kill its worker: it runs out of memory, or the candidate crashes a native library. That must not keep the
others from being judged, so after a few deaths it counts as failed. A machine on which nothing works must not fail
every repeat for ever, though: then nothing is recorded, and the run ends with an error.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from promptgraft.search.running.ray_session import RayLostError
from promptgraft.search.running.retries import Loss, lost_worker
from promptgraft.search.storage import Outcome, StudyRecord
from promptgraft.search.study import Study
from promptgraft.spaces import PromptgraftError

logger = logging.getLogger(__name__)

# Workers that one repeat may lose before it counts as failed; losses in a row that are no repeat's doing; and repeats
# that may fail so before any other one has succeeded.
MAX_LOST = 3
# Seconds between two looks whether Ray is still there.
_LOOK_EVERY_S = 5.0
# Makes a runner begin: RepeatRunner -> Ray's reference to the outcome.
Start = Callable[[Any], Any]


class WorkersLostError(PromptgraftError):
    """One worker after the other died, so that nothing can be judged."""


@dataclass(frozen=True, slots=True)
class Job:
    """One repeat of a finalist or of a control.

    Attributes:
        attr: User attribute of the study that its outcome is recorded under.
        name: What it is, for people.
        start: Begins it.
        about: What is recorded with its outcome: the `trial`, where further trials may bring a better one in its place.
        expected_s: Seconds that it will take; None if it is like other repeats.
    """

    attr: str
    name: str
    start: Start
    about: Mapping[str, int] = field(default_factory=dict)
    expected_s: float | None = None

    def is_done(self, record: StudyRecord) -> bool:
        """Whether its outcome is recorded in a study."""
        outcome = record.outcome(self.attr)
        return outcome is not None and outcome.trial == self.about.get("trial")


@dataclass(frozen=True, slots=True)
class _Task:
    """What is waited for: that an actor has loaded its backbone, for a repeat; or the repeat.

    Attributes:
        actor: The actor.
        job: The repeat.
        has_begun: Whether it is the repeat itself.
    """

    actor: Any
    job: Job
    has_begun: bool


def shared_tasks(study: Study) -> Any:
    """Return Ray's reference to a study's tasks, which workers then need not read and compare anew.

    Returns:
        None where a plugin's task can't be sent: each worker reads the tables then.
    """
    import ray
    from ray.cloudpickle import PicklingError

    try:
        return ray.put((study.target, dict(study.sources)))
    except (TypeError, AttributeError, PicklingError):
        return None


def repeat_runners(study: Study, files: str) -> Callable[[], Any]:
    """Return what starts an actor that runs repeats, `search.workers.RepeatRunner`.

    Args:
        study: The study.
        files: Where its files are.
    """
    import ray

    from promptgraft.search.workers import RepeatRunner

    resources = study.file.resources
    actor = ray.remote(RepeatRunner).options(num_cpus=resources.cpu, num_gpus=resources.gpu)
    spec, tasks = ray.put(replace(study.objective, files=files)), shared_tasks(study)
    return lambda: actor.remote(spec, tasks, resources.cpu, study.file.seed)


class RepeatWorkers:
    """Runs repeats on actors that keep the backbone loaded, and starts new actors in place of those that died.

    Args:
        start_actor: Starts an actor; see `repeat_runners`.
        is_alive: Whether the Ray that runs them is still there.
    """

    def __init__(self, start_actor: Callable[[], Any], is_alive: Callable[[], bool]) -> None:
        self._start_actor = start_actor
        self._is_alive = is_alive
        self._idle: list[Any] = []
        self._running: dict[Any, _Task] = {}
        self._losses: Counter[str] = Counter()
        self._failed: list[tuple[Job, Outcome]] = []
        self._lost_in_a_row = 0
        self._has_succeeded = False

    @property
    def running(self) -> int:
        """Number of repeats that are being run."""
        return len(self._running)

    def has(self, job: Job) -> bool:
        """Whether a repeat is being run, or has failed and is not handed out yet."""
        known = [task.job for task in self._running.values()] + [other for other, _ in self._failed]
        return job.attr in {other.attr for other in known}

    def begin(self, job: Job) -> None:
        """Start a repeat, on a worker that is idle if there is one."""
        if self._idle:
            self._begin_on(self._idle.pop(), job)
            return
        actor = self._start_actor()
        # First of all the actor, so that it is known of what a worker died.
        self._running[actor.__ray_ready__.remote()] = _Task(actor, job, has_begun=False)

    def _begin_on(self, actor: Any, job: Job) -> None:
        self._running[job.start(actor)] = _Task(actor, job, has_begun=True)

    def next_outcomes(self) -> list[tuple[Job, Outcome]]:
        """Wait until a repeat ends or a worker dies.

        Returns:
            Repeats and their outcomes, to be recorded: the one that ended, and those that were given up because their
            workers died, which are held back until a repeat succeeds. Empty if a repeat will be run again.

        Raises:
            WorkersLostError: If one worker after the other dies and no repeat succeeds.
            RayLostError: If the local Ray has died.
            RayError: If a repeat ended for no fault of the candidate's, such as a full disk.
        """
        import ray

        while True:
            reference = self._next_done()
            task = self._running.pop(reference)
            try:
                outcome: Outcome = ray.get(reference)
            except ray.exceptions.RayActorError as error:
                self._note_loss(task, str(error))
                return self.failed() if self._has_succeeded else []
            if task.has_begun:
                self._lost_in_a_row, self._has_succeeded = 0, True
                self._idle.append(task.actor)
                return [(task.job, outcome), *self.failed()]
            self._begin_on(task.actor, task.job)

    def _next_done(self) -> Any:
        import ray

        done: list[Any] = []
        while not done:
            if not self._is_alive():
                raise RayLostError("a process of the local Ray has ended")
            done, _ = ray.wait(list(self._running), timeout=_LOOK_EVERY_S)
        return done[0]

    def failed(self) -> list[tuple[Job, Outcome]]:
        """Hand out, once, the repeats that are given up because their workers died."""
        found, self._failed = self._failed, []
        return found

    def _note_loss(self, task: _Task, error: str) -> None:
        """Count a worker that died, against its repeat if that may have been the cause."""
        job, (loss, cause) = task.job, lost_worker(error)
        if loss is Loss.CANNOT_START:
            raise WorkersLostError(cause)
        if not (loss.counts and task.has_begun):
            self._lost_in_a_row += 1
            if self._lost_in_a_row > MAX_LOST:
                raise WorkersLostError(f"{self._lost_in_a_row} workers in a row were lost: {cause}")
            logger.warning("%s: %s; it is run again", job.name, cause)
            return
        self._losses[job.attr] += 1
        if self._losses[job.attr] < MAX_LOST:
            logger.warning("%s: %s; it is run again", job.name, cause)
            return
        self._failed.append((job, Outcome(failure=f"{cause}, {MAX_LOST} times")))
        if not self._has_succeeded and len(self._failed) >= MAX_LOST:
            names = ", ".join(other.name for other, _ in self._failed)
            raise WorkersLostError(f"nothing could be judged: {cause}, {MAX_LOST} times each at {names}")

"""What a run is given, what its searcher, scheduler, watchdog and driver tell each other, and how it ended."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from promptgraft.search.side_jobs import SideJobs
from promptgraft.search.storage import RunFolder
from promptgraft.search.study import Constraints, EngineSection, Study
from promptgraft.search.trials import Job
from promptgraft.spaces import PromptgraftError


@dataclass(slots=True)
class RunState:
    """How a run stands.

    Attributes:
        slots: Trials at a time, as the cluster is now.
        side_jobs: What workers do beside trials, most urgent first.
        disk_full: Why there is no room for another trial, when last looked at; None if there is.
        error: What keeps the run from going on; None if nothing does.
        overdue: Trials that were killed because they took too long, with the cause.
    """

    slots: int = 1
    side_jobs: Sequence[SideJobs] = ()
    disk_full: str | None = None
    error: PromptgraftError | None = None
    overdue: dict[int, str] = field(default_factory=dict)

    def side_jobs_of(self, job: Job) -> SideJobs | None:
        """Return the kind that a job is of; None if it is a trial."""
        return next((kind for kind in self.side_jobs if kind.owns(job)), None)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line decides beside the study file.

    Attributes:
        folder: The study's folder.
        storage_url: Optuna storage; the folder's SQLite file if None.
        trials: Finished trials to reach; the study file's number if None.
        timeout_s: Length of the run; the study file's if None.
        concurrent: Trials at a time; as many as fit if None.
        address: Ray cluster to join; a local one is started if None.
    """

    folder: RunFolder
    storage_url: str | None = None
    trials: int | None = None
    timeout_s: float | None = None
    concurrent: int | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """What decides which candidates a study tries.

    Attributes:
        sampler: Name and options of the sampler.
        pruner: Name and options of the pruner.
        seed: The study's seed.
        max_retries: Times that a trial is run again whose worker or driver died.
        constraints: What candidates must keep to, if anything.
    """

    sampler: EngineSection
    pruner: EngineSection
    seed: int
    max_retries: int = 3
    constraints: Constraints | None = None

    @classmethod
    def of(cls, study: Study) -> "SearchSettings":
        """Take the settings from a study file."""
        file = study.file
        return cls(file.sampler, file.pruner, file.seed, file.budget.max_retries, study.constraints)


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        states: Number of trials by state.
        finished: Trials that are COMPLETE or PRUNED.
        wanted: How many were wanted.
        ended_because: Why no further trial started; None if the run was interrupted.
        needs_help: Whether someone has to look into it: the search gave up, or the finalists could not be judged.
        verdict: What to ship, in a sentence; and a warning if a baseline is shown to be better.
        cut_off: Trials that are FAIL through no fault of theirs, such as those that still ran when the time was up.
    """

    states: dict[str, int]
    finished: int
    wanted: int
    ended_because: str | None
    needs_help: bool = False
    verdict: tuple[str, ...] = ()
    cut_off: int = 0

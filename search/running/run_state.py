"""What searcher, scheduler, watchdog and driver of one run tell each other."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from promptgraft.search.side_jobs import SideJobs
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

"""What workers do beside trials while a search runs: rounds of growth, and repeats of its best trials.

Each is run as a trial of Ray's that is none of the study's: it has a place of its own among those that run, and what it
finds comes back as a message.
"""

from typing import Protocol

import optuna
from optuna.trial import FrozenTrial

from promptgraft.objectives.growth import Growth
from promptgraft.objectives.measures import UntrainedScore
from promptgraft.search.storage import Pool
from promptgraft.search.trials import Failed, Job, SideJobDone
from promptgraft.spaces import SearchSpace


class StudyView(Protocol):
    """What side jobs see of the study, and may write to it; the driver's ledger is one.

    Attributes:
        study: The stored study.
        trials: Its trials when last looked at.
        space: The search space, with the templates that joined.
        pool: Those.
    """

    study: optuna.Study
    trials: list[FrozenTrial]
    space: SearchSpace
    pool: Pool

    @property
    def finished(self) -> int:
        """Trials that are COMPLETE or PRUNED."""

    def untrained_scores(self) -> list[UntrainedScore]:
        """Return the scores of untrained prompts, the best first."""

    def record_growth(self, round_: int, growth: Growth | None) -> Pool:
        """Write what a round of growth found, and return the larger pool."""


class SideJobs(Protocol):
    """Says when something is due beside trials, and records what was found."""

    @property
    def running(self) -> int:
        """How many jobs of this kind workers have."""

    def owns(self, job: Job) -> bool:
        """Whether a job is of this kind."""

    def next_job(self) -> Job | None:
        """Return the next job; None if nothing is due."""

    def on_result(self, job: Job, message: SideJobDone | Failed) -> None:
        """Record how a job ended."""

    def on_worker_lost(self, job: Job, cause: str) -> None:
        """Take back a job whose worker died, or that was cut off through no fault of its own."""

    def reset(self) -> None:
        """Take back all jobs: their workers ended with their Ray."""

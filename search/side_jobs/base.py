"""What workers do beside trials while a search runs: rounds of growth, and repeats of its best trials.

Each is run as a trial of Ray's that is none of the study's: it has a place of its own among those that run, and what it
finds comes back as a report.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial

from promptgraft.search.sampling import Pool
from promptgraft.spaces import SearchSpace

# Names of errands, for workers and logs.
GROWTH_JOB, REPEAT_JOB = "a round of growth", "a repeat"


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

    def untrained_scores(self) -> list[dict[str, Any]]:
        """Return the scores of untrained prompts, the best first."""

    def record_growth(self, round_: int, growth: Mapping[str, Any]) -> Pool:
        """Write what a round of growth found, and return the larger pool."""


class SideJob(Protocol):
    """Says when something is to be done beside trials, and takes down what was found.

    Attributes:
        name: What it is; workers know it by that.
    """

    name: str

    @property
    def running(self) -> int:
        """How many of its works are being done."""

    def next_work(self) -> dict[str, Any] | None:
        """Return what a worker needs; None if nothing is due."""

    def told(self, work: Mapping[str, Any], found: Mapping[str, Any] | None, failure: str | None) -> None:
        """Take down a work's outcome: what was found, or why nothing was."""

    def worker_died(self, work: Mapping[str, Any], cause: str) -> None:
        """Learn that the worker of a work died, or could not do it for no fault of the work."""

    def forget(self) -> None:
        """Learn that all workers have ended with their Ray."""

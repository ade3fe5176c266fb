"""What every tracker of experiments can do, and what it is given."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import FrozenTrial

from promptgraft.search.storage import TrialRecord
from promptgraft.search.study import flattened

# Figures of a trial that are worth a column beside its metrics.
_FIGURES = ("seconds", "prompt_tokens", "trainable_parameters")


@dataclass(frozen=True, slots=True)
class TrackedStudy:
    """The study that is tracked.

    Attributes:
        name: Its name.
        token: A random name that tells it from every other study.
        metric: The metric of its curves.
        folder: Its local folder.
    """

    name: str
    token: str
    metric: str
    folder: Path


@dataclass(frozen=True, slots=True)
class TrackedTrial:
    """A trial that has ended.

    Attributes:
        number: Its number.
        state: Optuna's name of its state.
        params: Its candidate; names of nested values are joined by dots.
        curve: Step and value of each evaluation.
        metrics: Its final value, under the metric's name, validation metrics, and what it cost.
        began: When it began, in seconds since the epoch.
        ended: When it ended, likewise.
        cause: Why it failed; None if it did not.
    """

    number: int
    state: str
    params: Mapping[str, object]
    curve: Sequence[tuple[int, float]]
    metrics: Mapping[str, float]
    began: float
    ended: float
    cause: str | None

    @classmethod
    def of(cls, trial: FrozenTrial, metric: str) -> "TrackedTrial":
        """Read a finished trial of a study with this metric."""
        record = TrialRecord.of(trial)
        figures = {name: float(value) for name in _FIGURES if (value := record.figure(name)) is not None}
        final = {metric: trial.values[0]} if trial.values else {}
        ended = trial.datetime_complete.timestamp() if trial.datetime_complete else 0.0
        return cls(
            number=trial.number,
            state=trial.state.name,
            params=dict(flattened(record.values)),
            curve=sorted(trial.intermediate_values.items()),
            metrics=record.metrics | figures | final,
            began=trial.datetime_start.timestamp() if trial.datetime_start else ended,
            ended=ended,
            cause=record.cause,
        )


class Tracker(ABC):
    """A tool that shows trials.

    Args:
        study: The study that is tracked.
    """

    def __init__(self, study: TrackedStudy) -> None:
        self.study = study

    @abstractmethod
    def known(self) -> set[int]:
        """Return the numbers of the trials that the tool has."""

    @abstractmethod
    def add_trial(self, trial: TrackedTrial) -> None:
        """Add a trial that has ended."""

    @abstractmethod
    def end(self, state: str, reason: str, verdict: Sequence[str]) -> None:
        """Record how a run has ended (`ended`, `stopped` or `failed`), why, and what its verdict is."""

    @abstractmethod
    def add_bundle(self, folder: Path, metrics: Mapping[str, float]) -> None:
        """Add an exported bundle, and what it scores on the test set if that was opened."""

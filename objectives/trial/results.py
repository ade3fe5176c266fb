"""What a migrate-and-evaluate cycle hands out: an evaluation every few updates, a result at the end."""

import resource
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import stdev

import numpy as np
import numpy.typing as npt
from torch import Tensor

from promptgraft.objectives.caching import StageUse
from promptgraft.objectives.data import Direction
from promptgraft.objectives.progress import StageProgress
from promptgraft.objectives.trial.migration import LoadReport
from promptgraft.spaces import TrialError


@dataclass(frozen=True)
class Result:
    """What a finished cycle leaves behind: the state at its best evaluation.

    Attributes:
        value: Validation value of the study's metric.
        step: Update at which it was reached.
        metrics: All validation metrics there.
        confusion: True labels (rows) against predicted ones (columns), on validation rows.
        logits: Validation logits, calibrated if the candidate says so, shape (validation rows, labels).
        delta: Every weight that may differ from the pretrained backbone's, and every attached one; with calibration,
            `calibration.bias` too: what is taken off the logits, shape (labels,).
        load_report: What the migration did with each weight.
        trainable_parameters: Number of weights that the target stage trained.
        prompt_tokens: Tokens that the template adds to the text, the soft prompt's, and those of the demonstrations:
            their mean over validation rows, rounded.
        seconds: Wall time of the cycle, evaluations included.
        max_rss_bytes: Largest resident memory of this process so far.
        max_gpu_bytes: Largest memory that the cycle's tensors held on its GPUs; 0 without one.
        reduced_to: Rows that were trained on at once after the device ran out of memory; None if it never did.
        stages: What was found in the store of stages, and what was computed.
        resumed_at: Update at which a checkpoint was taken up; 0 if none was.
        demonstrations: How many a validation row was shown, on average: fewer than asked for where not all fit.
        fold_values: The metric of each fold, where the candidate was cross-validated: `value` and `metrics` are means
            over the folds then, `confusion` is their sum, `logits` are those of rows outside their fold's training, one
            fold after the other, and `delta` is empty.
    """

    value: float
    step: int
    metrics: Mapping[str, float]
    confusion: list[list[int]]
    logits: npt.NDArray[np.float32]
    delta: Mapping[str, Tensor]
    load_report: LoadReport
    trainable_parameters: int
    prompt_tokens: int
    seconds: float
    max_rss_bytes: int
    max_gpu_bytes: int = 0
    reduced_to: int | None = None
    stages: StageUse = field(default_factory=StageUse)
    resumed_at: int = 0
    demonstrations: float = 0.0
    fold_values: tuple[float, ...] = ()

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean over the folds; None where there is but one."""
        return stdev(self.fold_values) / len(self.fold_values) ** 0.5 if len(self.fold_values) > 1 else None


@dataclass(frozen=True)
class Evaluation:
    """The target task's metrics at one step.

    Attributes:
        step: Updates done since the migration; in a later fold, from one more than the folds before it had on.
        value: The study's metric on validation rows.
        metrics: All metrics.
        confusion: True labels (rows) against predicted ones (columns).
        source_loss: Mean L_s since the evaluation before, in nats; None if the source took no part.
        target_loss: The same for L_t.
        result: The outcome, at the last evaluation only.
        fold: The fold whose rows these are; 0 where there is but one.
        so_far: The outcome on the folds up to this one, at the last evaluation of each.
    """

    step: int
    value: float
    metrics: Mapping[str, float]
    confusion: list[list[int]]
    source_loss: float | None
    target_loss: float | None
    result: Result | None = None
    fold: int = 0
    so_far: Result | None = None

    def is_better(self, other: "Evaluation", direction: Direction) -> bool:
        """Compare by the study's metric, and at equal values by the loss."""
        sign = 1 if direction == "maximize" else -1
        return (sign * self.value, -self.metrics["loss"]) > (sign * other.value, -other.metrics["loss"])


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that there are; None if there are none."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None


def max_rss_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found * 1024


class Evaluations(Iterator[Evaluation]):
    """Evaluations that are made one by one, while a caller asks for the next one.

    Args:
        reports: Makes them, and tells of long stages on the way.

    Raises:
        TrialError: While iterating, once they were closed.
    """

    def __init__(self, reports: Generator[Evaluation | StageProgress, None, None]) -> None:
        self._reports = reports
        self._is_open = True

    def __next__(self) -> Evaluation:
        """Go on to the next evaluation."""
        while True:
            report = self.advance()
            if isinstance(report, Evaluation):
                return report

    def advance(self) -> Evaluation | StageProgress:
        """Go on to the next evaluation, or for a while within a stage that takes long."""
        if not self._is_open:
            raise TrialError("another cycle was started on this objective, so this one can't go on")
        return next(self._reports)

    def close(self) -> None:
        """End them, since their backbone is needed by others; let go of a stage that they are in."""
        self._is_open = False
        self._reports.close()

"""How sure the model that ships may be: its temperature, and what it gets right if it leaves doubtful rows to a person.

Both are measured on the rows that candidates were scored by, each by a model that wasn't trained on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from scipy.special import softmax

from promptgraft.objectives.data import Outputs, Task
from promptgraft.objectives.file_store import FileStore
from promptgraft.objectives.measures import (
    Coverage,
    best_temperature,
    calibration_error,
    coverage_curve,
)
from promptgraft.search.storage import LOGITS_FILE, trial_file

# Parts of the rows that a temperature is fitted without and tried on, where there are no folds.
_PARTS = 4


@dataclass(frozen=True, slots=True)
class Confidence:
    """How sure a model may be.

    Attributes:
        temperature: What its logits are divided by.
        error: Expected calibration error without that.
        error_after: With it: that of each fold, at a temperature that was fitted to the others.
        coverage: Accuracy by coverage.
        rows: Number of rows that it was measured on.
    """

    temperature: float
    error: float
    error_after: float
    coverage: tuple[Coverage, ...]
    rows: int


def measure_confidence(
    task: Task, files: FileStore, trials: Sequence[int], weights: Sequence[float]
) -> Confidence | None:
    """Fit the temperature of a trial or an ensemble.

    Args:
        task: The target.
        files: The study's files.
        trials: Numbers of the trials.
        weights: Share of each.

    Returns:
        The temperature and what it brings; None if the logits of a trial are gone, or rows don't have one label each.
    """
    if not task.one_label:
        return None
    rows = task.scored()
    labels = np.array([row.label for row in rows])
    logits = scored_outputs(task, files, trials, weights)
    if logits is None:
        return None
    folds = np.array(task.scored_folds()) if task.folds > 1 else np.arange(len(rows)) % _PARTS
    after = np.empty(logits.shape)
    for fold in np.unique(folds):
        inside = folds == fold
        temperature = best_temperature(logits[~inside], labels[~inside])
        after[inside] = softmax(logits[inside].astype(np.float64) / temperature, axis=1)
    before = softmax(logits.astype(np.float64), axis=1)
    return Confidence(
        temperature=best_temperature(logits, labels),
        error=calibration_error(before.max(1), before.argmax(1) == labels),
        error_after=calibration_error(after.max(1), after.argmax(1) == labels),
        coverage=tuple(coverage_curve(after, labels)),
        rows=len(rows),
    )


def scored_outputs(task: Task, files: FileStore, trials: Sequence[int], weights: Sequence[float]) -> Outputs | None:
    """Return what a trial or an ensemble makes of the rows that it was scored by, shape (rows, labels); None if gone.

    Args:
        task: The target.
        files: The study's files.
        trials: Numbers of the trials.
        weights: Share of each.
    """
    try:
        found = [files.read_tensors(trial_file(number, LOGITS_FILE))["logits"].numpy() for number in trials]
        logits = task.combine(found, weights)
    except (OSError, SafetensorError, KeyError):
        return None
    return logits if (len(logits), logits.shape[-1]) == (len(task.scored()), task.width) else None


def confidence_lines(found: Confidence) -> list[str]:
    """Describe calibration and coverage in two lines."""
    whole, half = found.coverage[0], min(found.coverage, key=lambda point: abs(point.coverage - 0.5))
    after = f"{found.error_after:.3f} at temperature {found.temperature:.2f}"
    sure = f"the {half.coverage:.0%} with a probability of at least {half.threshold:.2f}"
    return [
        f"calibration error {found.error:.3f} on {found.rows} rows that it wasn't trained on, {after}",
        f"it gets {whole.accuracy:.1%} of them right; {half.accuracy:.1%} of {sure}",
    ]

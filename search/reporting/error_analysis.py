"""What a trial got wrong, and whether it is as sure as it should be, from the outputs that lie in the study's files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from safetensors import SafetensorError
from scipy.special import softmax
from sklearn.metrics import precision_recall_fscore_support

from promptgraft.objectives.data import Row, Task, rows_hash
from promptgraft.objectives.file_store import FileStore
from promptgraft.search.judging import logits_of_test_set
from promptgraft.search.storage import FLOAT32_LOGITS_FILE, LOGITS_FILE, StudyRecord, trial_file

BINS = 10
# Examples shown of each class, those that the model was surest of.
EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Outputs:
    """A trial's outputs on some rows.

    Attributes:
        rows: Which: `test` or `validation`.
        files: Where they may lie, in this order.
        expected: The rows' hash as the study recorded it; None if it didn't.
        present: The hash of what is read today.
    """

    rows: str
    files: Sequence[str]
    expected: str | None
    present: str


def analyze_errors(
    stored: optuna.Study, task: Task, files: FileStore, trial: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Look at a trial's outputs: on validation rows, and on the test rows if these were opened for it.

    Args:
        stored: The study's record.
        task: Its target task.
        files: Its files.
        trial: Number of the trial.

    Returns:
        What was found, the test rows first: `rows`, `count`, `hash`, `file`, `labels`, `confusion`, `classes` (with
        examples of errors), `metrics` and `calibration`. And why anything is missing.
    """
    found, missing = [], []
    for outputs in _sources(stored, task, trial):
        rows: Sequence[Row] = getattr(task, outputs.rows)
        if outputs.expected not in (None, outputs.present):
            missing.append(
                f"errors on {outputs.rows} rows: the rows have changed since the study was started "
                f"(hash {outputs.expected} -> {outputs.present})"
            )
            continue
        name, logits = _read(files, outputs.files)
        if logits is None or len(logits) != len(rows):
            missing.append(
                f"errors on {outputs.rows} rows: the outputs of trial {trial} for them aren't there ({name})"
            )
            continue
        shown = {"rows": outputs.rows, "count": len(rows), "hash": rows_hash(rows), "file": name}
        found.append(shown | errors(task, logits, rows))
    return found, missing


def _sources(stored: optuna.Study, task: Task, trial: int) -> list[Outputs]:
    record = StudyRecord.of(stored)
    chosen_by = Outputs(
        "validation",
        [trial_file(trial, name) for name in (FLOAT32_LOGITS_FILE, LOGITS_FILE)],
        record.identity.get("target rows"),
        rows_hash((*task.train, *task.validation)),
    )
    opening = record.opening(trial)
    if opening is None or not opening.table:
        return [chosen_by]
    return [Outputs("test", [logits_of_test_set(trial)], opening.rows, rows_hash(task.test)), chosen_by]


def _read(files: FileStore, names: Sequence[str]) -> tuple[str, npt.NDArray[np.float32] | None]:
    """Return the first file that can be read, and its logits, shape (rows, labels); None if none can."""
    for name in names:
        try:
            return name, np.asarray(files.read_tensors(name)["logits"], dtype=np.float32)
        except (OSError, SafetensorError, KeyError):
            continue
    return names[-1], None


def errors(task: Task, logits: npt.NDArray[np.float32], rows: Sequence[Row]) -> dict[str, Any]:
    """Count a model's errors by class, with examples, and measure its calibration.

    Args:
        task: The task.
        logits: Shape (rows, labels).
        rows: The rows.
    """
    chances = softmax(logits.astype(np.float64), axis=1)
    predicted, sure = chances.argmax(1), chances.max(1)
    labels = np.array([row.label for row in rows])
    figures = precision_recall_fscore_support(labels, predicted, labels=range(len(task.labels)), zero_division=0)
    by_class = []
    for label, name in enumerate(task.labels):
        wrong = [int(i) for i in np.argsort(-sure, kind="stable") if labels[i] == label != predicted[i]]
        examples = [
            {"fields": dict(rows[i].fields), "predicted": task.labels[predicted[i]], "chance": float(sure[i])}
            for i in wrong[:EXAMPLES]
        ]
        precision, recall, f1, count = (column[label] for column in figures)
        entry = {"label": name, "rows": int(count), "wrong": len(wrong), "precision": float(precision)}
        by_class.append(entry | {"recall": float(recall), "f1": float(f1), "examples": examples})
    return {
        "labels": list(task.labels),
        "confusion": task.confusion(logits, rows),
        "classes": by_class,
        "metrics": task.measure(logits, rows),
        "calibration": calibration(sure, predicted == labels),
    }


def calibration(sure: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Compare how sure a model is with how often it is right (Guo et al. 2017, arXiv:1706.04599).

    Args:
        sure: Probability of the predicted label, shape (rows,).
        right: Whether it was right, shape (rows,).

    Returns:
        `bins` (those with rows: `from`, `to`, `rows`, mean `sure`, share `right`) and `expected_calibration_error`.
    """
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    bins: list[dict[str, Any]] = []
    for number in sorted(set(place.tolist())):
        own = place == number
        ends: Mapping[str, float] = {"from": number / BINS, "to": (number + 1) / BINS}
        means = {"sure": float(sure[own].mean()), "right": float(right[own].mean())}
        bins.append({**ends, "rows": int(own.sum()), **means})
    error = sum(entry["rows"] * abs(entry["sure"] - entry["right"]) for entry in bins) / len(sure)
    return {"bins": bins, "expected_calibration_error": float(error)}

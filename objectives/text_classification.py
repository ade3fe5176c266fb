"""Text classification: rows with text fields and one label."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import train_test_split

from promptgraft.objectives.metrics import classification_metrics, confusion
from promptgraft.objectives.tables import read_table
from promptgraft.objectives.tasks import TASK_KINDS, CleaningReport, Row, Task, TaskSpec, row_key
from promptgraft.spaces import InvalidInputError


@TASK_KINDS.register("text_classification")
class TextClassification(Task):
    """One label a row, two or more labels."""

    @classmethod
    def load_target(cls, spec: TaskSpec, seed: int) -> "TextClassification":
        """Read, clean and split a target task; see `Task`."""
        rows, labels, report = clean(spec.train, spec, spec.labels)
        if spec.test is None:
            rest, test = _split(rows, spec.test_rows or _default_test_rows(spec, rows), seed, spec, "test")
        else:
            test, _, test_report = clean(spec.test, spec, labels)
            held_out = {row_key(row) for row in test}
            rest = [row for row in rows if row_key(row) not in held_out]
            report = report + test_report + CleaningReport(overlap=len(rows) - len(rest))
            if spec.test_rows is not None:
                _, test = _split(test, spec.test_rows, seed, spec, "test")
        validation_rows = spec.validation_rows or spec.train_rows or len(rest) // 5
        train, validation = _split(rest, validation_rows, seed, spec, "validation")
        if spec.train_rows is not None:
            _, train = _split(train, spec.train_rows, seed, spec, "train")
        _require_classes(train, labels, spec, "train")
        return cls(labels, tuple(train), tuple(validation), tuple(test), report)

    @classmethod
    def load_source(cls, spec: TaskSpec, seed: int, target: Task) -> "TextClassification":
        """Read and clean a source task; see `Task`."""
        rows, labels, report = clean(spec.train, spec, spec.labels)
        whole = cls(labels, tuple(rows), cleaning=report).without((*target.validation, *target.test))
        train = list(whole.train)
        if spec.train_rows is not None:
            _, train = _split(train, spec.train_rows, seed, spec, "train")
        return cls(labels, tuple(train), cleaning=whole.cleaning)

    def measure(self, logits: npt.NDArray[np.float32], rows: Sequence[Row]) -> dict[str, float]:
        """Compute the metrics of `objectives.metrics`; see `Task`."""
        return classification_metrics(logits, np.array([row.label for row in rows]))

    def confusion(self, logits: npt.NDArray[np.float32], rows: Sequence[Row]) -> list[list[int]]:
        """Count true labels (rows) against predicted ones (columns)."""
        return confusion(logits, np.array([row.label for row in rows]))


def clean(
    path: str, spec: TaskSpec, labels: tuple[str, ...] | None
) -> tuple[list[Row], tuple[str, ...], CleaningReport]:
    """Read a table and drop the rows that can't be used.

    Args:
        path: The table.
        spec: Names the columns.
        labels: The labels to keep; all that occur if None.

    Returns:
        The rows in file order, the labels, and what was dropped.

    Raises:
        InvalidInputError: If the table can't be read, or fewer than two labels occur.
    """
    frame = read_table(path, [*spec.fields.values(), spec.label])
    records: list[dict[Any, Any]] = frame.to_dict("records")
    counts: Counter[str] = Counter(read=len(records))
    kept: list[tuple[dict[str, str], str]] = []
    for record in records:
        values = {name: (record[column] or "").strip() for name, column in spec.fields.items()}
        label = (record[spec.label] or "").strip()
        if not all(values.values()):
            counts["missing_text"] += 1
        elif not label:
            counts["missing_label"] += 1
        elif labels is not None and label not in labels:
            counts["invalid_label"] += 1
        else:
            kept.append((values, label))
    names = labels or tuple(sorted({label for _, label in kept}))
    index = {name: position for position, name in enumerate(names)}
    rows = _drop_duplicates([Row(values, index[label]) for values, label in kept], counts)
    if len({row.label for row in rows}) < 2:
        found = ", ".join(sorted({repr(names[row.label]) for row in rows})) or "none"
        raise InvalidInputError(
            f"{path}: column {spec.label!r} must hold at least two labels after cleaning, found {found} "
            f"(rows: {', '.join(f'{count} {reason}' for reason, count in counts.items())})"
        )
    return rows, names, CleaningReport(**counts)


def _drop_duplicates(rows: list[Row], counts: Counter[str]) -> list[Row]:
    labels: dict[str, set[int]] = {}
    for row in rows:
        labels.setdefault(row_key(row), set()).add(row.label)
    unique: dict[str, Row] = {}
    for row in rows:
        key = row_key(row)
        if len(labels[key]) > 1:
            counts["conflicting"] += 1
        elif key in unique:
            counts["duplicate"] += 1
        else:
            unique[key] = row
    return list(unique.values())


def _split(rows: list[Row], size: int, seed: int, spec: TaskSpec, name: str) -> tuple[list[Row], list[Row]]:
    """Take a stratified sample of `size` rows; return (the rest, the sample)."""
    if size == len(rows) and name == "train":
        return [], rows
    classes = len({row.label for row in rows})
    if size < classes or (name != "train" and size > len(rows) - classes) or size > len(rows):
        raise InvalidInputError(
            f"{spec.train}: {name}_rows is {size}, but {len(rows)} rows are left for it after cleaning and the "
            f"splits before it; it must be at least {classes} (one a label) and leave rows to train on"
        )
    strata = [row.label for row in rows]
    try:
        rest, sample = train_test_split(rows, test_size=size, random_state=seed, stratify=strata)
    except ValueError as error:
        raise InvalidInputError(f"{spec.train}: can't split off {size} {name} rows: {error}") from error
    return rest, sample


def _default_test_rows(spec: TaskSpec, rows: list[Row]) -> int:
    if spec.train_rows is None:
        return max(1, len(rows) // 5)
    return len(rows) - spec.train_rows - (spec.validation_rows or spec.train_rows)


def _require_classes(rows: list[Row], labels: tuple[str, ...], spec: TaskSpec, name: str) -> None:
    missing = [label for index, label in enumerate(labels) if all(row.label != index for row in rows)]
    if missing:
        raise InvalidInputError(
            f"{spec.train}: no {name} row has the label {', '.join(map(repr, missing))}; raise {name}_rows"
        )

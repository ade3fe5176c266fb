"""Text classification: rows with text fields and one label."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from promptgraft.objectives.data.folds import Split, count_folds, fold_numbers, part_of
from promptgraft.objectives.data.metrics import classification_metrics, confusion
from promptgraft.objectives.data.near_duplicates import find_near_duplicates
from promptgraft.objectives.data.splits import take, take_shots
from promptgraft.objectives.data.tables import read_table
from promptgraft.objectives.data.tasks import TASK_KINDS, CleaningReport, Row, Task, TaskSpec, row_key
from promptgraft.spaces import InvalidInputError


@TASK_KINDS.register("text_classification")
class TextClassification(Task):
    """One label a row, two or more labels."""

    @classmethod
    def load_target(cls, spec: TaskSpec, seed: int) -> "TextClassification":
        """Read, clean and split a target task; see `Task`."""
        rest, whole = cls._hold_out_test(spec, seed)
        if spec.validation is not None:
            task = whole._with_table(rest, spec)
        elif spec.validation_rows is not None:
            task = whole._with_held_out_part(rest, spec)
        else:
            task = whole._with_folds(rest, spec)
        _require_classes(task.train, task.labels, spec, "train")
        return task

    @classmethod
    def _hold_out_test(cls, spec: TaskSpec, seed: int) -> tuple[list[Row], "TextClassification"]:
        """Read the table and hold the test set out; return the other rows, and the task with its test rows alone."""
        rows, labels, report = clean(spec.train, spec, spec.labels)
        if spec.test is None:
            rest, test = take(rows, spec.test_rows or _default_test_rows(spec, rows), seed, spec, "test")
            report += CleaningReport(set_aside=len(rows) - len(rest) - len(test))
        else:
            test, _, own = clean(spec.test, spec, labels)
            report += own
            if spec.test_rows is not None and spec.test_rows < len(test):
                _, test = take(test, spec.test_rows, seed, replace(spec, group=None, time=None), "test")
            groups = {row.group for row in test} if spec.group else set[str]()
            rest = [row for row in rows if row.group not in groups]
            report += CleaningReport(set_aside=len(rows) - len(rest))
        rest, overlap = drop_known(rest, test)
        return rest, cls(labels, (), test=tuple(test), cleaning=report + overlap, spec=spec, seed=seed)

    def _with_folds(self, rest: list[Row], spec: TaskSpec) -> "TextClassification":
        """Take the labelled rows; each is in a fold of its own repeat. Of many rows, a fifth is held out instead."""
        labelled = _sample(rest, spec, self.seed)
        _require_classes(labelled, self.labels, spec, "train", least=2)
        folds = count_folds(labelled, spec.folds)
        if folds > 1:
            return replace(self, labelled=tuple(labelled), folds=folds).on(Split())
        others, validation = take(labelled, len(labelled) // 5, self.seed, spec, "validation")
        train, alike = drop_known(others, validation)
        return self._divided(train, validation, alike, labelled)

    def _with_held_out_part(self, rest: list[Row], spec: TaskSpec) -> "TextClassification":
        """Hold further rows out to choose by."""
        assert spec.validation_rows is not None
        others, validation = take(rest, spec.validation_rows, self.seed, spec, "validation")
        train, alike = drop_known(others, validation)
        aside = CleaningReport(set_aside=len(rest) - len(others) - len(validation))
        return self._divided(_sample(train, spec, self.seed), validation, alike + aside)

    def _with_table(self, rest: list[Row], spec: TaskSpec) -> "TextClassification":
        """Choose by the rows of another table."""
        assert spec.validation is not None
        validation, _, own = clean(spec.validation, spec, self.labels)
        validation, of_test = drop_known(validation, self.test)
        train, alike = drop_known(rest, validation)
        return self._divided(_sample(train, spec, self.seed), validation, own + of_test + alike)

    def _divided(
        self, train: list[Row], validation: list[Row], dropped: CleaningReport, labelled: list[Row] | None = None
    ) -> "TextClassification":
        """Return the task with its rows divided once; its labelled rows are those of both parts if none are given."""
        return replace(
            self,
            train=tuple(train),
            validation=tuple(validation),
            labelled=tuple(labelled or (*train, *validation)),
            cleaning=self.cleaning + dropped,
        )

    def on(self, split: Split) -> "TextClassification":
        """Return the task with the rows of a split; see `Task`."""
        if split.whole:
            return replace(self, train=self.labelled, validation=self.labelled)
        spec = self.spec
        assert spec is not None, "a source has no splits"
        seed = self.seed + split.repeat
        if self.folds > 1:
            numbers = fold_numbers(self.labelled, self.folds, seed, spec)
            train, validation = part_of(self.labelled, numbers, split.fold or 0, spec)
            _require_classes(train, self.labels, spec, "train")
        elif split.repeat == 0 or spec.validation is not None or spec.time is not None:
            return self  # There is but one way to divide them.
        else:
            others, validation = take(self.labelled, len(self.validation), seed, spec, "validation")
            train, _ = drop_known(others, validation)
        return replace(self, train=tuple(train), validation=tuple(validation))

    @classmethod
    def load_source(cls, spec: TaskSpec, seed: int, target: Task) -> "TextClassification":
        """Read and clean a source task; see `Task`."""
        rows, labels, report = clean(spec.train, spec, spec.labels)
        train, overlap = drop_known(rows, (*target.labelled, *target.test))
        if spec.train_rows is not None:
            _, train = take(train, spec.train_rows, seed, spec, "train")
        return cls(labels, tuple(train), cleaning=report + overlap)

    def measure(self, logits: npt.NDArray[np.float32], rows: Sequence[Row]) -> dict[str, float]:
        """Compute the metrics of `objectives.data.metrics`; see `Task`."""
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
    keys = [column for column in (spec.group, spec.time) if column is not None]
    frame = read_table(path, [*spec.fields.values(), spec.label, *keys])
    times = _times(path, frame[spec.time], spec.time) if spec.time else [0.0] * len(frame)
    records: list[dict[Any, Any]] = frame.to_dict("records")
    counts: Counter[str] = Counter(read=len(records))
    kept: list[tuple[str, dict[str, str], str, float]] = []
    for record, time in zip(records, times, strict=True):
        values = {name: (record[column] or "").strip() for name, column in spec.fields.items()}
        label = (record[spec.label] or "").strip()
        group = (record[spec.group] or "").strip() if spec.group else ""
        if not all(values.values()):
            counts["missing_text"] += 1
        elif not label:
            counts["missing_label"] += 1
        elif labels is not None and label not in labels:
            counts["invalid_label"] += 1
        elif spec.group and not group:
            counts["missing_group"] += 1
        elif math.isnan(time):
            counts["missing_time"] += 1
        else:
            kept.append((label, values, group, time))
    names = labels or tuple(sorted({label for label, *_ in kept}))
    index = {name: position for position, name in enumerate(names)}
    rows = _drop_duplicates([Row(values, index[label], group, time) for label, values, group, time in kept], counts)
    if len({row.label for row in rows}) < 2:
        found = ", ".join(sorted({repr(names[row.label]) for row in rows})) or "none"
        raise InvalidInputError(
            f"{path}: column {spec.label!r} must hold at least two labels after cleaning, found {found} "
            f"(rows: {', '.join(f'{count} {reason}' for reason, count in counts.items())})"
        )
    return rows, names, CleaningReport(**counts)


def _times(path: str, column: "pd.Series[Any]", name: str) -> list[float]:
    """Read numbers or dates; nan where there is none."""
    try:
        return pd.to_numeric(column).astype(float).tolist()
    except (ValueError, TypeError):
        pass
    try:
        dates = pd.to_datetime(column, utc=True, format="mixed")
    except ValueError as error:
        raise InvalidInputError(f"{path}: column {name!r} must hold dates or numbers: {error}") from error
    return [math.nan if pd.isna(date) else date.timestamp() for date in dates]


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


def drop_known(rows: Sequence[Row], held_out: Sequence[Row]) -> tuple[list[Row], CleaningReport]:
    """Drop the rows whose text is held out, or nearly so; return those that stay, and how many were dropped."""
    gone = {row_key(row) for row in held_out}
    kept = [row for row in rows if row_key(row) not in gone]
    alike = find_near_duplicates(kept, held_out)
    report = CleaningReport(overlap=len(rows) - len(kept), near_duplicate=len(alike))
    return [row for index, row in enumerate(kept) if index not in alike], report


def _sample(rows: list[Row], spec: TaskSpec, seed: int) -> list[Row]:
    """Take the labelled rows that a study asks for; all of them if it doesn't say how many."""
    if spec.shots is not None:
        return take_shots(rows, spec.shots, seed, spec, "train")[1]
    return rows if spec.train_rows is None else take(rows, spec.train_rows, seed, spec, "train")[1]


def _default_test_rows(spec: TaskSpec, rows: list[Row]) -> int:
    if spec.train_rows is None or spec.time is not None or spec.group is not None:
        return max(1, len(rows) // 5)
    # Some more than are asked for stay, since those that say nearly the same as a test row can't be used.
    return max(1, len(rows) - spec.train_rows - (spec.validation_rows or 0) - len(rows) // 50)


def _require_classes(rows: Sequence[Row], labels: tuple[str, ...], spec: TaskSpec, name: str, least: int = 1) -> None:
    counts = Counter(row.label for row in rows)
    missing = [label for index, label in enumerate(labels) if not counts[index]]
    if missing:
        raise InvalidInputError(
            f"{spec.train}: no {name} row has the label {', '.join(map(repr, missing))}; raise {name}_rows"
        )
    short = [label for index, label in enumerate(labels) if counts[index] < least]
    if short:
        raise InvalidInputError(
            f"{spec.train}: only one labelled row has the label {', '.join(map(repr, short))}: it can't be trained on "
            "and scored by both. Label one more, raise train_rows, or leave the label out with `labels`"
        )

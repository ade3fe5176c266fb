"""Text classification: rows with text fields and one label."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from promptgraft.objectives.data.folds import Split, count_folds, fold_numbers, part_of
from promptgraft.objectives.data.labels import check_label_names, chosen_labels, match_labels
from promptgraft.objectives.data.metrics import classification_metrics, confusion
from promptgraft.objectives.data.near_duplicates import clusters, find_near_duplicates
from promptgraft.objectives.data.splits import take, take_shots
from promptgraft.objectives.data.tables import has_text, is_broken, read_table
from promptgraft.objectives.data.tasks import TASK_KINDS, CleaningReport, Comparison, Row, Task, TaskSpec, row_key
from promptgraft.objectives.data.times import read_times
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
        rows, labels, report = clean(spec.train, spec, spec.labels, choosing=True)
        if spec.test is None:
            rest, test = take(rows, spec.test_rows or _default_test_rows(spec, rows), seed, spec, "test", report)
            report += CleaningReport(set_aside=len(rows) - len(rest) - len(test))
        else:
            test, _, own = clean(spec.test, spec, labels)
            report += own
            if spec.test_rows is not None and spec.test_rows < len(test):
                _, test = take(test, spec.test_rows, seed, replace(spec, group=None, time=None), "test", own)
            groups = {row.group for row in test} if spec.group else set[str]()
            rest = [row for row in rows if row.group not in groups]
            report += CleaningReport(set_aside=len(rows) - len(rest))
        rest, overlap = drop_known(rest, test, spec.comparison)
        return rest, cls(labels, (), test=tuple(test), cleaning=report + overlap, spec=spec, seed=seed)

    def _with_folds(self, rest: list[Row], spec: TaskSpec) -> "TextClassification":
        """Take the labelled rows; each is in a fold of its own repeat. Of many rows, a fifth is held out instead."""
        labelled = _sample(rest, spec, self.seed, self.cleaning)
        _require_classes(labelled, self.labels, spec, "train", least=2)
        folds = count_folds(labelled, spec.folds)
        if folds > 1:
            alike = self._clusters(labelled, spec)
            folds = min(folds, len(set(alike))) if spec.time is None else folds
            return replace(self, labelled=tuple(labelled), clusters=tuple(alike), folds=folds).on(Split())
        others, validation = take(labelled, len(labelled) // 5, self.seed, spec, "validation", self.cleaning)
        train, dropped = drop_known(others, validation, spec.comparison)
        return self._divided(train, validation, dropped, labelled)

    @staticmethod
    def _clusters(labelled: list[Row], spec: TaskSpec) -> list[int]:
        """Number the labelled rows so that no fold divides those that are nearly the same or of one group."""
        if spec.time is not None:
            return []
        found = clusters(labelled, [row.group for row in labelled] if spec.group else None, spec.comparison)
        if len(set(found)) < 2:
            raise InvalidInputError(
                f"{spec.train}: all {len(labelled)} labelled rows are nearly the same, or of one group, so that none "
                "can be held out to choose by; add other rows, or give `validation` a table of its own"
            )
        return found

    def _with_held_out_part(self, rest: list[Row], spec: TaskSpec) -> "TextClassification":
        """Hold further rows out to choose by."""
        assert spec.validation_rows is not None
        others, validation = take(rest, spec.validation_rows, self.seed, spec, "validation", self.cleaning)
        train, dropped = drop_known(others, validation, spec.comparison)
        dropped += CleaningReport(set_aside=len(rest) - len(others) - len(validation))
        return self._divided(_sample(train, spec, self.seed, self.cleaning + dropped), validation, dropped)

    def _with_table(self, rest: list[Row], spec: TaskSpec) -> "TextClassification":
        """Choose by the rows of another table."""
        assert spec.validation is not None
        validation, _, own = clean(spec.validation, spec, self.labels)
        validation, of_test = drop_known(validation, self.test, spec.comparison)
        train, alike = drop_known(rest, validation, spec.comparison)
        dropped = own + of_test + alike
        return self._divided(_sample(train, spec, self.seed, self.cleaning + dropped), validation, dropped)

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
            numbers = fold_numbers(self.labelled, self.folds, seed, spec, self.clusters)
            train, validation = part_of(self.labelled, numbers, split.fold or 0, spec)
            _require_classes(train, self.labels, spec, "train")
        elif split.repeat == 0 or spec.validation is not None or spec.time is not None:
            return self  # There is but one way to divide them.
        else:
            others, validation = take(self.labelled, len(self.validation), seed, spec, "validation", self.cleaning)
            train, _ = drop_known(others, validation, spec.comparison)
        return replace(self, train=tuple(train), validation=tuple(validation))

    @classmethod
    def load_source(cls, spec: TaskSpec, seed: int, target: Task) -> "TextClassification":
        """Read and clean a source task; see `Task`."""
        rows, labels, report = clean(spec.train, spec, spec.labels)
        train, overlap = drop_known(rows, (*target.labelled, *target.test), spec.comparison)
        report += replace(overlap, near_duplicate_of_other_label=0)  # Its labels are other ones.
        if spec.train_rows is not None:
            _, train = take(train, spec.train_rows, seed, spec, "train", report)
        return cls(labels, tuple(train), cleaning=report)

    def measure(self, logits: npt.NDArray[np.float32], rows: Sequence[Row]) -> dict[str, float]:
        """Compute the metrics of `objectives.data.metrics`; see `Task`."""
        return classification_metrics(logits, np.array([row.label for row in rows]))

    def confusion(self, logits: npt.NDArray[np.float32], rows: Sequence[Row]) -> list[list[int]]:
        """Count true labels (rows) against predicted ones (columns)."""
        return confusion(logits, np.array([row.label for row in rows]))


def clean(
    path: str, spec: TaskSpec, labels: tuple[str, ...] | None, *, choosing: bool = False
) -> tuple[list[Row], tuple[str, ...], CleaningReport]:
    """Read a table and drop the rows that can't be used.

    Args:
        path: The table.
        spec: Names the columns.
        labels: The labels to keep; all that occur if None.
        choosing: Whether each of these labels must occur.

    Returns:
        The rows in file order, the labels, and what was dropped.

    Raises:
        InvalidInputError: If the table can't be read, a label is missing or can't be printed, or fewer than two labels
            occur.
    """
    keys = [column for column in (spec.group, spec.time) if column is not None]
    frame = read_table(path, [*spec.fields.values(), spec.label, *keys])
    try:
        times = read_times(frame[spec.time].tolist()) if spec.time else [0.0] * len(frame)
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: column {spec.time!r} must hold dates or numbers: {error}") from error
    occurring = sorted({label.strip() for label in frame[spec.label] if has_text(label)})
    try:
        names = tuple(occurring) if labels is None else chosen_labels(labels, occurring, complete=choosing)
        check_label_names(names)
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: column {spec.label!r}: {error}") from error
    records: list[dict[Any, Any]] = frame.to_dict("records")
    counts: Counter[str] = Counter(read=len(records))
    means = match_labels(occurring, names)
    index = {name: position for position, name in enumerate(names)}
    kept: list[Row] = []
    for record, time in zip(records, times, strict=True):
        row = {name: (record[column] or "").strip() for name, column in spec.fields.items()}
        label, group = ((record[column] or "").strip() if column else "" for column in (spec.label, spec.group))
        reason = _unusable(row, label, known=label in means)
        if reason is None and spec.group and not group:
            reason = "missing_group"
        elif reason is None and math.isnan(time):
            reason = "missing_time"
        if reason is not None:
            counts[reason] += 1
        else:
            kept.append(Row(row, index[means[label]], group, time))
    if labels is None:
        kept, names = _without_unused(kept, names)
    rows = _drop_duplicates(kept, counts)
    report = CleaningReport(**counts)
    if len({row.label for row in rows}) < 2:
        found = ", ".join(sorted({repr(names[row.label]) for row in rows})) or "none"
        raise InvalidInputError(
            f"{path}: column {spec.label!r} must hold at least two labels after cleaning, found {found} ({report})"
        )
    return rows, names, report


def _unusable(fields: Mapping[str, str], label: str, *, known: bool) -> str | None:
    """Say why a row can't be used, as `CleaningReport` counts it; None if it can."""
    if is_broken(label) or any(map(is_broken, fields.values())):
        return "broken_text"
    if not all(map(has_text, fields.values())):
        return "missing_text"
    if not has_text(label):
        return "missing_label"
    return None if known else "invalid_label"


def _without_unused(rows: list[Row], names: tuple[str, ...]) -> tuple[list[Row], tuple[str, ...]]:
    """Leave out labels that only dropped rows had."""
    used = sorted({row.label for row in rows})
    places = {label: place for place, label in enumerate(used)}
    return [replace(row, label=places[row.label]) for row in rows], tuple(names[label] for label in used)


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


def drop_known(
    rows: Sequence[Row], held_out: Sequence[Row], comparison: Comparison = "fields"
) -> tuple[list[Row], CleaningReport]:
    """Drop the rows whose text is held out, or nearly so; return those that stay, and how many were dropped."""
    gone = {row_key(row) for row in held_out}
    kept = [row for row in rows if row_key(row) not in gone]
    alike = find_near_duplicates(kept, held_out, comparison)
    others = sum(kept[row].label != held_out[other].label for row, other in alike.items())
    report = CleaningReport(
        overlap=len(rows) - len(kept), near_duplicate=len(alike), near_duplicate_of_other_label=others
    )
    return [row for index, row in enumerate(kept) if index not in alike], report


def _sample(rows: list[Row], spec: TaskSpec, seed: int, dropped: CleaningReport) -> list[Row]:
    """Take the labelled rows that a study asks for; all of them if it doesn't say how many."""
    if spec.shots is not None:
        return take_shots(rows, spec.shots, seed, spec, "train")[1]
    return rows if spec.train_rows is None else take(rows, spec.train_rows, seed, spec, "train", dropped)[1]


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
            f"{spec.train}: no {name} row has the label {', '.join(map(repr, missing))}; raise {name}_rows, label more "
            "rows of it, or leave the label out with `labels`"
        )
    short = [label for index, label in enumerate(labels) if counts[index] < least]
    if short:
        raise InvalidInputError(
            f"{spec.train}: only one labelled row has the label {', '.join(map(repr, short))}: it can't be trained on "
            "and scored by both. Label one more, raise train_rows, or leave the label out with `labels`"
        )

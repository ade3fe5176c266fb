"""Tasks whose rows are fields of text and an answer in a column: how they are read, cleaned and split."""

import math
import random
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from promptgraft.objectives.data.folds import Split, count_folds, fold_numbers, part_of
from promptgraft.objectives.data.labels import check_label_names, labels_as_in
from promptgraft.objectives.data.rows import (
    UNLABELLED,
    Answer,
    CleaningReport,
    Comparison,
    Outputs,
    Row,
    TaskSpec,
    Texts,
    drop_duplicates,
    row_key,
)
from promptgraft.objectives.data.splits import check_left, default_test_rows, require_labels, take, take_labelled
from promptgraft.objectives.data.tables import has_text, is_broken, read_table
from promptgraft.objectives.data.tasks import Task
from promptgraft.objectives.data.times import read_times
from promptgraft.spaces import InvalidInputError

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T", bound="TextTask")

# Of more unlabelled rows a sample is used: every fold of a trial that trains itself scores all of them.
MOST_UNLABELLED = 2000
# Reasons to drop a row whose file can't be read.
_UNREAD = ("unreadable_image", "unreadable_mask")


class TextTask(Task):
    """A task whose rows are fields of text and an answer in a column.

    A kind says how cells are read as answers (`read_answers`), which rows are too few (`shortage`), and what `Task`
    wants of it beside; splits and folds are the same for all.
    """

    @classmethod
    @abstractmethod
    def read_answers(
        cls, cells: Sequence[str], spec: TaskSpec, labels: tuple[str, ...] | None, *, choosing: bool, texts: Texts
    ) -> tuple[list[Answer | None], tuple[str, ...]]:
        """Read a column of answers.

        Args:
            cells: The column, without white space around; empty where there is no answer.
            spec: The task.
            labels: The labels to keep; all that occur if None.
            choosing: Whether each of these labels must occur.
            texts: Template field -> value of each row, as the table has it.

        Returns:
            The answer of each cell, None where it is none or has another label; and the names of the outputs.

        Raises:
            InvalidInputError: If the labels don't make sense.
        """

    @classmethod
    @abstractmethod
    def shortage(cls, rows: Sequence[Row], names: Sequence[str]) -> str | None:
        """Say what rows must hold at least after cleaning, and what they do; None if they are enough."""

    @classmethod
    def complete_answers(cls, cells: Sequence[str], path: str) -> Sequence[str]:  # noqa: ARG003
        """Return the cells of a table's answers with the whole paths of files, where they name such."""
        return cells

    def fit_by_words(self, train: Sequence[Row], rows: Sequence[Row]) -> Outputs:
        """Fit `fit_linear` on TF-IDF of words and pairs; see `Task`.

        C is 10: on few rows cross-validation picks the strongest regularisation, which predicts the majority class, and
        this baseline must not be weaker than it needs to be.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer

        def texts(rows: Sequence[Row]) -> list[str]:
            return ["\n".join(row.fields[name] for name in sorted(row.fields)) for row in rows]

        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        known = vectorizer.fit_transform(texts(train))
        return self.fit_linear(known, train, vectorizer.transform(texts(rows)), c=10.0)

    @classmethod
    def why_invalid(cls, cell: str, text: Mapping[str, str]) -> str:  # noqa: ARG003
        """Show a cell that can't be read as an answer, beside its row's fields, and say what is wrong with it."""
        return f"; invalid is, for instance, {cell[:60]!r}"

    @classmethod
    def why_unusable(cls, row: Row) -> str:  # noqa: ARG003
        """Say what is wrong with the file of a row that can't be used; empty if it has none, or that can be read."""
        return ""

    @classmethod
    def unusable(cls, row: Row) -> str | None:  # noqa: ARG003
        """Say why a row with text and answer can't be used, as `CleaningReport` counts it; None if it can."""
        return None

    @classmethod
    def read(cls, path: str, columns: Sequence[str], lists: Sequence[str] = ()) -> "pd.DataFrame":
        """Read columns of a table; see `read_table`."""
        return read_table(path, columns, lists)

    @classmethod
    def completed(cls, row: Row, path: str) -> Row:  # noqa: ARG003
        """Return a row of a table with what else is known of it, where its fields name files."""
        return row

    @classmethod
    def without_known(
        cls, rows: Sequence[Row], held_out: Sequence[Row], comparison: Comparison
    ) -> tuple[list[Row], CleaningReport]:
        """Drop the rows that held-out ones give away; see `drop_known`."""
        from promptgraft.objectives.data.near_duplicates import drop_known  # Here, since predicting has no use for it.

        return drop_known(rows, held_out, comparison)

    @classmethod
    def alike(cls, rows: Sequence[Row], spec: TaskSpec) -> list[int]:
        """Number rows so that those that are nearly the same, or of one group, have one number."""
        from promptgraft.objectives.data.near_duplicates import clusters

        return clusters(rows, [row.group for row in rows] if spec.group else None, spec.comparison)

    @classmethod
    def load_target(cls: type[T], spec: TaskSpec, seed: int) -> T:
        """Read, clean and split a target task; see `Task`."""
        if spec.shots is not None and not cls.one_label:
            raise InvalidInputError(
                f"shots is {spec.shots}, a number of rows for each label, but rows of kind {spec.kind!r} don't have "
                "one label each; use train_rows"
            )
        rest, whole = cls._hold_out_test(spec, seed)
        if spec.validation is not None:
            task = whole._with_table(rest, spec)
        elif spec.validation_rows is not None:
            task = whole._with_held_out_part(rest, spec)
        else:
            task = whole._with_folds(rest, spec)
        require_labels(task, task.train, spec)
        return task if spec.unlabelled is None else task._with_unlabelled(spec.unlabelled, spec)

    @classmethod
    def _hold_out_test(cls: type[T], spec: TaskSpec, seed: int) -> tuple[list[Row], T]:
        """Read the table and hold the test set out; return the other rows, and the task with its test rows alone."""
        rows, labels, report = cls.clean(spec.train, spec, spec.labels, choosing=True)
        if spec.test is None:
            if cls.one_label and cls.has_labels:
                require_labels(cls(labels, (), cleaning=report), rows, spec, least=2)
            rest, test = take(rows, spec.test_rows or default_test_rows(spec, rows), seed, spec, "test", report)
            report += CleaningReport(set_aside=len(rows) - len(rest) - len(test))
        else:
            test, _, own = cls.clean(spec.test, spec, cls.kept_labels(labels, spec))
            report += own
            if spec.test_rows is not None and spec.test_rows < len(test):
                _, test = take(test, spec.test_rows, seed, replace(spec, group=None, time=None), "test", own)
            groups = {row.group for row in test} if spec.group else set[str]()
            rest = [row for row in rows if row.group not in groups]
            report += CleaningReport(set_aside=len(rows) - len(rest))
        rest, overlap = cls.without_known(rest, test, spec.comparison)
        check_left(rest, spec.train, "test", spec.test, report + overlap)
        return rest, cls(labels, (), test=tuple(test), cleaning=report + overlap, spec=spec, seed=seed)

    def _with_folds(self: T, rest: list[Row], spec: TaskSpec) -> T:
        """Take the labelled rows; each is in a fold of its own repeat. Of many rows, a fifth is held out instead."""
        labelled = take_labelled(rest, spec, self.seed, self.cleaning)
        require_labels(self, labelled, spec, least=2)
        folds = count_folds(labelled, spec)
        if folds > 1:
            alike = self._clusters(labelled, spec)
            folds = min(folds, len(set(alike))) if spec.time is None else folds
            return replace(self, labelled=tuple(labelled), clusters=tuple(alike), folds=folds).on(Split())
        others, validation = take(labelled, len(labelled) // 5, self.seed, spec, "validation", self.cleaning)
        train, dropped = self.without_known(others, validation, spec.comparison)
        return self._divided(train, validation, dropped, labelled)

    @classmethod
    def _clusters(cls, labelled: list[Row], spec: TaskSpec) -> list[int]:
        """Number the labelled rows so that no fold divides those that are nearly the same or of one group."""
        if spec.time is not None:
            return []
        found = cls.alike(labelled, spec)
        if len(set(found)) < 2:
            raise InvalidInputError(
                f"{spec.train}: all {len(labelled)} labelled rows are nearly the same, or of one group, so that none "
                "can be held out to choose by; add other rows, or give `validation` a table of its own"
            )
        return found

    def _with_held_out_part(self: T, rest: list[Row], spec: TaskSpec) -> T:
        """Hold further rows out to choose by."""
        assert spec.validation_rows is not None
        others, validation = take(rest, spec.validation_rows, self.seed, spec, "validation", self.cleaning)
        train, dropped = self.without_known(others, validation, spec.comparison)
        dropped += CleaningReport(set_aside=len(rest) - len(others) - len(validation))
        check_left(train, spec.train, "validation", None, self.cleaning + dropped)
        return self._divided(take_labelled(train, spec, self.seed, self.cleaning + dropped), validation, dropped)

    def _with_table(self: T, rest: list[Row], spec: TaskSpec) -> T:
        """Choose by the rows of another table."""
        assert spec.validation is not None
        validation, _, own = self.clean(spec.validation, spec, self.kept_labels(self.labels, spec))
        validation, of_test = self.without_known(validation, self.test, spec.comparison)
        check_left(validation, spec.validation, "test", spec.test, own + of_test, key="validation")
        train, alike = self.without_known(rest, validation, spec.comparison)
        dropped = own + of_test + alike
        check_left(train, spec.train, "validation", spec.validation, self.cleaning + dropped)
        return self._divided(take_labelled(train, spec, self.seed, self.cleaning + dropped), validation, dropped)

    def _divided(
        self: T, train: list[Row], validation: list[Row], dropped: CleaningReport, labelled: list[Row] | None = None
    ) -> T:
        """Return the task with its rows divided once; its labelled rows are those of both parts if none are given."""
        return replace(
            self,
            train=tuple(train),
            validation=tuple(validation),
            labelled=tuple(labelled or (*train, *validation)),
            cleaning=self.cleaning + dropped,
        )

    def _with_unlabelled(self: T, path: str, spec: TaskSpec) -> T:
        """Read the rows without labels; those that are labelled or held out, in any split, are not among them."""
        frame = self.read(path, list(spec.fields.values()))
        counts: Counter[str] = Counter(read=len(frame))
        unique: dict[str, Row] = {}
        for record in frame.to_dict("records"):
            row = Row({name: (record[column] or "").strip() for name, column in spec.fields.items()}, UNLABELLED)
            row = self.completed(row, path)
            reason = _unusable(row.fields, "-", known=True) or self.unusable(row)
            reason = reason or ("duplicate" if row_key(row) in unique else None)
            counts[reason or "kept"] += 1
            if reason is None:
                unique[row_key(row)] = row
        del counts["kept"]
        rows, dropped = self.without_known(list(unique.values()), (*self.labelled, *self.test), spec.comparison)
        kept = random.Random(self.seed).sample(rows, min(len(rows), MOST_UNLABELLED))
        report = CleaningReport.of(counts) + replace(dropped, near_duplicate_of_other_label=0)
        report += CleaningReport(beyond_limit=len(rows) - len(kept))
        if not kept:
            raise InvalidInputError(
                f"{path}: no unlabelled row can be used, since all are empty, or are among the labelled and test rows "
                f"({report}); name a table of other rows, or leave `unlabelled` out"
            )
        return replace(self, unlabelled=tuple(kept), unlabelled_cleaning=report)

    def on(self: T, split: Split) -> T:
        """Return the task with the rows of a split; see `Task`."""
        if split.whole:
            return replace(self, train=self.labelled, validation=self.labelled)
        spec = self.spec
        assert spec is not None, "a source has no splits"
        seed = self.seed + split.repeat
        if self.folds > 1:
            numbers = fold_numbers(self.labelled, self.folds, seed, spec, self.clusters)
            train, validation = part_of(self.labelled, numbers, split.fold or 0, spec)
            require_labels(self, train, spec)
        elif split.repeat == 0 or spec.validation is not None or spec.time is not None:
            return self  # There is but one way to divide them.
        else:
            others, validation = take(self.labelled, len(self.validation), seed, spec, "validation", self.cleaning)
            train, _ = self.without_known(others, validation, spec.comparison)
        return replace(self, train=tuple(train), validation=tuple(validation))

    @classmethod
    def load_source(cls: type[T], spec: TaskSpec, seed: int, target: Task) -> T:
        """Read and clean a source task; see `Task`."""
        rows, labels, report = cls.clean(spec.train, spec, spec.labels)
        train, overlap = cls.without_known(rows, (*target.labelled, *target.test), spec.comparison)
        report += replace(overlap, near_duplicate_of_other_label=0)  # Its labels are other ones.
        if spec.train_rows is not None:
            _, train = take(train, spec.train_rows, seed, spec, "train", report)
        return cls(labels_as_in(labels, target.labels) if cls.has_labels else labels, tuple(train), cleaning=report)

    @classmethod
    def clean(
        cls, path: str, spec: TaskSpec, labels: tuple[str, ...] | None, *, choosing: bool = False
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
            InvalidInputError: If the table can't be read, a label is missing or unprintable, or answers are too few.
        """
        keys = [column for column in (spec.group, spec.time) if column is not None]
        lists = () if cls.one_label or not cls.has_labels else (spec.label,)
        frame = cls.read(path, [*spec.fields.values(), spec.label, *keys], lists)
        try:
            times = read_times(frame[spec.time].tolist()) if spec.time else [0.0] * len(frame)
        except InvalidInputError as error:
            raise InvalidInputError(f"{path}: column {spec.time!r} must hold dates or numbers: {error}") from error
        cells = cls.complete_answers([(cell or "").strip() for cell in frame[spec.label]], path)
        records: list[dict[Any, Any]] = frame.to_dict("records")
        texts = [{name: record[column] or "" for name, column in spec.fields.items()} for record in records]
        try:
            answers, names = cls.read_answers(cells, spec, labels, choosing=choosing, texts=texts)
            check_label_names(names)
        except InvalidInputError as error:
            raise InvalidInputError(f"{path}: column {spec.label!r}: {error}") from error
        counts: Counter[str] = Counter(read=len(records))
        kept, unused, unread = list[Row](), "", ""
        read = zip(records, texts, cells, answers, times, strict=True)
        for number, (record, text, cell, answer, time) in enumerate(read, 1):
            row = {name: value.strip() for name, value in text.items()}
            group = (record[spec.group] or "").strip() if spec.group else ""
            reason = _unusable(row, cell, known=answer is not None) or _unplaced(spec, group, time)
            whole = cls.completed(Row(row, 0 if answer is None else answer, group, time), path)
            reason = reason or cls.unusable(whole)
            if reason is not None:
                unused = unused or (cls.why_invalid(cell, text) if cell and answer is None else "")
                if not unread and reason in _UNREAD and (why := cls.why_unusable(whole)):
                    unread = f"row {number}: {why}"
                counts[reason] += 1
            else:
                kept.append(whole)
        if labels is None and cls.has_labels:
            kept, names = cls._without_unused(kept, names)
        rows = drop_duplicates(kept, counts, one_answer=cls.one_answer)
        report = CleaningReport.of(counts, unread and f"{path}: {unread}")
        lacking = cls.shortage(rows, names)
        if lacking is not None:
            why = unused or (f"; the first that can't be read is in {unread}" if unread else "")
            raise InvalidInputError(f"{path}: column {spec.label!r} must hold {lacking} ({report}{why})")
        return rows, names, report

    @classmethod
    def _without_unused(cls, rows: list[Row], names: tuple[str, ...]) -> tuple[list[Row], tuple[str, ...]]:
        """Leave out labels that only dropped rows had."""
        used = sorted({label for row in rows for label in cls.labels_of(row.answer)})
        places = {label: place for place, label in enumerate(used)}

        def renumbered(answer: Answer) -> Answer:
            own = tuple(places[label] for label in cls.labels_of(answer))
            return own if isinstance(answer, tuple) else own[0]

        return [replace(row, answer=renumbered(row.answer)) for row in rows], tuple(names[label] for label in used)

    @classmethod
    def kept_labels(cls, names: tuple[str, ...], spec: TaskSpec) -> tuple[str, ...] | None:
        """Return the labels that a further table must keep to."""
        return names if cls.has_labels else spec.labels


def _unplaced(spec: TaskSpec, group: str, time: float) -> str | None:
    """Say what a row lacks by which splits are made, as `CleaningReport` counts it; None if nothing."""
    if spec.group and not group:
        return "missing_group"
    return "missing_time" if math.isnan(time) else None


def _unusable(fields: Mapping[str, str], label: str, *, known: bool) -> str | None:
    """Say why a row can't be used, as `CleaningReport` counts it; None if it can."""
    if is_broken(label) or any(map(is_broken, fields.values())):
        return "broken_text"
    if not all(map(has_text, fields.values())):
        return "missing_text"
    if not has_text(label):
        return "missing_label"
    return None if known else "invalid_label"

"""Rows and their answers: where they come from, what makes two the same, and what cleaning drops."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Direction = Literal["maximize", "minimize"]
# What a model computes for rows, and what that stands for, such as probabilities; both of shape (rows, labels), or, in
# kinds of task with an output for each word or cell, (rows, words, labels), with zeros behind a row's last word.
# Outputs are of 32 bits; where they are numbers of a task's scale, of 64, since such numbers may lie far from 0.
Outputs: TypeAlias = npt.NDArray[np.floating[Any]]
Expected: TypeAlias = npt.NDArray[np.float64]
# Form of answers: labels, numbers, texts, or parts of texts; masks, which are images; or boxes in images.
AnswerForm = Literal["labels", "masks", "boxes"]
# What is right for a row: index of its label, indices of its labels in ascending order, that of each word, a number, a
# text, a mask as a data URI, or boxes as JSON.
Answer: TypeAlias = int | tuple[int, ...] | float | str
# Finds the words of a text: where each begins and ends.
WordSplitter: TypeAlias = Callable[[str], list[tuple[int, int]]]
# In the place of a word's label, or an answer's token, where there is nothing to learn from it, as in transformers.
IGNORED = -100
# How near duplicates are found: by each field's words and by what else may decide a label; or, as in studies of earlier
# versions, by the words of all fields together.
Comparison = Literal["fields", "words"]
# The answer of a row that has none.
UNLABELLED = -1


# What kinds may use whose rows have no single label.
WITHOUT_ONE_LABEL: Mapping[str, tuple[object, ...]] = {
    "head": ("linear", "probe"),
    "demonstrations.count": (0,),
    "soft_prompt.init": ("vocabulary", "template", "source"),
    "source_objective": ("classification",),
    "contrastive_steps": (0,),
    "label_smoothing": (0.0,),
    "self_training": (0.0,),
    "class_weights": ("none",),
    "calibration": ("none",),
}


@dataclass(frozen=True, slots=True)
class HistorySpec:
    """Where the histories of users come from: a table of interactions is joined with one of items.

    Attributes:
        user: Column of the user, in the table of interactions.
        time: Column of dates or numbers there.
        items: Path of the table of items, which has the item's column of the interactions, too.
        text: Columns of the text of an item.
        positions: The newest items of each user that are trained on.
        least: Users and items with fewer interactions are dropped.
        users: Path of the table of users, where their profiles are predicted.
        attributes: Columns of the profile there.
        rating: Column of numbers in the table of interactions, where these are rated.
        least_rating: Interactions with lower ratings are dropped.
        validation_from: Time from which on interactions are chosen by, in place of each user's last but one.
        test_from: Time from which on they are the test, in place of each user's last one.
        negatives: Items drawn for each user, which the one that came is ranked among in metrics called `sampled_...`.
    """

    user: str
    time: str
    items: str
    text: tuple[str, ...]
    positions: int = 5
    least: int = 3
    users: str | None = None
    attributes: tuple[str, ...] = ()
    rating: str | None = None
    least_rating: float | None = None
    validation_from: str | None = None
    test_from: str | None = None
    negatives: int | None = None


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """Where a task's rows come from and how many are used.

    Attributes:
        train: Path of the table with the labelled rows.
        fields: Template field -> column.
        label: Column of the label.
        kind: Name of the task kind.
        labels: The labels in the order of the logits; rows with others are dropped and counted. Taken
            from the data, sorted, if None.
        test: Path of a separate table to hold out; part of `train` is held out if None.
        validation: Path of a separate table to choose by, in place of folds.
        train_rows: Labelled rows to use, beside those to choose by where there are any; all that remain if None.
        validation_rows: Further rows to choose by, in place of folds.
        test_rows: Rows of the test set; all that remain if None.
        shots: Labelled rows of each label, in place of `train_rows`.
        folds: Parts that the labelled rows are divided into for cross-validation; by their number if None.
        group: Column of what rows have in common, such as their author: a group is on one side of each split.
        time: Column of dates or numbers: validation rows are newer than those trained on, test rows newer still.
        comparison: How near duplicates are found; see `objectives.data.near_duplicates`.
        unlabelled: Path of a table of rows without labels, for self-training.
        histories: Users, times and items, where rows are made of interactions.
    """

    train: str
    fields: Mapping[str, str]
    label: str
    kind: str = "text_classification"
    labels: tuple[str, ...] | None = None
    test: str | None = None
    validation: str | None = None
    train_rows: int | None = None
    validation_rows: int | None = None
    test_rows: int | None = None
    shots: int | None = None
    folds: int | None = None
    group: str | None = None
    time: str | None = None
    comparison: Comparison = "fields"
    unlabelled: str | None = None
    histories: HistorySpec | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled example.

    Attributes:
        fields: Template field -> value.
        answer: What is right for it; labels by their index among the task's labels.
        group: What it has in common with other rows, where the task names a column for it.
        time: When it was made, in seconds or the column's own unit, where the task names a column for it.
        content: Hash of the file that its field names, where rows hold files; empty where they hold texts.
    """

    fields: Mapping[str, str]
    answer: Answer
    group: str = ""
    time: float = 0.0
    content: str = ""

    @property
    def label(self) -> int:
        """Index of the label, in kinds of task where each row has exactly one."""
        assert isinstance(self.answer, int), "the task's rows have one label each"
        return self.answer


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a text with a label.

    Attributes:
        start: Where it begins, in characters.
        end: Where it ends.
        label: The label.
    """

    start: int
    end: int
    label: str


@dataclass(frozen=True, slots=True)
class Box:
    """A box around what an image shows.

    Attributes:
        x: Its left side, in pixels.
        y: Its upper side.
        width: Its width.
        height: Its height.
        label: The label.
        score: Probability of the label.
    """

    x: float
    y: float
    width: float
    height: float
    label: str
    score: float


# What a model says of a row: a label, several labels, a number, a text, a mask as a data URI, labelled parts of its
# text, or labelled boxes in its image.
Prediction: TypeAlias = str | tuple[str, ...] | float | tuple[Span, ...] | tuple[Box, ...]
# Template field -> value of each row.
Texts: TypeAlias = Sequence[Mapping[str, str]]
LossName = Literal[
    "cross_entropy",
    "binary_cross_entropy",
    "squared_error",
    "word_cross_entropy",
    "token_cross_entropy",
    "pixel_cross_entropy",
    "detection",
]


@dataclass(frozen=True, slots=True)
class LabelScores:
    """How well a label is found, in rows or in spans.

    Attributes:
        label: The label.
        count: How many have it.
        missed: How many of them were predicted without it.
        precision: Share of its predictions that are right.
        recall: Share of those that have it that were found.
        f1: Harmonic mean of both.
    """

    label: str
    count: int
    missed: int
    precision: float
    recall: float
    f1: float


class Reported:
    """The part of every kind of task that says what reports show of a model's outputs, beside its metrics.

    Attributes:
        blamed_by: What `Task.blame` is, for people.
        parts_title: What `parts` are, for people.
        examples_title: What `examples` are, for people.
    """

    blamed_by: ClassVar[str] = "loss"
    parts_title: ClassVar[str] = "Scores by length of the answers"
    examples_title: ClassVar[str] = "The worst rows, side by side"

    def by_row(self, metric: str, outputs: Outputs, rows: Sequence[Row]) -> Expected | None:
        """Return what each row has of a metric that is a mean over rows, shape (rows,); None where that isn't known.

        It spares those who resample rows to compute the metric again and again.
        """
        del metric, outputs, rows
        return None

    def parts(self, rows: Sequence[Row]) -> Mapping[str, Sequence[int]]:
        """Return the parts of rows whose scores a report shows apart, by their names."""
        del rows
        return {}

    def examples(self, blame: Expected, most: int) -> Sequence[int]:
        """Return which rows a report shows: the worst.

        Args:
            blame: From `Task.blame`, shape (rows,).
            most: How many.
        """
        return [int(place) for place in np.argsort(-blame, kind="stable")[:most]]

    def by_label(self, expected: Expected, rows: Sequence[Row]) -> list[LabelScores]:
        """Say how well each label is found; nothing in kinds without labels, or with a confusion table."""
        del expected, rows
        return []

    def confusion(self, outputs: Outputs, rows: Sequence[Row]) -> list[list[int]]:
        """Count true labels (rows) against predicted ones (columns); nothing in kinds that have no such table."""
        del outputs, rows
        return []


@dataclass(frozen=True, slots=True)
class CleaningReport:
    """How many rows were read and why some were dropped.

    Attributes:
        read: Rows in the file or files.
        missing_text: Rows with an empty field, or one of which nothing shows, such as zero-width characters.
        broken_text: Rows with half of a surrogate pair in a field or the label, which no tokenizer takes.
        missing_label: Rows without a label.
        invalid_label: Rows whose label is not among the task's.
        identical: Pairs whose sides are the same, where one should translate the other.
        length_ratio: Pairs of which one side is too much longer than the other.
        unreadable_image: Rows whose image isn't there, or can't be read as one.
        unreadable_mask: Rows whose mask isn't there, or can't be read as one.
        mask_of_other_size: Rows whose mask hasn't the size of their image.
        box_outside_image: Rows with a box that stands out of their image.
        duplicate: Further copies of a row that stands already (white space and case aside).
        conflicting: Rows whose text occurs with different labels; all copies are dropped.
        missing_group: Rows without a group, where the task names a column of groups.
        missing_time: Rows without a time, where it names one of times.
        overlap: Rows removed since the same text is held out.
        near_duplicate: Rows removed since nearly the same text is held out; see `objectives.data.near_duplicates`.
        near_duplicate_of_other_label: Those of them whose label is another one than that of the held-out text.
        invalid_rating: Interactions whose rating is no number.
        low_rating: Interactions that are rated too low.
        few_interactions: Interactions of users or items that have too few.
        no_history: Interactions that are a user's first, or older than those that are trained on.
        set_aside: Rows that can't be used beside the held-out ones: of their group, or no older than they.
        beyond_limit: Unlabelled rows beyond the largest number that is used.
        unread: Where the first file is that can't be read, and why; empty if all can.
    """

    read: int = 0
    missing_text: int = 0
    broken_text: int = 0
    missing_label: int = 0
    invalid_label: int = 0
    identical: int = 0
    length_ratio: int = 0
    unreadable_image: int = 0
    unreadable_mask: int = 0
    mask_of_other_size: int = 0
    box_outside_image: int = 0
    duplicate: int = 0
    conflicting: int = 0
    missing_group: int = 0
    missing_time: int = 0
    overlap: int = 0
    near_duplicate: int = 0
    near_duplicate_of_other_label: int = 0
    invalid_rating: int = 0
    low_rating: int = 0
    few_interactions: int = 0
    no_history: int = 0
    set_aside: int = 0
    beyond_limit: int = 0
    unread: str = ""

    @classmethod
    def of(cls, counts: Mapping[str, int], unread: str = "") -> "CleaningReport":
        """Report rows that were counted by these names."""
        return cls(**dict(counts), unread=unread)

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of rows, by name."""
        return {name: count for name, count in asdict(self).items() if name != "unread"}

    def __add__(self, other: "CleaningReport") -> "CleaningReport":
        theirs = other.counts
        both = {name: count + theirs[name] for name, count in self.counts.items()}
        return CleaningReport.of(both, self.unread or other.unread)

    def __str__(self) -> str:
        """Say how many rows were read, and how many were dropped for which reason."""
        apart = ("read", "near_duplicate_of_other_label")
        reasons = {name: count for name, count in self.counts.items() if count and name not in apart}
        words = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in reasons.items())
        if self.near_duplicate_of_other_label:
            words += f" ({self.near_duplicate_of_other_label} near duplicates have another label than the held-out row)"
        return f"{self.read} rows read; dropped: {words or 'none'}"


def fields_key(fields: Mapping[str, str]) -> str:
    """Return what makes two rows the same: their fields' text, white space and case aside."""
    return json.dumps({name: normalise(value) for name, value in sorted(fields.items())})


def row_key(row: Row) -> str:
    """Return what makes two rows the same: the hash of their files, or their `fields_key`."""
    return row.content or fields_key(row.fields)


def drop_duplicates(rows: list[Row], counts: Counter[str], *, one_answer: bool) -> list[Row]:
    """Return rows that stand once; counts further copies, and those whose answers differ where there is one answer."""
    answers: dict[str, set[Answer]] = {}
    for row in rows:
        answers.setdefault(row_key(row), set()).add(row.answer)
    unique: dict[str, Row] = {}
    for row in rows:
        key = row_key(row)
        if len(answers[key]) > 1 and one_answer:
            counts["conflicting"] += 1
        elif key in unique:
            counts["duplicate"] += 1
        else:
            unique[key] = row
    return list(unique.values())


def normalise(text: str) -> str:
    """Fold case and white space."""
    return " ".join(text.casefold().split())


def rows_hash(rows: Sequence[Row]) -> str:
    """Hash rows in their order; 16 hexadecimal digits."""
    content = json.dumps([[row.content or sorted(row.fields.items()), row.answer] for row in rows])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def joined(parts: Sequence[Outputs]) -> Outputs:
    """Put outputs of several rows behind each other; those of words are padded with zeros to the longest row."""
    if parts[0].ndim == 2:
        return np.concatenate(parts)
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0))) for part in parts])

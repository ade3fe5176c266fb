"""What a task is to the migrate-and-evaluate cycle, whatever its kind."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from promptgraft.spaces import Registry

if TYPE_CHECKING:
    from promptgraft.objectives.data.folds import Split

# How near duplicates are found: by each field's words and by what else may decide a label; or, as in studies of earlier
# versions, by the words of all fields together.
Comparison = Literal["fields", "words"]


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


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled example.

    Attributes:
        fields: Template field -> value.
        label: Index of the label among the task's labels.
        group: What it has in common with other rows, where the task names a column for it.
        time: When it was made, in seconds or the column's own unit, where the task names a column for it.
    """

    fields: Mapping[str, str]
    label: int
    group: str = ""
    time: float = 0.0


@dataclass(frozen=True, slots=True)
class CleaningReport:
    """How many rows were read and why some were dropped.

    Attributes:
        read: Rows in the file or files.
        missing_text: Rows with an empty field, or one of which nothing shows, such as zero-width characters.
        broken_text: Rows with half of a surrogate pair in a field or the label, which no tokenizer takes.
        missing_label: Rows without a label.
        invalid_label: Rows whose label is not among the task's.
        duplicate: Further copies of a row that stands already (white space and case aside).
        conflicting: Rows whose text occurs with different labels; all copies are dropped.
        missing_group: Rows without a group, where the task names a column of groups.
        missing_time: Rows without a time, where it names one of times.
        overlap: Rows removed since the same text is held out.
        near_duplicate: Rows removed since nearly the same text is held out; see `objectives.data.near_duplicates`.
        near_duplicate_of_other_label: Those of them whose label is another one than that of the held-out text.
        set_aside: Rows that can't be used beside the held-out ones: of their group, or no older than they.
    """

    read: int = 0
    missing_text: int = 0
    broken_text: int = 0
    missing_label: int = 0
    invalid_label: int = 0
    duplicate: int = 0
    conflicting: int = 0
    missing_group: int = 0
    missing_time: int = 0
    overlap: int = 0
    near_duplicate: int = 0
    near_duplicate_of_other_label: int = 0
    set_aside: int = 0

    def __add__(self, other: "CleaningReport") -> "CleaningReport":
        mine, theirs = asdict(self), asdict(other)
        return CleaningReport(**{name: mine[name] + theirs[name] for name in mine})

    def __str__(self) -> str:
        """Say how many rows were read, and how many were dropped for which reason."""
        apart = ("read", "near_duplicate_of_other_label")
        reasons = {name: count for name, count in asdict(self).items() if count and name not in apart}
        words = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in reasons.items())
        if self.near_duplicate_of_other_label:
            words += f" ({self.near_duplicate_of_other_label} near duplicates have another label than the held-out row)"
        return f"{self.read} rows read; dropped: {words or 'none'}"


@dataclass(frozen=True)
class Task(ABC):
    """A task with its rows cleaned and split.

    Attributes:
        labels: Label names, in the order of the logits.
        train: Rows to train on.
        validation: Rows to choose by; empty for a source task.
        test: Rows of the test set; empty for a source task.
        cleaning: What was dropped.
        labelled: All labelled rows outside the test set, whatever split `train` and `validation` are of.
        clusters: Number of each of these, the same for those that are nearly the same or of one group: no fold divides
            them; empty where there are no folds.
        folds: Parts that these are divided into; 1 where a part, or a table of its own, is held out to choose by.
        spec: What the task was loaded from.
        seed: Seed of its splits.
    """

    labels: tuple[str, ...]
    train: tuple[Row, ...]
    validation: tuple[Row, ...] = ()
    test: tuple[Row, ...] = ()
    cleaning: CleaningReport = field(default_factory=CleaningReport)
    labelled: tuple[Row, ...] = ()
    clusters: tuple[int, ...] = ()
    folds: int = 1
    spec: TaskSpec | None = None
    seed: int = 0

    @property
    def sizes(self) -> str:
        """How many rows there are, and how candidates are scored by them."""
        if self.folds > 1:
            return f"{len(self.labelled)} labelled rows in {self.folds} folds and {len(self.test)} test rows"
        return f"{len(self.train)} training, {len(self.validation)} validation and {len(self.test)} test rows"

    @abstractmethod
    def on(self, split: "Split") -> "Task":
        """Return the task with the training and validation rows of a split; of the first fold, for every fold in turn.

        With all rows in training, validation has the same ones: no score of theirs says anything of others.
        """

    def scored(self, repeat: int = 0) -> tuple[Row, ...]:
        """Return the rows that a trial is scored by, in the order of its logits: fold by fold."""
        from promptgraft.objectives.data.folds import Split

        parts = [self.on(Split(repeat, fold)).validation for fold in range(self.folds)]
        return tuple(row for part in parts for row in part)

    def scored_folds(self) -> tuple[int, ...]:
        """Return the fold of each row that a trial is scored by, in the order of its logits."""
        from promptgraft.objectives.data.folds import Split

        return tuple(fold for fold in range(self.folds) for _ in self.on(Split(0, fold)).validation)

    @classmethod
    @abstractmethod
    def load_target(cls, spec: TaskSpec, seed: int) -> "Task":
        """Read, clean and split a target task; it is on its first split.

        Args:
            spec: The task.
            seed: Seed of the splits.

        Raises:
            InvalidInputError: If the data can't serve, with the reason and the remedy.
        """

    @classmethod
    @abstractmethod
    def load_source(cls, spec: TaskSpec, seed: int, target: "Task") -> "Task":
        """Read and clean a source task, without the rows that the target holds out.

        Raises:
            InvalidInputError: If the data can't serve, with the reason and the remedy.
        """

    @abstractmethod
    def measure(self, logits: npt.NDArray[np.float32], rows: Sequence[Row]) -> dict[str, float]:
        """Score outputs against the rows they belong to.

        Args:
            logits: Outputs, shape (rows, labels).
            rows: The rows.

        Returns:
            Metric name -> value.
        """

    @abstractmethod
    def confusion(self, logits: npt.NDArray[np.float32], rows: Sequence[Row]) -> list[list[int]]:
        """Count true labels (rows) against predicted ones (columns)."""


T = TypeVar("T", bound=Task)


def all_labels(target: Task, sources: Iterable[Task]) -> tuple[str, ...]:
    """Return the labels of all tasks, each once, the target's first."""
    return tuple(dict.fromkeys((*target.labels, *chain.from_iterable(source.labels for source in sources))))


TASK_KINDS: Registry[type[Task]] = Registry("task kind", ["promptgraft.objectives.data.text_classification"])


def load_tasks(target: TaskSpec, sources: Mapping[str, TaskSpec], seed: int) -> tuple[Task, dict[str, Task]]:
    """Load a study's tasks, cleaned, split and free of duplicates between them; their kinds must be registered.

    Args:
        target: The target task.
        sources: The source tasks, by name.
        seed: Seed of the splits.

    Returns:
        The target, and the sources by name.

    Raises:
        InvalidInputError: If the data can't serve.
    """
    loaded = TASK_KINDS[target.kind].load_target(target, seed)
    return loaded, {name: TASK_KINDS[spec.kind].load_source(spec, seed, loaded) for name, spec in sources.items()}


def fields_key(fields: Mapping[str, str]) -> str:
    """Return what makes two rows the same: their fields' text, white space and case aside."""
    return json.dumps({name: normalise(value) for name, value in sorted(fields.items())})


def row_key(row: Row) -> str:
    """Return the `fields_key` of a row."""
    return fields_key(row.fields)


def normalise(text: str) -> str:
    """Fold case and white space."""
    return " ".join(text.casefold().split())


def rows_hash(rows: Sequence[Row]) -> str:
    """Hash rows in their order; 16 hexadecimal digits."""
    content = json.dumps([[sorted(row.fields.items()), row.label] for row in rows])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def by_turns(rows: Sequence[Row]) -> list[Row]:
    """Order rows so that labels take turns: every round has some of each."""
    by_label: dict[int, list[Row]] = {}
    for row in rows:
        by_label.setdefault(row.label, []).append(row)
    turns = zip_longest(*(by_label[label] for label in sorted(by_label)))
    return [row for row in chain.from_iterable(turns) if row is not None]


def with_fewer(task: T, count: int | None) -> T:
    """Keep so many of a task's training rows, labels taking turns; all of them if None."""
    return task if count is None else replace(task, train=tuple(by_turns(task.train)[:count]))

"""What a trial reads: a study's tasks on one split, which of their rows a candidate reads, and batches of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count, cycle
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from promptgraft.objectives.data import (
    IGNORED_PIXEL,
    Expected,
    LossName,
    Row,
    Split,
    Task,
    all_labels,
    load_tasks,
    rows_hash,
    with_fewer,
)
from promptgraft.objectives.prompting import EncodedRow, PromptedModel, count_answers
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial.losses import targets_of
from promptgraft.spaces import Candidate, InvalidInputError, did_you_mean

# The target, and the sources by name, as they were loaded.
LoadedTasks: TypeAlias = tuple[Task, Mapping[str, Task]]


class StudyTasks:
    """The target and the sources of a study; a candidate reads the target and at most one source.

    Args:
        target: The target task, as loaded.
        sources: The source tasks by name; that of a study that names but one is called ''.
        split: How the target's labelled rows are divided.
        fewer: `target` or `source` -> how many of its training rows are kept; all where nothing is said.

    Attributes:
        target: The target task on the split.
        sources: The source tasks.
        labels: The labels of all of them, each once, the target's first.
        split: The split.
        self_labelled: Number of the last training rows of the target whose labels are a model's.
    """

    def __init__(
        self,
        target: Task,
        sources: Mapping[str, Task],
        split: Split | None = None,
        fewer: Mapping[str, int] | None = None,
    ) -> None:
        fewer = fewer or {}
        self.split = split or Split()
        self.self_labelled = 0
        self.target = with_fewer(target.on(self.split), fewer.get("target"))
        self.sources = {name: with_fewer(task, fewer.get("source")) for name, task in sources.items()}
        self.labels = all_labels(self.target, self.sources.values())
        self._loaded = target, sources
        self._fewer = fewer
        self._folds: list[StudyTasks] = []
        self._hashes = {"target": rows_hash(self.target.train), "validation": rows_hash(self.target.validation)}
        self._source_hashes = {name: rows_hash(task.train) for name, task in self.sources.items()}

    @classmethod
    def load(cls, spec: ObjectiveSpec) -> "StudyTasks":
        """Read a study's tables; they are on the first split."""
        specs = {name: source.task for name, source in spec.all_sources.items()}
        return cls(*load_tasks(spec.target, specs, spec.split_seed))

    def on(self, split: Split, fewer: Mapping[str, int] | None = None) -> "StudyTasks":
        """Return the tasks on another split; nothing is read again."""
        if (split, fewer or {}) == (self.split, self._fewer):
            return self
        return StudyTasks(*self._loaded, split, fewer)

    def folds(self) -> "Sequence[StudyTasks]":
        """Return the tasks on every fold of the split: one where all rows are trained on, or a part is held out."""
        if self.split.whole or self.split.fold is not None or self.target.folds == 1:
            return [self]
        if not self._folds:
            self._folds += [self.on(replace(self.split, fold=fold), self._fewer) for fold in range(self.target.folds)]
        return self._folds

    def source(self, candidate: Candidate) -> Task:
        """Return the source that a candidate uses.

        Raises:
            InvalidInputError: If the study has none by that name.
        """
        if candidate.source not in self.sources:
            raise InvalidInputError(
                f"the candidate's source {candidate.source!r} is not among the study's; "
                f"{did_you_mean(candidate.source, self.sources)}"
            )
        return self.sources[candidate.source]

    def rows(self, part: str, candidate: Candidate) -> Sequence[Row]:
        """Return the rows of a part: `target`, `validation`, `unlabelled`, or `source`, which is the candidate's."""
        if part == "source":
            return self.source(candidate).train
        if part == "unlabelled":
            return self.target.unlabelled
        return self.target.validation if part == "validation" else self.target.train

    def hashes(self, candidate: Candidate) -> dict[str, str]:
        """Return part -> hash of its rows, for the parts that there are for a candidate."""
        own = self._source_hashes.get(candidate.source)
        return self._hashes | ({"source": own} if own is not None else {})

    @cached_property
    def unlabelled_hash(self) -> str:
        """Hash of the unlabelled rows."""
        return rows_hash(self.target.unlabelled)

    def hash_of(self, part: str, candidate: Candidate) -> str:
        """Return the hash of a part's rows; see `rows`."""
        return self.unlabelled_hash if part == "unlabelled" else self.hashes(candidate)[part]

    def labelling(self, labels: Mapping[int, int]) -> "StudyTasks":
        """Return the tasks with unlabelled rows among those that are trained on.

        Args:
            labels: Index of an unlabelled row -> index of the label that it gets.
        """
        rows = [replace(self.target.unlabelled[index], answer=label) for index, label in labels.items()]
        found = copy(self)
        found.self_labelled = len(rows)
        found.target = replace(self.target, train=(*self.target.train, *rows))
        found._hashes = self._hashes | {"target": rows_hash(found.target.train)}
        return found


def certain(chances: Expected, least: float) -> dict[int, int]:
    """Choose the rows whose label a model is certain of.

    Args:
        chances: The model's probabilities, shape (rows, labels).
        least: Smallest probability of the likeliest label.

    Returns:
        Index of a row -> index of its likeliest label.
    """
    likeliest = chances.argmax(axis=1)
    return {int(row): int(likeliest[row]) for row in np.flatnonzero(chances.max(axis=1) >= least)}


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Encoded rows of one task.

    Attributes:
        rows: The rows.
        labels: The task's labels, in the order of the logits.
        loss: Name of the loss, which decides the form of `targets`.
        scaling: Centre and scale by which numbers are standardised; None if the answers are labels.
        change: Changes a row at random, by a seed, each time that it is drawn; None if rows stay as they are.
    """

    rows: Sequence[EncodedRow]
    labels: Sequence[str]
    loss: LossName = "cross_entropy"
    scaling: tuple[float, float] | None = None
    change: Callable[[EncodedRow, str], EncodedRow] | None = None

    @classmethod
    def of(cls, task: Task, rows: Sequence[EncodedRow], model: PromptedModel | None = None) -> "TrainingData":
        """Take a task's encoded training rows.

        Args:
            task: The task.
            rows: The rows.
            model: Changes them at random, if its candidate says so; they stay as they are if None.
        """
        found = cls(rows, task.labels, task.loss, task.scaling)
        if model is None or model.candidate.augmentation == "none":
            return found
        return replace(found, change=lambda row, seed: model.view(row, task.mirrored, seed))

    def drawn(self, index: int, seed: int, number: int) -> EncodedRow:
        """Return a row as a pass over the rows has it.

        Args:
            index: Which one.
            seed: Seed of the batches.
            number: Number of the pass, from 0 on.
        """
        return self.rows[index] if self.change is None else self.change(self.rows[index], f"{seed} {number}")

    def targets(self, rows: Sequence[EncodedRow]) -> Tensor:
        """Return the answers of some rows, as the loss takes them; see `targets_of`."""
        return targets_of(self.loss, [row.answer for row in rows], len(self.labels), self.scaling)

    def share(self, part: Sequence[EncodedRow], rows: Sequence[EncodedRow]) -> float:
        """Return how much a part of a batch counts in the mean loss: by its rows, or by the parts of their answers."""
        if len(part) == len(rows):
            return 1.0
        if self.loss == "pixel_cross_entropy":
            pixels = [int((self.targets(own) != IGNORED_PIXEL).sum()) for own in (part, rows)]
            return pixels[0] / max(1, pixels[1])
        if self.loss != "token_cross_entropy":
            return count_answers(part) / max(1, count_answers(rows))
        counts = [sum(len(row.answer) for row in own if isinstance(row.answer, tuple)) for own in (part, rows)]
        return counts[0] / counts[1]

    def label_weights(self) -> Tensor:
        """Return what each label's rows count, by the inverse of their number, 1 on average over rows; (labels,)."""
        counts = torch.bincount(torch.tensor([row.label for row in self.rows]), minlength=len(self.labels))
        return len(self.rows) / (len(self.labels) * counts.clamp(min=1))


def first_epoch(n_rows: int, seed: int) -> list[int]:
    """Return the order in which `batches` draws the rows for the first time."""
    order: list[int] = torch.randperm(n_rows, generator=torch.Generator().manual_seed(seed)).tolist()
    return order


def batches(data: TrainingData, size: int, seed: int) -> Iterator[list[EncodedRow]]:
    """Draw batches without end: every epoch is a fresh permutation, and epochs join without a gap.

    Args:
        data: The rows; where there are fewer than `size`, a batch holds all of them.
        size: Rows a batch.
        seed: Seed of the permutations.
    """
    generator = torch.Generator().manual_seed(seed)
    size = min(size, len(data.rows))
    passes, waiting = count(), list[tuple[int, int]]()
    while True:
        while len(waiting) < size:
            number = next(passes)
            waiting += [(index, number) for index in torch.randperm(len(data.rows), generator=generator).tolist()]
        chosen, waiting = waiting[:size], waiting[size:]
        yield [data.drawn(index, seed, number) for index, number in chosen]


def balanced_batches(data: TrainingData, size: int, seed: int) -> Iterator[list[EncodedRow]]:
    """Draw batches without end in which labels take turns, so that there are pairs of one label; see `batches`."""
    by_label: dict[int, list[EncodedRow]] = {}
    for row in data.rows:
        by_label.setdefault(row.label, []).append(row)
    order = [by_label[label] for label in sorted(by_label)]
    drawn = [batches(replace(data, rows=rows), 1, seed + 7919 * turn) for turn, rows in enumerate(order)]
    size = min(size, len(data.rows))
    turns = cycle(drawn)
    while True:
        yield [next(next(turns))[0] for _ in range(size)]

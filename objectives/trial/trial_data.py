"""A study's tasks on one split, and which of their rows a candidate reads."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property

import numpy as np

from promptgraft.objectives.data import Expected, Row, Split, Task, all_labels, load_tasks, rows_hash, with_fewer
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.spaces import Candidate, InvalidInputError, did_you_mean


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

"""Recommendation: a row is what a user had so far, its answer the item that came next, out of all items.

Outputs are logits of all items. Items that a user had are never recommended, and left out where ranks are counted.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from promptgraft.objectives.data import (
    TASK_KINDS,
    CleaningReport,
    Direction,
    Expected,
    HasPriors,
    Outputs,
    Prediction,
    PriorRows,
    PriorTensors,
    Row,
    Split,
    Task,
    TaskSpec,
    Texts,
    seen,
)
from promptgraft.objectives.kinds.histories import read_histories
from promptgraft.objectives.kinds.text_classification import TextClassification, log_loss
from promptgraft.spaces import InvalidInputError

CUTS = (5, 10, 20)
# Items in a table of predictions.
SHOWN = 10
_TINY = 1e-9


@TASK_KINDS.register("recommendation")
class Recommendation(TextClassification, HasPriors):
    """The next item of a user, by the texts of those before it; split by time: each user's last one is for the test."""

    metrics: ClassVar[Mapping[str, Direction]] = {
        **{f"{name}_at_{cut}": "maximize" for name in ("ndcg", "recall", "coverage") for cut in CUTS},
        "mrr": "maximize",
        "loss": "minimize",
    }
    default_metric = "ndcg_at_10"
    heads = ("label_words", "linear")
    reads_histories = True
    priors = ("popularity", "neighbours", "ease")
    baseline_names: ClassVar[Mapping[str, str]] = {
        "majority": "most popular items",
        "tfidf": "items of users with common items (item-kNN)",
        "zero_shot": "items with texts like the history's",
    }

    @classmethod
    def load_target(cls, spec: TaskSpec, seed: int) -> "Recommendation":
        """Read the histories; each user's last item is held out for the test, the one before to choose by.

        `test_rows` and `validation_rows` say of how many users, `train_rows` how many rows are trained on; see `Task`.
        """
        _refuse_splits(spec)
        found = read_histories(spec, spec.labels)
        assert spec.histories is not None
        drawn = random.Random(seed)
        by_user = list(found.rows(*spec.fields).values())
        test = _sample([rows[-1] for rows in by_user if len(rows) > 1], spec.test_rows, drawn)
        validation = _sample([rows[-2] for rows in by_user if len(rows) > 1], spec.validation_rows, drawn)
        older = [rows[:-2][-spec.histories.positions :] for rows in by_user]
        train = _sample([row for rows in older for row in rows], spec.train_rows, drawn)
        if not (train and validation):
            raise InvalidInputError(
                f"{spec.train}: no user has the four items that a row to train on, one to choose by and one for the "
                f"test take ({found.report}); add interactions"
            )
        unused = sum(map(len, found.users.values())) - len(train) - len(validation) - len(test)
        report = found.report + CleaningReport(no_history=unused)
        return cls(
            found.items,
            tuple(train),
            tuple(validation),
            tuple(test),
            cleaning=report,
            labelled=(*train, *validation),
            spec=spec,
            seed=seed,
        )

    @classmethod
    def load_source(cls, spec: TaskSpec, seed: int, target: Task) -> "Recommendation":
        """Read the histories of a source, without rows that show what a user of the target held out chose."""
        found = read_histories(spec, spec.labels)
        assert spec.histories is not None
        newest = [row for rows in found.rows(*spec.fields).values() for row in rows[-spec.histories.positions :]]
        held_out = {(row.group, target.labels[row.label]) for row in (*target.validation, *target.test)}
        kept = [
            row
            for row in newest
            if not any((row.group, name) in held_out for name in (found.items[row.label], *seen(row.fields)))
        ]
        rows = _sample(kept, spec.train_rows, random.Random(seed))
        unused = sum(map(len, found.users.values())) - len(newest)
        report = found.report + CleaningReport(overlap=len(newest) - len(kept), no_history=unused)
        return cls(found.items, tuple(rows), cleaning=report)

    def on(self, split: Split) -> "Recommendation":
        """Return the task itself, since times leave one way to divide the rows; or with all in training; see `Task`."""
        return replace(self, train=self.labelled, validation=self.labelled) if split.whole else self

    @classmethod
    def strata(cls, rows: Sequence[Row]) -> list[int]:
        """Return one part: there are more items than rows of each; see `Task`."""
        return [0] * len(rows)

    @property
    def needed_labels(self) -> tuple[int, ...]:
        """No item must be trained on; see `Task`."""
        return ()

    def measure(self, outputs: Outputs, rows: Sequence[Row]) -> dict[str, float]:
        """Rank all items that a user hasn't had; see `Task`.

        NDCG, recall (the share of users whose item is among the first), the mean reciprocal rank, and coverage: the
        share of all items that are among the first of some user.
        """
        scores = self._unseen(outputs, [row.fields for row in rows])
        labels = np.array([row.label for row in rows])
        ranks = ranks_of(scores, labels)
        order = _best(scores, max(CUTS))
        found: dict[str, float] = {}
        for cut in CUTS:
            is_in = ranks <= cut
            found[f"ndcg_at_{cut}"] = float(np.where(is_in, 1 / np.log2(ranks + 1), 0).mean())
            found[f"recall_at_{cut}"] = float(is_in.mean())
            found[f"coverage_at_{cut}"] = len(np.unique(order[:, :cut])) / len(self.labels)
        loss = float(log_loss(self.expected(outputs), labels).mean())
        return {name: (found | {"mrr": float((1 / ranks).mean()), "loss": loss})[name] for name in self.metrics}

    def confusion(self, outputs: Outputs, rows: Sequence[Row]) -> list[list[int]]:
        """Count nothing: there are too many items for a table; see `Task`."""
        del outputs, rows
        return []

    def row_scores(self, outputs: Outputs, rows: Sequence[Row]) -> Expected:
        """Return each row's reciprocal rank; see `Task`."""
        scores = self._unseen(outputs, [row.fields for row in rows])
        return np.asarray(1 / ranks_of(scores, np.array([row.label for row in rows])))

    def predict(self, expected: Expected, texts: Texts) -> list[Prediction]:
        """Return the item that each user most likely chooses next, out of those that they haven't had; see `Task`."""
        return [self.labels[place] for place in self._unseen(expected, texts).argmax(axis=1)]

    def columns(self, expected: Expected, texts: Texts) -> dict[str, Sequence[Any]]:
        """Return the first item, and the first ten with their probabilities, as JSON; see `Task`."""
        chances = self._unseen(expected, texts)
        shown = [
            [[self.labels[place], float(own[place])] for place in order if np.isfinite(own[place])]
            for own, order in zip(chances, _best(chances, SHOWN), strict=True)
        ]
        return {
            "item": self.predict(expected, texts),
            "recommended": [json.dumps(own, ensure_ascii=False) for own in shown],
        }

    def constant(self, rows: Sequence[Row]) -> Outputs:
        """Rank by popularity among the users to train on; see `Task`."""
        counts = self._matrix(self.train).sum(axis=0) + _TINY
        return np.tile(np.log(counts / counts.sum()).astype(np.float32), (len(rows), 1))

    def fit_by_words(self, train: Sequence[Row], rows: Sequence[Row]) -> Outputs:
        """Rank by the cosine of items' users, summed over a history (Sarwar et al. 2001); see `Task`."""
        users = self._matrix(train)
        norms = np.sqrt(users.sum(axis=0)) + _TINY
        alike = (users.T @ users) / norms[:, None] / norms
        np.fill_diagonal(alike, 0.0)
        had = np.isneginf(self._unseen(np.zeros((len(rows), len(self.labels))), [row.fields for row in rows]))
        scores = had @ alike + _TINY * (users.sum(axis=0) + 1)
        return np.asarray(np.log(scores / scores.sum(axis=1, keepdims=True)), dtype=np.float32)

    def prior_features(self, name: str, fields: Mapping[str, str], labels: Sequence[str]) -> tuple[int, ...]:
        """Return the places of a history's items, newest first; see `HasPriors`."""
        del name
        places = _places_of(tuple(labels))
        return tuple(place for item in seen(fields) if (place := places.get(item)) is not None)

    def fit_prior(self, name: str, recency: float, rows: PriorRows) -> PriorTensors:
        """Count which items users have in common; see `HasPriors`."""
        from promptgraft.objectives.priors import fit_item_prior

        return fit_item_prior(name, recency, rows)

    def prior_logits(
        self, name: str, recency: float, tensors: PriorTensors, features: Sequence[tuple[int, ...]]
    ) -> Outputs:
        """Add up what the items of a history say of others; see `HasPriors`."""
        from promptgraft.objectives.priors import item_logits

        return item_logits(name, recency, tensors, features)

    def check_prior(self, name: str, tensors: PriorTensors, n_labels: int) -> None:
        """Refuse tensors of another form; see `HasPriors`."""
        from promptgraft.objectives.priors import check_item_prior

        check_item_prior(name, tensors, n_labels)

    @classmethod
    def refuses(cls, name: str, value: object) -> str | None:
        """Refuse what takes rows with the same label for alike, or a label for frequent; see `Task`."""
        allowed = {"contrastive_steps": 0, "self_training": 0.0, "demonstrations.count": 0, "class_weights": "none"}
        allowed |= {"source_objective": "classification", "calibration": "none"}
        if name == "head" and value == "probe":
            return "head 'probe' has too many items for its solver; use label_words or linear"
        if value == allowed.get(name, value):
            return super().refuses(name, value)
        return f"{name} {value!r} needs labels of which each has several rows, unlike items; use {allowed[name]!r}"

    @classmethod
    def refuses_baseline(cls, name: str) -> bool:
        """Refuse baselines with a probe; see `Task`."""
        needs_probe = ("linear_probe", "linear_probe_with_source", "contrastive", "contrastive_source")
        return name in needs_probe or cls.lacks_prior(name)

    @property
    def purpose(self) -> str:
        """Say that it recommends; see `Task`."""
        return "Recommends the next item to users, by the texts of what they had: one of"

    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.labels)}

    def _unseen(self, scores: npt.NDArray[Any], texts: Texts) -> npt.NDArray[Any]:
        """Return scores with -inf where a user had the item."""
        places, found = self._places(), scores.copy()
        for own, fields in zip(found, texts, strict=True):
            own[[places[name] for name in seen(fields) if name in places]] = -np.inf
        return found

    def _matrix(self, rows: Sequence[Row]) -> npt.NDArray[np.float64]:
        """Return which items the users of some rows had, shape (users, items)."""
        places = self._places()
        users = {user: place for place, user in enumerate(dict.fromkeys(row.group for row in rows))}
        found = np.zeros((len(users), len(self.labels)))
        for row in rows:
            names = [place for name in seen(row.fields) if (place := places.get(name)) is not None]
            found[users[row.group], [row.label, *names]] = 1
        return found


@lru_cache(maxsize=8)
def _places_of(labels: tuple[str, ...]) -> Mapping[str, int]:
    return {name: place for place, name in enumerate(labels)}


def ranks_of(scores: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the rank of each row's item, from 1 on; of items with the same score the first is better.

    Args:
        scores: Shape (rows, items).
        labels: Shape (rows,).
    """
    own = scores[np.arange(len(labels)), labels][:, None]
    is_first = np.arange(scores.shape[1]) < labels[:, None]
    return np.asarray(1 + ((scores > own) | ((scores == own) & is_first)).sum(axis=1))


def _best(scores: npt.NDArray[Any], cut: int) -> npt.NDArray[np.int64]:
    """Return the items with the best scores, shape (rows, cut)."""
    return np.asarray(np.argsort(-scores, axis=1, kind="stable")[:, :cut])


def _sample(rows: Sequence[Row], most: int | None, drawn: random.Random) -> list[Row]:
    """Draw some rows, in their order."""
    if most is None or most >= len(rows):
        return list(rows)
    return [rows[place] for place in sorted(drawn.sample(range(len(rows)), most))]


def _refuse_splits(spec: TaskSpec) -> None:
    """Refuse other ways to split than by each user's last items."""
    options = ("test", "validation", "shots", "folds", "group", "time", "unlabelled")
    given = [name for name in options if getattr(spec, name) is not None]
    if given:
        raise InvalidInputError(
            f"{', '.join(given)} can't be given for recommendation, where the last items of each user are the test and "
            "validation rows; leave it out"
        )

"""Recommendation: a row is what a user had so far, its answer the item that came next, out of all items.

Outputs are logits of all items. Items that a user had are never recommended, and left out where ranks are counted.
"""

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from promptgraft.objectives.data import (
    TASK_KINDS,
    CleaningReport,
    Direction,
    Expected,
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
from promptgraft.objectives.kinds.histories.interactions import divide, held_out_from, read_histories
from promptgraft.objectives.kinds.histories.ranking import best_of, drawn_items, incidence, ranks_of
from promptgraft.objectives.kinds.text_classification import TextClassification
from promptgraft.spaces import InvalidInputError

if TYPE_CHECKING:
    from scipy import sparse

CUTS = (5, 10, 20)
# Begins the names of metrics of ranks among items that are drawn.
SAMPLED = "sampled_"
# Items in a table of predictions, and of an example in a report.
SHOWN, SAID = 10, 3
# Users with fewer items so far are scored apart.
FEW_ITEMS = 5
# Scores that are ranked at a time: 128 MB of float64.
MOST_SCORES = 2**24
_TINY = 1e-9


@TASK_KINDS.register("recommendation")
class Recommendation(TextClassification):
    """The next item of a user, by the texts of those before it; split by time: each user's last one is for the test."""

    metrics: ClassVar[Mapping[str, Direction]] = {
        **{f"{name}_at_{cut}": "maximize" for name in ("ndcg", "recall", "coverage") for cut in CUTS},
        **{f"popularity_at_{cut}": "minimize" for cut in CUTS},
        "mrr": "maximize",
        "loss": "minimize",
    }
    on_request: ClassVar[Mapping[str, Direction]] = {
        **{f"{SAMPLED}{name}_at_{cut}": "maximize" for name in ("ndcg", "recall") for cut in CUTS},
        f"{SAMPLED}mrr": "maximize",
    }
    default_metric = "ndcg_at_10"
    heads = ("label_words", "linear", "titles")
    reads_histories = True
    has_folds = False
    priors = ("popularity", "neighbours", "ease")
    bootstrap = True
    blamed_by = "rank"
    parts_title = "Cold start"
    examples_title = "Histories, what came, and what was recommended"
    baseline_names: ClassVar[Mapping[str, str]] = {
        "majority": "most popular items",
        "tfidf": "items of users with common items (item-kNN)",
        "zero_shot": "items with texts like the history's",
    }

    @classmethod
    def load_target(cls, spec: TaskSpec, seed: int) -> "Recommendation":
        """Read the histories; each user's last item is held out for the test, the one before to choose by.

        Or the first ones from certain times on; see `HistorySpec`. `test_rows` and `validation_rows` say of how many
        users, `train_rows` how many rows are trained on; see `Task`.
        """
        _refuse_splits(spec)
        found = read_histories(spec, spec.labels)
        assert spec.histories is not None
        drawn = random.Random(seed)
        parts = divide(found.rows(*spec.fields).values(), spec.histories)
        test = _sample(parts.test, spec.test_rows, drawn)
        validation = _sample(parts.validation, spec.validation_rows, drawn)
        train = _sample([row for rows in parts.older for row in rows], spec.train_rows, drawn)
        if not (train and validation and test):
            lies = f"{len(train)} rows to train on, {len(validation)} to choose by and {len(test)} for the test"
            bounds = spec.histories.validation_from, spec.histories.test_from
            remedy = (
                f"`validation_from` ({bounds[0]}) and `test_from` ({bounds[1]}) must lie among the times of column "
                f"{spec.histories.time!r}, and be written as they are"
                if bounds[0]
                else "a user's first item has no history, so that one of each takes four items; add interactions"
            )
            raise InvalidInputError(f"{spec.train}: there are {lies} ({found.report}); {remedy}")
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
        assert target.spec is not None
        assert target.spec.histories is not None
        until = (held_out_from(target.spec.histories) or (math.inf,))[0]
        before = [[row for row in rows if row.time < until] for rows in found.rows(*spec.fields).values()]
        newest = [row for rows in before for row in rows[-spec.histories.positions :]]
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
        """Rank all items that a user hasn't had; and some that are drawn, where a study asks for that; see `Task`.

        NDCG, recall (the share of users whose item is among the first), the mean reciprocal rank; coverage: the share
        of all items that are among the first of some user; popularity: the mean, over the items that are recommended,
        of the share of these users who have had them.
        """
        best = np.concatenate([best_of(scores, max(CUTS)) for scores, _ in self._parts_of(outputs, rows)])
        shares = np.zeros(len(self.labels))
        for row in rows:
            shares[list(self._had(row.fields))] += 1 / len(rows)
        found: dict[str, float] = {}
        ranks, asked = self._ranks(outputs, rows), self.on_request if self._negatives else ()
        sampled = self._sampled_ranks(outputs, rows) if asked else ranks
        for name in (*self.metrics, *asked):
            if (values := _by_row(name, sampled if name in asked else ranks)) is not None:
                found[name] = float(values.mean())
            elif name == "loss":
                found[name] = float(self._losses(outputs, rows).mean())
            else:
                first = best[:, : int(name.rpartition("_")[2])]
                is_coverage = name.startswith("coverage")
                found[name] = len(np.unique(first)) / len(shares) if is_coverage else float(shares[first].mean())
        return found

    def by_row(self, metric: str, outputs: Outputs, rows: Sequence[Row]) -> Expected | None:
        """Return each user's figure, where the metric is their mean; see `Reported`."""
        if metric == "loss":
            return self._losses(outputs, rows)
        ranks = self._sampled_ranks if metric in self.on_request else self._ranks
        return _by_row(metric, ranks(outputs, rows))

    def parts(self, rows: Sequence[Row]) -> Mapping[str, Sequence[int]]:
        """Return users with few items, and those whose next item no user had before; see `Reported`."""
        known = {row.label for row in self.train}.union(*(self._had(row.fields) for row in self.train))
        few = [len(seen(row.fields)) < FEW_ITEMS for row in rows]
        new = [row.label not in known for row in rows]
        named = {
            f"users with fewer than {FEW_ITEMS} items before": few,
            f"users with {FEW_ITEMS} items or more": [not own for own in few],
            "next item in no training row": new,
            "next item in some training row": [not own for own in new],
        }
        found = {name: [place for place, own in enumerate(chosen) if own] for name, chosen in named.items()}
        return {name: own for name, own in found.items() if own}

    def examples(self, blame: Expected, most: int) -> Sequence[int]:
        """Return rows from the best to the worst, at equal distances; see `Reported`."""
        order = np.argsort(blame, kind="stable")
        return [int(order[place]) for place in np.unique(np.linspace(0, len(order) - 1, most).round().astype(int))]

    def blame(self, outputs: Outputs, rows: Sequence[Row]) -> Expected:
        """Return the rank of the item that came; see `Task`."""
        return self._ranks(outputs, rows).astype(np.float64)

    def described(self, expected: Expected, texts: Texts) -> list[str]:
        """Return the first items; see `Task`."""
        best = best_of(self._unseen(expected, texts), SAID)
        return ["; ".join(self.labels[place] for place in own) for own in best]

    def confusion(self, outputs: Outputs, rows: Sequence[Row]) -> list[list[int]]:
        """Count nothing: there are too many items for a table; see `Task`."""
        del outputs, rows
        return []

    def row_scores(self, outputs: Outputs, rows: Sequence[Row]) -> Expected:
        """Return each row's reciprocal rank; see `Task`."""
        return np.asarray(1 / self._ranks(outputs, rows))

    def predict(self, expected: Expected, texts: Texts) -> list[Prediction]:
        """Return the item that each user most likely chooses next, out of those that they haven't had; see `Task`."""
        return [self.labels[place] for place in self._unseen(expected, texts).argmax(axis=1)]

    def columns(self, expected: Expected, texts: Texts) -> dict[str, Sequence[Any]]:
        """Return the first item, and the first ten with their probabilities, as JSON; see `Task`."""
        chances = self._unseen(expected, texts)
        shown = [
            [[self.labels[place], float(own[place])] for place in order if np.isfinite(own[place])]
            for own, order in zip(chances, best_of(chances, SHOWN), strict=True)
        ]
        return {
            "item": self.predict(expected, texts),
            "recommended": [json.dumps(own, ensure_ascii=False) for own in shown],
        }

    def constant(self, rows: Sequence[Row]) -> Outputs:
        """Rank by popularity among the users to train on; see `Task`."""
        counts = np.asarray(self._matrix(self.train).sum(axis=0)).ravel() + _TINY
        return np.tile(np.log(counts / counts.sum()).astype(np.float32), (len(rows), 1))

    def fit_by_words(self, train: Sequence[Row], rows: Sequence[Row]) -> Outputs:
        """Rank by the cosine of items' users, summed over a history (Sarwar et al. 2001); see `Task`."""
        users = self._matrix(train)
        sizes = np.asarray(users.sum(axis=0), dtype=np.float64).ravel()
        alike = users.multiply(1 / (np.sqrt(sizes) + _TINY)).tocsr()
        had = incidence([self._had(row.fields) for row in rows], len(self.labels))
        # An item's own cosine is in it, which matters to no item that may be recommended.
        scores = ((had @ alike.T) @ alike).toarray() + _TINY * (sizes + 1)
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
    def signatures(self) -> Mapping[str, str]:
        """Say among how many items the sampled metrics rank; see `Task`."""
        drawn = (
            f"rank among the item and {self._negatives} drawn ones of those that a user hasn't had, seed {self.seed}"
        )
        return dict.fromkeys(self.on_request, drawn) if self._negatives else {}

    @property
    def purpose(self) -> str:
        """Say that it recommends; see `Task`."""
        return "Recommends the next item to users, by the texts of what they had: one of"

    def _had(self, fields: Mapping[str, str]) -> set[int]:
        """Return the places of the items of a history."""
        return {place for name in seen(fields) if (place := self._places.get(name)) is not None}

    @cached_property
    def _places(self) -> Mapping[str, int]:
        return _places_of(self.labels)

    def _unseen(self, scores: npt.NDArray[Any], texts: Texts) -> npt.NDArray[Any]:
        """Return scores with -inf where a user had the item."""
        found = scores.copy()
        for own, fields in zip(found, texts, strict=True):
            own[list(self._had(fields))] = -np.inf
        return found

    def _parts_of(self, outputs: Outputs, rows: Sequence[Row]) -> Iterator[tuple[Outputs, Sequence[Row]]]:
        """Return scores as `_unseen` does, some rows at a time: all together would take much memory."""
        size = max(1, MOST_SCORES // len(self.labels))
        for first in range(0, len(rows), size):
            own = rows[first : first + size]
            yield self._unseen(outputs[first : first + size], [row.fields for row in own]), own

    def _ranks(self, outputs: Outputs, rows: Sequence[Row]) -> npt.NDArray[np.int64]:
        parts = self._parts_of(outputs, rows)
        return np.concatenate([ranks_of(scores, np.array([row.label for row in own])) for scores, own in parts])

    @property
    def _negatives(self) -> int:
        """How many items are drawn for each user beside the one that came; 0 for none."""
        histories = self.spec.histories if self.spec else None
        return (histories.negatives or 0) if histories else 0

    def _sampled_ranks(self, outputs: Outputs, rows: Sequence[Row]) -> npt.NDArray[np.int64]:
        """Return each row's rank among items drawn for it, which it neither had nor chose; the same in every trial."""
        ranks = np.ones(len(rows), dtype=np.int64)
        for number, (scores, row) in enumerate(zip(outputs, rows, strict=True)):
            out = self._had(row.fields) | {row.label}
            seed = f"{self.seed} {row.group} {self.labels[row.label]}"
            places = sorted([row.label, *drawn_items(seed, len(self.labels), out, self._negatives)])
            ranks[number] = ranks_of(scores[None, places], np.array([places.index(row.label)]))[0]
        return ranks

    def _losses(self, outputs: Outputs, rows: Sequence[Row]) -> Expected:
        """Return each row's negative log-likelihood in nats; items that the user had count."""
        size = max(1, MOST_SCORES // len(self.labels))
        return np.concatenate(
            [
                self.row_losses(self.expected(outputs[first : first + size]), rows[first : first + size])
                for first in range(0, len(rows), size)
            ]
        )

    def _matrix(self, rows: Sequence[Row]) -> "sparse.csr_matrix":
        """Return which items the users of some rows had, shape (users, items)."""
        found: dict[str, set[int]] = {}
        for row in rows:
            found.setdefault(row.group, set()).update([row.label, *self._had(row.fields)])
        return incidence(list(found.values()), len(self.labels))


@lru_cache(maxsize=8)
def _places_of(labels: tuple[str, ...]) -> Mapping[str, int]:
    return {name: place for place, name in enumerate(labels)}


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


def _by_row(metric: str, ranks: npt.NDArray[np.int64]) -> Expected | None:
    name, _, cut = metric.removeprefix(SAMPLED).partition("_at_")
    if name not in ("mrr", "ndcg", "recall"):
        return None
    values = {"mrr": 1 / ranks, "ndcg": 1 / np.log2(ranks + 1), "recall": np.ones(len(ranks))}[name]
    return np.where(ranks <= int(cut or len(ranks) + ranks.max()), values, 0.0)

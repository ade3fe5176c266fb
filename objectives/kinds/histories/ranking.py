"""Ranks of items by their scores."""

from collections.abc import Collection, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy import sparse


def ranks_of(scores: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the rank of each row's item, from 1 on; of items with the same score the first is better.

    Args:
        scores: Shape (rows, items).
        labels: Shape (rows,).
    """
    own = scores[np.arange(len(labels)), labels][:, None]
    is_first = np.arange(scores.shape[1]) < labels[:, None]
    return np.asarray(1 + ((scores > own) | ((scores == own) & is_first)).sum(axis=1))


def drawn_items(seed: str, n_items: int, out: Collection[int], count: int) -> list[int]:
    """Draw items at random, each as likely as any other; all where there are no more.

    Args:
        seed: What decides which.
        n_items: Number of all items.
        out: Items that are never drawn.
        count: How many are drawn.
    """
    found = Random(seed).sample(range(n_items), min(n_items, count + len(out)))
    return [place for place in found if place not in out][:count]


def best_of(scores: npt.NDArray[Any], cut: int) -> npt.NDArray[np.int64]:
    """Return the items with the best scores, shape (rows, cut); of items with the same score the first is better."""
    if scores.shape[1] <= cut:
        return np.asarray(np.argsort(-scores, axis=1, kind="stable"))
    least = np.partition(scores, -cut, axis=1)[:, -cut, None]
    above, equal = scores > least, scores == least
    equal &= equal.cumsum(axis=1) <= cut - above.sum(axis=1, keepdims=True)
    places = np.nonzero(above | equal)[1].reshape(len(scores), cut)
    order = np.argsort(-np.take_along_axis(scores, places, axis=1), axis=1, kind="stable")
    return np.asarray(np.take_along_axis(places, order, axis=1))


def incidence(users: Sequence[set[int]], n_items: int) -> "sparse.csr_matrix":
    """Return 1 where a user has an item, shape (users, items)."""
    from scipy import sparse

    columns = [item for items in users for item in sorted(items)]
    ends = np.cumsum([0, *map(len, users)])
    return sparse.csr_matrix((np.ones(len(columns)), columns, ends), shape=(len(users), n_items))

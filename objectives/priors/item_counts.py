"""Counts of items that users have in common, as a prior of recommendations: popularity, item-kNN and EASE.

Logits of an item are a * (sum over the history of what its items say of it) + b * log(1 + its users). The two factors
are those with the largest likelihood on training rows of users whose items weren't counted (a conditional logit, as in
McFadden 1974): counts on the rows that they are of would be believed too much. Items that the user had get `HAD`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from promptgraft.objectives.data import MOST_OF_EASE, Outputs, PriorRows, PriorTensors, Row, check_tensors, seen
from promptgraft.spaces import InvalidInputError

Floats = npt.NDArray[np.float64]
POPULARITY, WEIGHTS, PLACES = "prior.popularity", "prior.weights", "prior.places"
# Logit of an item that the user had: users don't have one twice.
HAD = -30.0
# EASE's ridge penalty: on MovieLens 100K all from 100 to 800 serve about as well.
RIDGE = 300.0
# All weights of items on items are kept up to so many; beyond, the largest of each item, but no fewer than these.
MOST_WEIGHTS, LEAST_KEPT = 4_000_000, 50
# Users are divided in so many parts to fit the two factors, on so many rows and scores at most.
PARTS, MOST_ROWS, MOST_SCORES = 5, 1000, 2**25
# Long histories have larger sums: these are divided by this power of what their items count. Neighbours have the mean.
_SPREAD = {"neighbours": 1.0, "ease": 0.5}
# Items whose neighbours are computed together.
_TOGETHER = 512
_PENALTY = 1e-3


def fit_item_prior(name: str, recency: float, rows: PriorRows) -> PriorTensors:
    """Fit a prior of recommendations; see `HasPriors`.

    Raises:
        InvalidInputError: If there are more items than EASE takes.
    """
    n_items = len(rows.labels)
    if name == "ease" and n_items > MOST_OF_EASE:
        raise InvalidInputError(f"prior 'ease' takes at most {MOST_OF_EASE:,} items, got {n_items:,}; use 'neighbours'")
    places = {item: place for place, item in enumerate(rows.labels)}
    target = _items_of_users(rows.target, rows.labels, places)
    source = list(_items_of_users(rows.source, rows.source_labels, places).values())
    users = {user: number for number, user in enumerate(target)}
    chosen = rows.target[:: max(1, -(-len(rows.target) // min(MOST_ROWS, max(1, MOST_SCORES // n_items))))]
    found = np.zeros((2, len(chosen), n_items))
    for part in range(PARTS):
        others = [items for user, items in target.items() if users[user] % PARTS != part]
        own = [place for place, row in enumerate(chosen) if users[row.group] % PARTS == part]
        if own:
            counted = _count(name, _matrix(others, source, rows.alpha, n_items))
            histories = [_history(chosen[place], places) for place in own]
            found[0, own] = item_scores(name, recency, counted, histories)
            found[1, own] = counted[POPULARITY]
    factors = _factors(found, chosen, places)
    counted = _count(name, _matrix(list(target.values()), source, rows.alpha, n_items))
    scaled = {POPULARITY: counted[POPULARITY] * factors[1]}
    if WEIGHTS in counted:
        scaled[WEIGHTS] = counted[WEIGHTS] * factors[0]
    kept: dict[str, npt.NDArray[Any]] = {key: value.astype(np.float32) for key, value in scaled.items()}
    return kept | ({PLACES: counted[PLACES].astype(np.int32)} if PLACES in counted else {})


def item_logits(name: str, recency: float, tensors: PriorTensors, features: Sequence[tuple[int, ...]]) -> Outputs:
    """Compute the logits of all items; see `HasPriors.prior_logits`."""
    logits = item_scores(name, recency, tensors, features) + tensors[POPULARITY]
    for own, items in zip(logits, features, strict=True):
        own[list(items)] = HAD
    return logits.astype(np.float32)


def item_scores(name: str, recency: float, tensors: PriorTensors, features: Sequence[Sequence[int]]) -> Floats:
    """Add up what the items of histories say of all items; 0 for popularity alone; shape (rows, items)."""
    n_items = len(tensors[POPULARITY])
    found = np.zeros((len(features), n_items))
    for own, items in zip(found, features, strict=True):
        if WEIGHTS not in tensors or not items:
            continue
        counts = np.arange(1, len(items) + 1, dtype=np.float64) ** -recency
        counts /= counts.sum() ** _SPREAD[name]
        weighed = counts[:, None] * tensors[WEIGHTS][list(items)]
        if PLACES in tensors:
            own += np.bincount(tensors[PLACES][list(items)].ravel(), weighed.ravel(), n_items)
        else:
            own += weighed.sum(axis=0)
    return found


def check_item_prior(name: str, tensors: PriorTensors, n_labels: int) -> None:
    """Refuse tensors of another form; see `HasPriors.check_prior`."""
    kept = n_kept(n_labels)
    shapes: dict[str, tuple[int, ...]] = {POPULARITY: (n_labels,)}
    if name != "popularity":
        shapes |= dict.fromkeys([WEIGHTS] if kept == n_labels else [WEIGHTS, PLACES], (n_labels, kept))
    check_tensors(tensors, shapes, n_labels)


def n_kept(n_items: int) -> int:
    """Return of how many items an item's weights are kept."""
    return min(n_items, max(LEAST_KEPT, MOST_WEIGHTS // n_items))


def _items_of_users(rows: Sequence[Row], labels: Sequence[str], places: Mapping[str, int]) -> dict[str, set[int]]:
    """Return the places of the items that each user had."""
    found: dict[str, set[int]] = {}
    for row in rows:
        found.setdefault(row.group, set()).update([places[labels[row.label]], *_history(row, places)])
    return found


def _history(row: Row, places: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(places[name] for name in seen(row.fields) if name in places)


def _matrix(target: Sequence[set[int]], source: Sequence[set[int]], alpha: float, n_items: int) -> sparse.csr_matrix:
    """Return which users had which items, shape (users, items): the roots of what each user counts."""
    weights = (0.0, 1.0) if alpha == 1 else (1.0, alpha / (1 - alpha))
    users = [
        (items, weight) for part, weight in zip((target, source), weights, strict=True) for items in part if weight
    ]
    values = np.repeat([np.sqrt(weight) for _, weight in users], [len(items) for items, _ in users])
    columns = [item for items, _ in users for item in sorted(items)]
    ends = np.cumsum([0, *(len(items) for items, _ in users)])
    return sparse.csr_matrix((values, columns, ends), shape=(len(users), n_items))


def _count(name: str, users: sparse.csr_matrix) -> dict[str, Floats]:
    """Return log(1 + users) of each item, and what each item says of others, the largest of these by size."""
    sizes = np.asarray(users.multiply(users).sum(axis=0), dtype=np.float64).ravel()
    found = {POPULARITY: np.log1p(sizes)}
    if name == "popularity":
        return found
    kept, blocks = n_kept(users.shape[1]), _ease(users) if name == "ease" else _cosines(users, sizes)
    parts = [_largest(block, kept) for block in blocks]
    found[WEIGHTS] = np.concatenate([weights for weights, _ in parts])
    if kept < users.shape[1]:
        found[PLACES] = np.concatenate([places for _, places in parts])
    return found


def _cosines(users: sparse.csr_matrix, sizes: Floats) -> Iterator[Floats]:
    """Compare items by the cosine of their users; some rows after the other, shape (rows, items)."""
    norms, by_item = np.sqrt(sizes) + 1e-9, users.T.tocsr()
    for first in range(0, users.shape[1], _TOGETHER):
        block = (by_item[first : first + _TOGETHER] @ users).toarray()
        block /= norms[first : first + _TOGETHER, None] * norms
        block[np.arange(len(block)), np.arange(first, first + len(block))] = 0
        yield block


def _ease(users: sparse.csr_matrix) -> Iterator[Floats]:
    """Predict each item linearly by the others, in closed form (Steck 2019, arXiv:1905.03375, eq. 8)."""
    together = (users.T @ users).toarray()
    together[np.diag_indices_from(together)] += RIDGE
    inverse = np.linalg.inv(together)
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    yield weights


def _largest(block: Floats, kept: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return the largest values of each row by size, and where they are, both of shape (rows, kept)."""
    if kept == block.shape[1]:
        return block, np.zeros((len(block), 0), dtype=np.int64)
    places = np.sort(np.argpartition(-np.abs(block), kept, axis=1)[:, :kept], axis=1)
    return np.take_along_axis(block, places, axis=1), places


def _factors(found: Floats, rows: Sequence[Row], places: Mapping[str, int]) -> Floats:
    """Fit the factors of scores and popularity, the first at least 0.

    Args:
        found: Both for rows whose users weren't counted, shape (2, rows, items).
        rows: These rows.
        places: Item -> place.
    """
    chosen = np.array([row.label for row in rows])
    out = np.zeros(found.shape[1:])
    for own, row in zip(out, rows, strict=True):
        own[list(_history(row, places))] = HAD
    scales = found.std(axis=(1, 2)) + 1e-12
    own_scores = found[:, np.arange(len(rows)), chosen]

    def loss(factors: Floats) -> tuple[float, Floats]:
        logits = np.tensordot(factors / scales, found, 1) + out
        chances = softmax(logits, axis=1)
        value = -log_softmax(logits, axis=1)[np.arange(len(rows)), chosen].mean() + _PENALTY * factors @ factors
        gradient = (np.einsum("ri,fri->f", chances, found) - own_scores.sum(axis=1)) / len(rows) / scales
        return float(value), gradient + 2 * _PENALTY * factors

    best = minimize(loss, np.ones(2), jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)])
    return np.asarray(best.x / scales)

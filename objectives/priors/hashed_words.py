"""TF-IDF of words, of characters or of a history's items, read by logistic regression, as a prior of labels.

It knows what the pretrained model may not: the names, terms and language of these very rows. And it reads all of a long
history. Features are hashed (Weinberger et al. 2009, arXiv:0902.2206), so that a bundle needs no vocabulary.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.utils import murmurhash3_32

from promptgraft.objectives.data import SEPARATOR, Outputs, PriorRows, PriorTensors, Row, check_tensors, seen

WEIGHTS, BIAS, IDF = "prior.weights", "prior.bias", "prior.idf"
# Hashes of words and pairs, of runs of characters, or of items: 3.4 MB for 26 labels.
BUCKETS = 2**15
# The baseline's words: see `TextTask.fit_by_words`, and its inverse strength of the penalty.
_WORD = re.compile(r"(?u)\b\w\w+\b")
C = 10.0
# Lengths of the runs of characters that are read.
_RUNS = range(2, 6)
_Floats: TypeAlias = npt.NDArray[np.float64]
# With no more rows than this, logistic regression has as many weights as rows, not as buckets: much faster.
MOST_COMPACT = 2000


@dataclass(frozen=True, slots=True)
class _Known:
    """A row that is learnt from.

    Attributes:
        features: From `hashed`.
        labels: Names of its labels.
        judged: Names of the labels that it could have had: those of its task.
        weight: How much it counts.
    """

    features: tuple[int, ...]
    labels: frozenset[str]
    judged: frozenset[str]
    weight: float


def fit_word_prior(
    name: str, rows: PriorRows, target_labels: Sequence[str], *, one_label: bool = False
) -> dict[str, npt.NDArray[Any]]:
    """Fit logistic regression on the rows of the tasks; see `HasPriors.fit_prior`.

    Args:
        name: `words`, `characters` or `items`.
        rows: What it is fitted on.
        target_labels: Labels of the target.
        one_label: Whether a row has exactly one label. There is one model of all labels then, fitted on the target's
            rows and on those of the source whose label is the target's, too; otherwise one for each label.
    """
    known = _known_rows(name, rows.target, target_labels, float(rows.alpha < 1))
    known += _known_rows(
        name, rows.source, rows.source_labels, 1.0 if rows.alpha == 1 else rows.alpha / (1 - rows.alpha)
    )
    if one_label:
        known = [own for own in known if own.labels <= set(target_labels)]
    features = [own.features for own in known]
    idf = inverse_frequencies(features)
    if not known:
        shape = BUCKETS, len(rows.labels)
        return {WEIGHTS: np.zeros(shape, np.float32), BIAS: np.zeros(shape[1], np.float32), IDF: idf}
    read, back = _compact(tf_idf(features, idf))
    weights, bias = (_fit_together if one_label else _fit_each)(read, known, rows.labels)
    if back is not None:
        weights = back @ weights
    return {WEIGHTS: weights.astype(np.float32), BIAS: bias.astype(np.float32), IDF: idf}


def _known_rows(name: str, rows: Sequence[Row], labels: Sequence[str], weight: float) -> list[_Known]:
    """Return the rows of a task; none where they count nothing."""
    judged = frozenset(labels)
    return [
        _Known(hashed(name, row.fields), frozenset(labels[place] for place in answer), judged, weight)
        for row in rows
        if weight
        for answer in [row.answer if isinstance(row.answer, tuple) else (row.label,)]
    ]


def _fit_each(read: Any, known: Sequence[_Known], labels: Sequence[str]) -> tuple[_Floats, _Floats]:
    """Fit for each label whether a row has it; return weights, shape (features, labels), and bias, shape (labels,)."""
    from sklearn.linear_model import LogisticRegression  # Predicting needs none of it.

    weights, bias = np.zeros((read.shape[1], len(labels))), np.zeros(len(labels))
    for place, label in enumerate(labels):
        counts = np.array([own.weight * (label in own.judged) for own in known])
        true = np.array([label in own.labels for own in known])
        with_label = counts @ true
        if not 0 < with_label < counts.sum():
            bias[place] = np.log((with_label + 0.5) / (counts.sum() - with_label + 0.5))
            continue
        model = LogisticRegression(C=C, max_iter=1000, tol=1e-6).fit(read, true, counts)
        weights[:, place], bias[place] = model.coef_[0], model.intercept_[0]
    return weights, bias


def _fit_together(read: Any, known: Sequence[_Known], labels: Sequence[str]) -> tuple[_Floats, _Floats]:
    """Fit which label a row has; see `_fit_each`. A label that no row has is as likely as half a row."""
    from sklearn.linear_model import LogisticRegression

    counts = [own.weight for own in known]
    weights = np.zeros((read.shape[1], len(labels)))
    bias = np.full(len(labels), np.log(0.5 / (sum(counts) + 0.5)))
    answers = [labels.index(label) for own in known for label in own.labels]
    occurring = sorted(set(answers))
    if len(occurring) == 1:
        bias[occurring] = 0
        return weights, bias
    model = LogisticRegression(C=C, max_iter=1000, tol=1e-6).fit(read, answers, counts)
    if len(occurring) == 2:  # Then scikit-learn has one row of weights, for the second label.
        weights[:, occurring] = model.coef_.T * [-0.5, 0.5]
        bias[occurring] = model.intercept_ * [-0.5, 0.5]
    else:
        weights[:, occurring], bias[occurring] = model.coef_.T, model.intercept_
    return weights, bias


def _compact(known: sparse.csr_matrix) -> tuple[Any, _Floats | None]:
    """Turn few rows of many features into as many features as rows, on which a ridge penalty has the same optimum.

    Args:
        known: Shape (rows, buckets).

    Returns:
        The features, and what turns weights of these into weights of buckets, shape (buckets, features); the rows as
        they are, and None, where there are many.
    """
    if known.shape[0] > MOST_COMPACT:
        return known, None
    values, vectors = np.linalg.eigh((known @ known.T).toarray())
    kept = values > values.max() * 1e-10
    roots = np.sqrt(values[kept])
    return vectors[:, kept] * roots, known.T @ (vectors[:, kept] / roots)


def hashed(name: str, fields: Mapping[str, str]) -> tuple[int, ...]:
    """Return the numbers of a row's words and pairs of words, runs of characters, or items of its history.

    Args:
        name: `words`, `characters` or `items`.
        fields: Template field -> value.

    Returns:
        Ascending, each as often as it occurs.
    """
    if name == "items":
        return tuple(sorted(map(_bucket, seen(fields))))
    text = SEPARATOR.join(fields[field] for field in sorted(fields)).lower()
    if name == "words":
        words = _WORD.findall(text)
        return tuple(sorted(_bucket(token) for token in (*words, *(f"{one} {two}" for one, two in pairwise(words)))))
    return tuple(sorted(number for word in text.split() for number in _runs(word)))


def _bucket(token: str) -> int:
    return int(murmurhash3_32(token, positive=True)) % BUCKETS


@lru_cache(maxsize=2**16)
def _runs(word: str) -> tuple[int, ...]:
    """Return the numbers of a word's runs of characters; the space on both sides tells its start and end."""
    spaced = f" {word} "
    return tuple(
        _bucket(spaced[start : start + length]) for length in _RUNS for start in range(len(spaced) - length + 1)
    )


def inverse_frequencies(features: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
    """Return how rare each number is among rows, smoothed as scikit-learn's, shape (buckets,).

    What no row has gets 0, so that it isn't read: it would only make what is known of a text count less.
    """
    found = np.zeros(BUCKETS)
    for own in features:
        found[np.unique(own)] += 1
    return np.where(found > 0, np.log((1 + len(features)) / (1 + found)) + 1, 0).astype(np.float32)


def tf_idf(features: Sequence[Sequence[int]], idf: npt.NDArray[np.float32]) -> sparse.csr_matrix:
    """Return (1 + log counts) * idf, of unit length, shape (rows, buckets)."""
    columns, values = [], []
    for own in features:
        places, counts = np.unique(np.asarray(own, dtype=np.int64), return_counts=True)
        weights = (1 + np.log(counts)) * idf[places]
        columns.append(places)
        values.append(weights / max(1e-12, float(np.linalg.norm(weights))))
    ends = np.cumsum([0, *map(len, columns)])
    return sparse.csr_matrix((np.concatenate(values), np.concatenate(columns), ends), (len(features), BUCKETS))


def word_logits(tensors: PriorTensors, features: Sequence[tuple[int, ...]]) -> Outputs:
    """Compute the logits of all labels; see `HasPriors.prior_logits`."""
    found = np.tile(tensors[BIAS], (len(features), 1))
    for own, row in zip(found, features, strict=True):
        if row:
            read = tf_idf([row], tensors[IDF])
            own += (read.data[:, None] * tensors[WEIGHTS][read.indices]).sum(axis=0)
    return found.astype(np.float32)


def check_word_prior(tensors: PriorTensors, n_labels: int) -> None:
    """Refuse tensors of another form; see `HasPriors.check_prior`."""
    check_tensors(tensors, {WEIGHTS: (BUCKETS, n_labels), BIAS: (n_labels,), IDF: (BUCKETS,)})

"""Rows that say nearly the same, so that one of them gives the other away."""

import re
from collections.abc import Sequence

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import CountVectorizer

from promptgraft.objectives.data.tasks import Row

# Words in a shingle, and the share of shingles that two rows have in common from which on they are nearly the same.
SHINGLE_WORDS, THRESHOLD = 3, 0.7
# Rows compared at a time.
_CHUNK = 1024


def find_near_duplicates(rows: Sequence[Row], held_out: Sequence[Row]) -> set[int]:
    """Find the rows that are nearly the same as a held-out one.

    Two rows are if the Jaccard similarity of their sets of three words in a row (shingles; Broder 1997,
    doi:10.1109/SEQUEN.1997.666900) is at least 0.7, whatever case, white space and punctuation. In short texts one
    other word is enough to tell them apart, as it may be to change the label. Every pair is compared.

    Args:
        rows: The rows to look through.
        held_out: The rows that must not be given away.

    Returns:
        Indices into `rows`.
    """
    if not rows or not held_out:
        return set()
    vectorizer = CountVectorizer(analyzer=_shingles, binary=True, dtype=np.int32)
    kept = sparse.csc_array(vectorizer.fit_transform(held_out).T)
    sizes = np.asarray(kept.sum(axis=0)).ravel()
    found: set[int] = set()
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        common = sparse.coo_array(sparse.csr_array(vectorizer.transform(part)) @ kept)
        own = np.array([len(set(_shingles(row))) for row in part])
        either = own[common.row] + sizes[common.col] - common.data
        found |= {start + int(index) for index in common.row[common.data >= THRESHOLD * either]}
    return found


def _shingles(row: Row) -> list[str]:
    words = re.findall(r"\w+", " ".join(row.fields[name] for name in sorted(row.fields)).casefold())
    return [" ".join(words[i : i + SHINGLE_WORDS]) for i in range(max(1, len(words) - SHINGLE_WORDS + 1))]


def clusters(rows: Sequence[Row], groups: Sequence[str] | None = None) -> list[int]:
    """Number rows so that those that are nearly the same, or of one group, have one number.

    Args:
        rows: The rows; every pair is compared, see `find_near_duplicates`.
        groups: Group of each row, if they have any.

    Returns:
        A number for each row.
    """
    vectorizer = CountVectorizer(analyzer=_shingles, binary=True, dtype=np.int32)
    shingles = sparse.csr_array(vectorizer.fit_transform(rows))
    sizes = np.asarray(shingles.sum(axis=1)).ravel()
    links: list[tuple[int, int]] = []
    for start in range(0, len(rows), _CHUNK):
        common = sparse.coo_array(shingles[start : start + _CHUNK] @ shingles.T)
        first = common.row + start
        alike = common.data >= THRESHOLD * (sizes[first] + sizes[common.col] - common.data)
        links += zip(first[alike].tolist(), common.col[alike].tolist(), strict=True)
    seen: dict[str, int] = {}
    for index, group in enumerate(groups or ()):
        links.append((index, seen.setdefault(group, index)))
    ones = np.ones(len(links), dtype=np.int8)
    graph = sparse.coo_array((ones, tuple(zip(*links, strict=True))), shape=(len(rows), len(rows)))
    _, found = connected_components(graph, directed=False)
    numbers: list[int] = found.tolist()
    return numbers

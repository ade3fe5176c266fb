"""Rows that say nearly the same, so that one of them gives the other away."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import regex
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from promptgraft.objectives.data.rows import Answer, CleaningReport, Comparison, Row, row_key

# Words in a shingle, and the share of shingles that two texts have in common from which on they are nearly the same.
SHINGLE_WORDS, THRESHOLD = 3, 0.7
# Among so many words one number, symbol or emoticon may differ; a character of a script without spaces is half a word.
WORDS_PER_MARK = 100
# Shingles that stand in more than this share of the rows, and in more than so many, are a form's, not a row's.
FORM_SHARE, FORM_ROWS = 0.05, 10
# Of a longer field the beginning is compared.
MAX_CHARACTERS = 100_000
# Rows compared at a time.
_CHUNK = 1024
# Numbers of the first and of the second row of each pair, shape (pairs,) each.
_Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
# Takes rows and held-out ones; returns index of a row -> index of the held-out one that is nearly the same.
Finder: TypeAlias = Callable[[Sequence[Row], Sequence[Row]], dict[int, int]]
# Each character of a script without spaces counts as a word.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_CHARACTER = regex.compile(rf"[{_UNSPACED}]\p{{M}}*")
_WORD = regex.compile(rf"[{_UNSPACED}]\p{{M}}*|[\p{{L}}\p{{M}}--[{_UNSPACED}]]+", regex.V1)
_MARK = regex.compile(
    r"\p{N}+(?:[.,:/]\p{N}+)*"  # Numbers.
    r"|[:;=x8][-'^o~]*[)(\]\[dpos3$|/\\*@}{<>](?!\w)|[)(\]\[][-'^o~]*[:;=](?!\w)|<3"  # :-) :'( (: xD <3
    r"|(?<!\w)[o^>t;-][_.]+[o^<t;-](?!\w)"  # o_O ^_^ T_T
    r"|[\p{S}?%]|\#(?!\w)"  # Emoji and other symbols; what makes a question.
    r"|n['\u2019]t\b|\b(?:not?|never|nothing|nobody|cannot)\b|[\u4e0d\u6ca1\u65e0\u672a]"  # Negation.
)
# Copies of a tweet differ in these.
_IGNORED = regex.compile(r"https?://\S+|www\.\S+|\brt\b(?=\s*@)|@\w+")


def find_near_duplicates(
    rows: Sequence[Row], held_out: Sequence[Row], comparison: Comparison = "fields"
) -> dict[int, int]:
    """Find the rows that are nearly the same as a held-out one.

    Two rows are if each of their fields is. Two texts are if the Jaccard similarity of their sets of three words in a
    row (shingles; Broder 1997, doi:10.1109/SEQUEN.1997.666900) is at least 0.7, whatever case, white space and
    punctuation; phrases that one row in twenty has, such as those of a form, don't count. Numbers, symbols, emoji,
    emoticons, question marks and negations (English, Chinese) must be the same ones, but for one in 100 words. In short
    texts one other word is enough to tell them apart, as it may be to change the label. Labels aren't looked at. Every
    pair is compared.

    Args:
        rows: The rows to look through.
        held_out: The rows that must not be given away.
        comparison: `words`: by three words in a row of all fields together, and nothing else.

    Returns:
        Index into `rows` -> index into `held_out` of the first that is nearly the same.
    """
    if not rows or not held_out:
        return {}
    texts = _Texts([*rows, *held_out], comparison)
    found: dict[int, int] = {}
    for first, second in texts.pairs(range(len(rows)), range(len(rows), len(rows) + len(held_out))):
        found.setdefault(first, second - len(rows))
    return found


def drop_known(
    rows: Sequence[Row], held_out: Sequence[Row], comparison: Comparison = "fields", find: Finder | None = None
) -> tuple[list[Row], CleaningReport]:
    """Drop the rows that are held out, or nearly so.

    Args:
        rows: The rows.
        held_out: Those that must not be given away.
        comparison: How texts are compared.
        find: Does in the place of `find_near_duplicates`, where rows aren't texts.

    Returns:
        The rows that stay, and how many were dropped.
    """
    gone = {row_key(row) for row in held_out}
    kept = [row for row in rows if row_key(row) not in gone]
    alike = find(kept, held_out) if find else find_near_duplicates(kept, held_out, comparison)
    pairs = [(kept[row].answer, held_out[other].answer) for row, other in alike.items()]
    others = sum(_labels(own) != _labels(other) for own, other in pairs)
    report = CleaningReport(
        overlap=len(rows) - len(kept), near_duplicate=len(alike), near_duplicate_of_other_label=others
    )
    return [row for index, row in enumerate(kept) if index not in alike], report


def _labels(answer: Answer) -> object:
    """Return the labels of an answer, each once; None for a number or a text, which may differ a little."""
    return None if isinstance(answer, float | str) else frozenset(answer) if isinstance(answer, tuple) else answer


def clusters(rows: Sequence[Row], groups: Sequence[str] | None = None, comparison: Comparison = "fields") -> list[int]:
    """Number rows so that those that are nearly the same, or of one group, have one number.

    Args:
        rows: The rows; every pair is compared, see `find_near_duplicates`.
        groups: Group of each row, if they have any.
        comparison: See `find_near_duplicates`.

    Returns:
        A number for each row.
    """
    everything = range(len(rows))
    links = [*_Texts(rows, comparison).pairs(everything, everything)]
    seen: dict[str, int] = {}
    for index, group in enumerate(groups or ()):
        links.append((index, seen.setdefault(group, index)))
    first, second = zip(*links, strict=True)
    graph = sparse.coo_array((np.ones(len(links), dtype=np.int8), (first, second)), shape=(len(rows), len(rows)))
    _, found = connected_components(graph, directed=False)
    numbers: list[int] = found.tolist()
    return numbers


@dataclass(frozen=True, slots=True)
class _Field:
    """What is compared of a field, row by row.

    Attributes:
        shingles: Which shingles a row has, shape (rows, shingles).
        marks: Which marks it has, shape (rows, marks).
        allowed: Number of marks that only one of two texts may have, shape (rows,): 2 where one is another.
    """

    shingles: sparse.csr_array
    marks: sparse.csr_array
    allowed: npt.NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[str], comparison: Comparison) -> "_Field":
        """Read a field of all rows."""
        if comparison == "words":
            shingles = _which(_shingles(re.findall(r"\w+", text.casefold())) for text in texts)
            return cls(shingles, _which([] for _ in texts), np.zeros(len(texts), dtype=np.int64))
        cleaned = [unicodedata.normalize("NFKC", text[:MAX_CHARACTERS]).casefold() for text in texts]
        cleaned = [_IGNORED.sub(" ", text).strip() or text for text in cleaned]
        words = [_WORD.findall(text) for text in cleaned]
        marks = _which(_marks(text) for text in cleaned)
        lengths = [sum(0.5 if _CHARACTER.fullmatch(word) else 1.0 for word in own) for own in words]
        allowed = np.array([2 * (length // WORDS_PER_MARK) for length in lengths], dtype=np.int64)
        return cls(_without_forms(_which(_shingles(own) for own in words)), marks, allowed)

    def alike(self, pairs: _Pairs, common: npt.NDArray[np.int64] | None = None) -> _Pairs:
        """Keep the pairs of rows whose texts are nearly the same.

        Args:
            pairs: The pairs.
            common: Number of shingles that the rows of each have in common, if that is known.
        """
        first, second = pairs
        common = _common(self.shingles, pairs) if common is None else common
        sizes = np.asarray(self.shingles.sum(axis=1)).ravel()
        close = common >= THRESHOLD * (sizes[first] + sizes[second] - common)
        first, second = first[close], second[close]
        marks = np.asarray(self.marks.sum(axis=1)).ravel()
        different = marks[first] + marks[second] - 2 * _common(self.marks, (first, second))
        same = different <= np.minimum(self.allowed[first], self.allowed[second])
        return first[same], second[same]


class _Texts:
    """Rows, ready to be compared with each other."""

    def __init__(self, rows: Sequence[Row], comparison: Comparison) -> None:
        names = sorted(set(rows[0].fields).intersection(*(row.fields for row in rows)))
        columns = [[row.fields[name] for row in rows] for name in names]
        if not columns:  # Rows of tasks that have no field in common.
            columns = [["\n".join(row.fields.values()) for row in rows]]
        if comparison == "words":
            columns = [[" ".join(texts) for texts in zip(*columns, strict=True)]]
        fields = [_Field.of(texts, comparison) for texts in columns]
        # That with the fewest pairs that have a shingle in common is looked through for pairs; the others are checked.
        self._fields = sorted(fields, key=lambda field: float((field.shingles.sum(axis=0).astype(float) ** 2).sum()))

    def pairs(self, rows: range, others: range) -> Iterator[tuple[int, int]]:
        """Yield all pairs of a row and another one that are nearly the same; of a row and itself, too."""
        shingles = self._fields[0].shingles
        kept = sparse.csc_array(shingles[others.start : others.stop].T)
        for start in range(rows.start, rows.stop, _CHUNK):
            common = sparse.coo_array(shingles[start : min(start + _CHUNK, rows.stop)] @ kept)
            found = (common.row + start).astype(np.int64), (common.col + others.start).astype(np.int64)
            found = self._fields[0].alike(found, common.data)
            for field in self._fields[1:]:
                found = field.alike(found)
            yield from zip(found[0].tolist(), found[1].tolist(), strict=True)


def _which(rows: Iterable[Iterable[str]]) -> sparse.csr_array:
    """Return which items each row has, shape (rows, different items), of ones and zeros."""
    known: dict[str, int] = {}
    items, ends = list[int](), [0]
    for row in rows:
        items += sorted({known.setdefault(item, len(known)) for item in row})
        ends.append(len(items))
    ones = np.ones(len(items), dtype=np.int32)
    return sparse.csr_array((ones, np.array(items, dtype=np.int64), ends), shape=(len(ends) - 1, max(1, len(known))))


def _marks(text: str) -> list[str]:
    """Return the marks of a text; of negations, which are words, each once more for each time that it occurs."""
    found = _MARK.findall(text)
    return [f"{mark} {found[:place].count(mark)}" if mark.isalpha() else mark for place, mark in enumerate(found)]


def _shingles(words: Sequence[str]) -> list[str]:
    return [" ".join(words[i : i + SHINGLE_WORDS]) for i in range(max(1, len(words) - SHINGLE_WORDS + 1))]


def _without_forms(shingles: sparse.csr_array) -> sparse.csr_array:
    """Leave out shingles that many rows have; rows that have no others keep theirs."""
    rows = shingles.shape[0]
    common = np.asarray(shingles.sum(axis=0)).ravel() > max(FORM_ROWS, FORM_SHARE * rows)
    own = shingles @ sparse.diags_array((~common).astype(np.int32), dtype=np.int32)
    bare = np.asarray(own.sum(axis=1)).ravel() == 0
    return sparse.csr_array(own + sparse.diags_array(bare.astype(np.int32), dtype=np.int32) @ shingles)


def _common(items: sparse.csr_array, pairs: _Pairs) -> npt.NDArray[np.int64]:
    """Count the items that both rows of each pair have, shape (pairs,)."""
    counts: npt.NDArray[np.int64] = np.asarray(items[pairs[0]].multiply(items[pairs[1]]).sum(axis=1)).ravel()
    return counts

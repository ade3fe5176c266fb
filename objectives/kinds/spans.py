"""Spans of a text: how they are written in tables, and as a tag for each word in the BIO scheme.

Tag 0 is that of words in no span; tags 2n + 1 and 2n + 2 are those of the first and of further words in a span of the
label with number n.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from promptgraft.objectives.data import Span, entries_in, label_text, shown_entry

# A word: letters and digits, or one character where no spaces are written between words, or any other sign.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]")

# Of a span that is an object.
_PARTS = ("start", "end", "label")

Tags = npt.NDArray[np.int64]


def word_places(text: str) -> list[tuple[int, int]]:
    """Return where each word of a text begins and ends; white space is in none."""
    return [found.span() for found in _WORD.finditer(text)]


def spans_in(cell: str, text: str) -> list[Span]:
    """Read a cell: a JSON list of objects with start, end and label, or of lists of these.

    A label is a text, or a whole number, which becomes one.

    Args:
        cell: The cell.
        text: The text that its spans are places of; an object whose `text` isn't what stands there is no span.

    Raises:
        ValueError: If it is no such list, with the reason.
    """
    return sorted((_span_in(entry, text) for entry in entries_in(cell)), key=lambda span: (span.start, span.end))


def _span_in(entry: Any, text: str) -> Span:
    said = None
    if isinstance(entry, dict):
        if lacking := [name for name in _PARTS if name not in entry]:
            raise ValueError(f"{shown_entry(entry)} has no {lacking[0]!r}")
        said, entry = entry.get("text"), [entry[name] for name in _PARTS]
    if not isinstance(entry, list) or len(entry) != len(_PARTS):
        hint = "; tags of words are read from .conll files" if isinstance(entry, str | int) else ""
        raise ValueError(f"{shown_entry(entry)} is no span{hint}")
    start, end, label = entry
    if type(start) is not int or type(end) is not int:
        raise ValueError(f"start and end are {shown_entry(start)} and {shown_entry(end)}, not whole numbers")
    there = text[max(0, start) : end].strip()
    if isinstance(said, str) and said.strip() != there:
        raise ValueError(f"from {start} to {end} the text is {shown_entry(there)}, not {shown_entry(said)}")
    return Span(start, end, label_text(label))


def in_cell(spans: Iterable[object], text: str) -> str:
    """Write spans as a cell that `spans_in` reads, with what they say."""
    found = [asdict(own) | {"text": text[own.start : own.end]} for own in spans if isinstance(own, Span)]
    return json.dumps(found, ensure_ascii=False)


def tags_of(text: str, spans: Sequence[Span], index: Mapping[str, int]) -> tuple[int, ...] | None:
    """Return the tag of each word; a span has all words that it touches. None if it is outside, or two overlap."""
    words, last = word_places(text), 0
    tags = [0] * len(words)
    for span in spans:
        inside = [place for place, (first, end) in enumerate(words) if first < span.end and end > span.start]
        if not last <= span.start < span.end <= len(text) or not inside or tags[inside[0]]:
            return None
        last = span.end
        for place in inside if span.label in index else ():
            tags[place] = 2 * index[span.label] + (1 if place == inside[0] else 2)
    return tuple(tags)


def spans_of(tags: Tags) -> Tags:
    """Find the spans in rows of tags, as seqeval does: where the first word has no such tag, too.

    Returns:
        Row, first word, last word and number of the label, from 1 on, of each span; shape (spans, 4).
    """
    labels = (tags + 1) // 2
    before = np.pad(labels, ((0, 0), (1, 0)))[:, :-1]
    begins = (labels > 0) & ((tags % 2 == 1) | (labels != before))
    goes_on = np.pad((labels > 0) & ~begins, ((0, 0), (0, 1)))[:, 1:]
    rows, first = np.nonzero(begins)
    _, last = np.nonzero((labels > 0) & ~goes_on)
    return np.stack([rows, first, last, labels[begins]], axis=1)

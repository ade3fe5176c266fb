"""Prompts as token ids, those of labelled rows with their labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from promptgraft.objectives.data import IGNORED, Answer


class Loss(Protocol):
    """A loss, such as torch's `cross_entropy`."""

    def __call__(self, logits: Tensor, targets: Tensor, /, *, weight: Tensor | None = None) -> Tensor:
        """Return the mean loss, shape ().

        Args:
            logits: Shape (rows, labels), or (rows, words, labels).
            targets: Index of each row's label, shape (rows,), or of each word's, shape (rows, words); or 1 for each
                label that applies and 0 for the others, shape (rows, labels).
            weight: What a row of each label counts, shape (labels,); all the same if None.
        """


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """One prompt as token ids.

    Attributes:
        ids: Token ids.
        demonstrations: How many stand in front of the row's own prompt.
        demonstration_tokens: How many of the tokens are theirs.
        words: Where the first token of each word of the row's text is, -1 for one that the prompt has no room for; in
            kinds of task with an output for each word.
        features: What a prior reads of the row; None where the candidate has no prior.
        is_view: Whether it is an image that was changed at random, of which nothing is known from other trials.
    """

    ids: tuple[int, ...]
    demonstrations: int = 0
    demonstration_tokens: int = 0
    words: tuple[int, ...] | None = None
    features: tuple[int, ...] | None = None
    is_view: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedRow(EncodedPrompt):
    """The prompt of a labelled row.

    Attributes:
        answer: The row's, see `Row`; `IGNORED` for a word that the prompt has no room for.
    """

    answer: Answer

    @property
    def label(self) -> int:
        """Index of the label, in kinds of task where each row has exactly one."""
        assert isinstance(self.answer, int), "the task's rows have one label each"
        return self.answer

    @classmethod
    def of(cls, prompt: EncodedPrompt, answer: Answer) -> "EncodedRow":
        """Put a row's answer to its prompt."""
        if isinstance(answer, tuple) and prompt.words is not None:
            answer = tuple(own if at >= 0 else IGNORED for own, at in zip(answer, prompt.words, strict=True))
        own = (prompt.ids, prompt.demonstrations, prompt.demonstration_tokens, prompt.words, prompt.features)
        return cls(*own, answer=answer)

    @classmethod
    def pack(cls, rows: "Sequence[EncodedRow]") -> dict[str, Tensor]:
        """Put rows into tensors: `ids` of all rows in one, the others of shape (rows,).

        Of rows with several labels, `labels` holds those of all, and `label_counts` how many each row has; `words` as
        many places.
        """
        numbers = {"ids": [token for row in rows for token in row.ids], "lengths": [len(row.ids) for row in rows]}
        if any(row.demonstrations for row in rows):
            numbers["demonstrations"] = [row.demonstrations for row in rows]
            numbers["demonstration_tokens"] = [row.demonstration_tokens for row in rows]
        features = [row.features for row in rows if row.features is not None]
        if features:
            numbers["features"] = [number for own in features for number in own]
            numbers["feature_counts"] = [len(own) for own in features]
        found = {name: torch.tensor(values, dtype=torch.int32) for name, values in numbers.items()}
        several = [row.answer for row in rows if isinstance(row.answer, tuple)]
        if several:
            found["labels"] = torch.tensor([label for own in several for label in own], dtype=torch.int32)
            found["label_counts"] = torch.tensor([len(own) for own in several], dtype=torch.int32)
            words = [place for row in rows for place in row.words or ()]
            return found | ({"words": torch.tensor(words, dtype=torch.int32)} if words else {})
        answers = [row.answer for row in rows]
        is_number = any(isinstance(answer, float) for answer in answers)
        return found | {"labels": torch.tensor(answers, dtype=torch.float64 if is_number else torch.int32)}

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor]) -> "list[EncodedRow]":
        """Take rows out of tensors; see `pack`."""
        ids, ends = tensors["ids"].tolist(), tensors["lengths"].cumsum(0).tolist()
        none = torch.zeros_like(tensors["lengths"])
        shown = zip(
            *(tensors.get(name, none).tolist() for name in ("demonstrations", "demonstration_tokens")), strict=True
        )
        answers: list[Answer] = tensors["labels"].tolist()
        words: list[tuple[int, ...] | None] = [None] * len(ends)
        features = _cut(tensors, "features", "feature_counts") or [None] * len(ends)
        if "label_counts" in tensors:
            stops = [0, *tensors["label_counts"].cumsum(0).tolist()]
            labels = tensors["labels"].tolist()
            answers = [tuple(labels[start:end]) for start, end in pairwise(stops)]
            if "words" in tensors:
                places = tensors["words"].tolist()
                words = [tuple(places[start:end]) for start, end in pairwise(stops)]
        parts = zip(pairwise([0, *ends]), shown, words, features, answers, strict=True)
        return [
            cls(tuple(ids[start:end]), number, tokens, own, read, answer=answer)
            for (start, end), (number, tokens), own, read, answer in parts
        ]


def _cut(tensors: Mapping[str, Tensor], name: str, counts: str) -> list[tuple[int, ...] | None]:
    """Cut numbers of all rows into those of each; nothing if there are none."""
    if counts not in tensors:
        return []
    numbers, stops = tensors[name].tolist(), [0, *tensors[counts].cumsum(0).tolist()]
    return [tuple(numbers[start:end]) for start, end in pairwise(stops)]


def count_answers(rows: Sequence[EncodedRow]) -> int:
    """Return how many answers there are to learn from: one a row, or one a word that is read."""
    return sum(1 if row.words is None else sum(place >= 0 for place in row.words) for row in rows)


def answer_tokens(rows: Sequence[EncodedPrompt], device: torch.device) -> Tensor | None:
    """Return the answers of rows as token ids, padded with `IGNORED`, (rows, tokens); None if they aren't known."""
    known = [torch.tensor(row.answer, device=device) for row in rows if isinstance(row, EncodedRow)]
    return pad_sequence(known, batch_first=True, padding_value=IGNORED) if len(known) == len(rows) else None


def answer_length(row: EncodedPrompt) -> int:
    """Return how many tokens of an answer are run behind a prompt."""
    return len(row.answer) if isinstance(row, EncodedRow) and isinstance(row.answer, tuple) else 0

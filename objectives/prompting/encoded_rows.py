"""Prompts as token ids, those of labelled rows with their labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from promptgraft.objectives.data import Answer


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """One prompt as token ids.

    Attributes:
        ids: Token ids.
        demonstrations: How many stand in front of the row's own prompt.
        demonstration_tokens: How many of the tokens are theirs.
    """

    ids: tuple[int, ...]
    demonstrations: int = 0
    demonstration_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedRow(EncodedPrompt):
    """The prompt of a labelled row.

    Attributes:
        answer: The row's; see `Row`.
    """

    answer: Answer

    @property
    def label(self) -> int:
        """Index of the label, in kinds of task where each row has exactly one."""
        assert isinstance(self.answer, int), "the task's rows have one label each"
        return self.answer

    @classmethod
    def pack(cls, rows: "Sequence[EncodedRow]") -> dict[str, Tensor]:
        """Put rows into tensors: `ids` of all rows in one, the others of shape (rows,).

        Of rows with several labels, `labels` holds those of all, and `label_counts` how many each row has.
        """
        numbers = {"ids": [token for row in rows for token in row.ids], "lengths": [len(row.ids) for row in rows]}
        if any(row.demonstrations for row in rows):
            numbers["demonstrations"] = [row.demonstrations for row in rows]
            numbers["demonstration_tokens"] = [row.demonstration_tokens for row in rows]
        found = {name: torch.tensor(values, dtype=torch.int32) for name, values in numbers.items()}
        several = [row.answer for row in rows if isinstance(row.answer, tuple)]
        if several:
            found["labels"] = torch.tensor([label for own in several for label in own], dtype=torch.int32)
            found["label_counts"] = torch.tensor([len(own) for own in several], dtype=torch.int32)
            return found
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
        if "label_counts" in tensors:
            stops = [0, *tensors["label_counts"].cumsum(0).tolist()]
            labels = tensors["labels"].tolist()
            answers = [tuple(labels[start:end]) for start, end in pairwise(stops)]
        return [
            cls(tuple(ids[start:end]), *demonstrations, answer=answer)
            for (start, end), demonstrations, answer in zip(pairwise([0, *ends]), shown, answers, strict=True)
        ]

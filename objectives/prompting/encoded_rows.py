"""Prompts as token ids, those of labelled rows with their labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


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
        label: Index of the label.
    """

    label: int

    @classmethod
    def pack(cls, rows: "Sequence[EncodedRow]") -> dict[str, Tensor]:
        """Put rows into tensors: `ids` of all rows in one, the others of shape (rows,)."""
        numbers = {
            "ids": [token for row in rows for token in row.ids],
            "lengths": [len(row.ids) for row in rows],
            "labels": [row.label for row in rows],
        }
        if any(row.demonstrations for row in rows):
            numbers["demonstrations"] = [row.demonstrations for row in rows]
            numbers["demonstration_tokens"] = [row.demonstration_tokens for row in rows]
        return {name: torch.tensor(values, dtype=torch.int32) for name, values in numbers.items()}

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor]) -> "list[EncodedRow]":
        """Take rows out of tensors; see `pack`."""
        ids, ends = tensors["ids"].tolist(), tensors["lengths"].cumsum(0).tolist()
        none = torch.zeros_like(tensors["labels"])
        columns = ("demonstrations", "demonstration_tokens", "labels")
        numbers = zip(*(tensors.get(name, none).tolist() for name in columns), strict=True)
        return [
            cls(tuple(ids[start:end]), demonstrations, tokens, label=label)
            for (start, end), (demonstrations, tokens, label) in zip(pairwise([0, *ends]), numbers, strict=True)
        ]

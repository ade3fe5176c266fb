"""Boxes around what images show: how they are written in tables, and kept as text."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from promptgraft.objectives.data.labels import entries_in, label_text, shown_entry

# Left, top, width and height in pixels, and what is in the box.
LabelledBox: TypeAlias = tuple[float, float, float, float, str]
# Pixels by which a box may stand out of its image, as rounding makes it.
ROUNDING = 1.0


@dataclass(frozen=True)
class Boxes:
    """The boxes of an image.

    Attributes:
        size: Height and width of the image.
        corners: Left, top, width and height of each, as shares of the image's width and height; shape (boxes, 4).
        labels: Index of each one's label, shape (boxes,).
    """

    size: tuple[int, int]
    corners: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]


def boxes_in(cell: str) -> list[LabelledBox]:
    """Read a cell of a table: a JSON list of objects with `box` and `label`, or of lists of both.

    A box is a list of left, top, width and height in pixels, of which the last two are above 0; a label is a text, or a
    whole number, which becomes one.

    Raises:
        ValueError: If it is no such list, with the reason.
    """
    return [_box_in(entry) for entry in entries_in(cell)]


def _box_in(entry: Any) -> LabelledBox:
    if isinstance(entry, Mapping):
        if lacking := [name for name in ("box", "label") if name not in entry]:
            raise ValueError(f"{shown_entry(entry)} has no {lacking[0]!r}")
        entry = [entry["box"], entry["label"]]
    if not isinstance(entry, list) or len(entry) != 2:
        raise ValueError(f"{shown_entry(entry)} is no box with a label")
    numbers, label = entry[0], label_text(entry[1])
    are_numbers = isinstance(numbers, list) and all(type(own) in (int, float) and math.isfinite(own) for own in numbers)
    if not are_numbers or len(numbers) != 4:
        raise ValueError(f"the box {shown_entry(numbers)} is no list of four numbers")
    left, top, width, height = map(float, numbers)
    if not (width > 0 and height > 0):
        raise ValueError(f"the box {shown_entry(numbers)} has no width or height")
    return left, top, width, height, label


def boxes_as_answer(
    boxes: Sequence[tuple[float, float, float, float, int]], size: tuple[int, int] | None = None
) -> str:
    """Return boxes as text.

    Args:
        boxes: Left, top, width and height in pixels, and the index of the label.
        size: Height and width of their image; None where these aren't known yet.
    """
    return json.dumps({"size": size, "boxes": [list(own) for own in boxes]})


def sized(answer: str, size: tuple[int, int]) -> str:
    """Return boxes with the size of their image; see `boxes_as_answer`."""
    return json.dumps(json.loads(answer) | {"size": size})


def mirrored_boxes(answer: str) -> str:
    """Return the boxes of an image whose left and right are exchanged; see `boxes_as_answer`."""
    content = json.loads(answer)
    width = content["size"][1]
    boxes = [[width - left - wide, top, wide, high, label] for left, top, wide, high, label in content["boxes"]]
    return json.dumps(content | {"boxes": boxes})


def is_outside(boxes: Boxes) -> bool:
    """Whether a box stands out of its image by more than rounding makes."""
    margin = ROUNDING / np.array(boxes.size[::-1])
    ends = boxes.corners[:, :2] + boxes.corners[:, 2:]
    return bool((boxes.corners[:, :2] < -margin).any() or (ends > 1 + margin).any())


@lru_cache(maxsize=65_536)
def boxes_of(answer: str) -> Boxes:
    """Read boxes that have the size of their image; see `boxes_as_answer`."""
    content = json.loads(answer)
    height, width = content["size"]
    numbers = np.array(content["boxes"], dtype=np.float64).reshape(-1, 5)
    return Boxes((height, width), numbers[:, :4] / [width, height, width, height], numbers[:, 4].astype(np.int64))


@lru_cache(maxsize=65_536)
def labels_in(answer: str) -> tuple[int, ...]:
    """Return the labels of boxes, each once, in ascending order; see `boxes_as_answer`."""
    return tuple(sorted({int(own[4]) for own in json.loads(answer)["boxes"]}))

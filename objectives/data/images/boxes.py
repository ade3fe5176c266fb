"""Boxes around what images show: how they are written in tables and in COCO's files, and kept as text."""

import gzip
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from promptgraft.spaces import InvalidInputError

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


def boxes_in(cell: str) -> list[LabelledBox] | None:
    """Read a cell of a table: a JSON list of objects with `box` and `label`, or of lists of both; None if it is none.

    A box is a list of left, top, width and height in pixels, of which the last two are above 0.
    """
    try:
        entries = json.loads(cell)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entries, list):
        return None
    found = [_box_in(entry) for entry in entries]
    known = [own for own in found if own is not None]
    return known if len(known) == len(found) else None


def _box_in(entry: Any) -> LabelledBox | None:
    if isinstance(entry, Mapping):
        entry = [entry.get("box"), entry.get("label")]
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], list) or len(entry[0]) != 4:
        return None
    numbers, label = entry
    are_numbers = all(type(own) in (int, float) and math.isfinite(own) for own in numbers)
    if type(label) is int:
        label = str(label)
    if not are_numbers or not isinstance(label, str):
        return None
    left, top, width, height = map(float, numbers)
    return (left, top, width, height, label.strip()) if width > 0 and height > 0 and label.strip() else None


def coco_rows(path: Path) -> list[dict[str, str]] | None:
    """Read a COCO file of boxes, `.json` or `.json.gz`, as rows with the columns `image` and `boxes`.

    Groups (`iscrowd`) are left out, and what belongs to images that the file doesn't list.

    Returns:
        None if it has another suffix, or holds a list of rows: it is a table then.

    Raises:
        InvalidInputError: If it isn't one, two images have the same id, or a box has no numbers or an unknown category.
    """
    if not path.name.lower().endswith((".json", ".json.gz")) or not path.is_file():
        return None
    try:
        content = json.loads(_content(path))
        if isinstance(content, list):
            return None
        names = {str(own["id"]): str(own["name"]) for own in content["categories"]}
        images = [(str(own["id"]), str(own["file_name"])) for own in content["images"]]
        annotations = [own for own in content["annotations"] if not own.get("iscrowd")]
        parents = [str(own["image_id"]) for own in annotations]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidInputError(
            f"{path}: is no COCO file of boxes, with images, annotations and categories ({type(error).__name__}: "
            f"{error}); write one, or a table with a column of images and one of boxes"
        ) from error
    boxes: dict[str, list[dict[str, object]]] = {}
    for number, name in images:
        if number in boxes:
            raise InvalidInputError(f"{path}: two images have the id {number}, such as {name}; give each its own")
        boxes[number] = []
    if annotations and boxes.keys().isdisjoint(parents):
        raise InvalidInputError(
            f"{path}: no annotation is of an image that the file lists: the first one's image_id is {parents[0]}, the "
            f"first image's id {next(iter(boxes), 'missing')}; put the ids right"
        )
    for own, parent in zip(annotations, parents, strict=True):
        where, category = f"{path}: annotation {own.get('id', '?')} of image {parent}", str(own.get("category_id"))
        if category not in names:
            raise InvalidInputError(f"{where} has the category_id {category}, which `categories` doesn't list; add it")
        if not isinstance(own.get("bbox"), list):
            raise InvalidInputError(f"{where} has no bbox, of left, top, width and height in pixels; add or delete it")
        boxes.get(parent, []).append({"box": own["bbox"], "label": names[category]})
    return [{"image": name, "boxes": json.dumps(boxes[number])} for number, name in images]


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix.lower() == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInputError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from error


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

"""COCO files of boxes as tables; what doesn't fit together is refused by its name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptgraft.objectives.data.table_files import decompressed, suffixes_of
from promptgraft.objectives.data.text_files import decoded
from promptgraft.spaces import InvalidInputError

# Ids that errors show.
_SHOWN = 3


def coco_rows(path: Path) -> list[dict[str, str]] | None:
    """Read a COCO file of boxes, `.json` or compressed, as rows with the columns `image` and `boxes`.

    Groups (`iscrowd`) are left out, and so are annotations of images that the file doesn't list, where others fit.

    Returns:
        None if it is a table: of another kind than JSON, no such file, or a list of rows, or one in each line.

    Raises:
        InvalidInputError: If it isn't one, ids stand twice, no annotation is of an image in the file, or one has no box
            or an unknown category.
    """
    kind, compression = suffixes_of(str(path))
    if kind != ".json" or not path.is_file():
        return None
    try:
        packed = decompressed(path.read_bytes(), compression)
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from error
    text = ""
    try:
        text = decoded(packed)
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if _is_object(text.strip().partition("\n")[0]):
            return None
        raise _not_coco(path, str(error)) from error
    if isinstance(content, list):
        return None
    files = _names_by_id(path, content, "images", "file_name")
    names = _names_by_id(path, content, "categories", "name")
    boxes: dict[str, list[dict[str, object]]] = {number: [] for number in files}
    annotations = [own for own in _listed(path, content, "annotations") if not own.get("iscrowd")]
    if annotations and not any(_id(own.get("image_id")) in files for own in annotations):
        raise InvalidInputError(
            f"{path}: no annotation is of an image that the file lists: the first one's image_id is "
            f"{annotations[0].get('image_id')}, the first image's id {next(iter(files), 'missing')}; put the ids right"
        )
    for own in annotations:
        category = own.get("category_id")
        where = f"{path}: annotation {own.get('id', '?')} of image {own.get('image_id')}"
        if _id(category) not in names:
            raise InvalidInputError(
                f"{where} has the category_id {category}, which `categories` doesn't list: its ids are "
                f"{_examples(names)}; add it, or remove the annotation"
            )
        if not isinstance(own.get("bbox"), list):
            raise InvalidInputError(
                f"{where} has no bbox, of left, top, width and height in pixels; add one, or remove the annotation"
            )
        boxes.get(_id(own.get("image_id")), []).append({"box": own["bbox"], "label": names[_id(category)]})
    return [{"image": file, "boxes": json.dumps(boxes[number])} for number, file in files.items()]


def _not_coco(path: Path, reason: str) -> InvalidInputError:
    return InvalidInputError(
        f"{path}: is no COCO file of boxes, with images, annotations and categories ({reason}); write one, or a table "
        "with a column of images and one of boxes"
    )


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _listed(path: Path, content: Any, part: str) -> list[dict[str, Any]]:
    found = content.get(part) if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(own, dict) for own in found):
        raise _not_coco(path, f"it has no list of objects named {part!r}")
    return found


def _id(value: object) -> str:
    """Return an id as text, since some programs write numbers and others texts; empty if it is neither."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if type(value) in (int, str) else ""


def _names_by_id(path: Path, content: Any, part: str, key: str) -> dict[str, str]:
    """Return what images or categories are called, by their ids, of which each has one of its own."""
    found: dict[str, str] = {}
    for place, own in enumerate(_listed(path, content, part), 1):
        number, name = _id(own.get("id")), _id(own.get(key))
        if not number or not name:
            wrong = "id" if not number else key
            raise InvalidInputError(
                f"{path}: number {place} of the {part} has the {wrong} {own.get(wrong)!r}; expected a whole number or "
                "a text"
            )
        if number in found:
            raise InvalidInputError(f"{path}: two {part} have the id {number}, such as {name}; give each its own")
        found[number] = name
    return found


def _examples(ids: Mapping[str, object]) -> str:
    shown = ", ".join(list(ids)[:_SHOWN])
    return f"{shown} and so on" if len(ids) > _SHOWN else shown or "none"

"""COCO files are read as tables; what doesn't fit together in one is refused by its name."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptgraft.objectives.data import coco_rows
from promptgraft.spaces import InvalidInputError

Content = dict[str, list[dict[str, Any]]]


def content() -> Content:
    return {
        "images": [{"id": 10, "file_name": "a.png"}, {"id": 11, "file_name": "b.png"}],
        "annotations": [
            {"id": 1, "image_id": 10, "category_id": 3, "bbox": [5, 6, 20, 15]},
            {"id": 2, "image_id": 11, "category_id": 7, "bbox": [1, 2, 3, 4]},
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    }


ROWS = [
    {"image": "a.png", "boxes": '[{"box": [5, 6, 20, 15], "label": "cat"}]'},
    {"image": "b.png", "boxes": '[{"box": [1, 2, 3, 4], "label": "dog"}]'},
]


def written(folder: Path, change: Callable[[Content], object]) -> Path:
    changed = content()
    change(changed)
    (folder / "coco.json").write_text(json.dumps(changed))
    return folder / "coco.json"


def set_to(part: str, place: int, **values: Any) -> Callable[[Content], object]:
    return lambda own: own[part][place].update(values)


@pytest.mark.parametrize("name", ["coco.json", "COCO.JSON", "coco.json.gz", "COCO.JSON.GZ"])
def test_a_file_is_read_however_it_is_named_or_compressed(name: str, tmp_path: Path) -> None:
    whole = json.dumps(content()).encode()
    (tmp_path / name).write_bytes(gzip.compress(whole) if name.lower().endswith(".gz") else whole)
    assert coco_rows(tmp_path / name) == ROWS


def test_a_list_of_objects_is_a_table_and_no_coco_file(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text('\n[{"image": "a.png", "boxes": []}]')
    assert coco_rows(tmp_path / "table.json") is None
    assert coco_rows(tmp_path / "absent.json") is None
    assert coco_rows(tmp_path / "table.csv") is None


def test_an_object_in_each_line_is_a_table_and_no_coco_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("\n".join(map(json.dumps, ROWS)) + "\n")
    assert coco_rows(path) is None


def test_names_that_are_numbers_and_ids_that_are_texts_are_read(tmp_path: Path) -> None:
    rows = coco_rows(written(tmp_path, set_to("images", 0, file_name=1)))
    assert rows is not None
    assert rows[0]["image"] == "1"
    rows = coco_rows(written(tmp_path, set_to("categories", 0, name=3)))
    assert rows is not None
    assert json.loads(rows[0]["boxes"])[0]["label"] == "3"
    for change in (
        set_to("annotations", 0, image_id="10", category_id="3"),
        set_to("images", 0, id="10"),
        set_to("categories", 0, id="3"),
        set_to("annotations", 0, category_id=3.0),
    ):
        assert coco_rows(written(tmp_path, change)) == ROWS


def test_groups_and_annotations_of_images_that_were_taken_out_are_left_out(tmp_path: Path) -> None:
    group = {"image_id": 10, "category_id": 99, "iscrowd": 1, "bbox": {}}
    other = {"image_id": 999, "category_id": 3, "bbox": [0, 0, 1, 1]}
    assert coco_rows(written(tmp_path, lambda own: own["annotations"].extend([group, other]))) == ROWS
    rows = [ROWS[0], {"image": "b.png", "boxes": "[]"}]
    assert coco_rows(written(tmp_path, set_to("annotations", 1, image_id=999))) == rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_to("images", 1, id=10), "two images have the id 10, such as b.png; give each its own"),
        (set_to("images", 1, id="10"), "two images have the id 10, such as b.png"),
        (set_to("categories", 1, id=3), "two categories have the id 3, such as dog"),
        (set_to("images", 1, id=[11]), r"number 2 of the images has the id \[11\]; expected a whole number or a text"),
        (set_to("images", 0, file_name=None), "number 1 of the images has the file_name None; expected a whole number"),
        (
            lambda own: [annotation.update(image_id=999) for annotation in own["annotations"]],
            "no annotation is of an image that the file lists: the first one's image_id is 999, the first image's",
        ),
        (
            lambda own: own.update(images=[{"id": 3, "file_name": "a.png"}]),
            "the first one's image_id is 10, the first image's id 3; put the ids right",
        ),
        (lambda own: own.update(images=[]), "the first image's id missing"),
        (
            set_to("annotations", 0, category_id=99),
            "annotation 1 of image 10 has the category_id 99, which `categories` doesn't list: its ids are 3, 7;",
        ),
        (set_to("annotations", 0, category_id=[3]), r"has the category_id \[3\], which"),
        (set_to("annotations", 0, bbox=None), "annotation 1 of image 10 has no bbox, of left, top, width and height"),
        (lambda own: own["annotations"][0].pop("bbox"), "annotation 1 of image 10 has no bbox"),
        (lambda own: own.update(categories={}), "it has no list of objects named 'categories'"),
        (lambda own: own["images"].append(3), "it has no list of objects named 'images'"),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_fit_together_is_refused(
    change: Callable[[Content], object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        coco_rows(written(tmp_path, change))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "coco.json"
    for damaged in (b'{"images": [', b"\xff\xfe{", b'{"images": ' + b"[" * 100_000, b"3"):
        path.write_bytes(damaged)
        with pytest.raises(InvalidInputError, match="is no COCO file of boxes"):
            coco_rows(path)
    packed = tmp_path / "boxes.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(content()).encode())[:-9])
    with pytest.raises(InvalidInputError, match=r"boxes\.json\.gz: can't be read"):
        coco_rows(packed)

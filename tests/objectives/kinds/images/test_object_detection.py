"""Boxes in images: which rows can be used, what is measured, and what is said of an image."""

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from transformers import AutoModelForObjectDetection

from promptgraft.objectives.data import Box, Row, TaskSpec, boxes_as_answer, boxes_of, rows_hash
from promptgraft.objectives.kinds import detection_loss, detection_targets
from promptgraft.objectives.kinds.images.average_precision import overlaps
from promptgraft.objectives.kinds.images.object_detection import ObjectDetection
from promptgraft.objectives.measures.kind_checks import check_task_kind
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.spaces import InvalidInputError
from tests.support.images import HEIGHT, WIDTH, spec_of_boxes, write_boxed
from tests.support.models import TinyModels

LABELS = ("blue", "red")


def test_the_kind_keeps_to_the_contract(tmp_path: Path, tiny_models: TinyModels) -> None:
    check_task_kind(spec_of_boxes(write_boxed(tmp_path)), BackboneSpec(tiny_models["detection"], "detection"))


def test_rows_whose_boxes_cannot_serve_are_dropped_and_counted(tmp_path: Path) -> None:
    table = write_boxed(tmp_path)
    cells: list[Any] = [
        [{"box": [1, 1, -3, 4], "label": "red"}],
        [{"box": [1, 1, 3], "label": "red"}],
        [{"box": [1, 1, 3, 4]}],
        "no list",
        "[" * 2000,
        [{"box": [True, 1, 3, 4], "label": "red"}],
        [{"box": [30, 1, 12, 4], "label": "red"}],
        [{"box": [-5, 1, 12, 4], "label": "red"}],
        [],
        [[[0, 0, WIDTH + 0.5, HEIGHT], "red"]],
    ]
    with table.open("a") as file:
        for number, cell in enumerate(cells, 100):
            pixels = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
            file.write(json.dumps({"image": f"pictures/{number}.png", "boxes": cell}) + "\n")
        file.write(json.dumps({"image": "pictures/none.png", "boxes": []}) + "\n")
    task = ObjectDetection.load_target(spec_of_boxes(table), 0)
    found = task.cleaning
    assert (found.invalid_label, found.box_outside_image, found.unreadable_image) == (6, 2, 1)
    assert task.labels == LABELS
    assert len(task.labelled) + len(task.test) == 42


def test_a_coco_file_is_a_table(tmp_path: Path) -> None:
    table = write_boxed(tmp_path)
    content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    content["categories"] = [{"id": 7, "name": "blue"}, {"id": 3, "name": "red"}]
    numbers = {"blue": 7, "red": 3}
    for image, line in enumerate(table.read_text().splitlines()):
        row = json.loads(line)
        content["images"].append({"id": image, "file_name": row["image"]})
        for own in row["boxes"]:
            entry = {"image_id": image, "bbox": own["box"], "category_id": numbers[own["label"]]}
            content["annotations"].append(entry)
    crowd = {"image_id": 0, "bbox": [0, 0, 9, 9], "category_id": 7, "iscrowd": 1}
    content["annotations"].append(crowd)
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content))
    first, second = (ObjectDetection.load_target(spec_of_boxes(own), 0) for own in (table, path))
    assert rows_hash(first.labelled) == rows_hash(second.labelled)
    listed = tmp_path / "list.json"
    listed.write_text(f"[{','.join(table.read_text().splitlines())}]")
    assert rows_hash(ObjectDetection.load_target(spec_of_boxes(listed), 0).labelled) == rows_hash(first.labelled)
    with pytest.raises(InvalidInputError, match="has the columns image and boxes, and no column 'trees'"):
        ObjectDetection.load_target(replace(spec_of_boxes(path), label="trees"), 0)
    path.write_text('{"images": []}')
    with pytest.raises(InvalidInputError, match="is no COCO file of boxes"):
        ObjectDetection.load_target(spec_of_boxes(path), 0)


def test_shares_of_an_image_are_no_boxes_and_numbers_may_be_labels() -> None:
    spec = TaskSpec("none", {"image": "image"}, "boxes", kind="object_detection")

    def read(*cells: str) -> tuple[str, ...]:
        return ObjectDetection.read_answers(cells, spec, None, choosing=False, texts=[])[1]

    with pytest.raises(InvalidInputError, match=r"no box is larger than a pixel, such as \[0\.1, 0\.2, 0\.5, 0\.3\]"):
        read('[{"box": [0.1, 0.2, 0.5, 0.3], "label": "cat"}]', "[]")
    assert read('[{"box": [0, 0, 0.5, 3], "label": 4}, {"box": [0, 0, 1, 1], "label": "cat"}]') == ("4", "cat")


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("[{'box': [1, 2, 3, 4], 'label': 'red'}]", "it is no JSON, in which texts stand in double quotation marks"),
        ('[{"bbox": [1, 2, 3, 4], "label": "red"}]', '{"bbox": [1, 2, 3, 4], "label": "red"} has no \'box\''),
        ("[[1, 2, 3, 4]]", "[1, 2, 3, 4] is no box with a label"),
        ('[[[1, 2, 3], "red"]]', "the box [1, 2, 3] is no list of four numbers"),
        ('[[[1, 2, -3, 4], "red"]]', "the box [1, 2, -3, 4] has no width or height"),
        ("[[[1, 2, 3, 4], 0.5]]", "the label 0.5 is no text and no whole number"),
    ],
)
def test_the_reason_is_said_where_no_cell_can_be_read(cell: str, reason: str, tmp_path: Path) -> None:
    table = write_boxed(tmp_path, 1)
    table.write_text(json.dumps({"image": "pictures/0.png", "boxes": cell}) + "\n")
    with pytest.raises(InvalidInputError) as caught:
        ObjectDetection.load_target(spec_of_boxes(table), 0)
    assert f": {reason})" in str(caught.value)


def rewritten(table: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    for row in rows:
        for box in row["boxes"]:
            change(box)
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return table


def test_labels_that_are_whole_numbers_are_texts(tmp_path: Path) -> None:
    table = rewritten(write_boxed(tmp_path), lambda box: box.update(label=LABELS.index(box["label"])))
    assert ObjectDetection.load_target(spec_of_boxes(table), 0).labels == ("0", "1")


def test_boxes_that_are_shares_are_refused(tmp_path: Path) -> None:
    table = rewritten(write_boxed(tmp_path), lambda box: box.update(box=[own / WIDTH for own in box["box"]]))
    with pytest.raises(
        InvalidInputError, match=r"no box is larger than a pixel, such as \[0\.\d+, .*not as shares of the"
    ):
        ObjectDetection.load_target(spec_of_boxes(table), 0)


def rows_of(folder: Path, random: np.random.Generator, count: int = 6) -> list[Row]:
    rows = []
    for number in range(count):
        height, width = (int(own) for own in random.integers(50, 90, 2))
        Image.new("RGB", (width, height)).save(folder / f"{number}.png")
        boxes = [(*own.tolist(), int(random.integers(2))) for own in random.uniform(5, 24, (number % 3, 4))]
        answer = boxes_as_answer(boxes, (height, width))  # type: ignore[arg-type]
        rows.append(Row({"image": str(folder / f"{number}.png")}, answer))
    return rows


@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_those_of_coco_in_pixels(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    rows = rows_of(tmp_path, random, 4)
    rows += rows[:2]  # As where images are drawn with replacement.
    task = ObjectDetection(LABELS, tuple(rows))
    outputs = random.normal(size=(6, 5, 7)).astype(np.float32)
    known: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": [{"id": 0}, {"id": 1}]}
    said = []
    for image, row in enumerate(rows):
        boxes = boxes_of(str(row.answer))
        height, width = boxes.size
        known["images"].append({"id": image})
        scale = np.array([width, height, width, height])
        outputs[image, :, 3:] = random.uniform(0.2, 0.6, (5, 4))
        for own, label in zip(boxes.corners, boxes.labels, strict=True):
            outputs[image, len(known["annotations"]) % 5, 3:] = [*(own[:2] + own[2:] / 2), *own[2:] * 0.9]
            area = float((own * scale)[2:].prod())
            entry = {"image_id": image, "category_id": int(label), "bbox": (own * scale).tolist(), "area": area}
            known["annotations"].append(entry | {"id": len(known["annotations"]) + 1, "iscrowd": 0})
        chances = task.expected(outputs[image : image + 1])[0, :, :2]
        for chance, box in zip(chances, outputs[image, :, 3:].astype(np.float64), strict=True):
            corners = np.array([*(box[:2] - box[2:] / 2), *box[2:]]) * scale
            said.append([image, *corners, chance.max(), chance.argmax()])
    with redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {"info": {}, **known}
        reference.createIndex()
        evaluator = COCOeval(reference, reference.loadRes(np.array(said)), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    found = task.measure(outputs, rows)
    assert found["map"] == pytest.approx(max(0.0, evaluator.stats[0]), abs=1e-6)
    assert found["map_50"] == pytest.approx(max(0.0, evaluator.stats[1]), abs=1e-6)
    assert found["map_50"] > 0


def test_the_loss_is_that_of_the_model(tiny_models: TinyModels, tmp_path: Path) -> None:
    model = AutoModelForObjectDetection.from_pretrained(tiny_models["detection"]).eval()
    rows = rows_of(tmp_path, np.random.default_rng(0))
    targets = detection_targets([str(row.answer) for row in rows])
    labels = [{"class_labels": own[own[:, 0] >= 0, 0].long(), "boxes": own[own[:, 0] >= 0, 1:]} for own in targets]
    with torch.no_grad():
        found = model(torch.rand(6, 3, 32, 32), labels=labels)
    outputs = torch.cat([found.logits, found.pred_boxes], dim=-1)
    assert float(detection_loss(outputs, targets)) == pytest.approx(float(found.loss), abs=1e-5)
    sure = torch.full((6, 5, 7), 0.0)
    sure[..., 2] = 20.0
    for place, own in enumerate(targets):
        for query, box in enumerate(own[own[:, 0] >= 0]):
            sure[place, query, :3] = 0
            sure[place, query, int(box[0])] = 20.0
            sure[place, query, 3:] = box[1:]
    assert float(detection_loss(sure, targets)) < 1e-3
    task = ObjectDetection(LABELS, tuple(rows))
    assert task.measure(sure.numpy(), rows)["map"] == pytest.approx(1.0)


def test_predictions_are_boxes_in_pixels_the_surest_first(tmp_path: Path) -> None:
    Image.new("RGB", (100, 50)).save(tmp_path / "image.png")
    task = ObjectDetection(LABELS, ())
    outputs = np.zeros((1, 3, 7), dtype=np.float32)
    outputs[0, :, :3] = [[1, 0, 0], [0, 5, 0], [0, 0, 9]]
    outputs[0, :, 3:] = [[0.5, 0.5, 0.2, 0.4], [0.1, 0.2, 0.4, 0.4], [0.5, 0.5, 1, 1]]
    (found,) = task.predict(task.expected(outputs), [{"image": str(tmp_path / "image.png")}])
    assert isinstance(found, tuple)
    first, second = found
    assert isinstance(first, Box)
    assert isinstance(second, Box)
    assert (first.label, second.label) == ("red", "blue")
    assert (first.x, first.y, first.width, first.height) == pytest.approx((0, 0, 30, 20), abs=1e-4)
    assert (second.x, second.y, second.width, second.height) == pytest.approx((40, 15, 20, 20), abs=1e-4)
    (cell,) = task.columns(task.expected(outputs), [{"image": str(tmp_path / "image.png")}])["boxes"]
    assert [own["label"] for own in json.loads(cell)] == ["red", "blue"]
    assert task.described(task.expected(outputs), [{}]) == ["1 red, 1 blue"]


def test_overlaps_of_boxes() -> None:
    one, other = np.array([[0.0, 0, 2, 2]]), np.array([[0.0, 0, 2, 2], [1, 1, 2, 2], [5, 5, 1, 1]])
    np.testing.assert_allclose(overlaps(one, other), [[1, 1 / 7, 0]])


def test_baselines_without_a_model(tmp_path: Path) -> None:
    task = ObjectDetection.load_target(spec_of_boxes(write_boxed(tmp_path)), 0)
    nearest = task.fit_by_words(task.labelled, task.labelled)  # Each is nearest to itself.
    assert task.measure(nearest, task.labelled)["map"] > 0.99
    constant = task.measure(task.constant(task.test), task.test)
    assert 0 <= constant["map"] < 0.5
    row = task.test[0]
    drawn = task.picture(row, task.expected(task.constant([row])))
    assert drawn is not None
    assert Image.open(io.BytesIO(drawn)).width > 500
    assert task.show(row).split(" ")[1].strip(",") in LABELS


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("head", "probe", "finds boxes"),
        ("head", "label_words", "reads an image as a whole"),
        ("calibration", "batch", "exactly one label"),
        ("class_weights", "balanced", "exactly one label"),
        ("decoding.beams", 3, "not texts"),
    ],
)
def test_what_does_not_apply_is_refused(name: str, value: object, reason: str) -> None:
    assert reason in str(ObjectDetection.refuses(name, value))


def test_a_label_without_a_box_to_train_on_has_no_mean_box(tmp_path: Path) -> None:
    """As where a fold holds out all rows of it."""
    task = ObjectDetection.load_target(spec_of_boxes(write_boxed(tmp_path)), 0)
    blue = tuple(row for row in task.labelled if ObjectDetection.labels_of(row.answer) == (0,))
    assert len(blue) > 1
    outputs = replace(task, train=blue).constant(task.test)
    assert np.isfinite(outputs).all()
    assert outputs[0, 1, 1] < outputs[0, 1, 2], "nothing is likelier than the label"

"""Masks of images: which rows can be used, what is measured, and how maps become pixels."""

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score
from torch.nn import functional

from promptgraft.objectives.data import Row, as_data, mask_as_data, mask_in, rows_hash
from promptgraft.objectives.kinds.images.cells import of_pixels
from promptgraft.objectives.kinds.images.semantic_segmentation import SemanticSegmentation
from promptgraft.objectives.measures.kind_checks import check_task_kind
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.spaces import InvalidInputError
from tests.support.images import CLASSES, draw_masked, spec_of_masks, write_masked
from tests.support.models import TinyModels


def test_the_kind_keeps_to_the_contract(tmp_path: Path, tiny_models: TinyModels) -> None:
    check_task_kind(spec_of_masks(write_masked(tmp_path)), BackboneSpec(tiny_models["segmentation"], "segmentation"))


def test_rows_whose_mask_cannot_serve_are_dropped_and_counted(tmp_path: Path) -> None:
    table = write_masked(tmp_path)
    masks = tmp_path / "masks"
    (masks / "text.png").write_text("no mask")
    Image.fromarray(np.zeros((40, 35), dtype=np.uint8)).save(masks / "narrow.png")
    Image.fromarray(np.full((40, 36), 3, dtype=np.uint8)).save(masks / "other.png")
    Image.fromarray(np.full((40, 36), 255, dtype=np.uint8)).save(masks / "nothing.png")
    Image.fromarray(np.zeros((40, 36, 3), dtype=np.uint8)).save(masks / "colours.png")
    Image.fromarray(np.full((40, 36), 300, dtype=np.uint16)).save(masks / "large.png")
    Image.fromarray(draw_masked(0)[1]).save(masks / "photo.jpg")
    names = ["text.png", "narrow.png", "other.png", "nothing.png", "colours.png", "large.png", "photo.jpg", "none.png"]
    with table.open("a") as file:
        for number, name in enumerate(names, 100):
            Image.fromarray(draw_masked(number)[0]).save(tmp_path / "pictures" / f"{number}.png")
            file.write(f"pictures/{number}.png,masks/{name}\n")
        file.write("pictures/none.png,masks/0.png\npictures/0.png,\n")
    task = SemanticSegmentation.load_target(spec_of_masks(table), 0)
    found = task.cleaning
    assert (found.unreadable_mask, found.mask_of_other_size, found.invalid_label) == (4, 1, 3)
    assert (found.unreadable_image, found.missing_label) == (1, 1)
    assert "4 unreadable mask, 1 mask of other size" in str(found)
    assert task.labels == CLASSES
    assert len(task.labelled) + len(task.test) == 40


@pytest.mark.parametrize(
    ("changed", "suffix", "message"),
    [
        (
            lambda mask: np.where(mask == 0, 0, 255),
            ".png",
            "such as in the mask of .*png, are 'red', write 2 in their place",
        ),
        (
            lambda mask: np.where(mask == 255, 0, mask * 100),
            ".png",
            "which holds the numbers 0, 100; write those of the classes, or name",
        ),
        (
            lambda mask: np.stack([mask] * 3, axis=-1),
            ".png",
            "its pixels are of the mode RGB, not one number each; write",
        ),
        (
            lambda mask: mask,
            ".jpg",
            "JPEG files don't keep numbers; write a PNG file",
        ),
    ],
)
def test_the_reason_is_said_where_no_mask_can_serve(
    changed: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]], suffix: str, message: str, tmp_path: Path
) -> None:
    table = write_masked(tmp_path, 6)
    for number in range(6):
        mask = changed(np.where(draw_masked(number)[1] == 0, 0, 1 + number % 2)).astype(np.uint8)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}{suffix}")
    table.write_text(table.read_text().replace(".png\n", f"{suffix}\n"))
    with pytest.raises(InvalidInputError, match=message) as caught:
        SemanticSegmentation.load_target(spec_of_masks(table), 0)
    assert str(tmp_path / "masks" / f"0{suffix}") in str(caught.value) or "pictures/0.png" in str(caught.value)


def test_masks_are_what_their_files_hold(tmp_path: Path) -> None:
    first = SemanticSegmentation.load_target(spec_of_masks(write_masked(tmp_path / "one")), 0)
    table = write_masked(tmp_path / "two")
    for path in (tmp_path / "two" / "masks").iterdir():  # Numbers that a palette gives colours to.
        mask = Image.open(path)
        mask.putpalette([own for colour in range(256) for own in (colour, 255 - colour, 0)])
        mask.save(path)
    second = SemanticSegmentation.load_target(spec_of_masks(table), 0)
    assert rows_hash(first.labelled) == rows_hash(second.labelled)
    (row, *_) = [own for own in first.labelled if own.fields["image"].endswith("/3.png")] or first.labelled
    number = int(Path(row.fields["image"]).stem)
    assert np.array_equal(mask_in(str(row.answer)), draw_masked(number)[1])
    changed = draw_masked(number)[1]
    changed[5, 5] = 2
    Image.fromarray(changed).save(tmp_path / "two" / "masks" / f"{number}.png")
    third = SemanticSegmentation.load_target(spec_of_masks(table), 0)
    assert rows_hash([*first.labelled, *first.test]) != rows_hash([*third.labelled, *third.test])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "`labels` must name 2 to 254 of them, that of number 0 first, got none"),
        (("ground",), "got 1"),
        (("ground", "blue", "blue"), "names 'blue' twice"),
    ],
)
def test_labels_must_name_the_classes(labels: tuple[str, ...] | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=message):
        SemanticSegmentation.load_target(spec_of_masks(write_masked(tmp_path), labels=labels), 0)


def test_masks_of_one_class_are_refused(tmp_path: Path) -> None:
    table = write_masked(tmp_path)
    for path in (tmp_path / "masks").iterdir():
        Image.fromarray(np.zeros((40, 36), dtype=np.uint8)).save(path)
    with pytest.raises(InvalidInputError, match="masks of at least two classes after cleaning, found 'ground'"):
        SemanticSegmentation.load_target(spec_of_masks(table), 0)


@pytest.mark.parametrize(("side", "height", "width"), [(8, 32, 32), (8, 41, 29), (8, 5, 6), (1, 4, 3), (16, 16, 16)])
def test_maps_become_pixels_as_torch_interpolates(side: int, height: int, width: int) -> None:
    cells = np.random.default_rng(0).normal(size=(side * side, 3))
    maps = torch.from_numpy(cells.T.reshape(1, 3, side, side).copy())
    expected = functional.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)[0]
    np.testing.assert_allclose(of_pixels(cells, height, width), expected.numpy(), atol=1e-12)


def mask_of(row: Row) -> npt.NDArray[np.uint8]:
    return mask_in(str(row.answer))


@pytest.mark.parametrize("seed", range(4))
def test_metrics_are_those_of_scikit_learn_on_the_masks_that_are_written(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    rows: list[Row] = []
    for number in range(5):
        size = tuple(random.integers(20, 40, 2))
        mask = random.integers(0, 3, size).astype(np.uint8)  # Label 3 is in no mask, and perhaps in no prediction.
        mask[random.random(size) < 0.1] = 255
        path = tmp_path / f"{number}.png"
        Image.fromarray(random.integers(0, 255, (*size, 3)).astype(np.uint8)).save(path)
        rows.append(Row({"image": str(path)}, mask_as_data(mask)))
    task = SemanticSegmentation(("a", "b", "c", "d"), tuple(rows))
    outputs = random.normal(size=(5, 49, 4)).astype(np.float32)
    outputs[..., 3] -= 50 * (seed % 2)
    found = task.measure(outputs, rows)
    written = [mask_in(str(own)) for own in task.predict(task.expected(outputs), [row.fields for row in rows])]
    said, true = (np.concatenate([own.reshape(-1) for own in masks]) for masks in (written, map(mask_of, rows)))
    scored = true != 255
    assert found["mean_iou"] == pytest.approx(jaccard_score(true[scored], said[scored], average="macro"))
    assert found["pixel_accuracy"] == pytest.approx(accuracy_score(true[scored], said[scored]))
    losses = []
    for own, row in zip(outputs, rows, strict=True):
        mask = torch.from_numpy(mask_of(row).astype(np.int64))
        maps = torch.from_numpy(own.T.reshape(1, 4, 7, 7).copy()).double()
        pixels = functional.interpolate(maps, size=mask.shape, mode="bilinear", align_corners=False)
        losses.append((functional.cross_entropy(pixels, mask[None], ignore_index=255, reduction="sum"), mask != 255))
    loss = sum(float(own) for own, _ in losses) / sum(int(scored.sum()) for _, scored in losses)
    assert found["loss"] == pytest.approx(loss, abs=1e-9)


def test_predictions_have_the_size_of_their_images_the_way_up_that_they_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(draw_masked(0)[0]).save(path, exif=exif)
    task = SemanticSegmentation(CLASSES, ())
    expected = task.expected(np.random.default_rng(0).normal(size=(2, 16, 3)).astype(np.float32))
    texts = [{"image": str(path)}, {"image": as_data(str(path))}]
    said = task.predict(expected[[0, 0]], texts)
    assert said[0] == said[1]
    assert mask_in(str(said[0])).shape == (36, 40)
    described = task.described(expected, texts)
    assert all(own.count("%") <= 3 for own in described)


def test_models_of_finer_and_coarser_maps_are_averaged() -> None:
    task = SemanticSegmentation(CLASSES, ())
    coarse, fine = (np.random.default_rng(0).normal(size=(2, own, 3)).astype(np.float32) for own in (16, 64))
    found = task.expected(task.combine([coarse, fine], [0.25, 0.75]))
    finer = np.stack([of_pixels(own.astype(np.float64), 8, 8).reshape(3, 64).T for own in coarse]).astype(np.float32)
    np.testing.assert_allclose(found, 0.25 * task.expected(finer) + 0.75 * task.expected(fine), atol=1e-6)


def test_baselines_without_a_model_know_places_and_colours(tmp_path: Path) -> None:
    task = SemanticSegmentation.load_target(spec_of_masks(write_masked(tmp_path)), 0)
    constant = task.measure(task.constant(task.test), task.test)
    colours = task.measure(task.fit_by_words(task.labelled, task.test), task.test)
    assert colours["mean_iou"] > 0.6 > constant["mean_iou"]
    assert constant["pixel_accuracy"] > 0.5


def test_the_worst_rows_are_drawn(tmp_path: Path) -> None:
    task = SemanticSegmentation.load_target(spec_of_masks(write_masked(tmp_path)), 0)
    row = task.test[0]
    expected = task.expected(task.constant([row]))
    drawn = task.picture(row, expected)
    assert drawn is not None
    picture = Image.open(BytesIO(drawn))
    assert picture.width > 3 * picture.height / 2
    assert task.picture(replace(row, fields={"image": str(tmp_path / "none.png")}), expected) is None
    assert "ground" in task.show(row)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("head", "probe", "reads an image as a whole"),
        ("head", "label_words", "reads an image as a whole"),
        ("demonstrations.count", 2, "needs texts"),
        ("calibration", "batch", "exactly one label"),
        ("contrastive_steps", 20, "exactly one label"),
        ("self_training", 0.9, "exactly one label"),
        ("decoding.beams", 3, "not texts"),
    ],
)
def test_what_does_not_apply_is_refused(name: str, value: object, reason: str) -> None:
    assert reason in str(SemanticSegmentation.refuses(name, value))


def test_baselines_that_read_an_image_as_a_whole_do_not_apply() -> None:
    refused = ("zero_shot", "linear_probe", "linear_probe_with_source", "contrastive", "contrastive_source")
    assert all(map(SemanticSegmentation.refuses_baseline, refused))
    assert not SemanticSegmentation.refuses_baseline("full_fine_tuning")

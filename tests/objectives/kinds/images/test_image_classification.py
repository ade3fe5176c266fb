"""Images with one label each: which rows can be used, what gives a held-out image away, what needs words."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from promptgraft.objectives.backbones import FAMILIES, Architecture, check_candidate
from promptgraft.objectives.data import TASK_KINDS, rows_hash
from promptgraft.objectives.kinds.images.image_classification import ImageClassification
from promptgraft.objectives.measures.kind_checks import check_task_kind
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.spaces import InvalidInputError
from tests.support.images import LABELS, draw, spec_of_images, write_images
from tests.support.models import TinyModels


@pytest.mark.parametrize("family", ["vit", "convolutional", "clip"])
def test_the_kind_keeps_to_the_contract(family: str, tmp_path: Path, tiny_models: TinyModels) -> None:
    check_task_kind(spec_of_images(write_images(tmp_path)), BackboneSpec(tiny_models[family], family))


def test_rows_whose_image_cannot_be_read_are_dropped_and_counted(tmp_path: Path) -> None:
    table = write_images(tmp_path)
    rows = len(table.read_text().splitlines()) - 1
    (tmp_path / "pictures" / "text.png").write_text("no image")
    whole = (tmp_path / "pictures" / "0.png").read_bytes()
    (tmp_path / "pictures" / "cut.png").write_bytes(whole[: len(whole) // 2])
    names = ["pictures/text.png", "pictures/cut.png", "pictures/none.png", "pictures"]
    with table.open("a") as file:
        file.writelines(f"{name},red\n" for name in names)
        file.write(",red\npictures/1.png,\n")
    task = ImageClassification.load_target(spec_of_images(table), 0)
    cleaning = task.cleaning
    assert (cleaning.unreadable_image, cleaning.missing_text, cleaning.missing_label) == (4, 1, 1)
    assert "4 unreadable image" in str(cleaning)
    assert cleaning.unread.startswith(f"{table}: row {rows + 1}: {tmp_path / 'pictures' / 'text.png'}: not an image")
    assert task.labels == LABELS
    assert all(Path(row.fields["image"]).is_absolute() for row in task.labelled)


def test_where_no_image_can_be_read_one_says_why(tmp_path: Path) -> None:
    for where, reason in (("pictures", "0.png: there is no such file"), ("https://example.com", "aren't fetched")):
        table = tmp_path / "table.csv"
        table.write_text("image,colour\n" + "".join(f"{where}/{i}.png,{LABELS[i % 3]}\n" for i in range(30)))
        said = f"dropped: 30 unreadable image; the first that can't be read is in row 1: .*{reason}"
        with pytest.raises(InvalidInputError, match=said):
            ImageClassification.load_target(spec_of_images(table), 0)


def test_rows_are_told_apart_by_what_their_files_hold(tmp_path: Path) -> None:
    table = write_images(tmp_path)
    pictures = tmp_path / "pictures"
    shutil.copyfile(pictures / "0.png", pictures / "copy.png")
    shutil.copyfile(pictures / "1.png", pictures / "otherwise.png")
    with table.open("a") as file:
        file.write("pictures/copy.png,blue\npictures/otherwise.png,red\n")
    task = ImageClassification.load_target(spec_of_images(table), 0)
    assert (task.cleaning.duplicate, task.cleaning.conflicting) == (1, 2)
    moved = write_images(tmp_path / "elsewhere")
    elsewhere = ImageClassification.load_target(spec_of_images(moved), 0)
    first = ImageClassification.load_target(spec_of_images(write_images(tmp_path / "first")), 0)
    assert rows_hash(elsewhere.labelled) == rows_hash(first.labelled)
    Image.fromarray(draw(0, seed=9)).save(tmp_path / "first" / "pictures" / "0.png")
    changed = ImageClassification.load_target(spec_of_images(tmp_path / "first" / "table.csv"), 0)
    assert rows_hash([*changed.labelled, *changed.test]) != rows_hash([*first.labelled, *first.test])


def test_a_copy_of_a_test_image_in_another_size_is_not_trained_on(tmp_path: Path) -> None:
    table, held_out = write_images(tmp_path / "train"), tmp_path / "test"
    held_out.mkdir()
    Image.fromarray(draw(6)).resize((72, 80)).save(held_out / "larger.jpg", quality=95)
    Image.fromarray(draw(7, seed=5)).save(held_out / "other.png")
    (held_out / "table.csv").write_text("image,colour\nlarger.jpg,blue\nother.png,green\n")
    task = ImageClassification.load_target(spec_of_images(table, test=str(held_out / "table.csv"), test_rows=None), 0)
    assert task.cleaning.near_duplicate == 1
    assert "6.png" not in {Path(row.fields["image"]).name for row in task.labelled}


def test_a_folder_for_each_label_is_a_table(tmp_path: Path) -> None:
    table = write_images(tmp_path / "table")
    folder = tmp_path / "folders"
    for line in table.read_text().splitlines()[1:]:
        name, label = line.split(",")
        (folder / label).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(table.parent / name, folder / label / Path(name).name)
    spec = replace(spec_of_images(folder), label="label")
    task = ImageClassification.load_target(spec, 0)
    other = ImageClassification.load_target(spec_of_images(table), 0)
    assert {row.content for row in (*task.labelled, *task.test)} == {
        row.content for row in (*other.labelled, *other.test)
    }
    assert Counter(row.label for row in task.test) == {0: 4, 1: 4, 2: 4}
    with pytest.raises(InvalidInputError, match="has the columns image and label, and no column 'colour'"):
        ImageClassification.load_target(replace(spec, label="colour"), 0)


def test_a_missing_column_and_a_label_without_rows_are_refused(tmp_path: Path) -> None:
    table = write_images(tmp_path)
    with pytest.raises(InvalidInputError, match="no column 'picture'"):
        ImageClassification.load_target(replace(spec_of_images(table), fields={"image": "picture"}), 0)
    with pytest.raises(InvalidInputError, match="'yellow'"):
        ImageClassification.load_target(replace(spec_of_images(table), labels=(*LABELS, "yellow")), 0)
    with table.open("a") as file:
        Image.fromarray(draw(77)).save(tmp_path / "pictures" / "one.png")
        file.write("pictures/one.png,yellow\n")
    with pytest.raises(InvalidInputError, match="only one labelled row has the label 'yellow'"):
        ImageClassification.load_target(spec_of_images(table), 0)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("head", "answer", "not texts that are written"),
        ("demonstrations.count", 2, "needs texts"),
        ("calibration", "contextual", "needs texts"),
    ],
)
def test_what_needs_rows_of_texts_is_refused(name: str, value: object, reason: str) -> None:
    assert reason in str(ImageClassification.refuses(name, value))


@pytest.mark.parametrize("family", [name for name in FAMILIES if FAMILIES[name].reads == "images"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("head", "label_words"),
        ("soft_prompt.init", "template"),
        ("soft_prompt.init", "label_words"),
        ("calibration", "batch"),
    ],
)
def test_what_needs_words_is_refused_by_models_without_any(family: str, name: str, value: object) -> None:
    if FAMILIES[family].texts_of_labels:
        check_candidate({name: value}, Architecture(family, 3))
        return
    with pytest.raises(InvalidInputError, match=f"{name} {value!r} needs words"):
        check_candidate({name: value}, Architecture(family, 3))


def test_raw_pixels_are_the_baseline_without_a_model(tmp_path: Path) -> None:
    task = ImageClassification.load_target(spec_of_images(write_images(tmp_path)), 0)
    outputs = task.fit_by_words(task.labelled, task.test)
    assert task.measure(outputs, task.test)["accuracy"] == 1.0  # Colours tell the labels apart.
    order = np.random.default_rng(0).permutation(len(task.labelled))
    pairs = zip(task.labelled, order, strict=True)
    shuffled = [replace(row, answer=task.labelled[other].answer) for row, other in pairs]
    chance = task.measure(task.fit_by_words(shuffled, task.test), task.test)["accuracy"]
    assert chance < 0.8
    assert np.isfinite(outputs).all()


def test_the_kind_is_registered_and_reads_images() -> None:
    assert {name for name in TASK_KINDS if TASK_KINDS[name].reads == "images"} == {
        "image_classification",
        "object_detection",
        "semantic_segmentation",
    }

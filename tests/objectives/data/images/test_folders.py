"""Folders of images: which labels they have, and which are refused."""

from pathlib import Path

import pytest

from promptgraft.objectives.data import image_folder_rows, images_in, is_folder_of_images
from promptgraft.spaces import InvalidInputError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_folder_of_labels_becomes_rows(tmp_path: Path) -> None:
    for name in (
        "dog/b.PNG",
        "dog/a.jpg",
        "cat/deep/c.tif",
        "cat/.hidden.png",
        ".git/d.png",
        "empty/notes.txt",
        "e.png",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert image_folder_rows(tmp_path) == [
        {"image": "cat/deep/c.tif", "label": "cat"},
        {"image": "dog/a.jpg", "label": "dog"},
        {"image": "dog/b.PNG", "label": "dog"},
    ]


def test_a_folder_without_labels_or_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no such folder"):
        image_folder_rows(tmp_path / "absent")
    (tmp_path / "a.png").touch()
    with pytest.raises(InvalidInputError, match="no sub-folder; expected a sub-folder for each label"):
        image_folder_rows(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(InvalidInputError, match="1 sub-folders, but none of them has an image"):
        image_folder_rows(tmp_path)


def test_images_in_forms_that_are_not_read_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg", "cat/b.HEIC", "dog/c.avif", "dog/notes.txt")
    assert [row["image"] for row in image_folder_rows(tmp_path)] == ["cat/a.jpg", "cat/b.HEIC", "dog/c.avif"]
    assert images_in(tmp_path) == ["cat/a.jpg", "cat/b.HEIC", "dog/c.avif"]


def test_folders_that_programs_leave_behind_are_skipped(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.png", "dog/b.png", "__MACOSX/cat/c.png", "dog/__MACOSX/d.png", "__MACOSX/.a.png")
    assert [row["image"] for row in image_folder_rows(tmp_path)] == ["cat/a.png", "dog/b.png"]
    assert images_in(tmp_path) == ["cat/a.png", "dog/b.png"]


@pytest.mark.parametrize(
    "names",
    [
        ("train/cat/a.png", "train/dog/b.png", "val/cat/c.png"),
        ("train/cat/a.png", "train/dog/b.png"),
        ("fold1/cat/a.png", "fold1/dog/b.png", "fold2/cat/c.png", "fold2/dog/d.png"),
    ],
)
def test_parts_of_a_data_set_are_no_labels(names: tuple[str, ...], tmp_path: Path) -> None:
    touch(tmp_path, *names)
    parts = ", ".join(dict.fromkeys(Path(name).parts[0] for name in names))
    message = f"no images in {parts} themselves, only in the folders cat, dog there, which seem to be the labels; name"
    with pytest.raises(InvalidInputError, match=message) as caught:
        image_folder_rows(tmp_path)
    assert f"such as {tmp_path / Path(names[0]).parts[0]}," in str(caught.value)
    touch(tmp_path, "__MACOSX/cat/a.png")
    with pytest.raises(InvalidInputError, match=message):
        image_folder_rows(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("cat/2020/a.png", "cat/2021/b.png", "dog/2020/c.png", "dog/2021/d.png"),
        ("cat/images/a.png", "dog/images/b.png"),
        ("cat/front/a.png", "dog/front/b.png", "dog/back/c.png"),
        ("cat/front/a.png", "cat/back/b.png", "dog/front/c.png", "dog/back/d.png", "dog/e.png"),
        ("train/a.png", "test/b.png"),
    ],
)
def test_labels_may_hold_further_folders(names: tuple[str, ...], tmp_path: Path) -> None:
    touch(tmp_path, *names)
    rows = image_folder_rows(tmp_path)
    assert {(row["image"], row["label"]) for row in rows} == {(name, Path(name).parts[0]) for name in names}


def test_only_files_of_datasets_say_that_a_folder_is_a_table(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.png", "classes.json")
    assert is_folder_of_images(tmp_path)
    touch(tmp_path, "dataset_info.json")
    assert not is_folder_of_images(tmp_path)
    touch(tmp_path, "splits/dataset_dict.json")
    assert not is_folder_of_images(tmp_path / "splits")

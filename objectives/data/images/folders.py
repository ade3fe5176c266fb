"""Folders of images: found by their labels, or all of them; what isn't the user's, such as hidden files, is skipped."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from promptgraft.objectives.data.images.files import SUFFIXES, UNREAD_SUFFIXES, is_image_file
from promptgraft.objectives.data.table_files import is_saved_dataset, is_the_users
from promptgraft.spaces import InvalidInputError

# What the parts of a data set are called, of which each holds folders of all labels.
_PARTS = frozenset({"train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing"})
# Folders that errors name.
_SHOWN = 5


def is_folder_of_images(path: Path) -> bool:
    """Whether a path is a folder of images in folders, rather than a table that `datasets` has saved."""
    return path.is_dir() and not is_saved_dataset(path)


def image_folder_rows(folder: Path) -> list[dict[str, str]]:
    """List the images of a folder that has a sub-folder for each label, as torchvision's `ImageFolder` reads it.

    Sub-folders may hold further folders. Hidden files and folders, those named __MACOSX, and files with a suffix of no
    image are skipped, and so are images that stand beside the sub-folders. Images of a form that isn't read, such as
    HEIC, are listed, to be counted as unreadable.

    Args:
        folder: The folder.

    Returns:
        Rows `{"image": path relative to the folder, "label": name of the sub-folder}`, sorted by label and path.

    Raises:
        InvalidInputError: If there is no such folder, if no sub-folder has an image, or if the sub-folders are probably
            parts of a data set, such as `train` and `val`, rather than labels.
    """
    if not folder.is_dir():
        raise InvalidInputError(f"{folder}: there is no such folder")
    labels = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and is_the_users(entry))
    found = {label: [path.relative_to(folder) for path in _images(folder / label)] for label in labels}
    rows = [{"image": path.as_posix(), "label": label} for label in labels for path in found[label]]
    if not rows:
        said = f"{len(labels)} sub-folders, but none of them has an image" if labels else "no sub-folder"
        raise InvalidInputError(
            f"{folder}: {said}; expected a sub-folder for each label, with images in it: {', '.join(sorted(SUFFIXES))}"
        )
    _check_labels(folder, {label: paths for label, paths in found.items() if paths})
    return rows


def images_in(folder: Path) -> list[str]:
    """List the images of a folder and of those in it, as paths relative to it, sorted; see `image_folder_rows`.

    Raises:
        InvalidInputError: If there is none.
    """
    names = [path.relative_to(folder).as_posix() for path in _images(folder)]
    if not names:
        raise InvalidInputError(f"{folder}: holds no image ({', '.join(sorted(SUFFIXES))})")
    return names


def _images(folder: Path) -> list[Path]:
    found = (path for path in sorted(folder.rglob("*")) if _is_the_users(path.relative_to(folder)))
    return [path for path in found if is_image_file(path) or path.suffix.lower() in UNREAD_SUFFIXES]


def _is_the_users(path: Path) -> bool:
    return all(is_the_users(Path(part)) for part in path.parts)


def _check_labels(folder: Path, found: Mapping[str, list[Path]]) -> None:
    """Refuse sub-folders whose own sub-folders are probably the labels.

    All images lie in these. The sub-folders are called like parts of a data set, or all hold the same two or more,
    which are named by words: numbers, such as years, are no labels.
    """
    if any(len(path.parts) == 2 for paths in found.values() for path in paths):
        return
    inner = {label: {path.parts[1] for path in paths} for label, paths in found.items()}
    first, *others = inner.values()
    are_parts = all(label.lower() in _PARTS for label in found)
    are_same = len(found) > 1 and len(first) > 1 and all(own == first for own in others)
    if are_parts or (are_same and any(any(map(str.isalpha, name)) for name in first)):
        parts = _some(found)
        raise InvalidInputError(
            f"{folder}: there are no images in {parts} themselves, only in the folders {_some(first)} "
            f"there, which seem to be the labels; name one part, such as {folder / next(iter(found))}, or, if {parts} "
            "are the labels, put the images right into these folders"
        )


def _some(names: Iterable[str]) -> str:
    found = sorted(names)
    return ", ".join(found[:_SHOWN]) + (" and so on" if len(found) > _SHOWN else "")

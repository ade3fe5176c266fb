"""Rows that name the file of an image: found, hashed, compared, and read; what needs words is refused."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from promptgraft.objectives.data import (
    CleaningReport,
    Comparison,
    Row,
    TaskSpec,
    TextTask,
    UnreadableImageError,
    as_data,
    by_rarest,
    drop_known,
    find_similar_images,
    has_text,
    image_clusters,
    image_hash,
    images_in,
    is_data,
    is_folder_of_images,
    is_image_file,
    load_image,
    located,
    read_rows,
)

if TYPE_CHECKING:
    import pandas as pd

# Side of the small images that baselines see, and such images that are remembered, of 3 kB each.
RAW_SIDE, _KEPT = 32, 65_536
# What needs rows of texts; a parameter and the values that don't. What needs any texts is for families to say.
_WITHOUT_TEXTS: dict[str, tuple[object, ...]] = {"demonstrations.count": (0,), "calibration": ("none", "batch")}


class ImageTask(TextTask):
    """A task whose rows name the file of an image."""

    reads: ClassVar[Literal["text", "images"]] = "images"
    augmentations: ClassVar[tuple[str, ...]] = ("none", "flip", "crop", "color", "rand_augment")

    @classmethod
    def completed(cls, row: Row, path: str) -> Row:
        """Find the image, relative to its table, and hash its file; see `TextTask`."""
        folder = Path(path) if Path(path).is_dir() else Path(path).parent
        fields = {name: located(value, folder) if value else "" for name, value in row.fields.items()}
        try:
            content = "-".join(image_hash(reference) for reference in fields.values())
        except UnreadableImageError:
            content = ""
        return replace(row, fields=fields, content=content)

    @classmethod
    def unusable(cls, row: Row) -> str | None:
        """Drop rows whose image isn't a file that can be read; see `TextTask`."""
        try:
            for reference in row.fields.values():
                load_image(reference, least_side=RAW_SIDE)
        except UnreadableImageError:
            return "unreadable_image"
        return "unreadable_image" if any(map(is_data, row.fields.values())) else None

    @classmethod
    def why_unusable(cls, row: Row) -> str:
        """Say why an image can't be read; see `TextTask`."""
        try:
            for reference in row.fields.values():
                load_image(reference, least_side=RAW_SIDE)
        except UnreadableImageError as error:
            return str(error)
        return ""

    @classmethod
    def without_known(
        cls, rows: Sequence[Row], held_out: Sequence[Row], comparison: Comparison
    ) -> tuple[list[Row], CleaningReport]:
        """Drop the images that are held out, or show nearly the same as one that is; see `TextTask`."""
        return drop_known(
            rows, held_out, comparison, lambda kept, others: find_similar_images(_files(kept), _files(others))
        )

    @classmethod
    def alike(cls, rows: Sequence[Row], spec: TaskSpec) -> list[int]:
        """Number rows so that images that show nearly the same have one number; see `TextTask`."""
        return image_clusters(_files(rows), [row.group for row in rows] if spec.group else None)

    @classmethod
    def read_unanswered(cls, path: str, columns: Sequence[str]) -> "tuple[pd.DataFrame, pd.DataFrame]":
        """Read a table of images, or list those of a folder, or the one that is named; see `Task`."""
        alone = is_image_file(Path(path))
        if not alone and not is_folder_of_images(Path(path)):
            wanted, whole = read_rows(path, columns)
            folder = Path(path).parent if Path(path).is_file() else Path()
            return wanted.map(lambda value: located(value.strip(), folder) if has_text(value) else None), whole
        import pandas as pd

        folder = Path(path).parent if alone else Path(path)
        files = [Path(path).name] if alone else images_in(folder)
        found = pd.DataFrame({columns[0]: [str(folder / file) for file in files]}, dtype=object)
        return found, pd.DataFrame({columns[0]: files}, dtype=object)

    @classmethod
    def can_read(cls, value: object) -> bool:
        """Whether an image can be read; see `Task`."""
        try:
            return has_text(value) and bool(load_image(str(value).strip(), least_side=RAW_SIDE))
        except UnreadableImageError:
            return False

    def portable(self, row: Row) -> dict[str, str]:
        """Return the image itself in the place of its path; see `Task`."""
        return {name: as_data(reference) for name, reference in row.fields.items()}

    @classmethod
    def refuses(cls, name: str, value: object) -> str | None:
        """Refuse what needs rows of texts; see `Task`."""
        allowed = _WITHOUT_TEXTS.get(name)
        if allowed is not None and value not in allowed:
            choices = " or ".join(map(repr, allowed))
            return f"{name} {value!r} needs texts, and rows of this kind of task are images; use {choices}"
        return super().refuses(name, value)


class PlacesTask(ImageTask):
    """A task whose answers are about places in an image, which a head reads each by itself.

    Attributes:
        does: What the kind does with places, for people.
    """

    does: ClassVar[str]
    in_places = True
    heads: ClassVar[tuple[str, ...]] = ("linear",)
    augmentations: ClassVar[tuple[str, ...]] = ("none", "flip", "color")

    @classmethod
    def strata(cls, rows: Sequence[Row]) -> list[int]:
        """Number rows by the rarest of their labels; see `Task`."""
        return by_rarest([cls.labels_of(row.answer) for row in rows])

    @classmethod
    def refuses(cls, name: str, value: object) -> str | None:
        """Refuse a probe and label words, which read an image as a whole; see `Task`."""
        if name == "head" and value in ("probe", "label_words"):
            return f"head {value!r} reads an image as a whole, but this kind of task {cls.does}; use 'linear'"
        return super().refuses(name, value)

    @classmethod
    def refuses_baseline(cls, name: str) -> bool:
        """Refuse what reads an image as a whole; see `Task`."""
        return name in ("linear_probe", "linear_probe_with_source") or super().refuses_baseline(name)

    @classmethod
    def _refused_augmentation(cls, value: object) -> str:
        use = " or ".join(map(repr, cls.augmentations))
        return f"augmentation {value!r} moves what an image shows, but this kind of task {cls.does}; use {use}"


def _files(rows: Sequence[Row]) -> list[Path]:
    return [Path(reference) for row in rows for reference in row.fields.values()]


def raw_pixels(rows: Sequence[Row]) -> npt.NDArray[np.float32]:
    """Return small images as shares of the largest brightness, shape (rows, side * side * 3)."""
    found = [small_image(reference, row.content) for row in rows for reference in row.fields.values()]
    pixels = np.stack([np.frombuffer(own, dtype=np.uint8) for own in found])
    return (pixels / 255).astype(np.float32)


@lru_cache(maxsize=_KEPT)
def small_image(reference: str, _content: str) -> bytes:
    """Return the bytes of an image made small, `RAW_SIDE` x `RAW_SIDE` x 3.

    Args:
        reference: Path or data URI.
        _content: Hash of its file, which tells versions of it apart.
    """
    return load_image(reference, least_side=RAW_SIDE).resize((RAW_SIDE, RAW_SIDE)).tobytes()

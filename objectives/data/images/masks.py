"""Masks: images whose pixels are numbers of classes; read from files, and kept as text, a PNG file as a data URI."""

import base64
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from promptgraft.objectives.data.images.files import IMAGE_FORMATS, UnreadableImageError, opened_image

# Class of each pixel, shape (height, width).
Mask: TypeAlias = npt.NDArray[np.uint8]
# Pixels of this class are neither learnt from nor scored.
IGNORED_PIXEL = 255
# Formats that keep numbers as they are, by Pillow's names.
_LOSSLESS = ("PNG", "BMP", "GIF", "TIFF", "PPM")
# One number a pixel: bits, bytes, bytes that a palette gives colours to, and wider integers.
_NUMBERS = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
_WRITE = "write a PNG file with one number a pixel: 0 for the first of the labels, 1 for the second"
_SCHEME = "data:image/png;base64,"


def read_mask(path: Path) -> npt.NDArray[np.int64]:
    """Read the numbers of a mask; of an image with a palette these are its indices.

    Args:
        path: A PNG, BMP, GIF, TIFF or PGM file with one number a pixel.

    Returns:
        Shape (height, width).

    Raises:
        UnreadableImageError: If there is no such file, or it holds no such image.
    """
    with opened_image(path, path, formats=IMAGE_FORMATS) as image:
        if image.format not in _LOSSLESS:
            raise UnreadableImageError(path, f"{image.format} files don't keep numbers; {_WRITE}")
        if image.mode not in _NUMBERS:
            raise UnreadableImageError(
                path,
                f"its pixels are of the mode {image.mode}, not one number each; {_WRITE}",
            )
        return np.asarray(image).astype(np.int64)


def mask_as_data(mask: Mask) -> str:
    """Return a mask as a data URI of a PNG file.

    Args:
        mask: Shape (height, width).
    """
    from PIL import Image

    content = BytesIO()
    Image.fromarray(mask).save(content, "PNG", optimize=True)
    return _SCHEME + base64.b64encode(content.getvalue()).decode()


def mask_in(data: str) -> Mask:
    """Return the mask that a data URI holds; see `mask_as_data`."""
    from PIL import Image

    with Image.open(BytesIO(base64.b64decode(data.removeprefix(_SCHEME))), formats=("PNG",)) as image:
        return np.array(image, dtype=np.uint8)


def resized_mask(data: str, height: int, width: int) -> Mask:
    """Return the mask that a data URI holds in another size: each pixel has the class of the nearest one."""
    from PIL import Image
    from PIL.Image import Resampling

    return np.array(Image.fromarray(mask_in(data)).resize((width, height), Resampling.NEAREST), dtype=np.uint8)


# A training row's mask is mirrored in every other pass.
@lru_cache(maxsize=4096)
def mirrored_mask(data: str) -> str:
    """Return the mask that a data URI holds with left and right exchanged."""
    return mask_as_data(np.ascontiguousarray(mask_in(data)[:, ::-1]))


@lru_cache(maxsize=65_536)
def classes_in(data: str) -> tuple[int, ...]:
    """Return the classes that a mask has pixels of, in ascending order, without those that are ignored."""
    return tuple(own for own in np.unique(mask_in(data)).tolist() if own != IGNORED_PIXEL)

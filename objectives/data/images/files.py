"""Images as files or data URIs: opened as RGB, whatever their form."""

import base64
import binascii
import hashlib
import re
import struct
import warnings
import zlib
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from promptgraft.spaces import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from PIL.Image import Image

# Larger images are refused before they are decoded: as RGB, one of this size takes 150 MB.
MAX_PIXELS = 50_000_000
_SCHEME = "data:"
# Beginnings of URLs, of whose slashes a path keeps one.
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/")
# Characters of a path in errors.
_SHOWN = 300
# Hashes of files that are remembered.
_KEPT = 65_536
# Formats that are read, by Pillow's names. Others, such as PostScript, would run programs.
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"})
# Those of images that can't be read: in folders they are listed, and then counted as unreadable.
UNREAD_SUFFIXES = frozenset({".heic", ".heif", ".avif", ".jxl"})
# What decoders raise when a file isn't what its first bytes promise.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    ArithmeticError,
    TypeError,
    struct.error,
    zlib.error,
)
# The EXIF tag of an image's rotation, and its values by which width and height change places.
_ORIENTATION, _ON_THEIR_SIDE = 0x0112, (5, 6, 7, 8)
_WHITE = (255, 255, 255, 255)
_LARGEST_16_BIT = 65535


class UnreadableImageError(InvalidInputError):
    """A file can't be read as an image.

    Attributes:
        path: The file.
        reason: What is wrong with it, in a few words.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # Both, so that the error can be pickled.
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        name = str(self.path)
        return f"{name if len(name) <= _SHOWN else f'{name[:_SHOWN]}…'}: {self.reason}"


class TooManyPixelsError(UnreadableImageError):
    """An image has more pixels than are read."""


def open_image(path: Path, *, max_pixels: int = MAX_PIXELS, least_side: int | None = None) -> "Image":
    """Read an image as RGB, the way up that it is to be looked at.

    A rotation in its EXIF data is applied, transparent parts become white, and values of 16 bits are scaled to 8. Of a
    file with several images (GIF, TIFF) the first is read. Colour profiles are ignored.

    Args:
        path: A file in one of `IMAGE_FORMATS`, whatever its suffix.
        max_pixels: Images with more pixels are refused before they are decoded.
        least_side: A JPEG file may be decoded at 1/2, 1/4 or 1/8 of its size, as long as neither side is less than
            twice this many pixels. That takes a fraction of the time and memory, where the image is made small anyway.

    Returns:
        The image, in mode RGB. It doesn't depend on the file any more.

    Raises:
        TooManyPixelsError: If it is too large.
        UnreadableImageError: If there is no such file, or if it is empty, no image, truncated or damaged.
    """
    return _as_opened(path, path, max_pixels, least_side)


def image_size(reference: str, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return height and width of an image, the way up that it is to be looked at, without decoding it.

    Args:
        reference: Path or data URI.
        max_pixels: See `open_image`.

    Raises:
        TooManyPixelsError: If it has more pixels.
        UnreadableImageError: If it can't be read.
    """
    source = _bytes_in(reference) if is_data(reference) else Path(reference)
    with opened_image(source, Path(shown_image(reference)), max_pixels) as image:
        turned = image.getexif().get(_ORIENTATION, 1) in _ON_THEIR_SIDE
        return (image.width, image.height) if turned else (image.height, image.width)


def _as_opened(source: Path | bytes, path: Path, max_pixels: int, least_side: int | None) -> "Image":
    """Read an image from a file or its content; see `open_image`."""
    with opened_image(source, path, max_pixels) as image:
        if least_side is not None:
            image.draft(None, (2 * least_side, 2 * least_side))
        image.load()
        return _as_rgb(_upright(image))


@contextmanager
def opened_image(
    source: Path | bytes, path: Path, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] = IMAGE_FORMATS
) -> "Iterator[Image]":
    """Open an image, and tell of whatever is wrong with it as one kind of error, without any warning.

    Args:
        source: Its file, or the content of that.
        path: What it is called in errors.
        max_pixels: See `open_image`.
        formats: Those that are read, by Pillow's names.

    Raises:
        TooManyPixelsError: If it is too large.
        UnreadableImageError: If it can't be opened, or what is done with it then fails.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        if (_checked(source).stat().st_size if isinstance(source, Path) else len(source)) == 0:
            raise UnreadableImageError(path, "the file is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stream = source if isinstance(source, Path) else BytesIO(source)
            with Image.open(stream, formats=formats) as image:
                if image.width * image.height > max_pixels:
                    size = f"{image.width} x {image.height} pixels"
                    raise TooManyPixelsError(path, f"{size}, which is more than {max_pixels} in all")
                yield image
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError(path, f"not an image in one of the formats {', '.join(formats)}") from None
    except Image.DecompressionBombError:
        raise TooManyPixelsError(path, f"more than {max_pixels} pixels") from None
    except PermissionError:
        raise UnreadableImageError(path, "the file may not be read (permission denied)") from None
    except _DAMAGE as error:
        raise UnreadableImageError(path, f"truncated or damaged ({error})") from error


def _upright(image: "Image") -> "Image":
    """Apply the rotation of the EXIF data; an image whose EXIF data is damaged stays as it is."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except _DAMAGE:
        return image


def _as_rgb(image: "Image") -> "Image":
    """Convert an image of any mode to RGB."""
    from PIL import Image

    if image.mode == "F" or image.mode.startswith("I"):
        return _from_numbers(np.asarray(image)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")
    return image.convert("RGB")


def _from_numbers(values: npt.NDArray[np.generic]) -> "Image":
    """Make a grey image of 8 bits of integers of more bits, or of floats; shape (height, width).

    Integers up to 65535 are taken as 16 bits, floats up to 1 as shares of white, and those up to 255 as grey levels, so
    that all images of a set are scaled alike. Other numbers have no scale that is known: least is black, most is white.
    """
    from PIL import Image

    whole = np.issubdtype(values.dtype, np.integer)
    numbers = np.nan_to_num(values.astype(np.float32))
    least, most = float(numbers.min()), float(numbers.max())
    scales = (_LARGEST_16_BIT,) if whole else (1.0, 255.0)
    white = next((scale for scale in scales if least >= 0 and most <= scale), None)
    if white is None:
        numbers, white = numbers - least, max(most - least, float(np.finfo(np.float32).tiny))
    return Image.fromarray(np.round(numbers / white * 255).astype(np.uint8))


def is_data(reference: str) -> bool:
    """Whether a reference holds the image itself rather than the path of its file."""
    return reference.startswith(_SCHEME)


def located(reference: str, folder: Path) -> str:
    """Return a reference whose path, if it is one, is relative to a folder, as an absolute path."""
    if is_data(reference) or _URL.match(reference):
        return reference
    try:
        return str(folder / Path(reference).expanduser())
    except RuntimeError:  # There is no such user: it is the name of a file.
        return str(folder / reference)


def is_image_file(path: Path) -> bool:
    """Whether a path is a file with a suffix of images."""
    return is_image_name(path.name) and path.is_file()


def is_image_name(name: str) -> bool:
    """Whether a file's name has a suffix of images."""
    return PurePath(name).suffix.lower() in SUFFIXES


def image_hash(reference: str) -> str:
    """Hash the file of an image; 64 hexadecimal digits.

    Args:
        reference: Path or data URI.

    Raises:
        UnreadableImageError: If there is no such file, or the data is no base64.
    """
    if is_data(reference):
        return hashlib.sha256(_bytes_in(reference)).hexdigest()
    path = _checked(Path(reference))
    try:
        state = path.stat()
        return _hash_of_file(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise UnreadableImageError(path, error.strerror or str(error)) from error


def load_image(reference: str, *, least_side: int | None = None) -> "Image":
    """Open the image that a reference stands for; see `open_image`.

    Raises:
        UnreadableImageError: If it can't be read.
    """
    if not is_data(reference):
        return open_image(Path(reference), least_side=least_side)
    return _as_opened(_bytes_in(reference), Path(shown_image(reference)), MAX_PIXELS, least_side)


@contextmanager
def row_named(rows: "Sequence[Mapping[str, str]]") -> "Iterator[None]":
    """Let the error over an image say in which row it is, counted from 0.

    Args:
        rows: Field -> path or data URI, a mapping a row.

    Raises:
        UnreadableImageError: What was raised within, with the row.
    """
    try:
        yield
    except UnreadableImageError as error:
        for number, row in enumerate(rows):
            if any(_is_unreadable(own) for own in row.values() if Path(shown_image(own)) == error.path):
                raise type(error)(error.path, f"{error.reason} (row {number})") from error
        raise


def _is_unreadable(reference: str) -> bool:
    try:
        load_image(reference)
    except UnreadableImageError:
        return True
    return False


def as_data(reference: str) -> str:
    """Return an image as a data URI of its file.

    Raises:
        UnreadableImageError: If the file can't be read.
    """
    if is_data(reference):
        return reference
    try:
        content = _checked(Path(reference)).read_bytes()
    except OSError as error:
        raise UnreadableImageError(Path(reference), error.strerror or str(error)) from error
    return f"{_SCHEME};base64,{base64.b64encode(content).decode()}"


def shown_image(reference: str) -> str:
    """Return a reference for people: a path as it is, a data URI by its length."""
    return f"image of {len(reference)} characters" if is_data(reference) else reference


def _checked(path: Path) -> Path:
    """Refuse what isn't a regular file: of others, such as pipes, reading may never end."""
    if _URL.match(str(path)):
        raise UnreadableImageError(path, "images aren't fetched from URLs; download them, and name the files")
    try:
        if path.is_file():
            return path
        reason = "it is a folder" if path.is_dir() else "it is no regular file"
        raise UnreadableImageError(path, reason if path.exists() else "there is no such file")
    except OSError as error:  # Such as names that are too long.
        raise UnreadableImageError(path, error.strerror or str(error)) from error


def _bytes_in(reference: str) -> bytes:
    head, comma, content = reference.partition(",")
    if not comma or not head.endswith(";base64"):
        raise UnreadableImageError(Path(shown_image(reference)), "a data URI must begin with data:[type];base64,")
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnreadableImageError(Path(shown_image(reference)), f"no base64 ({error})") from error


@lru_cache(maxsize=_KEPT)
def _hash_of_file(path: Path, *_version: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""What stands for an image in a row: the path of its file, or a data URI that holds the file itself."""

import base64
import binascii
import hashlib
from functools import lru_cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from promptgraft.objectives.data.images import UnreadableImageError, open_image

if TYPE_CHECKING:
    from PIL.Image import Image

_SCHEME = "data:"
# Hashes of files that are remembered.
_KEPT = 65_536


def is_data(reference: str) -> bool:
    """Whether a reference holds the image itself rather than the path of its file."""
    return reference.startswith(_SCHEME)


def located(reference: str, folder: Path) -> str:
    """Return a reference whose path, if it is one, is relative to a folder, as an absolute path."""
    return reference if is_data(reference) else str(folder / Path(reference).expanduser())


def is_folder_of_images(path: Path) -> bool:
    """Whether a path is a folder of images in folders, rather than a table that `datasets` has saved."""
    return path.is_dir() and not any(path.glob("*.json"))


def image_hash(reference: str) -> str:
    """Hash the file of an image; 64 hexadecimal digits.

    Args:
        reference: Path or data URI.

    Raises:
        UnreadableImageError: If there is no such file, or the data is no base64.
    """
    if is_data(reference):
        return hashlib.sha256(_bytes_in(reference)).hexdigest()
    path = Path(reference)
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
    with NamedTemporaryFile(suffix=".image") as file:
        file.write(_bytes_in(reference))
        file.flush()
        try:
            return open_image(Path(file.name), least_side=least_side)
        except UnreadableImageError as error:
            raise UnreadableImageError(Path(shown_image(reference)), error.reason) from error


def as_data(reference: str) -> str:
    """Return an image as a data URI of its file.

    Raises:
        UnreadableImageError: If the file can't be read.
    """
    if is_data(reference):
        return reference
    try:
        content = Path(reference).read_bytes()
    except OSError as error:
        raise UnreadableImageError(Path(reference), error.strerror or str(error)) from error
    return f"{_SCHEME};base64,{base64.b64encode(content).decode()}"


def shown_image(reference: str) -> str:
    """Return a reference for people: a path as it is, a data URI by its length."""
    return f"image of {len(reference)} characters" if is_data(reference) else reference


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

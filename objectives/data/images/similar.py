"""Images that show nearly the same, so that one of them gives the other away."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from promptgraft.objectives.data.images.files import open_image
from promptgraft.spaces import InvalidInputError

# Bits of 64 in which the perceptual hashes of two images may differ, and how alike their thumbnails must be then. At
# these, none of 2,000 weaves and 1,797 digits of 8 x 8 pixels counts as a copy of another one, nor do more than 2 of
# 5,000 digits of MNIST, and 33 of 10,000 clothes of Fashion-MNIST (`tests/bench/similar_images.py`).
MAX_BITS, MIN_CORRELATION = 6, 0.993
# Thumbnails that vary less are flat. There is nothing in them to hash: grey levels are compared, which may differ by
# so much.
FLAT_LEVELS = 2.0
# Pixels of a thumbnail's side; a hash is computed from 32 x 32.
THUMBNAIL_SIDE, _LEAST_SIDE = 16, 32
# Images compared at a time, and signatures that are kept, of 0.8 kB each.
_CHUNK, _KEPT = 1024, 65_536

# Numbers of some images, shape (images,), those of others, shape (others,), and which of them show nearly the same,
# shape (images, others).
_Numbers = npt.NDArray[np.int64]
_Compared = tuple[_Numbers, _Numbers, npt.NDArray[np.bool_]]
# Hash and thumbnail of an image.
_Signature = tuple[int, bytes]


def find_similar_images(images: Sequence[Path], held_out: Sequence[Path]) -> dict[int, int]:
    """Find the images that show nearly the same as a held-out one.

    Two images do if their perceptual hashes (pHash: the signs of the lowest 8 x 8 frequencies of 32 x 32 pixels) differ
    in at most 6 of 64 bits, and their thumbnails of 16 x 16 pixels in colour correlate with at least 0.993. Copies that
    were scaled, compressed, or made brighter or darker are found; those that were cropped, turned or mirrored are
    not. Images of one colour are compared by it alone. Every pair is compared.

    Args:
        images: Files of the images to look through.
        held_out: Files of the images that must not be given away.

    Returns:
        Index into `images` -> index into `held_out` of the first that shows nearly the same.

    Raises:
        UnreadableImageError: If one can't be read.
        InvalidInputError: If `imagehash` isn't installed.
    """
    if not images or not held_out:
        return {}
    known = _Signatures.of(_read(held_out))
    found: dict[int, int] = {}
    for rows, columns, alike in _Signatures.of(_read(images)).compared(known):
        firsts = columns[alike.argmax(axis=1)]
        has_one = alike.any(axis=1)
        found.update(zip(rows[has_one].tolist(), firsts[has_one].tolist(), strict=True))
    return found


def image_clusters(images: Sequence[Path], groups: Sequence[str] | None = None) -> list[int]:
    """Number images so that those that show nearly the same, or are of one group, have one number.

    Args:
        images: Files of the images; every pair is compared, see `find_similar_images`.
        groups: Group of each image, if they have any.

    Returns:
        A number for each image.

    Raises:
        UnreadableImageError: If one can't be read.
        InvalidInputError: If `imagehash` isn't installed.
    """
    if not images:
        return []
    known: dict[_Signature, int] = {}  # Blank pages may all be the same: pairs of those would be too many.
    places = np.array([known.setdefault(signature, len(known)) for signature in _read(images)])
    numbers = np.arange(len(known) + len(images))  # Of each signature, and of each group.
    if groups:
        _, own = np.unique(np.asarray(groups), return_inverse=True)
        numbers = _linked(numbers, places, len(known) + own)
    signatures = _Signatures.of([*known])
    for rows, columns, alike in signatures.compared(signatures):
        first, second = alike.nonzero()
        numbers = _linked(numbers, rows[first], columns[second])
    return [int(number) for number in numbers[places]]


def _linked(numbers: _Numbers, first: _Numbers, second: _Numbers) -> _Numbers:
    """Give the clusters of each pair one number.

    Args:
        numbers: Number of each member's cluster, shape (members,).
        first: Members, shape (pairs,).
        second: Members that each of them belongs together with, shape (pairs,).
    """
    links, shape = (numbers[first], numbers[second]), (len(numbers), len(numbers))
    graph = sparse.coo_array((np.ones(len(first), dtype=np.int8), links), shape=shape)
    merged: _Numbers = connected_components(graph, directed=False)[1]
    return merged[numbers]


@dataclass(frozen=True, slots=True)
class _Signatures:
    """What is compared of images.

    Attributes:
        hashes: Their perceptual hashes, shape (images,).
        thumbnails: Grey levels of their thumbnails, shape (images, side * side * 3).
        is_flat: Whether a thumbnail is of one colour, shape (images,).
    """

    hashes: npt.NDArray[np.uint64]
    thumbnails: npt.NDArray[np.float32]
    is_flat: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, found: Sequence[_Signature]) -> "_Signatures":
        """Put signatures of images together."""
        levels = np.stack([np.frombuffer(thumbnail, dtype=np.uint8) for _, thumbnail in found]).astype(np.float32)
        varies = levels.reshape(len(found), -1, 3).std(axis=1).max(axis=1)
        return cls(np.array([bits for bits, _ in found], dtype=np.uint64), levels, varies < FLAT_LEVELS)

    def compared(self, others: "_Signatures") -> Iterator[_Compared]:
        """Compare each image with each other one, some images at a time, in their order."""
        for start in range(0, len(self.hashes), _CHUNK):
            part = slice(start, start + _CHUNK)
            flat = self.is_flat[part, None] | others.is_flat
            close = flat | (np.bitwise_count(self.hashes[part, None] ^ others.hashes) <= MAX_BITS)
            rows, columns = close.any(axis=1).nonzero()[0], close.any(axis=0).nonzero()[0]
            if not len(rows):
                continue
            own, other = self.thumbnails[part][rows], others.thumbnails[columns]
            flat, close = flat[np.ix_(rows, columns)], close[np.ix_(rows, columns)]
            by_levels, by_shape = _distances(own, other) <= FLAT_LEVELS, _correlations(own, other) >= MIN_CORRELATION
            yield rows + start, columns, close & np.where(flat, by_levels, by_shape)


def _read(images: Sequence[Path]) -> list[_Signature]:
    """Read the signatures of images."""
    files = [(path, path.stat()) for path in images if path.is_file()]
    if len(files) < len(images):
        open_image(next(path for path in images if not path.is_file()))
    return [_signature(path, state.st_size, state.st_mtime_ns) for path, state in files]


@lru_cache(maxsize=_KEPT)
def _signature(path: Path, *_version: int) -> _Signature:
    """Return the hash and the thumbnail of an image: 64 bits, and side * side * 3 grey levels.

    Args:
        path: The file.
        _version: What tells versions of the file apart.
    """
    try:
        import imagehash
    except ImportError:
        raise InvalidInputError(
            "images are compared by the package `imagehash`, which isn't installed; run: "
            "pip install 'promptgraft[images]'"
        ) from None
    from PIL.Image import Resampling

    image = open_image(path, least_side=_LEAST_SIDE)
    bits = int(str(imagehash.phash(image)), 16)
    thumbnail = image.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Resampling.LANCZOS)
    return bits, thumbnail.tobytes()


def _distances(own: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the root mean squared difference of grey levels, shape (own, others)."""
    squares = (own**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * own @ others.T
    distances: npt.NDArray[np.float32] = np.sqrt(np.maximum(squares, 0) / own.shape[1])
    return distances


def _correlations(own: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return Pearson's correlation of grey levels, shape (own, others)."""
    correlations: npt.NDArray[np.float32] = _unit(own) @ _unit(others).T
    return correlations


def _unit(levels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    centred = levels - levels.mean(axis=1, keepdims=True)
    lengths = np.sqrt((centred**2).sum(axis=1, keepdims=True))
    scaled: npt.NDArray[np.float32] = centred / np.maximum(lengths, np.finfo(np.float32).tiny)
    return scaled

"""From logits of the cells of an image's map to classes of its pixels, and how far these are the true ones."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt

import numpy as np
import numpy.typing as npt

from promptgraft.objectives.data import IGNORED_PIXEL, Expected, Outputs, mask_in

# Scores of images that are remembered: intervals are made of a thousand samples of the same images.
_KEPT = 4096
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PixelScores:
    """How well the pixels of an image are classified, without those that are ignored.

    Attributes:
        counts: True classes (rows) against predicted ones (columns), in pixels; shape (labels, labels).
        loss: Summed negative log-likelihood of the true classes, in nats.
        certainty: Summed probability of the true classes.
    """

    counts: Counts
    loss: float
    certainty: float


def of_pixels(cells: Expected, height: int, width: int) -> Expected:
    """Interpolate values of the cells of a square map bilinearly between their centres, as transformers do.

    That is torch's `interpolate` without `align_corners`, by two matrices: commands that load no torch do it, too.

    Args:
        cells: Shape (side * side, labels).
        height: Pixels of the image from above to below.
        width: Pixels from side to side.

    Returns:
        Shape (labels, height, width).
    """
    side = isqrt(len(cells))
    maps = cells.T.reshape(-1, side, side)
    return np.asarray(_between(side, height) @ maps @ _between(side, width).T)


@lru_cache(maxsize=256)
def _between(cells: int, pixels: int) -> Expected:
    """Return the share of each cell in each pixel of a line, shape (pixels, cells)."""
    places = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    left = np.minimum(places.astype(int), max(0, cells - 2))
    found = np.zeros((pixels, cells))
    found[np.arange(pixels), np.minimum(left + 1, cells - 1)] = places - left
    found[np.arange(pixels), left] += 1 - (places - left)
    return found


_known: dict[tuple[bytes, str], PixelScores] = {}


def pixel_scores(logits: Outputs | Expected, answer: str) -> PixelScores:
    """Compare an image's logits with its mask, at the mask's own size.

    Args:
        logits: Of each cell, or its log-probabilities, which come to the same; shape (cells, labels).
        answer: The mask, as a data URI.
    """
    key = hashlib.blake2b(logits.tobytes(), digest_size=16).digest(), answer
    found = _known.get(key)
    if found is None:
        while len(_known) >= _KEPT:
            _known.pop(next(iter(_known)), None)
        found = _known[key] = _compared(logits.astype(np.float64), answer)
    return found


def _compared(logits: Expected, answer: str) -> PixelScores:
    mask, labels = mask_in(answer), logits.shape[1]
    pixels = of_pixels(logits, *mask.shape).reshape(labels, -1)
    is_scored = mask.reshape(-1) != IGNORED_PIXEL
    pixels, true = pixels[:, is_scored], mask.reshape(-1)[is_scored].astype(np.int64)
    top = pixels.max(axis=0)
    chances = np.exp(pixels - top)
    whole = chances.sum(axis=0)
    places = np.arange(len(true))
    own = pixels[true, places] - top
    pairs = np.bincount(true * labels + pixels.argmax(axis=0), minlength=labels * labels)
    return PixelScores(
        pairs.reshape(labels, labels), float((np.log(whole) - own).sum()), float((chances[true, places] / whole).sum())
    )


def mean_iou(counts: Counts) -> float:
    """Return the mean intersection over union of the labels that either mask has; see `PixelScores`."""
    right = np.diagonal(counts)
    union = counts.sum(axis=0) + counts.sum(axis=1) - right
    return float((right[union > 0] / union[union > 0]).mean())

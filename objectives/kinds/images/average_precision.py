"""COCO's average precision, computed by pycocotools."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import numpy.typing as npt

from promptgraft.objectives.data import Boxes
from promptgraft.spaces import InvalidInputError

# Boxes are shares of an image: of one with so many pixels each way, none has an area that COCO leaves out.
_SIDE = 1000.0
# Most predictions of an image that count, as in COCO.
_MOST = 100


def average_precisions(
    chances: npt.NDArray[np.float64], boxes: npt.NDArray[np.float64], true: Sequence[Boxes]
) -> tuple[float, float]:
    """Return the mean average precision over overlaps of 0.5, 0.55, ..., 0.95, and that at 0.5; 0 if nothing is found.

    Args:
        chances: Probability of each label, shape (rows, queries, labels).
        boxes: Centre, width and height as shares, shape (rows, queries, 4).
        true: The right boxes of each row.

    Raises:
        InvalidInputError: If pycocotools isn't installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise InvalidInputError(
            "boxes are scored by the package `pycocotools`, which isn't installed; run: "
            "pip install 'promptgraft[images]'"
        ) from None
    rows, queries, labels = chances.shape
    said = np.empty((rows, queries, 7))
    said[..., 0] = np.arange(rows)[:, None]
    said[..., 1:3] = (boxes[..., :2] - boxes[..., 2:] / 2) * _SIDE
    said[..., 3:5] = boxes[..., 2:] * _SIDE
    said[..., 5], said[..., 6] = chances.max(axis=-1), chances.argmax(axis=-1)
    with redirect_stdout(io.StringIO()):  # It prints what it does.
        known = COCO()
        known.dataset = _as_coco(true, labels)
        known.createIndex()
        evaluator = COCOeval(known, known.loadRes(said.reshape(-1, 7)), "bbox")
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluator.params.maxDets = [_MOST]
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval["precision"][..., 0, 0]  # Of overlaps, recalls and labels; -1 for labels of no box.
    return _mean(precision), _mean(precision[0])


def _mean(precision: npt.NDArray[np.float64]) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if len(known) else 0.0


def _as_coco(true: Sequence[Boxes], labels: int) -> dict[str, Any]:
    """Return right boxes as the content of a COCO file."""
    found: list[dict[str, Any]] = []
    for image, own in enumerate(true):
        for corners, label in zip((own.corners * _SIDE).tolist(), own.labels.tolist(), strict=True):
            area = corners[2] * corners[3]
            entry = {"image_id": image, "category_id": label, "bbox": corners, "area": area, "iscrowd": 0}
            found.append({"id": len(found) + 1, **entry})
    return {
        "info": {},
        "images": [{"id": image} for image in range(len(true))],
        "annotations": found,
        "categories": [{"id": label} for label in range(labels)],
    }


def overlaps(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the intersection over union of each pair of boxes, of left, top, width and height.

    Args:
        one: Shape (boxes, 4).
        other: Shape (others, 4).

    Returns:
        Shape (boxes, others).
    """
    starts = np.maximum(one[:, None, :2], other[None, :, :2])
    ends = np.minimum(one[:, None, :2] + one[:, None, 2:], other[None, :, :2] + other[None, :, 2:])
    common = np.clip(ends - starts, 0, None).prod(axis=-1)
    whole = one[:, None, 2:].prod(axis=-1) + other[None, :, 2:].prod(axis=-1) - common
    return np.asarray(common / np.maximum(whole, np.finfo(np.float64).tiny))

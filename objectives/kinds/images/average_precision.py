"""COCO's average precision: pycocotools matches the boxes of each image, once however often it is drawn again."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from promptgraft.objectives.data import Boxes, boxes_of
from promptgraft.spaces import InvalidInputError

# Boxes are shares of an image: of one with so many pixels each way, none has an area that COCO leaves out.
_SIDE = 1000.0
# Most predictions of an image and a label that count, and the recalls at which precision is taken, as in COCO.
_MOST = 100
_RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, slots=True)
class _Matches:
    """What an image's predictions of one label found.

    Attributes:
        scores: Probability of each prediction, the surest first, shape (predictions,).
        found: Whether it found a box, for overlaps of 0.5, 0.55, ..., 0.95; shape (10, predictions).
        boxes: Number of boxes that there are.
    """

    scores: npt.NDArray[np.float64]
    found: npt.NDArray[np.bool_]
    boxes: int


def average_precisions(
    chances: npt.NDArray[np.float64], boxes: npt.NDArray[np.float64], answers: Sequence[str]
) -> tuple[float, float]:
    """Return the mean average precision over overlaps of 0.5, 0.55, ..., 0.95, and that at 0.5; 0 if nothing is found.

    Args:
        chances: Probability of each label, shape (rows, queries, labels).
        boxes: Centre, width and height as shares, shape (rows, queries, 4).
        answers: The right boxes of each row; see `boxes_as_answer`.

    Raises:
        InvalidInputError: If pycocotools isn't installed.
    """
    corners = np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., 2:]], axis=-1) * _SIDE
    said = np.concatenate([corners, chances.max(-1, keepdims=True), chances.argmax(-1)[..., None]], axis=-1)
    images = [_matches(own.tobytes(), answer, chances.shape[2]) for own, answer in zip(said, answers, strict=True)]
    precisions = [_precisions([own[label] for own in images]) for label in range(chances.shape[2])]
    known = np.array([own for own in precisions if own is not None])
    return (float(known.mean()), float(known[:, 0].mean())) if len(known) else (0.0, 0.0)


def _precisions(images: Sequence[_Matches]) -> npt.NDArray[np.float64] | None:
    """Return the precision of one label at each overlap and recall, shape (10, 101); None if there are no boxes."""
    boxes = sum(own.boxes for own in images)
    if not boxes:
        return None
    order = np.argsort(-np.concatenate([own.scores for own in images]), kind="stable")
    right = np.cumsum(np.concatenate([own.found for own in images], axis=1)[:, order], axis=1)
    precision = right / np.arange(1, len(order) + 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]  # At this recall or a higher one.
    found = np.zeros((len(right), len(_RECALLS)))
    for own, recall, highest in zip(found, right / boxes, best, strict=True):
        places = np.searchsorted(recall, _RECALLS)
        reached = places < len(highest)
        own[reached] = highest[places[reached]]
    return found


@lru_cache(maxsize=16_384)
def _matches(said: bytes, answer: str, labels: int) -> tuple[_Matches, ...]:
    """Match the predictions of an image with its boxes, label by label.

    Args:
        said: Left, top, width, height, probability and label of each prediction, as float64; shape (queries, 6).
        answer: The right boxes.
        labels: Number of labels.

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
    numbers = np.frombuffer(said).reshape(-1, 6)
    with redirect_stdout(io.StringIO()):  # It prints what it does.
        known = COCO()
        known.dataset = _as_coco(boxes_of(answer), labels)
        known.createIndex()
        evaluator = COCOeval(known, known.loadRes(np.insert(numbers, 0, 0, axis=1)), "bbox")
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluator.params.maxDets = [_MOST]
        evaluator.evaluate()
    nothing = _Matches(np.empty(0), np.empty((len(evaluator.params.iouThrs), 0), dtype=bool), 0)
    return tuple(
        nothing if own is None else _Matches(np.array(own["dtScores"]), own["dtMatches"] > 0, len(own["gtIds"]))
        for own in evaluator.evalImgs
    )


def _as_coco(true: Boxes, labels: int) -> dict[str, Any]:
    """Return the right boxes of an image as the content of a COCO file."""
    found: list[dict[str, Any]] = []
    for corners, label in zip((true.corners * _SIDE).tolist(), true.labels.tolist(), strict=True):
        area = corners[2] * corners[3]
        entry = {"image_id": 0, "category_id": label, "bbox": corners, "area": area, "iscrowd": 0}
        found.append({"id": len(found) + 1, **entry})
    return {
        "info": {},
        "images": [{"id": 0}],
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

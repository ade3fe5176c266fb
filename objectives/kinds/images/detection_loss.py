"""The loss of detection models, transformers' own, on outputs and boxes as tensors."""

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

from promptgraft.objectives.data import boxes_of

# Costs and coefficients of DETR, which YOLOS and all that follow it have as defaults.
_SETTINGS = {
    "class_cost": 1,
    "bbox_cost": 5,
    "giou_cost": 2,
    "eos_coefficient": 0.1,
    "bbox_loss_coefficient": 5,
    "giou_loss_coefficient": 2,
    "auxiliary_loss": False,
}
# In the place of a label, behind the last box of an image.
_NONE = -1.0


def detection_targets(answers: Sequence[str]) -> Tensor:
    """Return boxes as numbers: the label, then centre, width and height as shares; shape (rows, most boxes, 5)."""
    boxes = [boxes_of(answer) for answer in answers]
    found = np.full((len(boxes), max((len(own.labels) for own in boxes), default=0), 5), _NONE, dtype=np.float32)
    for row, own in zip(found, boxes, strict=True):
        row[: len(own.labels), 0] = own.labels
        row[: len(own.labels), 1:3] = own.corners[:, :2] + own.corners[:, 2:] / 2
        row[: len(own.labels), 3:] = own.corners[:, 2:]
    return torch.from_numpy(found)


def detection_loss(outputs: Tensor, targets: Tensor, /, *, weight: Tensor | None = None) -> Tensor:
    """Match boxes with queries, and add the losses of labels, distances and overlaps; shape ().

    Args:
        outputs: Logits of the labels and of no object, then centre, width and height; (rows, queries, labels + 5).
        targets: From `detection_targets`.
        weight: Not used: labels count by their frequency.
    """
    del weight
    labels = outputs.shape[2] - 5
    known = [own[own[:, 0] != _NONE] for own in targets]
    wanted = [{"class_labels": own[:, 0].long(), "boxes": own[:, 1:]} for own in known]
    config = SimpleNamespace(num_labels=labels, **_SETTINGS)
    loss, _, _ = ForObjectDetectionLoss(
        outputs[..., : labels + 1], wanted, outputs.device, outputs[..., labels + 1 :], config
    )
    found: Tensor = loss
    return found

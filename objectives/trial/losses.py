"""Losses: those of the task kinds, the mixed one of the migration, and the contrastive one of text embeddings."""

from collections.abc import Mapping, Sequence
from math import isqrt

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from promptgraft.objectives.data import IGNORED, IGNORED_PIXEL, Answer, LossName, mask_in
from promptgraft.objectives.kinds import detection_loss, detection_targets
from promptgraft.objectives.prompting import Loss


def binary_cross_entropy(logits: Tensor, targets: Tensor, /, *, weight: Tensor | None = None) -> Tensor:
    """Return the mean over rows and labels of the negative log-likelihood, in nats; shape ().

    Args:
        logits: Shape (rows, labels).
        targets: 1 for labels that apply and 0 for others, same shape.
        weight: What each label counts, shape (labels,); all the same if None.
    """
    return functional.binary_cross_entropy_with_logits(logits, targets.to(logits), weight)


def squared_error(outputs: Tensor, targets: Tensor, /, *, weight: Tensor | None = None) -> Tensor:
    """Return half the mean squared error: the negative log-likelihood of normal errors of variance 1, but a constant.

    Args:
        outputs: Shape (rows, labels).
        targets: Standardised numbers, same shape.
        weight: What each label counts, shape (labels,); all the same if None.
    """
    squares = (outputs - targets.to(outputs)).square() / 2
    return squares.mean() if weight is None else (squares * weight).mean()


def word_cross_entropy(logits: Tensor, targets: Tensor, /, *, weight: Tensor | None = None) -> Tensor:
    """Return the mean over words of the negative log-likelihood of their labels, in nats; shape ().

    Args:
        logits: Shape (rows, words, labels), or (words, labels).
        targets: Index of each word's label, or `IGNORED`; shape (rows, words), or (words,).
        weight: What a word of each label counts, shape (labels,); all the same if None.
    """
    flat, labels = logits.flatten(0, -2), targets.flatten()
    total = functional.cross_entropy(flat, labels, weight, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def pixel_cross_entropy(logits: Tensor, targets: Tensor, /, *, weight: Tensor | None = None) -> Tensor:
    """Return the mean over pixels of the negative log-likelihood of their classes, in nats; shape ().

    It is transformers' loss of semantic segmentation: logits are interpolated bilinearly to the masks' size.

    Args:
        logits: Of a square map's cells, shape (rows, cells, labels).
        targets: Class of each pixel, or `IGNORED_PIXEL`; shape (rows, height, width).
        weight: What a pixel of each label counts, shape (labels,); all the same if None.
    """
    side = isqrt(logits.shape[1])
    maps = logits.transpose(1, 2).reshape(len(logits), -1, side, side)
    pixels = functional.interpolate(maps, size=targets.shape[1:], mode="bilinear", align_corners=False)
    total = functional.cross_entropy(pixels, targets, weight, ignore_index=IGNORED_PIXEL, reduction="sum")
    return total / (targets != IGNORED_PIXEL).sum().clamp(min=1)


# By the name that a task kind has for it.
LOSSES: Mapping[LossName, Loss] = {
    "cross_entropy": functional.cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "squared_error": squared_error,
    "word_cross_entropy": word_cross_entropy,
    "token_cross_entropy": word_cross_entropy,
    "pixel_cross_entropy": pixel_cross_entropy,
    "detection": detection_loss,
}


def targets_of(
    loss: LossName, answers: Sequence[Answer], n_labels: int, scaling: tuple[float, float] | None = None
) -> Tensor:
    """Return rows' answers as a loss takes them.

    Args:
        loss: Name of the loss.
        answers: Of each row.
        n_labels: Labels of the task.
        scaling: Centre and scale of numbers; as they are if None.

    Returns:
        Indices of labels, shape (rows,), or (rows, words) with `IGNORED` behind the last word of a row; indicators or
        numbers, shape (rows, n_labels); token ids of answers, padded with `IGNORED`, shape (rows, answer tokens); or
        classes of pixels, shape (rows, height, width); or boxes, shape (rows, most boxes, 5).
    """
    if loss == "cross_entropy":
        return torch.tensor(answers)
    if loss == "squared_error":
        centre, scale = scaling or (0.0, 1.0)
        return ((torch.tensor(answers, dtype=torch.float64) - centre) / scale).float()[:, None]
    if loss == "detection":
        return detection_targets([str(answer) for answer in answers])
    if loss == "pixel_cross_entropy":
        return torch.from_numpy(np.stack([mask_in(str(answer)) for answer in answers])).long()
    if loss in ("word_cross_entropy", "token_cross_entropy"):
        return pad_sequence([torch.tensor(answer) for answer in answers], batch_first=True, padding_value=IGNORED)
    found = torch.zeros(len(answers), n_labels)
    for row, own in enumerate(answers):
        assert isinstance(own, tuple), "rows have any number of labels"
        found[row, list(own)] = 1.0
    return found


def task_weights(alpha: float) -> tuple[float, float]:
    """Return the weights of source and target loss: alpha and 1 - alpha.

    Raises:
        ValueError: If alpha lies outside [0, 1].

    Source: equation for L in the README, "The method".
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1] but got {alpha}")
    return alpha, 1 - alpha


def mixed_loss(source_nll: float, target_nll: float, alpha: float) -> float:
    """Weigh the source loss against the target loss.

    Args:
        source_nll: Mean negative log-likelihood of the source batch, in nats.
        target_nll: The same for the target batch.
        alpha: Weight of the source, in [0, 1].

    Returns:
        alpha * source_nll + (1 - alpha) * target_nll.
    """
    source_weight, target_weight = task_weights(alpha)
    return source_weight * source_nll + target_weight * target_nll


def contrastive_loss(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Pull embeddings of one label together, and push those of others apart.

    Args:
        embeddings: Text embeddings, shape (rows, hidden).
        labels: Index of each row's label, shape (rows,).

    Returns:
        The mean over all pairs of rows of the squared difference between their cosine and 1 (same label) or 0
        (another); shape (). With fewer than two rows, 0.

    Source: sentence-transformers' CosineSimilarityLoss, with which SetFit trains on pairs that it draws (Tunstall et
        al. 2022, arXiv:2209.11055). Here a batch's rows are run once, and all their pairs count.
    """
    if len(embeddings) < 2:
        return embeddings.sum() * 0.0
    unit = functional.normalize(embeddings, dim=-1)
    first, second = torch.triu_indices(len(unit), len(unit), 1, device=unit.device)
    same = (labels[first] == labels[second]).to(unit.dtype)
    return ((unit[first] * unit[second]).sum(1) - same).square().mean()

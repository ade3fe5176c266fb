"""Losses: the mixed one of the migration, and the contrastive one of text embeddings."""

import torch
from torch import Tensor
from torch.nn import functional


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

"""The loss of the migration."""

from torch import Tensor


def mixed_loss(source_nll: Tensor, target_nll: Tensor, alpha: float) -> Tensor:
    """Weigh the source loss against the target loss.

    Args:
        source_nll: Mean negative log-likelihood of the source batch, in nats; shape ().
        target_nll: The same for the target batch; shape ().
        alpha: Weight of the source, in [0, 1].

    Returns:
        alpha * source_nll + (1 - alpha) * target_nll; shape ().

    Raises:
        ValueError: If alpha lies outside [0, 1].

    Source: equation for L in the README, "The method".
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1] but got {alpha}")
    return alpha * source_nll + (1 - alpha) * target_nll

"""The loss of the migration."""


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

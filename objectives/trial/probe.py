"""The probe: a linear head on frozen text embeddings, fitted to its optimum."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from torch import Tensor

from promptgraft.objectives.data import LossName
from promptgraft.objectives.trial.losses import LOSSES, task_weights

# L-BFGS stops when no component of the gradient is larger; the problem is convex, so that this is its optimum.
TOLERANCE, MAX_ITERATIONS = 1e-6, 1000


@dataclass(frozen=True, slots=True)
class EmbeddedRows:
    """Rows of one task as embeddings.

    Attributes:
        embeddings: Of unit length, shape (rows, hidden); in kinds with an answer for each word, words are the rows.
        targets: Each row's answer, as the loss takes it: index of its label among its task's labels, shape (rows,); or
            1 for each label that applies and 0 for the others, shape (rows, task labels).
        places: Where the task's labels are among the head's, shape (task labels,).
    """

    embeddings: Tensor
    targets: Tensor
    places: Sequence[int]


def fit_probe(
    target: EmbeddedRows,
    source: EmbeddedRows | None,
    n_labels: int,
    alpha: float,
    c: float,
    loss_name: LossName = "cross_entropy",
) -> tuple[Tensor, Tensor]:
    """Fit the head by logistic or ridge regression on both tasks.

    It minimises alpha * L_s + (1 - alpha) * L_t + |W|^2 / (2 * c * rows), where L_s and L_t are mean negative
    log-likelihoods, each over the labels of its task, and `rows` those of the tasks that take part. With alpha = 0 this
    is scikit-learn's LogisticRegression(C=c) on the target, or, with two labels, that with C = 2 * c. Of rows with
    several labels, the losses of the labels add up: it is LogisticRegression(C=c) for each of them. Of standardised
    numbers it is Ridge(alpha=1 / c).

    Args:
        target: Target rows.
        source: Source rows; may be None if alpha is 0.
        n_labels: Rows of the head: labels of both tasks.
        alpha: Weight of the source loss, in [0, 1].
        c: Inverse strength of the penalty.
        loss_name: That of the task kind.

    Returns:
        Weights, shape (n_labels, hidden), and biases, shape (n_labels,), in float32.

    Source: linear probing as in Kumar et al. 2022, arXiv:2202.10054; the two-task loss is that of the migration.
    """
    source_weight, target_weight = task_weights(alpha)
    parts = [(target, target_weight)] if target_weight else []
    parts += [(source, source_weight)] if source is not None and source_weight else []
    n_rows = sum(len(rows.targets) for rows, _ in parts)
    hidden = target.embeddings.shape[1]
    mean_loss, is_mean = LOSSES[loss_name], loss_name == "binary_cross_entropy"  # Over labels, too.
    tasks = [
        (rows.embeddings.double(), rows.targets, list(rows.places), weight * (len(rows.places) if is_mean else 1))
        for rows, weight in parts
    ]

    def objective(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        head = torch.from_numpy(flat).reshape(n_labels, hidden + 1).requires_grad_()
        loss = head[:, :-1].square().sum() / (2 * c * n_rows)
        for embeddings, targets, places, weight in tasks:
            logits = embeddings @ head[places, :-1].T + head[places, -1]
            loss = loss + weight * mean_loss(logits, targets)
        (gradient,) = torch.autograd.grad(loss, head)
        return float(loss.detach()), gradient.reshape(-1).numpy()

    start = np.zeros(n_labels * (hidden + 1))
    options = {"gtol": TOLERANCE, "ftol": 1e-12, "maxiter": MAX_ITERATIONS}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    head = torch.from_numpy(found.x).reshape(n_labels, hidden + 1).float()
    return head[:, :-1].contiguous(), head[:, -1].contiguous()

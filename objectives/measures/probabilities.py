"""Probabilities of rows that a model hasn't seen: averaged over models, and made to mean what they say."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

Logits = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float64]

# Temperatures that are tried, as powers of e: from a thirtieth to thirty.
_LOG_TEMPERATURE = 3.4
# Coverages of the curve, at most so many.
_POINTS = 10


def choose_members(
    scores: Mapping[int, Probabilities], values: Mapping[int, Probabilities], first: int, picks: int
) -> list[int]:
    """Choose an ensemble: a model, and the best of those that aren't shown to be worse than it.

    Near equals are averaged rather than told apart by what few rows say: a model joins if the mean of its row scores,
    or that of the metric, is at most a standard error of the differences below the first model's. One of the two is
    enough, since some models are less sure of rows that they get right as often; but others are surer than they should
    be, so that the metric must not be more than two standard errors below.

    Args:
        scores: Number of a model -> how good it is on each row that it wasn't trained on, shape (rows,); see
            `Task.row_scores`.
        values: The metric of each fold, larger ones being better, shape (folds,).
        first: The model that it starts with.
        picks: Most members, the first among them.

    Returns:
        Their numbers, the first one's and then the best one's first. A model with the same scores as a better one is
        left out.

    Source: Breiman et al. (1984), Classification and Regression Trees, section 3.4.3 (the rule of one standard error).
    """
    chosen = [first]
    for number in sorted(scores.keys() - {first}, key=lambda own: (-float(scores[own].mean()), own)):
        near = any(_is_near(own[number], own[first]) for own in (scores, values))
        near = near and _is_near(values[number], values[first], errors=2)
        known = any(np.array_equal(scores[number], scores[own]) for own in chosen)
        if len(chosen) < picks and near and not known:
            chosen.append(number)
    return chosen


def _is_near(theirs: Probabilities, best: Probabilities, errors: float = 1) -> bool:
    """Whether one is at most so many standard errors of the differences below the other."""
    behind = best - theirs
    error = float(behind.std(ddof=1)) / len(behind) ** 0.5 if len(behind) > 1 else 0.0
    return float(behind.mean()) <= errors * error


def best_temperature(logits: Logits, labels: npt.NDArray[np.int64]) -> float:
    """Return what to divide logits by, so that they are likeliest.

    A row's label is taken to be right with a probability of (rows + 1) / (rows + 2): were it certain, few rows that are
    all right would ask for a temperature of almost 0.

    Args:
        logits: Of rows that the model wasn't trained on, shape (rows, labels).
        labels: Index of each row's label, shape (rows,).

    Source: Guo et al. (2017), On Calibration of Modern Neural Networks, arXiv:1706.04599, section 4.2; Platt (1999),
        Probabilistic Outputs for Support Vector Machines, section 2.2, for the targets.
    """
    wide = logits.astype(np.float64)
    doubt = 1 / (len(labels) + 2)
    targets = np.full(wide.shape, doubt / (wide.shape[1] - 1))
    targets[np.arange(len(labels)), labels] = 1 - doubt

    def loss(log_temperature: float) -> float:
        return float(-(targets * log_softmax(wide / np.exp(log_temperature), axis=1)).sum(axis=1).mean())

    found = minimize_scalar(loss, bounds=(-_LOG_TEMPERATURE, _LOG_TEMPERATURE), method="bounded")
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def calibration_error(sure: Probabilities, right: npt.NDArray[np.bool_], bins: int = 10) -> float:
    """Return how far the probability of the predicted label is from the share that is right, on average over bins.

    Args:
        sure: Probability of the predicted label, shape (rows,).
        right: Whether it was right, shape (rows,).
        bins: Number of bins of the probability, all as wide.

    Source: Guo et al. (2017), equation 3.
    """
    place = np.minimum((sure * bins).astype(int), bins - 1)
    errors = [(place == own).sum() * abs(sure[place == own].mean() - right[place == own].mean()) for own in set(place)]
    return float(sum(errors) / len(sure))


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a model gets right if it leaves the rows to a person of which it is least sure.

    Attributes:
        threshold: Smallest probability of the likeliest label at which it decides.
        coverage: Share of the rows that it decides on.
        accuracy: Share of these that it gets right.
    """

    threshold: float
    coverage: float
    accuracy: float


def coverage_curve(chances: Probabilities, labels: npt.NDArray[np.int64]) -> list[Coverage]:
    """Return accuracy by coverage, from all rows to a tenth of them.

    Args:
        chances: Shape (rows, labels).
        labels: Index of each row's label, shape (rows,).

    Source: El-Yaniv and Wiener (2010), On the Foundations of Noise-free Selective Classification.
    """
    sure, right = chances.max(1), chances.argmax(1) == labels
    order = np.argsort(-sure, kind="stable")
    found: dict[float, Coverage] = {}
    for tenth in range(_POINTS, 0, -1):
        threshold = float(sure[order[max(1, round(len(labels) * tenth / _POINTS)) - 1]])
        kept = sure >= threshold
        found.setdefault(threshold, Coverage(threshold, float(kept.mean()), float(right[kept].mean())))
    return list(found.values())

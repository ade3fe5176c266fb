"""What TPE knows of templates: which are like each other, so that a new one is no stranger.

Optuna's TPE gives a categorical value the trials that had this very value. Here a trial counts for the templates like
its own as well, less the less they are alike: a template that just joined is judged by its neighbours. Optuna had such
a kernel (`categorical_distance_func`) before version 5.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import CategoricalDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator, _ParzenEstimatorParameters
from optuna.samplers._tpe.probability_distributions import _BatchedCategoricalDistributions, _BatchedDistributions

Matrix = npt.NDArray[np.float64]

# Width of the kernel, in median distances of the pool. Twice as wide, regret on `tests.bench.samplers` was higher than
# with strangers from 25 trials on; this wide, it is no higher.
BANDWIDTH = 0.2


class TemplateKernel:
    """How alike the templates of a pool are.

    Args:
        features: Template id -> `tokens`, `position` and `embedding`; see `objectives.growth.TemplateFeatures`.
        looks: First looks; `template` and `score` of each.
    """

    def __init__(self, features: Mapping[str, Mapping[str, Any]], looks: Sequence[Mapping[str, Any]]) -> None:
        scores: dict[str, float] = {}
        for look in looks:
            scores[look["template"]] = max(look["score"], scores.get(look["template"], -np.inf))
        self._ids = [template for template in features if template in scores]
        numbers = np.array(
            [[scores[t], np.log1p(features[t]["tokens"]), features[t]["position"]] for t in self._ids]
        ).reshape(-1, 3)
        embeddings = np.array([features[t]["embedding"] for t in self._ids], float)
        parts = [np.abs(column[:, None] - column[None]) for column in numbers.T]
        if self._ids:
            parts.append(1 - embeddings @ embeddings.T)
        self._distances = np.sqrt(sum((_scaled(part) ** 2 for part in parts), np.zeros((len(self._ids),) * 2)))

    def matrix(self, choices: Sequence[object]) -> Matrix:
        """Return how much a trial of one template counts for another; rows sum to 1, shape (choices, choices)."""
        place = {template: index for index, template in enumerate(self._ids)}
        found = np.eye(len(choices))
        known = [index for index, choice in enumerate(choices) if choice in place]
        if len(known) > 1:
            rows = [place[choices[index]] for index in known]  # type: ignore[index]
            alike = np.exp(-((_scaled(self._distances[np.ix_(rows, rows)]) / BANDWIDTH) ** 2) / 2)
            found[np.ix_(known, known)] = alike / alike.sum(1, keepdims=True)
        return found


def _scaled(distances: Matrix) -> Matrix:
    """Divide distances by the median of those that aren't 0."""
    others = distances[distances > 1e-9]
    return distances / float(np.median(others)) if others.size else distances


def see_alike(sampler: TPESampler, kernel: TemplateKernel) -> None:
    """Let a sampler of Optuna's see templates by the kernel."""

    class Estimator(_ParzenEstimator):
        def _calculate_categorical_distributions(
            self,
            observations: npt.NDArray[Any],
            param_name: str,
            search_space: CategoricalDistribution,
            parameters: _ParzenEstimatorParameters,
        ) -> _BatchedDistributions:
            if param_name != "template" or not len(observations):
                return super()._calculate_categorical_distributions(observations, param_name, search_space, parameters)
            n_choices, n_kernels = len(search_space.choices), len(observations) + 1
            # As Optuna's own, the last row is the prior's, with what an observation counts for in place of a 1.
            weights = np.full((n_kernels, n_choices), parameters.prior_weight / n_kernels)
            weights[:-1] += kernel.matrix(search_space.choices)[observations.astype(int)]
            return _BatchedCategoricalDistributions(weights / weights.sum(1, keepdims=True))

    sampler._parzen_estimator_cls = Estimator

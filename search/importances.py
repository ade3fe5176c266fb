"""Which knobs mattered: fANOVA's importances, with intervals from resampled trials."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, create_trial

# Trials below which importances are noise, and resamples of them that an interval is made from.
MIN_TRIALS, RESAMPLES, TREES = 10, 30, 32
_SPREAD = 100.0  # Of a numeric knob's values, largest to smallest, from which on it is taken on a logarithmic scale.


def importances(candidates: Sequence[Mapping[str, Any]], values: Sequence[float]) -> list[dict[str, Any]]:
    """Measure how much of the metric's variance each knob explains (Hutter et al. 2014), by Optuna's evaluator.

    Knobs are those of the candidates as they were run, defaults included, so that a knob that exists only for some of
    them is measured too. Its interval holds the middle 90 % over resamples of the trials: with few of them it is wide.

    Args:
        candidates: Knob -> value, of each finished trial.
        values: The metric of each.

    Returns:
        `name`, `importance`, `low`, `high` of every knob that varied, most important first; none with fewer than
        `MIN_TRIALS` trials, or where all values are equal.
    """
    knobs = _varying(candidates)
    if len(values) < MIN_TRIALS or not knobs or len(set(values)) == 1:
        return []
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trials = [
        create_trial(value=value, params={name: candidate[name] for name in knobs}, distributions=knobs)
        for candidate, value in zip(candidates, values, strict=True)
    ]
    found = _evaluate(trials)
    random = np.random.default_rng(0)
    drawn = [[trials[i] for i in random.integers(0, len(trials), len(trials))] for _ in range(RESAMPLES)]
    resampled = [_evaluate(own) for own in drawn if len({trial.value for trial in own}) > 1]
    ends = {name: np.quantile([own.get(name, 0.0) for own in resampled], [0.05, 0.95]) for name in found}
    return [
        {"name": name, "importance": importance, "low": float(ends[name][0]), "high": float(ends[name][1])}
        for name, importance in found.items()
    ]


def _evaluate(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    study = optuna.create_study()
    study.add_trials(trials)
    return optuna.importance.get_param_importances(
        study, evaluator=FanovaImportanceEvaluator(n_trees=TREES, seed=0), target=lambda trial: float(trial.value or 0)
    )


def _varying(candidates: Sequence[Mapping[str, Any]]) -> dict[str, BaseDistribution]:
    """Return the knobs that all candidates have and that aren't the same in all."""
    if not candidates:
        return {}
    found: dict[str, BaseDistribution] = {}
    for name in candidates[0]:
        if not all(name in candidate for candidate in candidates):
            continue
        values = [candidate[name] for candidate in candidates]
        if len(set(values)) == 1:
            continue
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            low, high = float(min(values)), float(max(values))
            found[name] = FloatDistribution(low, high, log=low > 0 and high / low > _SPREAD)
        else:
            found[name] = CategoricalDistribution(sorted(set(values), key=str))
    return found

"""Which knobs mattered: fANOVA's importances, with intervals from resampled trials, and what chance alone gives."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, create_trial

# Trials below which importances are noise, and how often they are drawn anew for intervals and for chance.
MIN_TRIALS, RESAMPLES, SHUFFLES = 10, 30, 20
_TREES, _TREES_OF_RESAMPLES = 64, 16
# A tree's time grows with the square of its trials: with more than 100, a resample gets fewer trees, of which there
# are many resamples.
_TRIALS_TIMES_TREES, _MIN_TREES = 1600, 4
_COVERED = 0.9  # Share of the resamples that an interval holds.
_SPREAD = 100.0  # Of a numeric knob's values, largest to smallest, from which on it is taken on a logarithmic scale.
_FEW = 8  # Values up to which a numeric knob that some trials lack is taken as names, its absence being one.


@dataclass(frozen=True, slots=True)
class Importance:
    """How much a knob mattered.

    Attributes:
        name: The knob.
        importance: Its share of the variance of the metric.
        low: Lower end of the interval of `importance`.
        high: Its upper end.
        by_chance: What it reaches in one of twenty cases when the metric is dealt out at random.
    """

    name: str
    importance: float
    low: float
    high: float
    by_chance: float


@dataclass(frozen=True, slots=True)
class Importances:
    """Which knobs mattered.

    Attributes:
        method: How that was measured.
        trials: COMPLETE trials that it was measured on.
        resamples: Resamples of the trials that intervals are from.
        covered: Share of the resamples that an interval holds.
        reason: Why there are none; None if there are.
        knobs: Every knob that varied, most important first.
    """

    method: str
    trials: int
    resamples: int
    covered: float
    reason: str | None
    knobs: tuple[Importance, ...]


def measure_importances(knobs: Sequence[Mapping[str, Any]], values: Sequence[float]) -> Importances:
    """Measure how much of the metric's variance each knob explains (Hutter et al. 2014), by Optuna's evaluator.

    With few trials a forest finds structure in noise, too: `by_chance` is what a knob reaches, in one of twenty cases,
    when the metric is dealt out to the trials at random.

    Args:
        knobs: Knob -> value of each COMPLETE trial; what a trial has not is missing or None.
        values: The metric of each.
    """
    base = "fANOVA", len(values), RESAMPLES, _COVERED
    columns, scores = _columns(knobs), np.array(values, dtype=np.float64)
    reason = _too_little(columns, scores)
    if reason:
        return Importances(*base, reason, ())
    random = np.random.default_rng(0)
    everything = np.arange(len(scores))
    trees = max(_MIN_TREES, min(_TREES_OF_RESAMPLES, _TRIALS_TIMES_TREES // len(scores)))
    found = _evaluate(columns, scores, everything, _TREES)
    resampled = [
        _evaluate(columns, scores, random.integers(0, len(scores), len(scores)), trees) for _ in range(RESAMPLES)
    ]
    dealt = [_evaluate(columns, random.permutation(scores), everything, trees) for _ in range(SHUFFLES)]
    outside = (1 - _COVERED) / 2
    entries = []
    for name, importance in found.items():
        low, high = np.quantile([own[name] for own in resampled if own], [outside, 1 - outside])
        chance = np.quantile([own[name] for own in dealt if own], 0.95)
        entries.append(Importance(name, float(importance), float(low), float(high), float(chance)))
    return Importances(*base, None, tuple(entries))


def _too_little(columns: Mapping[str, Any], scores: npt.NDArray[np.float64]) -> str | None:
    if len(scores) < MIN_TRIALS:
        return f"it takes {MIN_TRIALS} COMPLETE trials with hyperparameters, and there are {len(scores)}"
    if not columns:
        return "no hyperparameter varied"
    if len(set(scores.tolist())) == 1:
        return "all trials have the same value"
    return None


def _evaluate(
    columns: Mapping[str, tuple[BaseDistribution, Sequence[Any]]],
    scores: npt.NDArray[np.float64],
    rows: npt.NDArray[np.int64],
    trees: int,
) -> dict[str, float]:
    """Run fANOVA on some of the trials, repetitions allowed; nothing where these all score alike."""
    if len(set(scores[rows].tolist())) == 1:
        return {}
    distributions = {name: distribution for name, (distribution, _) in columns.items()}
    trials: list[FrozenTrial] = [
        create_trial(
            value=float(scores[row]),
            params={name: values[row] for name, (_, values) in columns.items()},
            distributions=distributions,
        )
        for row in rows
    ]
    evaluator = FanovaImportanceEvaluator(n_trees=trees, seed=0)
    with _quiet_optuna():
        study = optuna.create_study()
        study.add_trials(trials)
        return optuna.importance.get_param_importances(study, evaluator=evaluator, target=_value)


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Keep Optuna from announcing studies that are only a means of asking it."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _columns(knobs: Sequence[Mapping[str, Any]]) -> dict[str, tuple[BaseDistribution, list[Any]]]:
    """Return distribution and values of every knob that isn't the same in all trials."""
    columns = {}
    for name in dict.fromkeys(name for own in knobs for name in own):
        values = [own.get(name) for own in knobs]
        if len(set(values)) > 1:
            columns[name] = _column(values)
    return columns


def _column(values: list[Any]) -> tuple[BaseDistribution, list[Any]]:
    """Describe a knob's values to fANOVA; that a trial lacks it is a value of its own, or the middle of the others."""
    known = [value for value in values if value is not None]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)
    if not numeric or (len(known) < len(values) and len(set(known)) <= _FEW):
        return CategoricalDistribution(sorted(set(values), key=str)), values
    middle = sorted(known)[len(known) // 2]
    filled = [float(middle if value is None else value) for value in values]
    if min(filled) > 0 and max(filled) / min(filled) > _SPREAD:
        filled = [math.log(value) for value in filled]
    return FloatDistribution(min(filled), max(filled)), filled

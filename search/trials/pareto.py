"""Several objectives: the metric first, then what a candidate costs, which is minimised.

A trial's costs are known from its first report on, before it has trained; only the metric has a curve.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from promptgraft.search.storage import TrialRecord


def cost_names(study: optuna.Study) -> list[str]:
    """Return the names of the objectives beside the metric."""
    return (study.metric_names or [])[1:]


def metric_of(trial: FrozenTrial) -> float | None:
    """Return the metric of a finished trial, the first of its values."""
    return trial.values[0] if trial.values else None


def costs_of(trial: FrozenTrial, names: Sequence[str]) -> list[float] | None:
    """Return what a trial costs, by the figures it has reported; None if it has reported none yet."""
    record = TrialRecord.of(trial)
    found = [float(cost) for cost in map(record.figure, names) if cost is not None]
    return found if len(found) == len(names) else None


def pareto_front(study: optuna.Study) -> list[FrozenTrial]:
    """Return the COMPLETE trials that no other one dominates, best metric first; none with a single objective."""
    if len(study.directions) < 2:
        return []
    sign = 1 if study.directions[0] == StudyDirection.MAXIMIZE else -1
    return sorted(study.best_trials, key=lambda trial: (-sign * trial.values[0], *trial.values[1:], trial.number))


@dataclass(frozen=True, slots=True)
class FrontTrial:
    """A trial that no other one dominates.

    Attributes:
        number: The trial.
        values: Objective -> value.
    """

    number: int
    values: Mapping[str, float]


def front_table(study: optuna.Study) -> tuple[FrontTrial, ...]:
    """Return the front, best metric first; nothing with a single objective."""
    names = study.metric_names or []
    front = pareto_front(study)
    return tuple(FrontTrial(trial.number, dict(zip(names, trial.values, strict=True))) for trial in front)

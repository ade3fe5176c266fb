"""Several objectives: the metric first, then what a candidate costs, which is minimised.

A trial's costs are known from its first report on, before it has trained; only the metric has a curve. Optuna's own
pruners refuse studies of several objectives. Here they run as they are, on the metric's curves of the trial and of
those alone that cost no more: a trial that falls behind dearer ones may yet be on the Pareto front.
"""

from collections.abc import Sequence
from typing import Any, cast

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState


def cost_names(study: optuna.Study) -> list[str]:
    """Return the names of the objectives beside the metric."""
    return (study.metric_names or [])[1:]


def metric_of(trial: FrozenTrial) -> float | None:
    """Return the metric of a finished trial, the first of its values."""
    return trial.values[0] if trial.values else None


def costs_of(trial: FrozenTrial, names: Sequence[str]) -> list[float] | None:
    """Return what a trial costs, by the figures it has reported; None if it has reported none yet."""
    found = [trial.user_attrs.get(name) for name in names]
    return None if None in found else [float(cast(float, cost)) for cost in found]


def pareto_front(study: optuna.Study) -> list[FrozenTrial]:
    """Return the COMPLETE trials that no other one dominates, best metric first; none with a single objective."""
    if len(study.directions) < 2:
        return []
    sign = 1 if study.directions[0] == StudyDirection.MAXIMIZE else -1
    return sorted(study.best_trials, key=lambda trial: (-sign * trial.values[0], *trial.values[1:], trial.number))


def front_table(study: optuna.Study) -> list[dict[str, Any]]:
    """Return the front in JSON types: `number` and `values`, name -> value, of each trial."""
    names = study.metric_names or []
    return [
        {"number": trial.number, "values": dict(zip(names, trial.values, strict=True))} for trial in pareto_front(study)
    ]


class Pruning:
    """Asks a pruner of Optuna's about trials of a study with any number of objectives.

    Args:
        study: The study, with its pruner.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._pruner: BasePruner = study.pruner
        self._peers = _Peers(study._storage, study.directions[0], cost_names(study))

    def stops(self, trial_id: int) -> bool:
        """Whether the pruner wants a trial to stop."""
        if isinstance(self._pruner, NopPruner):
            return False
        trial = self._study._storage.get_trial(trial_id)
        if not self._peers.costs:
            return self._pruner.prune(self._study, trial)
        self._peers.limits = costs_of(trial, self._peers.costs)
        if self._peers.limits is None:
            return False
        view = optuna.Study(self._study.study_name, cast(BaseStorage, self._peers), pruner=self._pruner)
        return self._pruner.prune(view, trial)


class _Peers:
    """A storage as a pruner sees it: a study of the metric alone, with the trials that cost no more than one of them.

    All else is the storage's own, so that what a pruner notes of a trial is kept there.

    Attributes:
        limits: What that one costs.
    """

    def __init__(self, storage: BaseStorage, direction: StudyDirection, costs: Sequence[str]) -> None:
        self.costs = costs
        self.limits: list[float] | None = None
        self._storage = storage
        self._direction = direction

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:  # noqa: ARG002
        return [self._direction]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Sequence[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = self._storage.get_all_trials(study_id, deepcopy=deepcopy, states=states)
        return [trial for trial in trials if self._costs_no_more(trial)]

    def _costs_no_more(self, trial: FrozenTrial) -> bool:
        costs = costs_of(trial, self.costs)
        return (
            costs is not None
            and self.limits is not None
            and all(cost <= limit for cost, limit in zip(costs, self.limits, strict=True))
        )

"""Pruning with any number of objectives.

Optuna's own pruners refuse studies of several objectives. Here they run as they are, on the metric's curves of the
trial and of those alone that cost no more: a trial that falls behind more expensive ones may yet be on the Pareto
front.
"""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from promptgraft.search.storage import storage_of, study_over
from promptgraft.search.trials import cost_names, costs_of


class Pruning:
    """Asks a pruner of Optuna's about trials of a study with any number of objectives.

    Args:
        study: The study, with its pruner.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._pruner: BasePruner = study.pruner
        self._peers = _Peers(storage_of(study), study.directions[0], cost_names(study))

    def stops(self, trial_id: int) -> bool:
        """Whether the pruner wants a trial to stop."""
        if isinstance(self._pruner, NopPruner):
            return False
        trial = storage_of(self._study).get_trial(trial_id)
        if not self._peers.costs:
            return self._pruner.prune(self._study, trial)
        self._peers.limits = costs_of(trial, self._peers.costs)
        if self._peers.limits is None:
            return False
        view = study_over(self._study.study_name, self._peers, self._pruner)
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

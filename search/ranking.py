"""Which finished trial is best: one ranking for `run`, `status`, `best` and `export`."""

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def ranked_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the COMPLETE trials, best first; at equal values, the one with the lower loss.

    Accuracy on few validation rows ties often, and then the loss says more than the trial's number.
    """
    sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1

    def rank(trial: FrozenTrial) -> tuple[float, float, int]:
        return (
            -sign * float(trial.value or 0.0),
            float(trial.user_attrs.get("validation_loss", 0.0)),
            trial.number,
        )

    return sorted(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)), key=rank)


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the first of `ranked_trials`, if there is one."""
    return next(iter(ranked_trials(study)), None)

"""Which finished trial is best: one ranking for `run`, `status`, `best` and `export`."""

import math
from collections.abc import Mapping
from operator import itemgetter
from statistics import mean, stdev
from typing import TypeAlias

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from promptgraft.search.storage import Float32Score, StudyRecord, TrialRecord
from promptgraft.search.trials.pareto import metric_of

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
# Folds that a standard error needs.
MIN_FOLDS = 2


def candidate_key(trial: FrozenTrial) -> str | None:
    """Return the key of a trial's candidate, computed anew; None if it has none, as a trial that a user added."""
    record = TrialRecord.of(trial)
    return record.candidate.key if record.has_candidate else None


def float32_scores(study: optuna.Study) -> dict[int, Float32Score]:
    """Return what trials score in float32, by number; none where the search itself was in float32.

    They are attributes of the study: Optuna lets nobody write to a finished trial, and its own value stays what was
    measured in training.
    """
    return StudyRecord.of(study).float32


def ranked_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the COMPLETE trials, the one that leads first and then the best; see `leading_trial`.

    Those scored in float32 come before the others, by that score. The metric decides, also where a study minimises
    costs beside it. At equal values the one that costs less comes first, then one that uses the source, then the one
    with the lower loss.
    """
    return _led(study, float32_scores(study))


def top_trials(study: optuna.Study, count: int) -> list[FrozenTrial]:
    """Return the trials that are first by what the search measured."""
    return _led(study, {})[:count]


def leading_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the trial that wins if nothing else decides, if there is one.

    Few rows tell near equals apart by luck. So it is the one with the lowest loss of those that are no more than a
    standard error of the paired folds behind the best value (Breiman et al. 1984), among these of those that use the
    source, if any do; with several objectives, the one with the best value. See "Who wins" in docs/benchmarks.md.
    """
    return next(iter(ranked_trials(study)), None)


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the trial with the best value, if there is one, by the order of `ranked_trials`."""
    return next((trial for _, trial in _by_value(study, float32_scores(study))), None)


# Not scored in float32, the value, the costs, not using the source, the loss, the number: all the lower, the better.
Rank: TypeAlias = tuple[bool, float, list[float], bool, float, int]


def _by_value(study: optuna.Study, scores: Mapping[int, Float32Score]) -> list[tuple[Rank, FrozenTrial]]:
    sign = 1 if study.directions[0] == StudyDirection.MAXIMIZE else -1

    def rank(trial: FrozenTrial) -> Rank:
        score, record = scores.get(trial.number), TrialRecord.of(trial)
        value = score.value if score else metric_of(trial) or 0.0
        loss = score.metrics["loss"] if score else record.metrics.get("loss", 0.0)
        return score is None, -sign * float(value), trial.values[1:], not record.uses_source, float(loss), trial.number

    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(((rank(trial), trial) for trial in trials), key=itemgetter(0))


def _led(study: optuna.Study, scores: Mapping[int, Float32Score]) -> list[FrozenTrial]:
    sign, found = 1 if study.directions[0] == StudyDirection.MAXIMIZE else -1, _by_value(study, scores)
    if found and len(study.directions) == 1:
        best = found[0]
        near = (own for own in found if own[0][0] == best[0][0] and _is_near(own[1], best[1], sign))
        first = min(near, key=lambda own: own[0][3:], default=best)
        found.remove(first)
        found.insert(0, first)
    return [trial for _, trial in found]


def _is_near(trial: FrozenTrial, best: FrozenTrial, sign: int) -> bool:
    """Whether a trial is at most a standard error behind another, over the folds that both have run."""
    own, others = TrialRecord.of(trial).fold_values, TrialRecord.of(best).fold_values
    if len(own) != len(others) or len(own) < MIN_FOLDS:
        return False
    behind = [sign * (other - mine) for mine, other in zip(own, others, strict=True)]
    return mean(behind) <= stdev(behind) / math.sqrt(len(behind)) + 1e-12

"""The best trial of the search that differs from the winner in whether it uses the source.

Both were cross-validated on one partition and one seed, so their folds are paired repeats that cost nothing more. The
search chose both by these very folds, and the winner among more candidates: the difference favours the winner, and is
called one of the search. What is claimed of transfer rests on fresh repeats as well; see decision 10.
"""

from dataclasses import dataclass
from statistics import mean

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from promptgraft.search.judging.intervals import Interval, gain_over_folds
from promptgraft.search.storage import TrialRecord
from promptgraft.search.trials import ranked_trials

# Folds that an interval of differences needs.
MIN_FOLDS = 3


@dataclass(frozen=True, slots=True)
class Rival:
    """The winner against it, over the folds of the search.

    Attributes:
        mean: Its mean over the folds.
        standard_error: That of the mean.
        folds: How many folds.
        gain: How much better the winner is; positive where it is better.
    """

    mean: float
    standard_error: float | None
    folds: int
    gain: Interval


def rival_of(study: optuna.Study, winner: FrozenTrial) -> FrozenTrial | None:
    """Return the best trial that uses the source if the winner doesn't, or the other way round; None without any.

    Where all of those were pruned, it is the one that ran the most folds, and of several the best on them.
    """
    ran = [trial for trial in ranked_trials(study) if TrialRecord.of(trial).best_step is not None]
    sign = 1 if study.directions[0] == StudyDirection.MAXIMIZE else -1
    pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))

    def progress(trial: FrozenTrial) -> tuple[int, float]:
        values = TrialRecord.of(trial).fold_values
        return len(values), sign * mean(values or [0.0])

    begun = sorted((trial for trial in pruned if TrialRecord.of(trial).fold_values), key=progress, reverse=True)
    uses_source = TrialRecord.of(winner).uses_source
    return next((trial for trial in (*ran, *begun) if TrialRecord.of(trial).uses_source != uses_source), None)


def is_compared_on_folds(winner: FrozenTrial, rival: FrozenTrial) -> bool:
    """Whether a target-only rival needs no repeats: the winner uses the source, and both have run the same folds.

    Two folds aren't enough: an interval with one degree of freedom says nothing.
    """
    ours, theirs = TrialRecord.of(winner), TrialRecord.of(rival)
    return ours.uses_source and len(ours.fold_values) == len(theirs.fold_values) >= MIN_FOLDS


def compare_on_folds(study: optuna.Study, winner: FrozenTrial, level: float) -> Rival | None:
    """Compare the winner with its rival over the folds of the search; None where that needs repeats."""
    rival = rival_of(study, winner)
    if rival is None or not is_compared_on_folds(winner, rival):
        return None
    sign = 1 if study.directions[0] == StudyDirection.MAXIMIZE else -1
    record = TrialRecord.of(rival)
    ours, theirs = ([sign * value for value in TrialRecord.of(t).fold_values] for t in (winner, rival))
    gain = gain_over_folds(ours, theirs, level)
    return Rival(mean(record.fold_values), record.standard_error, len(theirs), gain)

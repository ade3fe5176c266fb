"""The race between folds: a trial that is clearly behind the best one on the folds that both have run is pruned.

Optuna's pruners compare curves over updates, which the first fold gives them. Between folds there is more to compare:
every labelled row is scored once for each trial, so that two trials are compared row by row.
"""

import math
from statistics import mean, stdev

from promptgraft.search.trials import FoldScores

# Significance level at which a trial counts as worse.
LEVEL = 0.05


class FoldRace:
    """Knows the best trial that this driver has seen to the end.

    Args:
        maximize: Whether larger values are better.
    """

    def __init__(self, *, maximize: bool) -> None:
        self._sign = 1 if maximize else -1
        self._best: FoldScores | None = None

    def finished(self, scores: FoldScores) -> None:
        """Take note of a trial that has run all folds."""
        if self._best is None or self._sign * scores.value > self._sign * self._best.value:
            self._best = scores

    def is_behind(self, scores: FoldScores) -> bool:
        """Whether a trial is behind the best one, on the folds that both have run.

        Both by a standard error of the metric, which the best one's folds tell, and by a paired one-sided t-test over
        rows: a model may be unsure of labels that it gets right as often, and near equals may be averaged in the end.
        """
        best = self._best
        if best is None or len(scores.fold_values) >= len(best.fold_values):
            return False
        folds = len(scores.fold_values)
        gap = self._sign * (mean(best.fold_values[:folds]) - scores.value)
        if gap <= stdev(best.fold_values) / math.sqrt(folds):
            return False
        differences = [theirs - own for own, theirs in zip(scores.row_scores, best.row_scores, strict=False)]
        spread = stdev(differences) if len(differences) > 1 else 0.0
        if spread < 1e-12:
            return mean(differences) > 0
        from scipy.special import stdtr

        statistic = mean(differences) / (spread / math.sqrt(len(differences)))
        return float(stdtr(len(differences) - 1, -statistic)) < LEVEL

"""Intervals for a score on held-out rows, and for the difference that a control makes.

Two things vary: which rows are held out, and which seed and split a candidate happens to be trained on. An interval for
one trained model knows the first alone; that for a difference between two ways of training knows both.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from promptgraft.objectives.data import Row, Task

Logits = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
# What `RowMetric.of` makes of the logits of some of the held-out rows, and which rows these are, shape (n,) -> the
# metric.
Measure = Callable[[Logits, Indices], float]

# Samples of rows that a bootstrap draws, as in Koehn (2004), Statistical Significance Tests for Machine Translation.
RESAMPLES = 1000
# Groups of rows that the jackknife leaves out in turn: a metric such as F1 has no value of its own for each row.
GROUPS = 20


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its interval.

    Attributes:
        value: The estimate.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class RowMetric:
    """A metric on held-out rows, for samples of them.

    Attributes:
        task: Computes it.
        name: Its name.
        rows: The rows.
    """

    task: "Task"
    name: str
    rows: "Sequence[Row]"

    def of(self, logits: Logits) -> Logits:
        """Return what `measure` takes: each row's figure, shape (rows,), where the metric is their mean; or logits."""
        values = self.task.by_row(self.name, logits, self.rows)
        return logits if values is None else values.astype(np.float32)

    def measure(self, found: Logits, kept: Indices) -> float:
        """Compute the metric on some of the rows.

        Args:
            found: What `of` returns of these.
            kept: Which they are, shape (n,).
        """
        if found.ndim == 1:
            return float(found.mean(dtype=np.float64))
        from promptgraft.objectives.kinds import scores

        return scores(self.task, found, [self.rows[index] for index in kept])[self.name]


def score_interval(logits: Logits, measure: Measure, metric: str, level: float, *, bootstrap: bool = False) -> Interval:
    """Return a model's score on held-out rows and the interval of what it would score on all rows of their kind.

    Wilson's interval for accuracy (Wilson 1927, doi:10.1080/01621459.1927.10502953); for other metrics Student's, by a
    jackknife over groups of rows.

    Args:
        logits: Shape (rows, labels).
        measure: Computes the metric.
        metric: Its name.
        level: How often the interval may miss, such as 0.05.
        bootstrap: Whether rows are resampled instead, as is usual where a score is no mean over rows.
    """
    rows = len(logits)
    value = measure(logits, np.arange(rows))
    if bootstrap:
        return interval_on_rows(lambda kept: measure(logits[kept], kept), rows, level, bootstrap=True)
    if metric == "accuracy":
        from scipy.stats import binomtest

        found = binomtest(round(value * rows), rows).proportion_ci(1 - level, method="wilson")
        return Interval(value, float(found.low), float(found.high))
    return interval_on_rows(lambda kept: measure(logits[kept], kept), rows, level)


def interval_on_rows(
    statistic: Callable[[Indices], float], rows: int, level: float, *, bootstrap: bool = False
) -> Interval:
    """Return a statistic of held-out rows with Student's interval, by a jackknife over groups of them.

    Args:
        statistic: Computes it for some of the rows.
        rows: Number of rows, at least two.
        level: How often the interval may miss.
        bootstrap: Whether rows are resampled instead; see `score_interval`.
    """
    if bootstrap:
        return _between(statistic(np.arange(rows)), [statistic(kept) for kept in _resampled(rows)], level)
    variance, freedom = _row_variance(statistic, rows)
    return _student(statistic(np.arange(rows)), variance, freedom, level)


def gain_on_rows(
    ours: Sequence[Logits], theirs: Sequence[Logits], measure: Measure, level: float, *, bootstrap: bool = False
) -> Interval:
    """Return the mean difference of two ways of training, each repeated, on the same held-out rows.

    Its variance is the sum of that between repeats and that between rows, by a jackknife over groups of rows
    (conservative: what both share is counted twice); degrees of freedom after Satterthwaite (1946,
    doi:10.2307/3002019).

    Args:
        ours: Logits of each repeat, shape (rows, labels).
        theirs: The same of what is compared with, paired by repeat.
        measure: Computes the metric.
        level: How often the interval may miss.
        bootstrap: Whether rows and repeats are resampled instead, both sides alike (Koehn 2004).
    """

    def differences(kept: Indices) -> npt.NDArray[np.float64]:
        pairs = zip(ours, theirs, strict=True)
        return np.array([measure(a[kept], kept) - measure(b[kept], kept) for a, b in pairs])

    count = len(ours[0])
    each = differences(np.arange(count))
    if bootstrap:
        drawn = np.random.default_rng(1)
        means = [float(drawn.choice(differences(kept), len(each)).mean()) for kept in _resampled(count)]
        return _between(float(each.mean()), means, level)
    repeats = float(each.var(ddof=1)) / len(each)
    rows, freedom = _row_variance(lambda kept: float(differences(kept).mean()), count)
    total = repeats + rows
    if total == 0:
        return Interval(float(each.mean()), float(each.mean()), float(each.mean()))
    parts = repeats**2 / (len(each) - 1) + rows**2 / freedom
    return _student(float(each.mean()), total, total**2 / parts, level)


def gain_over_repeats(ours: Sequence[float], theirs: Sequence[float], level: float) -> Interval:
    """Return the mean difference of paired repeats, each on rows of its own, with Student's interval."""
    each = np.array(ours) - np.array(theirs)
    return _student(float(each.mean()), float(each.var(ddof=1)) / len(each), len(each) - 1, level)


def gain_over_folds(ours: Sequence[float], theirs: Sequence[float], level: float) -> Interval:
    """Return the mean difference over the folds of one cross-validation, with its interval.

    Folds share training rows, so that their spread is too small: the variance is corrected by the ratio of rows scored
    to rows trained on (Nadeau and Bengio 2003, doi:10.1023/A:1024068626366).
    """
    each = np.array(ours) - np.array(theirs)
    folds = len(each)
    return _student(float(each.mean()), float(each.var(ddof=1)) * (1 / folds + 1 / (folds - 1)), folds - 1, level)


def _resampled(rows: int) -> Iterator[Indices]:
    """Draw as many rows as there are, with replacement, again and again."""
    drawn = np.random.default_rng(0)
    for _ in range(RESAMPLES):
        yield drawn.integers(rows, size=rows)


def _between(value: float, found: Sequence[float], level: float) -> Interval:
    low, high = np.quantile(found, [level / 2, 1 - level / 2])
    return Interval(value, float(low), float(high))


def _row_variance(statistic: Callable[[Indices], float], rows: int) -> tuple[float, float]:
    """Return a statistic's variance over the choice of rows, and its degrees of freedom."""
    groups = np.array_split(np.random.default_rng(0).permutation(rows), min(GROUPS, rows))
    everything = np.arange(rows)
    without = np.array([statistic(np.setdiff1d(everything, group)) for group in groups])
    count = len(groups)
    return float((count - 1) / count * ((without - without.mean()) ** 2).sum()), count - 1


def _student(value: float, variance: float, freedom: float, level: float) -> Interval:
    from scipy.special import stdtrit  # Here, since `status` is quick and mostly has nothing to judge.

    half = float(stdtrit(freedom, 1 - level / 2)) * variance**0.5
    return Interval(value, value - half, value + half)

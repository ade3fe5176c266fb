"""Which finalists are as good as the best, as far as their repeats can tell, and which of those is the cheapest.

A repeat is one more cycle of a candidate, with a seed and a split of rows that every finalist gets: scores of one
repeat are compared with each other only, so that what a split makes hard for all of them falls out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

MIN_REPEATS = 2
# Repeats from which on tests decide anything: with two, a t-test rests on one degree of freedom.
TESTED_FROM = 3


@dataclass(frozen=True, slots=True)
class Finalist:
    """A trial whose candidate was repeated.

    Attributes:
        number: The trial.
        values: The metric of each repeat, in their order.
        cost: What the tie set is judged by.
        p_value: Of the hypothesis that it is no worse than the best, corrected for the number of finalists; 1 for the
            best itself.
        tied: Whether it is not shown to be worse than the best.
    """

    number: int
    values: tuple[float, ...]
    cost: float
    p_value: float = 1.0
    tied: bool = True

    @property
    def mean(self) -> float:
        """Mean of the repeats."""
        return mean(self.values)

    @property
    def standard_error(self) -> float:
        """Standard error of the mean over repeats."""
        return stdev(self.values) / math.sqrt(len(self.values))


@dataclass(frozen=True, slots=True)
class Race:
    """How far a race of finalists has come.

    Attributes:
        alive: Those still in it.
        dropped: Those that were shown to be worse than the best of their round -> corrected p-value there.
        round: Repeats that all who are still in it have had.
    """

    alive: tuple[int, ...]
    dropped: Mapping[int, float]
    round: int


def race(values: Mapping[int, Mapping[int, float]], *, maximize: bool, level: float) -> Race:
    """Follow a race: repeats are rounds, and from the third on those shown to be worse than the best fall out.

    After F-Race (Birattari et al. 2002) and irace (López-Ibáñez et al. 2016, doi:10.1016/j.orp.2016.09.002), with the
    tests of `judge`. The level is that of one round.

    Args:
        values: Trial -> number of the repeat, from 1 on -> metric.
        maximize: Whether larger values are better.
        level: Level of the tests.
    """
    alive, dropped, done = list(values), dict[int, float](), 0
    while alive and all(done + 1 in values[number] for number in alive):
        done += 1
        if done < TESTED_FROM:
            continue
        so_far = {number: [values[number][repeat] for repeat in range(1, done + 1)] for number in alive}
        found = judge(so_far, dict.fromkeys(alive, 0.0), maximize=maximize, level=level)
        dropped |= {entry.number: entry.p_value for entry in found if not entry.tied}
        alive = [number for number in alive if number not in dropped]
    return Race(tuple(alive), dropped, done)


def judge(
    values: Mapping[int, Sequence[float]], costs: Mapping[int, float], *, maximize: bool, level: float
) -> list[Finalist]:
    """Compare finalists with the best of them, and order them: the winner first, then the others by their mean.

    Each is compared with the best by a paired one-sided t-test over the repeats; p-values are corrected by Holm's
    method (Holm 1979). Those not below `level` are the tie set, and its cheapest member wins; among equally cheap ones,
    the one with the better mean. With two repeats a test can show nothing, and the best mean wins.

    Args:
        values: Trial -> metric of each repeat, as many for each, in the same order.
        costs: Trial -> cost.
        maximize: Whether larger values are better.
        level: Level of the tests.

    Returns:
        The finalists; none if there are fewer than two repeats.
    """
    if not values or min(map(len, values.values())) < MIN_REPEATS:
        return []
    sign = 1 if maximize else -1
    order = sorted(values, key=lambda number: (-sign * mean(values[number]), costs[number], number))
    best, others = order[0], order[1:]
    raw = {
        number: _p_worse([sign * (a - b) for a, b in zip(values[best], values[number], strict=True)])
        for number in others
    }
    corrected = {best: 1.0, **_holm(raw)}
    found = [
        Finalist(number, tuple(values[number]), costs[number], corrected[number], corrected[number] >= level)
        for number in order
    ]
    if len(values[best]) < TESTED_FROM:
        return found
    winner = min(found, key=lambda finalist: (not finalist.tied, finalist.cost, order.index(finalist.number)))
    return [winner, *(finalist for finalist in found if finalist is not winner)]


def _p_worse(differences: Sequence[float]) -> float:
    """Return the p-value of the differences' mean being no larger than 0."""
    spread = stdev(differences)
    if spread < 1e-12:
        return 1.0 if mean(differences) <= 0 else 0.0
    from scipy.special import stdtr  # Here, since `status` is quick and mostly has nothing to judge.

    statistic = mean(differences) / (spread / math.sqrt(len(differences)))
    return float(stdtr(len(differences) - 1, -statistic))


def _holm(p_values: Mapping[int, float]) -> dict[int, float]:
    """Correct p-values for their number; each is no smaller than those before it in their order."""
    corrected: dict[int, float] = {}
    largest = 0.0
    for rank, number in enumerate(sorted(p_values, key=lambda number: p_values[number])):
        largest = max(largest, min(1.0, p_values[number] * (len(p_values) - rank)))
        corrected[number] = largest
    return corrected

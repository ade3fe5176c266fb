"""Which trials are run again, which are as good as the best as far as that tells, and which of those is the cheapest.

A repeat is one more cycle of a candidate, with a seed and a split of rows that every finalist gets: scores of one
repeat are compared with each other only, so that what a split makes hard for all of them falls out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

MIN_REPEATS = 2
# Trials that get a first repeat, for each place among the finalists.
QUALIFY = 2
# With one place, this repeat chooses who has it; those from the next on choose nothing.
CHOOSING = 1
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
    """How far a race has come.

    Attributes:
        waiting: Those that have qualified and wait for their first repeat, best of the search first.
        finalists: Those that are to have all repeats, as things are, best first; not those shown to be worse.
        dropped: Those of them that were shown to be worse than the best -> corrected p-value.
    """

    waiting: tuple[int, ...]
    finalists: tuple[int, ...]
    dropped: Mapping[int, float]


def plan_race(
    in_search: Mapping[int, float],
    repeats: Mapping[int, Sequence[float]],
    places: int,
    *,
    maximize: bool,
    level: float,
) -> Race:
    """Find out who is to be repeated next.

    Twice as many trials as there are places qualify, by the search, for one repeat: who was only lucky in the search
    is found out by it. The best by the mean of both values become finalists; that isn't asked again as they get their
    other repeats, or luck would be chased on and on. From the third repeat on, those shown to be worse than the best
    fall out, after F-Race (Birattari et al. 2002) and irace (López-Ibáñez et al. 2016, doi:10.1016/j.orp.2016.09.002),
    with the tests of `judge`. Only the present values count, not how they came about.

    Args:
        in_search: Trial -> what the search measured, best first.
        repeats: Trial -> metric of its repeats, in their order; nothing of those that had none.
        places: Number of finalists.
        maximize: Whether larger values are better.
        level: Level of the tests.
    """
    sign = 1 if maximize else -1
    qualified = list(in_search)[: QUALIFY * places]
    repeated = [trial for trial in in_search if repeats.get(trial)]
    best = sorted(repeated, key=lambda trial: -sign * (in_search[trial] + repeats[trial][0]))[:places]
    dropped = _shown_worse({trial: repeats[trial] for trial in best}, sign, level)
    waiting = tuple(trial for trial in qualified if trial not in repeated)
    return Race(waiting, tuple(trial for trial in best if trial not in dropped), dropped)


def _shown_worse(repeats: Mapping[int, Sequence[float]], sign: int, level: float) -> dict[int, float]:
    """Return those shown to be worse than the best of them, on the repeats that both have had, with the p-value."""
    tested = {trial: own for trial, own in repeats.items() if len(own) >= TESTED_FROM}
    if not tested:
        return {}
    best = max(tested, key=lambda trial: sign * mean(tested[trial]))
    raw = {
        trial: _p_worse([sign * (a - b) for a, b in zip(tested[best], own, strict=False)])
        for trial, own in tested.items()
        if trial != best
    }
    return {trial: p_value for trial, p_value in _holm(raw).items() if p_value < level}


def compare_finalists(
    values: Mapping[int, Sequence[float]], costs: Mapping[int, float], *, maximize: bool, level: float
) -> list[Finalist]:
    """Compare finalists with the best of them, and order them: the winner first, then the others by their mean.

    Each is compared with the best by a paired one-sided t-test over the repeats that both have had; p-values are
    corrected by Holm's method (Holm 1979). Those not below `level` are the tie set, and its cheapest member wins; among
    equally cheap ones, the one with the better mean. With two repeats a test can show nothing: who has had no more wins
    by its mean alone.

    Args:
        values: Trial -> metric of each repeat, in the same order; as many for each once a race is over.
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
        number: _p_worse([sign * (a - b) for a, b in zip(values[best], values[number], strict=False)])
        for number in others
    }
    corrected = {best: 1.0, **_holm(raw)}
    found = [
        Finalist(number, tuple(values[number]), costs[number], corrected[number], corrected[number] >= level)
        for number in order
    ]
    if len(values[best]) < TESTED_FROM:
        return found
    tied = [finalist for finalist in found if finalist.tied and len(finalist.values) >= TESTED_FROM]
    winner = min(tied, key=lambda finalist: (finalist.cost, order.index(finalist.number)))
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

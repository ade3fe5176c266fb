"""Is more data worth more than more search? The winner on fewer rows, and the search with fewer trials.

The points of a curve are repeats on the fresh splits that the winner and its controls had (`search.running.finals`): a
quarter, half and all of the training rows of the target, and of the source.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from promptgraft.search.judging.intervals import Interval, gain_over_repeats
from promptgraft.search.judging.race import MIN_REPEATS
from promptgraft.search.judging.transfer_gain import winner_outcomes
from promptgraft.search.storage import Outcome, StudyRecord
from promptgraft.search.trials import metric_of
from promptgraft.search.wording import difference, rounded, unit

SHARES = (4, 2)
# Trials below which nothing is said of more of them.
MIN_TRIALS = 4
# Rows below which there is no curve: a quarter must have some of each label.
MIN_ROWS = 16


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The winner on some of the training rows.

    Attributes:
        rows: How many; None for all.
        mean: Mean of the metric over repeats.
        standard_error: That of the mean; None for a single one.
        repeats: Number of repeats.
    """

    rows: int | None
    mean: float
    standard_error: float | None
    repeats: int


@dataclass(frozen=True, slots=True)
class LearningCurves:
    """What more data, or more trials, may be worth.

    Attributes:
        curves: Part of the data (`target`, `source`) -> points.
        doubling: Part -> what the last doubling of its rows brought; positive where it is better.
        trials: What doubling the trials did, by what the search measured; None with too few.
        sentence: The same in words.
    """

    curves: Mapping[str, tuple[CurvePoint, ...]]
    doubling: Mapping[str, Interval]
    trials: float | None
    sentence: str


def fewer_rows(target: int, source: int, candidate: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return the points beside the whole: part and number of its training rows.

    Args:
        target: Training rows of the target.
        source: Training rows of the source; 0 without one.
        candidate: The winner; where it doesn't use the source, that has no curve.
    """
    uses_source = bool(candidate.get("source_steps") or candidate.get("alpha"))
    counts = {"target": target} | ({"source": source} if uses_source else {})
    return [(part, count // share) for part, count in counts.items() if count >= MIN_ROWS for share in SHARES]


def collect_learning_curves(study: optuna.Study, winner: FrozenTrial | None) -> LearningCurves | None:
    """Read the curves of the winner; None without any."""
    if winner is None:
        return None
    record = StudyRecord.of(study)
    points = _points(record, winner.number)
    full = _values(winner_outcomes(study, winner.number))
    if not points or len(full) < MIN_REPEATS:
        return None
    sign = 1 if study.directions[0] == StudyDirection.MAXIMIZE else -1
    level = record.judging.level
    curves: dict[str, tuple[CurvePoint, ...]] = {}
    doubling: dict[str, Interval] = {}
    for part, counts in points.items():
        curves[part] = (*(_point(rows, counts[rows]) for rows in sorted(counts)), _point(None, full))
        half = counts[max(counts)]
        common = sorted(half.keys() & full.keys())
        if len(common) >= MIN_REPEATS:
            ours, theirs = ([sign * values[repeat] for repeat in common] for values in (full, half))
            doubling[part] = gain_over_repeats(ours, theirs, level)
    trials = _doubled_search(study, sign)
    sentence = _sentence(doubling, trials, (study.metric_names or ["value"])[0], level)
    return LearningCurves(curves, doubling, trials, sentence)


def _points(record: StudyRecord, trial: int) -> dict[str, dict[int, dict[int, float]]]:
    """Return part -> rows -> number of the repeat -> metric."""
    found: dict[str, dict[int, dict[int, float]]] = {}
    for part, counts in record.curve(trial).items():
        for rows, outcomes in counts.items():
            if values := _values(outcomes):
                found.setdefault(part, {})[rows] = values
    return found


def _values(outcomes: Mapping[int, Outcome]) -> dict[int, float]:
    return {repeat: outcome.value for repeat, outcome in outcomes.items() if outcome.value is not None}


def _point(rows: int | None, values: Mapping[int, float]) -> CurvePoint:
    own = list(values.values())
    error = stdev(own) / len(own) ** 0.5 if len(own) > 1 else None
    return CurvePoint(rows, mean(own), error, len(own))


def _doubled_search(study: optuna.Study, sign: int) -> float | None:
    """Return how much better the best of all trials is than the best of half of them, on average over halves.

    Exact for halves drawn at random: the i-th best is the best of a half if it is in it and all better ones aren't. It
    is of the search's own scores, which grow by luck too: at most so much.
    """
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    values = [metric_of(trial) if trial.state == TrialState.COMPLETE else None for trial in ended]
    known = [sign * float(value) for value in values if value is not None]
    if len(values) < MIN_TRIALS or not known:
        return None
    ranked = sorted(known, reverse=True) + [min(known)] * (len(values) - len(known))
    left_out = len(ranked) // 2
    expected, better_are_out = 0.0, 1.0
    for place, value in enumerate(ranked[: left_out + 1]):
        is_out = (left_out - place) / (len(ranked) - place)
        expected += better_are_out * (1 - is_out) * value
        better_are_out *= is_out
    return ranked[0] - expected


def _sentence(doubling: Mapping[str, Interval], trials: float | None, metric: str, level: float) -> str:
    said = [
        f"the last doubling of the {part} rows brought {difference(gain.value, metric)} {unit(metric)} "
        f"({100 * (1 - level):.3g} % interval {difference(gain.low, metric)} to {difference(gain.high, metric)})"
        for part, gain in doubling.items()
    ]
    if trials is not None:
        said.append(f"doubling the trials at most {difference(trials, metric)}")
    worth = {f"{part} rows": gain.value for part, gain in doubling.items()}
    worth |= {"trials": trials} if trials is not None else {}
    most = max(worth, key=lambda name: worth[name], default=None)
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]}. More {most} promise most." if most else ""


def curve_lines(table: LearningCurves | None, metric: str) -> list[str]:
    """Write learning curves for people; nothing where there are none."""
    if table is None:
        return []
    lines = [table.sentence]
    for part, points in table.curves.items():
        shown = [f"{point.rows or 'all'} {part} rows {rounded(point.mean)}" for point in points]
        lines.append(f"  {metric}: {', '.join(shown)}")
    return lines

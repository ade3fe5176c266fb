"""Two studies side by side: what each says, how they differ, and which winner is better on the same test rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna

from promptgraft.objectives.data import Task, rows_hash
from promptgraft.objectives.file_store import FileStore
from promptgraft.search.judging import RowMetric, interval_on_rows
from promptgraft.search.reporting.error_analysis import outputs_on_test_rows
from promptgraft.search.reporting.status import summarize
from promptgraft.search.storage import StudyRecord
from promptgraft.search.study import Study, flattened
from promptgraft.search.trials import metric_of


@dataclass(frozen=True, slots=True)
class ReportedStudy:
    """A study that a report reads.

    Attributes:
        stored: Its record.
        study: The study with its rows; None if they can't be read any more.
        files: Its files.
    """

    stored: optuna.Study
    study: Study | None
    files: FileStore


@dataclass(frozen=True, slots=True)
class StudyScore:
    """What one of two studies found.

    Attributes:
        study: Its name.
        headline: Its verdict.
        trial: Its winner.
        in_search: What the search measured of it.
        test: Its score on the test rows; None while they are sealed.
        low: Lower end of the interval of that; None without one.
        high: Its upper end.
        trials: Finished trials.
        seconds: Time of all its trials together.
    """

    study: str
    headline: str | None
    trial: int | None
    in_search: float | None
    test: float | None
    low: float | None
    high: float | None
    trials: int
    seconds: float


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How much better one winner is than another on the same test rows.

    Attributes:
        rows: Number of rows.
        value: By how much the first is larger.
        low: Lower end of the interval.
        high: Its upper end.
    """

    rows: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Another study beside the one of a report.

    Attributes:
        ours: What the report's study found.
        theirs: What the other one found.
        differences: Key of the study file -> its value here, and there; None where it isn't set.
        paired: This winner less the other on the same test rows; None if that isn't known.
        reason: Why it isn't.
    """

    ours: StudyScore
    theirs: StudyScore
    differences: Mapping[str, tuple[Any, Any]]
    paired: PairedDifference | None
    reason: str | None


def side_by_side(ours: ReportedStudy, theirs: ReportedStudy) -> SideBySide:
    """Compare two studies; nothing is computed anew, and sealed test rows stay sealed."""
    both = _score(ours), _score(theirs)
    paired = _paired(ours, theirs, both)
    here, there = (_settings(own) for own in (ours, theirs))
    differences = {
        name: (here.get(name), there.get(name))
        for name in dict.fromkeys((*here, *there))
        if here.get(name) != there.get(name)
    }
    return SideBySide(*both, differences, *((None, paired) if isinstance(paired, str) else (paired, None)))


def _score(own: ReportedStudy) -> StudyScore:
    summary, trials = summarize(own.stored), own.stored.get_trials(deepcopy=False)
    number = summary.winner.number if summary.winner else None
    opening = StudyRecord.of(own.stored).opening(number) if number is not None else None
    opening = opening.alone() if opening else None
    low, high = opening.interval if opening and opening.interval else (None, None)
    return StudyScore(
        study=own.stored.study_name,
        headline=summary.headline,
        trial=number,
        in_search=metric_of(trials[number]) if number is not None else None,
        test=dict(opening.table[0][1]).get(summary.metric) if opening and opening.table else None,
        low=low,
        high=high,
        trials=summary.finished,
        seconds=summary.seconds,
    )


def _settings(own: ReportedStudy) -> dict[str, Any]:
    return {name: value for name, value in flattened(StudyRecord.of(own.stored).definition) if name != "study"}


def _paired(ours: ReportedStudy, theirs: ReportedStudy, both: tuple[StudyScore, StudyScore]) -> PairedDifference | str:
    """Return the difference of both winners on the same test rows, or why it isn't known."""
    studies = ours, theirs
    metrics = [(own.stored.metric_names or ["value"])[0] for own in studies]
    if metrics[0] != metrics[1]:
        return f"the studies have different metrics: {metrics[0]} and {metrics[1]}"
    sealed = [own.study for own in both if own.test is None]
    if sealed:
        return f"the test rows of {' and '.join(sealed)} are sealed; promptgraft export opens them"
    hashes = [_opened_rows(own, score) for own, score in zip(studies, both, strict=True)]
    tasks = [own.study.target if own.study else None for own in studies]
    if hashes[0] != hashes[1]:
        return f"the test rows differ (hash {hashes[0]} and {hashes[1]}), so the scores aren't of the same rows"
    if tasks[0] is None or tasks[1] is None or any(rows_hash(own.test) != hashes[0] for own in tasks if own):
        return "the tables of the test rows can't be read any more, or have changed"
    if tasks[0].labels != tasks[1].labels:
        return "the studies have different labels"
    return _on_rows(studies, (tasks[0], tasks[1]), both, metrics[0])


def _opened_rows(own: ReportedStudy, score: StudyScore) -> str | None:
    opening = StudyRecord.of(own.stored).opening(score.trial) if score.trial is not None else None
    return opening.rows if opening else None


def _on_rows(
    studies: tuple[ReportedStudy, ReportedStudy],
    tasks: tuple[Task, Task],
    both: tuple[StudyScore, StudyScore],
    metric: str,
) -> PairedDifference | str:
    """Compare what both winners made of the test rows, as their studies have kept it."""
    found = []
    for own, task, score in zip(studies, tasks, both, strict=True):
        outputs = outputs_on_test_rows(task, own.files, score.trial or 0)
        if outputs is None:
            return f"the outputs of {score.study} for the test rows aren't there any more"
        found.append(outputs)
    rows = tasks[0].test
    sides = [RowMetric(task, metric, rows) for task, _ in found]
    values = [side.of(logits) for side, (_, logits) in zip(sides, found, strict=True)]

    def measured(side: int, kept: npt.NDArray[np.int64]) -> float:
        return sides[side].measure(values[side][kept], kept)

    level = StudyRecord.of(studies[0].stored).judging.level
    interval = interval_on_rows(
        lambda kept: measured(0, kept) - measured(1, kept), len(rows), level, bootstrap=tasks[0].bootstrap
    )
    return PairedDifference(len(rows), interval.value, interval.low, interval.high)

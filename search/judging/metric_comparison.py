"""Champion and challenger by the metric of their kind of task, where rows have no single label to be right about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from promptgraft.bundles import Disagreement, Outcome
from promptgraft.objectives.data import Direction, Outputs, Row, Task, TaskSpec, TextTask
from promptgraft.objectives.kinds import directions
from promptgraft.search.judging.intervals import Indices, RowMetric, interval_on_rows
from promptgraft.spaces import InvalidInputError


class ScoredModel(Protocol):
    """What has outputs for rows, such as a `Predictor`."""

    task: Task

    def logits(self, rows: Sequence[Mapping[str, str]]) -> Outputs:
        """Return the outputs for rows; see `Task`."""
        ...


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """Scores of two models on the same rows.

    Attributes:
        metric: What they are compared by: the default metric of their kind of task.
        direction: Which way it is better.
        rows: Number of rows.
        cleaning: How many rows were read, and which were dropped.
        champion: Score of the champion.
        challenger: Score of the challenger.
        low: Lower end of the interval of the difference, challenger less champion.
        high: Its upper end.
        level: How often the interval may miss the difference.
        outcome: What the interval says of the challenger.
        disagreements: The rows of which they say different things.
    """

    metric: str
    direction: Direction
    rows: int
    cleaning: str
    champion: float
    challenger: float
    low: float
    high: float
    level: float
    outcome: Outcome
    disagreements: tuple[Disagreement, ...]


def rows_of_kind(task: Task, path: str, columns: Mapping[str, str], label: str) -> tuple[list[Row], str]:
    """Read labelled rows as the kind of task reads its tables.

    Args:
        task: The kind of task, with its labels.
        path: A table.
        columns: Template field -> column.
        label: Column of the answer.

    Returns:
        The rows, and what was dropped, in words.

    Raises:
        InvalidInputError: If they can't be read, or are too few.
    """
    assert isinstance(task, TextTask), "bundles are of tasks with texts"
    spec = TaskSpec(path, columns, label)
    rows, _, report = task.clean(path, spec, task.kept_labels(task.labels, spec))
    if len(rows) < 2:
        raise InvalidInputError(f"{path}: two models are compared on at least two rows, got {len(rows)} ({report})")
    return rows, str(report)


def compare_by_metric(
    champion: ScoredModel, challenger: ScoredModel, rows: Sequence[Row], level: float, cleaning: str = ""
) -> MetricComparison:
    """Compare two models on the same rows: the interval of the difference, by a jackknife or a bootstrap.

    Args:
        champion: What runs today.
        challenger: What might take its place.
        rows: Labelled rows.
        level: How often the interval may miss.
        cleaning: Which rows were dropped, in words.

    Raises:
        InvalidInputError: If the models are of other kinds of task, or have other labels.
    """
    models = champion, challenger
    if type(champion.task) is not type(challenger.task):
        raise InvalidInputError("the bundles are of different kinds of task; compare those of one kind")
    if champion.task.has_labels and champion.task.labels != challenger.task.labels:
        labels = [", ".join(model.task.labels) for model in models]
        raise InvalidInputError(
            f"the bundles have different labels ({labels[0]}; {labels[1]}); compare those with the same"
        )
    tasks = [replace(model.task, labelled=tuple(rows)) for model in models]
    metric = tasks[0].default_metric
    direction = directions(type(tasks[0]))[metric]
    texts = [row.fields for row in rows]
    outputs = [model.logits(texts) for model in models]
    measures = [RowMetric(task, metric, rows) for task in tasks]
    values = [own.of(logits) for own, logits in zip(measures, outputs, strict=True)]

    def measured(side: int, kept: Indices) -> float:
        return measures[side].measure(values[side][kept], kept)

    found = interval_on_rows(
        lambda kept: measured(1, kept) - measured(0, kept), len(rows), level, bootstrap=tasks[0].bootstrap
    )
    low, high = (found.low, found.high) if direction == "maximize" else (-found.high, -found.low)
    outcome: Outcome = "better" if low > 0 else "worse" if high < 0 else "no difference shown"
    sides = [(task, task.expected(own)) for task, own in zip(tasks, outputs, strict=True)]
    old, new = (task.predict(expected, texts) for task, expected in sides)
    differ = [place for place in range(len(rows)) if old[place] != new[place]]
    before, after = (task.described(expected[differ], [texts[place] for place in differ]) for task, expected in sides)
    whole = np.arange(len(rows))
    return MetricComparison(
        *(metric, direction, len(rows), cleaning, measured(0, whole), measured(1, whole), found.low, found.high, level),
        outcome,
        tuple(
            Disagreement(place, dict(rows[place].fields), tasks[0].show(rows[place]), before[number], after[number])
            for number, place in enumerate(differ)
        ),
    )

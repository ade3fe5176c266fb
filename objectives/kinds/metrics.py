"""Metrics that plugins add to a kind of task, beside those that the kind brings itself."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from promptgraft.objectives.data import Direction, Outputs, Row, Task
from promptgraft.spaces import InvalidInputError, Registry, TrialError

F = TypeVar("F", bound=Callable[..., float])


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of a plugin.

    Attributes:
        compute: Takes the task, outputs and the rows that they belong to, as `Task.measure` does; returns a number.
        kind: The kind of task; those that derive from it have the metric, too.
        direction: The direction in which it is better.
    """

    compute: Callable[[Any, Outputs, Sequence[Row]], float]
    kind: type[Task]
    direction: Direction


METRICS: Registry[Metric] = Registry("metric")


def metric(kind: type[Task], direction: Direction) -> Callable[[F], F]:
    """Register the decorated function as a metric of a kind of task, under the function's name; see `Metric`.

    Raises:
        InvalidInputError: If the name is taken, by the kind itself or by another plugin.
    """

    def register(compute: F) -> F:
        name = compute.__name__
        if name in (*kind.metrics, *kind.on_request):
            raise InvalidInputError(f"metric {name!r} is one of {kind.__name__} already; choose another name")
        METRICS.register(name)(Metric(compute, kind, direction))
        return compute

    return register


def directions(kind: type[Task]) -> Mapping[str, Direction]:
    """Return all metrics of a kind of task, with the direction in which each is better."""
    return {**{name: METRICS[name].direction for name in _added(kind)}, **kind.metrics, **kind.on_request}


def scores(task: Task, outputs: Outputs, rows: Sequence[Row]) -> dict[str, float]:
    """Return the value of every metric of a task; see `Task.measure`.

    Raises:
        TrialError: If that of a plugin's metric isn't a finite number.
    """
    found = task.measure(outputs, rows)
    for name in _added(type(task)):
        value = float(METRICS[name].compute(task, outputs, rows))
        if not math.isfinite(value):
            raise TrialError(f"the metric {name!r}, which a plugin brings, is {value}; it must be a finite number")
        found.setdefault(name, value)
    return found


def _added(kind: type[Task]) -> list[str]:
    return [name for name in METRICS if issubclass(kind, METRICS[name].kind)]

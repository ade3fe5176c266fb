"""Whether a study's backbone and its rows can serve the values of a parameter, told before any trial."""

from collections.abc import Sequence

from promptgraft.objectives.backbones import Architecture, check_candidate
from promptgraft.objectives.data import Task
from promptgraft.search.study.schema import BackboneSection
from promptgraft.spaces import InvalidInputError, Parameter, extremes


def architecture_of(backbone: BackboneSection, n_layers: int, model_type: str | None) -> Architecture:
    """Describe a study's backbone as `check_candidate` takes it; `model_type` is None if it can't be read."""
    attention, checkpointed = backbone.attn_implementation, backbone.gradient_checkpointing
    return Architecture(backbone.family, n_layers, model_type, attention, checkpointed)


def check_served(model: Architecture, parameter: Parameter, tasks: Sequence[Task]) -> None:
    """Refuse values that the backbone can't serve, or that a task hasn't enough rows for.

    Args:
        model: The study's backbone.
        parameter: Any parameter of its space.
        tasks: Its tasks.

    Raises:
        InvalidInputError: With the first such value.
    """
    for value in extremes(parameter):
        check_candidate({parameter.name: value}, model)
    if parameter.name == "demonstrations.count":
        _check_rows(parameter, tasks)


def _check_rows(count: Parameter, tasks: Sequence[Task]) -> None:
    """Refuse more demonstrations than a task has rows for."""
    largest = max(int(value) for value in extremes(count))
    rows = min((len(task.train) for task in tasks), default=largest + 1)
    if largest >= rows:
        raise InvalidInputError(
            f"{count.name} must be in [0, {rows - 1}] (a task has {rows} training rows, none of which is its own "
            f"demonstration), got {largest}; lower it, or raise train_rows"
        )

"""Whether a study's backbone can serve the values of a parameter, told before any trial."""

from collections.abc import Callable, Sequence

from promptgraft.objectives.backbones import FAMILIES, check_adapter, check_deep, check_place
from promptgraft.objectives.data import Task
from promptgraft.objectives.spec import MASKED_ATTENTION
from promptgraft.search.study.schema import BackboneSection
from promptgraft.spaces import Constant, InvalidInputError, Parameter, Scalar, extremes

# Parameters whose values not every family of backbones has.
FAMILY_CHECKS: dict[str, Callable[[str, str], None]] = {
    "soft_prompt.place": check_place,
    "adapter.method": check_adapter,
}


def check_served(
    backbone: BackboneSection, model_type: str | None, parameter: Parameter, tasks: Sequence[Task]
) -> None:
    """Refuse values that the backbone can't serve, or that a task hasn't enough rows for.

    Args:
        backbone: The study's backbone.
        model_type: Its architecture, as its configuration calls it; None if it can't be read, which is said elsewhere.
        parameter: Any parameter of its space.
        tasks: Its tasks.

    Raises:
        InvalidInputError: With the first such value.
    """
    if parameter.name == "soft_prompt.place":
        _check_masks(backbone, parameter)
    if parameter.name == "demonstrations.count":
        _check_demonstrations(backbone, parameter, tasks)
    for choice in _choices(parameter):
        if parameter.name in FAMILY_CHECKS:
            FAMILY_CHECKS[parameter.name](backbone.family, str(choice))
        if parameter.name == "soft_prompt.place" and choice == "deep" and model_type is not None:
            check_deep(backbone.family, model_type, backbone.gradient_checkpointing)


def _choices(parameter: Parameter) -> tuple[Scalar, ...]:
    return (parameter.value,) if isinstance(parameter, Constant) else getattr(parameter, "choices", ())


def _check_masks(backbone: BackboneSection, place: Parameter) -> None:
    """Refuse soft prompts that enter late where attention can't be told who sees them."""
    attention = backbone.attn_implementation
    late = [choice for choice in _choices(place) if str(choice).startswith("layer")]
    if late and attention not in (None, *MASKED_ATTENTION):
        raise InvalidInputError(
            f"{late[0]!r} needs masks that backbone.attn_implementation {attention!r} can't take; "
            f"leave it out, or use {' or '.join(MASKED_ATTENTION)}"
        )


def _check_demonstrations(backbone: BackboneSection, count: Parameter, tasks: Sequence[Task]) -> None:
    """Refuse demonstrations that the backbone doesn't take, or that a task hasn't enough rows for."""
    largest, family = max(int(value) for value in extremes(count)), backbone.family
    if largest and not FAMILIES[family].label_last:
        raise InvalidInputError(
            f"{count.name} is {largest}, but only causal LMs take demonstrations and backbone.family is {family!r}; "
            "leave it out, or use a backbone of family 'causal_lm'"
        )
    rows = min((len(task.train) for task in tasks), default=largest + 1)
    if largest >= rows:
        raise InvalidInputError(
            f"{count.name} must be in [0, {rows - 1}] (a task has {rows} training rows, none of which is its own "
            f"demonstration), got {largest}; lower it, or raise train_rows"
        )

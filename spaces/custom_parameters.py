"""Searched parameters of plugins: how each changes training on the target, and its neutral value."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from promptgraft.spaces.parameters import Scalar
from promptgraft.spaces.plugins import Registry

F = TypeVar("F", bound=Callable[..., Any])

# Prefix of their names in a space and in a candidate, as in `custom.label_smoothing`.
CUSTOM = "custom"


@dataclass(frozen=True, slots=True)
class CustomParameter:
    """A searched parameter of a plugin.

    Attributes:
        change: Takes `objectives.trial.training.TrainingSettings` and a value, and returns the settings to train with.
            It is not called for the neutral value. Several are called in the order of their names.
        neutral: Value that changes nothing, and the value of candidates without it. All values have its type.
        low: Smallest allowed number.
        high: Largest allowed number.
        options: Allowed strings.
    """

    change: Callable[..., Any]
    neutral: Scalar
    low: float | None = None
    high: float | None = None
    options: tuple[str, ...] = ()


CUSTOM_PARAMETERS: Registry[CustomParameter] = Registry("custom parameter")


def custom_parameter(
    name: str, *, neutral: Scalar, low: float | None = None, high: float | None = None, options: tuple[str, ...] = ()
) -> Callable[[F], F]:
    """Register the decorated function as a parameter's effect on training; see `CustomParameter`.

    Raises:
        InvalidInputError: If the name is taken.
    """

    def register(change: F) -> F:
        CUSTOM_PARAMETERS.register(name)(CustomParameter(change, neutral, low, high, options))
        return change

    return register

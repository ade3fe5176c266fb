"""Searched parameters that other packages bring: what each does to the training on the target, and when nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from promptgraft.spaces.parameters import Scalar
from promptgraft.spaces.plugins import Registry

F = TypeVar("F", bound=Callable[..., Any])

# What their names begin with in a space and in a candidate: `custom.label_smoothing`.
CUSTOM = "custom"


@dataclass(frozen=True, slots=True)
class CustomParameter:
    """A searched parameter of a plugin.

    Attributes:
        change: Takes `objectives.trial.TrainingSettings` and a value, and returns the settings to train with. It is
            called with no neutral value, after those of other parameters whose names come first.
        neutral: The value at which it changes nothing: what a candidate without it has. All values are of its type.
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
    """Register the decorated function as what a parameter does to the training; see `CustomParameter`.

    Raises:
        InvalidInputError: If the name is taken.
    """

    def register(change: F) -> F:
        CUSTOM_PARAMETERS.register(name)(CustomParameter(change, neutral, low, high, options))
        return change

    return register

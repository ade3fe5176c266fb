"""Parameters of a search space, each with an optional condition on another one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from promptgraft.spaces.errors import InvalidInputError

Scalar: TypeAlias = str | int | float | bool


class SuggestingTrial(Protocol):
    """The methods of `optuna.trial.BaseTrial` that a parameter calls."""

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        """Suggest one of the choices."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Suggest an integer in [low, high]."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Suggest a float in [low, high]."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Condition under which a parameter is suggested.

    Attributes:
        parameter: Name of another parameter, which must be suggested earlier.
        choices: Values for which the condition holds; empty if `above` is given.
        above: Bound; the condition holds for greater values.
    """

    parameter: str
    choices: tuple[Scalar, ...] = ()
    above: float | None = None

    def __post_init__(self) -> None:
        if bool(self.choices) == (self.above is not None):
            raise InvalidInputError(f"a condition on {self.parameter!r} needs either choices or `above`, and not both")

    def holds(self, values: Mapping[str, Scalar]) -> bool:
        """Return whether the condition holds for the values suggested so far."""
        value = values.get(self.parameter)
        if value is None:
            return False
        if self.above is not None:
            return not isinstance(value, str) and value > self.above
        return value in self.choices


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that is not searched."""

    name: str
    value: Scalar
    when: Condition | None = None

    def suggest(self, trial: SuggestingTrial) -> Scalar:  # noqa: ARG002
        """Return the value."""
        return self.value


@dataclass(frozen=True, slots=True)
class Categorical:
    """One of several unordered values."""

    name: str
    choices: tuple[Scalar, ...]
    when: Condition | None = None

    def __post_init__(self) -> None:
        if not self.choices:
            raise InvalidInputError(f"{self.name} has no choices; give at least one")
        if len(set(self.choices)) != len(self.choices):
            raise InvalidInputError(f"{self.name} lists a choice twice: {list(self.choices)}")

    def suggest(self, trial: SuggestingTrial) -> Scalar:
        """Ask the trial for one of the choices."""
        return trial.suggest_categorical(self.name, self.choices)


def _check_range(name: str, low: float, high: float, step: float | None, log: bool) -> None:
    if low > high:
        raise InvalidInputError(f"{name}: low ({low}) must not be greater than high ({high})")
    if log and low <= 0:
        raise InvalidInputError(f"{name}: low must be positive in a logarithmic range, got {low}")
    if step is not None and not 0 < step < math.inf:
        raise InvalidInputError(f"{name}: step must be positive and finite, got {step}")
    if log and step is not None and step != 1:
        raise InvalidInputError(f"{name}: step is not supported in a logarithmic range; leave out one of the two")


@dataclass(frozen=True, slots=True)
class Integer:
    """An integer in [low, high]."""

    name: str
    low: int
    high: int
    step: int = 1
    log: bool = False
    when: Condition | None = None

    def __post_init__(self) -> None:
        _check_range(self.name, self.low, self.high, self.step, self.log)

    def suggest(self, trial: SuggestingTrial) -> Scalar:
        """Ask the trial for an integer."""
        return trial.suggest_int(self.name, self.low, self.high, step=self.step, log=self.log)


@dataclass(frozen=True, slots=True)
class Float:
    """A float in [low, high], on a linear or logarithmic scale."""

    name: str
    low: float
    high: float
    step: float | None = None
    log: bool = False
    when: Condition | None = None

    def __post_init__(self) -> None:
        _check_range(self.name, self.low, self.high, self.step, self.log)

    def suggest(self, trial: SuggestingTrial) -> Scalar:
        """Ask the trial for a float."""
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)


Parameter: TypeAlias = Constant | Categorical | Integer | Float


def extremes(parameter: Parameter) -> tuple[Scalar, ...]:
    """Return a parameter's choices, or the ends of its range."""
    if isinstance(parameter, Constant):
        return (parameter.value,)
    if isinstance(parameter, Categorical):
        return parameter.choices
    return (parameter.low, parameter.high)


def check_can_hold(condition: Condition, parameter: Parameter) -> None:
    """Refuse a condition that holds for no value of the parameter that it is on.

    Args:
        condition: The condition.
        parameter: The parameter.

    Raises:
        InvalidInputError: If it can never hold.
    """
    values = extremes(parameter)
    if any(condition.holds({parameter.name: value}) for value in values):
        return
    shown = f"is {' or '.join(map(repr, values))}"
    if isinstance(parameter, Integer | Float):
        numbers = [choice for choice in condition.choices if isinstance(choice, int | float)]
        if any(parameter.low <= number <= parameter.high for number in numbers):
            return
        shown = f"is between {parameter.low} and {parameter.high}"
    wanted = f"above {condition.above:g}" if condition.choices == () else " or ".join(map(repr, condition.choices))
    raise InvalidInputError(
        f"`when` never holds: it asks for {parameter.name} {wanted}, which {shown}; change one of the two"
    )


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """Facts about a study that decide which hyperparameters can have an effect.

    Attributes:
        n_layers: Transformer layers of the backbone.
        has_head: Whether a trainable head makes the logits (encoders), rather than the backbone's own
            vocabulary (causal and masked LMs).
        has_source: Whether the study names a source task.
        sources: Names of its source tasks, if there are several.
        backbones: The facts with each backbone, by name, if the study names them; the others are of the first then.
        texts_of_labels: Whether texts are of labels alone, beside rows that hold images: heads that don't read label
            words have no use for them.
    """

    n_layers: int
    has_head: bool
    has_source: bool
    sources: tuple[str, ...] = ()
    backbones: Mapping[str, "StudyFacts"] = field(default_factory=dict)
    texts_of_labels: bool = False

    def reads_texts(self, head: str) -> bool:
        """Whether a candidate with this head reads texts, so that template and soft prompt have an effect."""
        return head == "label_words" or not self.texts_of_labels

"""Types and bounds of the searchable fields of a candidate."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptgraft.spaces.candidate_parts import parse_place
from promptgraft.spaces.candidates import HAVE_RECENCY
from promptgraft.spaces.custom_parameters import CUSTOM, CUSTOM_PARAMETERS
from promptgraft.spaces.errors import InvalidInputError, did_you_mean
from promptgraft.spaces.parameters import Categorical, Condition, Constant, Float, Integer, Parameter, Scalar


@dataclass(frozen=True, slots=True)
class Dimension:
    """Type and bounds of one field of a candidate.

    Attributes:
        name: The field, as in `soft_prompt.length`.
        kind: `int`, `float` or `str`.
        low: Smallest allowed number; excluded where `open_low`.
        high: Largest allowed number.
        options: Allowed strings; empty if all are (places are checked separately).
        open_low: Whether `low` itself is excluded.
        when: Condition under which the field has an effect, if the study gives none.
    """

    name: str
    kind: type[int] | type[float] | type[str]
    low: float | None = None
    high: float | None = None
    options: tuple[str, ...] = ()
    open_low: bool = False
    when: Condition | None = None

    def check(self, value: object) -> Scalar:
        """Return the value in the field's type.

        Raises:
            InvalidInputError: If its type or value is not allowed.
        """
        if self.kind is str:
            return self._check_text(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidInputError(f"{self.name} must be a number, got {value!r}")
        if not abs(value) <= sys.float_info.max:
            raise InvalidInputError(f"{self.name} must be a finite number in {self.interval}, got {value}")
        if self.kind is int and value != int(value):
            raise InvalidInputError(f"{self.name} must be an integer, got {value!r}")
        too_low = self.low is not None and (value < self.low or (self.open_low and value == self.low))
        if too_low or (self.high is not None and value > self.high):
            raise InvalidInputError(f"{self.name} must be in {self.interval}, got {value}")
        return int(value) if self.kind is int else float(value)

    def _check_text(self, value: object) -> str:
        if not isinstance(value, str):
            raise InvalidInputError(f"{self.name} must be a string, got {value!r}")
        if self.options and value not in self.options:
            raise InvalidInputError(f"{self.name} cannot be {value!r}; {did_you_mean(value, self.options)}")
        if self.name == "soft_prompt.place":
            parse_place(value)
        return value

    @property
    def interval(self) -> str:
        """The allowed numbers, as `[0, 1]`."""
        left = "(" if self.open_low or self.low is None else "["
        low = "-∞" if self.low is None else f"{self.low:g}"
        return f"{left}{low}, {'∞)' if self.high is None else f'{self.high:g}]'}"

    def parameter(
        self,
        choices: Sequence[object] | None,
        low: float | None,
        high: float | None,
        step: float | None,
        log: bool,
        when: Condition | None,
    ) -> Parameter:
        """Build a parameter from choices or a range.

        Raises:
            InvalidInputError: If a value is not allowed, or both choices and a range are given, or neither.
        """
        when = when or self.when
        if choices is not None:
            if low is not None or high is not None:
                raise InvalidInputError(f"{self.name}: give either choices or low and high, not both")
            values = tuple(self.check(value) for value in choices)
            return Constant(self.name, values[0], when) if len(values) == 1 else Categorical(self.name, values, when)
        if low is None or high is None:
            raise InvalidInputError(f"{self.name}: give a value, a list of choices, or both low and high")
        if self.kind is str:
            raise InvalidInputError(f"{self.name} is a string and has no range; give a list of choices")
        first, last = self.check(low), self.check(high)
        if self.kind is int:
            return Integer(self.name, int(first), int(last), int(step or 1), log, when)
        return Float(self.name, float(first), float(last), step, log, when)


_HAS_DEMONSTRATIONS = Condition("demonstrations.count", above=0)
_HAS_AN_ORDER = Condition("demonstrations.count", above=1)
PRIORS = ("popularity", "neighbours", "ease", "words", "characters", "items")
_HAS_SOFT_PROMPT = Condition("soft_prompt.length", above=0)

# In the order in which a trial suggests them: a condition may refer only to earlier dimensions.
DIMENSIONS: Mapping[str, Dimension] = {
    dimension.name: dimension
    for dimension in (
        Dimension("head", str, options=("label_words", "linear", "probe", "answer", "titles")),
        Dimension("demonstrations.count", int, low=0, high=1000),
        Dimension("demonstrations.choice", str, options=("random", "balanced", "nearest"), when=_HAS_DEMONSTRATIONS),
        Dimension("demonstrations.order", str, options=("random", "alternating", "nearest_last"), when=_HAS_AN_ORDER),
        Dimension("soft_prompt.length", int, low=0, high=1000),
        Dimension(
            "soft_prompt.init", str, options=("vocabulary", "label_words", "template", "source"), when=_HAS_SOFT_PROMPT
        ),
        Dimension("soft_prompt.place", str, when=_HAS_SOFT_PROMPT),
        Dimension("soft_prompt.parametrization", str, options=("direct", "mlp", "lstm"), when=_HAS_SOFT_PROMPT),
        Dimension("frozen_layers", int, low=0),
        Dimension("adapter.method", str, options=("none", "lora", "ia3")),
        Dimension("adapter.rank", int, low=1, when=Condition("adapter.method", choices=("lora",))),
        Dimension("source_steps", int, low=0),
        Dimension(
            "source_objective",
            str,
            options=("classification", "contrastive"),
            when=Condition("source_steps", above=0),
        ),
        Dimension("alpha", float, low=0, high=1),
        Dimension("source", str),
        Dimension("contrastive_steps", int, low=0),
        Dimension("steps", int, low=0),
        Dimension("batch_size", int, low=1),
        Dimension("learning_rate", float, low=0, high=None, open_low=True),
        Dimension("prompt_learning_rate", float, low=0, high=None, open_low=True),
        Dimension("layer_decay", float, low=0, high=1, open_low=True),
        Dimension("weight_decay", float, low=0),
        Dimension("warmup", float, low=0, high=1),
        Dimension("label_smoothing", float, low=0, high=1),
        Dimension("class_weights", str, options=("none", "balanced")),
        Dimension("augmentation", str, options=("none", "flip", "crop", "color", "rand_augment")),
        Dimension("probe_c", float, low=0, open_low=True, when=Condition("head", choices=("probe",))),
        Dimension("pooling", str, options=("mean", "first", "last")),
        Dimension("calibration", str, options=("none", "contextual", "batch")),
        Dimension("self_training", float, low=0, high=1),
        Dimension("prior", str, options=("none", *PRIORS)),
        Dimension("prior_recency", float, low=0, when=Condition("prior", choices=HAVE_RECENCY)),
        Dimension("text_weight", float, low=0, when=Condition("prior", choices=PRIORS)),
        Dimension("decoding.beams", int, low=1, high=64),
        Dimension("decoding.length_penalty", float, when=Condition("decoding.beams", above=1)),
        Dimension("decoding.no_repeat_ngram_size", int, low=0),
        Dimension("decoding.max_new_tokens", int, low=1, high=256),
    )
}


def dimension_of(name: str) -> Dimension:
    """Return the dimension of a parameter, which may be a plugin's (`custom.NAME`).

    Raises:
        InvalidInputError: If there is no such parameter.
    """
    group, _, own = name.partition(".")
    if group == CUSTOM:
        custom = CUSTOM_PARAMETERS[own]
        return Dimension(name, type(custom.neutral), custom.low, custom.high, custom.options)
    if name not in DIMENSIONS:
        raise InvalidInputError(f"unknown parameter {name!r}; {did_you_mean(name, DIMENSIONS)}")
    return DIMENSIONS[name]


def describe(parameter: Parameter) -> dict[str, Any]:
    """Return the parameter as plain JSON types, for fingerprints and notes."""
    kind = type(parameter).__name__.lower()
    content = {name: getattr(parameter, name) for name in parameter.__slots__ if name != "when"}
    if parameter.when is not None:
        when = parameter.when
        content["when"] = [when.parameter, list(when.choices), when.above]
    return {"kind": kind, **content}

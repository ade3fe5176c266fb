"""Upper bounds on what a candidate may be: those beyond them are never tried."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, product
from typing import TYPE_CHECKING

from promptgraft.objectives.data import Task, all_labels
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.search.study.schema.study_file import ConstraintsSection
from promptgraft.spaces import (
    Candidate,
    Categorical,
    Constant,
    Float,
    InvalidInputError,
    Parameter,
    Scalar,
    SearchSpace,
    extremes,
)

if TYPE_CHECKING:
    from promptgraft.objectives.measures import Sizes

# The parameters, beside template and verbalizer, that a size depends on. It grows with each number but `frozen_layers`,
# with which it shrinks, and `steps`, of which only 0 matters: the ends of a range hold the smallest.
_SIZING = (
    "head",
    "soft_prompt.length",
    "soft_prompt.place",
    "soft_prompt.parametrization",
    "demonstrations.count",
    "frozen_layers",
    "adapter.method",
    "adapter.rank",
    "steps",
)
_POOLS = ("template", "verbalizer")


class Constraints:
    """Tells which candidates a study rules out by their size.

    Args:
        section: The bounds.
        sizes: Count what is bounded, on each backbone by its name; the name of a single one is empty.

    Attributes:
        bounds: Size -> the most that it may be, of those that are bounded.
    """

    def __init__(self, section: ConstraintsSection, sizes: Mapping[str, "Sizes"]) -> None:
        self.bounds: dict[str, int] = section.model_dump(exclude_none=True)
        self._sizes = sizes

    def know(self, space: SearchSpace) -> None:
        """Take over a space that may have grown since."""
        for backbone, sizes in self._sizes.items():
            sizes.space = space.on(backbone)

    def broken_by(self, candidate: Candidate) -> str | None:
        """Say which bound a candidate is beyond; None if it is within all.

        One that the backbone can't serve is let through: its trial says why.
        """
        for name, size in self._measured(candidate).items():
            if size > self.bounds[name]:
                return f"the constraint {name} is at most {self.bounds[name]}, but the candidate has {size}"
        return None

    def check(self) -> None:
        """Refuse bounds that no candidate is within.

        Raises:
            InvalidInputError: With the smallest sizes that there are.
        """
        found: list[dict[str, int]] = []
        for candidate in chain.from_iterable(map(self._small_candidates, self._sizes)):
            found.append(self._measured(candidate))
            if found[-1] and all(size <= self.bounds[name] for name, size in found[-1].items()):
                return
        sizes = [entry for entry in found if entry]
        if not sizes:
            return  # Nothing can be served, which is not for us to say.
        smallest = {name: min(entry[name] for entry in sizes) for name in self.bounds}
        beyond = [name for name, size in smallest.items() if size > self.bounds[name]]
        found_one = [f"no candidate has at most {self.bounds[n]} {n}; the smallest has {smallest[n]}" for n in beyond]
        stated = " and ".join(f"at most {bound} {name}" for name, bound in self.bounds.items())
        both = f"no candidate has {stated}, though there are some for each alone"
        raise InvalidInputError("; ".join(found_one or [both]) + ". Raise the bound, or widen the space")

    def _measured(self, candidate: Candidate) -> dict[str, int]:
        """Return the sizes that are bounded; none if the backbone can't serve the candidate."""
        try:
            sizes = self._sizes[candidate.backbone]
            return {name: getattr(sizes, name)(candidate) for name in self.bounds}
        except InvalidInputError:
            return {}

    def _small_candidates(self, backbone: str) -> Iterator[Candidate]:
        """Draw every combination of values among which the smallest sizes on a backbone are."""
        space = self._sizes[backbone].space
        parameters = space.all_parameters()
        values = {parameter.name: _values(parameter, parameters) for parameter in parameters}
        for pool in _POOLS:
            if not any(p.when is not None and p.when.parameter == pool for p in parameters):
                values[pool] = [self._shortest(self._sizes[backbone], pool, values[pool])]
        for chosen in product(*values.values()):
            yield replace(space.suggest(Fixed(dict(zip(values, chosen, strict=True)))), backbone=backbone)

    def _shortest(self, sizes: "Sizes", pool: str, ids: Sequence[Scalar]) -> Scalar:
        space = sizes.space
        pair: dict[str, Scalar] = {"template": space.templates[0].id, "verbalizer": space.first_verbalizer}
        pair |= {own.name: extremes(own)[0] for own in space.parameters if own.name == "head"}
        return min(ids, key=lambda chosen: sizes.prompt_tokens(Candidate.from_values({**pair, pool: chosen})))


def constraints_of(
    section: ConstraintsSection, objective: ObjectiveSpec, target: Task, sources: Mapping[str, Task]
) -> Constraints | None:
    """Build a study's constraints and see that there is a candidate within them; None if it has none.

    Raises:
        InvalidInputError: If there is no such candidate.
    """
    if not section.model_dump(exclude_none=True):
        return None
    from promptgraft.objectives.measures import Sizes

    labels = all_labels(target, sources.values())
    sizes = {
        name: Sizes(spec.backbone, spec.space, labels, target, spec.split_seed)
        for name, spec in (objective.backbones or {"": objective}).items()
    }
    constraints = Constraints(section, sizes)
    constraints.check()
    return constraints


class Fixed:
    """Suggests given values, in place of an Optuna trial.

    Args:
        values: Parameter -> value.
    """

    def __init__(self, values: Mapping[str, Scalar]) -> None:
        self._values = values

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:  # noqa: ARG002
        """Return the value of a choice."""
        return self._values[name]

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:  # noqa: ARG002
        """Return the value of an integer."""
        return int(self._values[name])

    def suggest_float(
        self,
        name: str,
        low: float,  # noqa: ARG002
        high: float,  # noqa: ARG002
        *,
        step: float | None = None,  # noqa: ARG002
        log: bool = False,  # noqa: ARG002
    ) -> float:
        """Return the value of a number."""
        return float(self._values[name])


def _values(parameter: Parameter, parameters: Sequence[Parameter]) -> list[Scalar]:
    """List the values that matter: all choices, or the ends of a range and where a condition on it begins or ends."""
    conditions = [p.when for p in parameters if p.when is not None and p.when.parameter == parameter.name]
    if isinstance(parameter, Constant):
        return [parameter.value]
    if parameter.name == "soft_prompt.place" and isinstance(parameter, Categorical) and not conditions:
        # Of places, only these have another size.
        sizes = {choice if choice in ("deep", "frame") else "": choice for choice in parameter.choices}
        return list(sizes.values())
    if isinstance(parameter, Categorical):
        return list(parameter.choices if parameter.name in (*_POOLS, *_SIZING) or conditions else parameter.choices[:1])
    if parameter.name not in _SIZING and not conditions:
        return [parameter.low]
    numbers = [value for when in conditions for value in (*when.choices, when.above) if isinstance(value, int | float)]
    if isinstance(parameter, Float):
        return [parameter.low, parameter.high, *(value for value in numbers if parameter.low < value < parameter.high)]
    grid = range(parameter.low, parameter.high + 1, 1 if parameter.log else parameter.step)
    near = [value for value in grid if any(abs(value - number) <= grid.step for number in numbers)]
    return list(dict.fromkeys((grid[0], grid[-1], *near)))

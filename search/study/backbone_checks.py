"""Whether a study's backbone and its rows can serve its space, checked before any trial."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from promptgraft.objectives.backbones import Architecture, check_candidate
from promptgraft.objectives.data import Task, all_labels
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec
from promptgraft.search.study.constraints import Fixed
from promptgraft.search.study.schema import BackboneSection
from promptgraft.search.study.yaml_lines import Location
from promptgraft.spaces import Candidate, InvalidInputError, Parameter, Scalar, SearchSpace, extremes


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


def rehearse(
    objective: ObjectiveSpec, target: Task, sources: Mapping[str, Task], writer: BackboneSpec | None
) -> Iterator[tuple[Location, str]]:
    """Yield what no trial could run, with its place in the study file; reads the checkpoint's headers, no weights.

    Args:
        objective: The study's fixed part.
        target: The target task.
        sources: The source tasks, by name.
        writer: Another model that writes templates, if there is one.
    """
    from promptgraft.objectives.measures import Rehearsal, read_shapes
    from promptgraft.objectives.runtime import quiet_transformers

    quiet_transformers()
    if writer is not None:
        yield from _problem(("space", "grow", "writer"), partial(read_shapes, writer))
    labels = all_labels(target, sources.values())
    try:
        rehearsal = Rehearsal(objective, labels, target, sources)
    except InvalidInputError as error:
        yield ("backbone",), str(error)
        return
    space, found = objective.space, set[tuple[Location, str]]()
    tried: list[tuple[Location, Callable[[], None]]] = []
    for candidate in _pairs(space):
        name = space.template(candidate.template).name
        tried.append((("space", "templates", name), partial(rehearsal.try_prompt, candidate)))
        if candidate.verbalizer:
            words = space.verbalizer(candidate.verbalizer).name
            tried.append((("space", "verbalizers", words), partial(rehearsal.try_words, candidate)))
    tried += [(place, partial(rehearsal.try_candidate, candidate)) for place, candidate in _extreme(space)]
    for place, attempt in tried:
        for problem in _problem(place, attempt):
            if problem not in found:
                found.add(problem)
                yield problem


def _problem(place: Location, attempt: Callable[[], None]) -> Iterator[tuple[Location, str]]:
    try:
        attempt()
    except InvalidInputError as error:
        yield place, str(error)


def _pairs(space: SearchSpace) -> Iterator[Candidate]:
    """Yield a candidate for each template with each verbalizer, and each head."""
    first = {parameter.name: extremes(parameter)[0] for parameter in space.all_parameters()}
    heads = [extremes(parameter) for parameter in space.parameters if parameter.name == "head"]
    for template in space.templates:
        for verbalizer in [entry.id for entry in space.verbalizers] or [space.first_verbalizer]:
            for head in heads[0] if heads else [None]:
                values = first | {"template": template.id, "verbalizer": verbalizer}
                yield space.suggest(Fixed(values if head is None else values | {"head": head}))


def _extreme(space: SearchSpace) -> Iterator[tuple[Location, Candidate]]:
    """Yield candidates with one parameter at an end of its range, or a choice, and all others at either end."""
    seen = set[Candidate]()
    parameters = space.all_parameters()
    lowest = {parameter.name: extremes(parameter)[0] for parameter in parameters}
    largest: dict[str, Scalar] = {parameter.name: _largest(parameter) for parameter in parameters}
    for base in (lowest, largest):
        for parameter in space.parameters:
            for value in extremes(parameter):
                candidate = space.suggest(Fixed(base | {parameter.name: value}))
                if candidate not in seen:
                    seen.add(candidate)
                    yield ("space", *parameter.name.split(".")), candidate


def _largest(parameter: Parameter) -> Scalar:
    values = extremes(parameter)
    numbers = [value for value in values if isinstance(value, int | float)]
    return max(numbers) if numbers else values[0]

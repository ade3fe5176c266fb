"""A study on one of its backbones: the backbone, the space that it can serve, and whether trials could run there."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from promptgraft.objectives.backbones import (
    FAMILIES,
    NUMERICS,
    check_family,
    check_image_size,
    check_numerics,
    count_layers,
    model_type,
    used_layers,
)
from promptgraft.objectives.data import TASK_KINDS, Comparison, Task, TaskSpec, all_labels
from promptgraft.objectives.spec import SAMPLE, BackboneSpec, ObjectiveSpec, SourceSpec, SourceTraining
from promptgraft.search.study.constraints import Fixed
from promptgraft.search.study.default_space import SpaceFacts, with_default_space
from promptgraft.search.study.schema.study_file import StudyFile
from promptgraft.search.study.schema.tasks import SourceSection, TaskSection
from promptgraft.search.study.space_loading import SpaceLoader, history_spec, local_path, model_path
from promptgraft.search.study.yaml_lines import LinedYaml, Location, ProblemCollector
from promptgraft.spaces import (
    DIMENSIONS,
    Candidate,
    InvalidInputError,
    Parameter,
    Scalar,
    SearchSpace,
    StudyFacts,
    extremes,
)

Drafted = Literal["nothing", "wording", "space"]


@dataclass(frozen=True, slots=True)
class RehearsalJob:
    """What is tried of a study on one of its backbones before any trial runs; other processes can do it.

    Attributes:
        objective: The study's fixed part.
        target: The target task.
        sources: The source tasks, by name.
        writer: Another model that writes templates, if there is one.
    """

    objective: ObjectiveSpec
    target: Task
    sources: Mapping[str, Task]
    writer: BackboneSpec | None = None


# Where in the study file, and what no trial could run there.
Finding = tuple[Location, str]
# Does a rehearsal of a study file that is otherwise in order.
Rehearse = Callable[[StudyFile, RehearsalJob], Iterable[Finding]]


class BackboneLoader(ProblemCollector):
    """Builds the fixed part of a study on one of its backbones.

    Args:
        yaml: The study file.
        file: Its content with this backbone alone.
        name: The backbone's name; empty in a study that doesn't name its backbones.
        names: The names of all backbones.
        comparison: How near duplicates are found.

    Attributes:
        file: With what was drafted for its space.
        drafted: What that was.
        n_layers: The backbone's number of layers; None if it can't be read.
        objective: The fixed part, once it is built.
        left_out: Location and value of what the backbone can't serve, with the reason; see `SpaceLoader`.
    """

    def __init__(
        self, yaml: LinedYaml, file: StudyFile, name: str, names: Collection[str], comparison: Comparison
    ) -> None:
        super().__init__(yaml)
        self.file = file
        self.name = name
        self.names = names
        self.comparison = comparison
        self.folder = yaml.path.resolve().parent
        self.at: Location = ("backbones", name) if name else ("backbone",)
        self.drafted: Drafted = "nothing"
        self.objective: ObjectiveSpec | None = None
        self.left_out: dict[tuple[Location, object], str] = {}
        self.n_layers: int | None = None
        self._model_type: str | None = None

    def check(self) -> bool:
        """Look at the backbone's files; return whether its family is known and can serve the kind of task at all."""
        backbone, kind = self.file.only_backbone, self.file.target.kind
        family, path = backbone.family, model_path(self.folder, backbone.path)
        known = self.attempt((*self.at, "family"), lambda: FAMILIES[family])
        if known is not None and (reason := TASK_KINDS[kind].refuses_family(family, has_head=known.has_head)):
            self.add((*self.at, "family"), f"{reason} for tasks of kind {kind!r}")
        if known is not None and (known.reads, known.answers) != (TASK_KINDS[kind].reads, TASK_KINDS[kind].answers):
            self.add((*self.at, "family"), _unfitting(family, kind))
        if self.problems:
            return False
        self.n_layers = self.attempt((*self.at, "path"), lambda: count_layers(path, family))
        if (whole := self.n_layers) is not None:
            self._model_type = model_type(path)
            self.attempt((*self.at, "family"), lambda: check_family(path, family))
            self.n_layers = self.attempt((*self.at, "layers"), lambda: used_layers(family, backbone.layers, whole))
        self.attempt((*self.at, "image_size"), lambda: check_image_size(family, backbone.image_size))
        for option in NUMERICS:
            with self.collecting((*self.at, option)):
                check_numerics(family, option, getattr(backbone, option))
        return True

    def read(self, target: Task | None, sources: Mapping[str, Task], rehearse: Rehearse | None) -> None:
        """Build the space and the fixed part; there is none if anything is wrong.

        Args:
            target: The target task; None if it couldn't be loaded.
            sources: The source tasks, by name.
            rehearse: Tries what trials would do with the backbone's files; nothing is tried if None.
        """
        n_layers, family = self.n_layers or 10**6, FAMILIES[self.file.only_backbone.family]
        if not self._fill_space(SpaceFacts.of(self.file, n_layers, target, sources)):
            return
        facts = StudyFacts(
            n_layers,
            family.has_head,
            bool(self.file.all_sources()),
            tuple(self.file.sources),
            texts_of_labels=family.texts_of_labels,
        )
        loader = SpaceLoader(self.yaml, self.problems, self.file, self._model_type, self.name, self.names)
        space = loader.read(facts, target, sources)
        self.left_out = loader.left_out
        self._check_sources()
        if not self.problems and space is not None and target is not None:
            self.objective = self._objective(space)
            if rehearse is not None:
                job = RehearsalJob(self.objective, target, sources, self._writer())
                for place, message in rehearse(self.file, job):
                    self.add(self.at if place == ("backbone",) else place, message)

    def _fill_space(self, facts: SpaceFacts) -> bool:
        """Draft what the space leaves out; return whether that is possible."""
        filled = self.attempt(("target", "text"), lambda: with_default_space(self.file, facts))
        if filled is None:
            return False
        if self.file.space is None:
            self.drafted = "space"
        elif filled.space != self.file.space and FAMILIES[self.file.only_backbone.family].has_words:
            self.drafted = "wording"
        self.file = filled
        return True

    def _check_sources(self) -> None:
        for name, section in self.file.all_sources().items():
            got = section.training.frozen_layers
            if self.n_layers is not None and got > self.n_layers:
                self.add(
                    (*source_at(name), "training", "frozen_layers"),
                    f"must be in [0, {self.n_layers}], the backbone's number of layers, got {got}",
                )

    def _objective(self, space: SearchSpace) -> ObjectiveSpec:
        file, backbone = self.file, self.file.only_backbone
        training = file.source.training if file.source else None
        return ObjectiveSpec(
            backbone=BackboneSpec(
                model_path(self.folder, backbone.path),
                backbone.family,
                **backbone.model_dump(exclude={"path", "family"}),
                languages=file.target.languages,
            ),
            target=self._task_spec(file.target),
            source=self._task_spec(file.source) if file.source else None,
            sources={name: self._source_spec(section) for name, section in file.sources.items()},
            space=space,
            metric=file.metric,
            evaluate_every=file.evaluation.every,
            evaluation_batch_size=file.evaluation.batch_size,
            evaluation_sample=file.evaluation.sample or SAMPLE,
            source_training=SourceTraining(**training.model_dump()) if training else SourceTraining(),
            split_seed=file.seed,
            memory_bytes=file.cache.memory,
            minimize=file.minimize,
        )

    def _writer(self) -> BackboneSpec | None:
        """Return the other model that writes templates, if there is one."""
        writer = self.file.grow.writer if self.file.grow else None
        return BackboneSpec(model_path(self.folder, writer.path), writer.family, max_tokens=1) if writer else None

    def _source_spec(self, section: SourceSection) -> SourceSpec:
        return SourceSpec(self._task_spec(section), SourceTraining(**section.training.model_dump()))

    def _task_spec(self, section: TaskSection) -> TaskSpec:
        return task_spec(section, self.folder, self.comparison)


def _unfitting(family: str, kind: str) -> str:
    """Say that a family reads, or answers with, something else than a kind of task has, and which ones do."""
    wanted, own = TASK_KINDS[kind], FAMILIES[family]
    fits = (
        name for name in FAMILIES if (FAMILIES[name].reads, FAMILIES[name].answers) == (wanted.reads, wanted.answers)
    )
    use = f"use {' or '.join(sorted(fits))}"
    if own.reads != wanted.reads:
        rows = "images" if wanted.reads == "images" else "texts"
        return f"{family!r} reads {own.reads}, and rows of kind {kind!r} are {rows}; {use}"
    return f"{family!r} answers with {own.answers}, and answers of kind {kind!r} are {wanted.answers}; {use}"


def source_at(name: str) -> Location:
    """Return where a source stands in a study file, by its name; that of a single one is empty."""
    return ("sources", name) if name else ("source",)


def task_spec(section: TaskSection, folder: Path, comparison: Comparison) -> TaskSpec:
    """Describe a task as workers get it.

    Args:
        section: Its section of the study file.
        folder: Folder of the file.
        comparison: How near duplicates are found.
    """
    paths = ("test", "validation", "unlabelled")
    options = ("validation_rows", "test_rows", "shots", "folds", "group", "time")
    values = {name: getattr(section, name, None) for name in (*paths, *options)}
    values |= {name: local_path(folder, path) for name in paths if (path := values[name])}
    return TaskSpec(
        train=local_path(folder, section.train),
        fields=dict(section.text),
        label=section.label,
        kind=section.kind,
        labels=section.labels,
        train_rows=section.train_rows,
        comparison=comparison,
        histories=history_spec(folder, section.histories),
        **values,
    )


def rehearse(job: RehearsalJob) -> Iterator[Finding]:
    """Yield what no trial could run, with its place in the study file; reads the checkpoint's headers, no weights."""
    from promptgraft.objectives.measures import Rehearsal, read_shapes
    from promptgraft.objectives.runtime import quiet_transformers

    quiet_transformers()
    if job.writer is not None:
        yield from _problem(("space", "grow", "writer"), partial(read_shapes, job.writer))
    labels = all_labels(job.target, job.sources.values())
    try:
        rehearsal = Rehearsal(job.objective, labels, job.target, job.sources)
    except InvalidInputError as error:
        yield ("backbone",), str(error)
        return
    space, found = job.objective.space, set[Finding]()
    tried: list[tuple[Location, Callable[[], None]]] = []
    for candidate in _pairs(space):
        name = space.template(candidate.template).name
        tried.append((("space", "templates", name), partial(rehearsal.try_prompt, candidate)))
        if candidate.verbalizer:
            words = space.verbalizer(candidate.verbalizer).name
            tried.append((("space", "verbalizers", words), partial(rehearsal.try_words, candidate)))
    tried += [(place, partial(rehearsal.try_candidate, candidate)) for place, candidate in _extreme(space)]
    for place, attempt in tried:
        for _, message in _problem(place, attempt):
            named = message.partition(" ")[0]  # What all candidates have in common is said once, where it stands.
            problem = ("space", *named.split(".")) if named in DIMENSIONS else place, message
            if problem not in found:
                found.add(problem)
                yield problem


def rehearse_here(file: StudyFile, job: RehearsalJob) -> Iterator[Finding]:  # noqa: ARG001
    """Rehearse in this process; see `Rehearse`."""
    return rehearse(job)


def _problem(place: Location, attempt: Callable[[], None]) -> Iterator[Finding]:
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

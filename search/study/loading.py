"""From a study file to a study: every error at once, with its line."""

import logging
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from promptgraft.objectives.backbones import FAMILIES, NUMERICS, check_family, check_numerics, count_layers, model_type
from promptgraft.objectives.data import (
    DIRECTIONS,
    TASK_KINDS,
    Task,
    TaskSpec,
    all_labels,
    find_label_leaks,
    wanted_folds,
)
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec, SourceSpec, SourceTraining
from promptgraft.search.study.backbone_checks import architecture_of, check_served
from promptgraft.search.study.constraints import Constraints, constraints_of
from promptgraft.search.study.engines import build_pruner, build_sampler
from promptgraft.search.study.promptsource import Imported, read_promptsource
from promptgraft.search.study.schema import ParameterSection, SourceSection, StudyFile, TaskSection
from promptgraft.search.study.yaml_lines import LinedYaml, Location, Problem, StudyFileError
from promptgraft.spaces import (
    DIMENSIONS,
    Condition,
    InvalidInputError,
    Parameter,
    SearchSpace,
    StudyFacts,
    Template,
    Verbalizer,
    check_parameter,
    did_you_mean,
    dimension_of,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Study:
    """A checked study.

    Attributes:
        path: The study file.
        file: Its content.
        objective: The fixed part, as the workers get it; paths are absolute.
        target: The loaded target task.
        sources: The loaded source tasks, by name; a single one's is empty.
        constraints: What candidates must keep to, if anything.
        cautions: What makes scores doubtful, as the rows are: words that give a label away, or few rows of a label.
    """

    path: Path
    file: StudyFile
    objective: ObjectiveSpec
    target: Task
    sources: Mapping[str, Task]
    constraints: Constraints | None = None
    cautions: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The study's name."""
        return self.file.study


def load_study(path: Path, name: str | None = None) -> Study:
    """Read a study file and check it against its data and its backbone.

    Args:
        path: The study file.
        name: What to call the study, if not what the file says.

    Raises:
        StudyFileError: With every problem found.
        InvalidInputError: If the file isn't there.
    """
    return StudyLoader(LinedYaml(path), name).read()


class StudyLoader:
    """Collects problems while it builds the parts that it can."""

    def __init__(self, yaml: LinedYaml, name: str | None) -> None:
        self.yaml = yaml
        self.name = name
        self.folder = yaml.path.resolve().parent
        self.problems: list[Problem] = []
        self.model_type: str | None = None

    def read(self) -> Study:
        """Build the study, or raise with every problem found."""
        file = self._parse()
        self._check_engines(file)
        path, family = self._backbone_path(file), file.backbone.family
        if self._attempt(("backbone", "family"), lambda: FAMILIES[family]) is None:
            raise StudyFileError(self.yaml.path, self.problems)  # What else may be wrong depends on it.
        n_layers = self._attempt(("backbone", "path"), lambda: count_layers(path, family))
        if n_layers is not None:
            self.model_type = model_type(path)
            self._attempt(("backbone", "family"), lambda: check_family(path, family))
        for option in NUMERICS:
            with self._collecting(("backbone", option)):
                check_numerics(family, option, getattr(file.backbone, option))
        target, sources = self._load_tasks(file)
        facts = StudyFacts(n_layers or 10**6, FAMILIES[family].has_head, bool(file.all_sources()), tuple(file.sources))
        space = self._space(file, facts, target, sources)
        self._check_sources(file, n_layers)
        constraints = None
        if not self.problems and space is not None and target is not None:
            objective = self._objective(file, space)
            constraints = self._attempt(
                ("constraints",), lambda: constraints_of(file.constraints, objective, target, sources)
            )
        if self.problems or space is None or target is None:
            raise StudyFileError(self.yaml.path, self.problems)
        tasks = {"target": target} | {f"source {name}".rstrip(): task for name, task in sources.items()}
        cautions = tuple(f"{name}: {found}" for name, task in tasks.items() for found in find_label_leaks(task))
        wanted = wanted_folds(len(target.labelled), file.target.folds)
        if 1 < target.folds < wanted:
            cautions += (f"target: {target.folds} folds in place of {wanted}, since a label has no more rows",)
        return Study(self.yaml.path.resolve(), file, objective, target, sources, constraints, cautions)

    def _parse(self) -> StudyFile:
        content = self.yaml.plain() | ({"study": self.name} if self.name else {})
        try:
            return StudyFile.model_validate(content)
        except ValidationError as error:
            entries = [dict(entry) for entry in error.errors()]
        self.problems += [self._explain(entry) for entry in entries]
        # Without its unknown keys the rest of the file can still be checked.
        for entry in entries:
            if entry["type"] == "extra_forbidden":
                _delete(content, cast("Location", entry["loc"]))
        try:
            return StudyFile.model_validate(content)
        except ValidationError as error:
            raise StudyFileError(self.yaml.path, self.problems) from error

    def _explain(self, entry: dict[str, Any]) -> Problem:
        location: Location = entry["loc"]
        if entry["type"] == "extra_forbidden":
            hint = did_you_mean(str(location[-1]), _keys_at(StudyFile, location[:-1]))
            return self.yaml.problem(location, f"unknown key {location[-1]!r}; {hint}")
        if entry["type"] == "missing":
            return self.yaml.problem(location, "is required but missing")
        message = str(entry["msg"]).removeprefix("Value error, ")
        return self.yaml.problem(location, f"{message[0].lower()}{message[1:]}, got {entry['input']!r}")

    def _check_engines(self, file: StudyFile) -> None:
        with self._collecting(("metric",)):
            if file.metric not in DIRECTIONS:
                raise InvalidInputError(f"unknown metric {file.metric!r}; {did_you_mean(file.metric, DIRECTIONS)}")
            expected = DIRECTIONS[file.metric]
            if file.direction not in (None, expected):
                self._add(("direction",), f"{file.metric} is better the other way: write {expected}")
        with self._collecting(("sampler",)):
            build_sampler(file.sampler.name, file.sampler.options, file.seed)
        with self._collecting(("pruner",)):
            build_pruner(file.pruner.name, file.pruner.options)
        if file.budget.gpu_hours is not None and not file.resources.gpu:
            self._add(("budget", "gpu_hours"), "limits GPUs, but resources.gpu is 0; raise it, or set compute")

    def _check_sources(self, file: StudyFile, n_layers: int | None) -> None:
        if file.source is not None and file.sources:
            self._add(("sources",), "can't be given beside `source`; give that one a name among them")
        for name, section in file.all_sources().items():
            got = section.training.frozen_layers
            if n_layers is not None and got > n_layers:
                self._add(
                    (*_source_at(name), "training", "frozen_layers"),
                    f"must be in [0, {n_layers}], the backbone's number of layers, got {got}",
                )

    def _load_tasks(self, file: StudyFile) -> tuple[Task | None, dict[str, Task]]:
        def load(section: TaskSection, location: Location, other: Task | None) -> Task:
            if section.kind not in TASK_KINDS:
                self._add((*location, "kind"), f"unknown task kind; {did_you_mean(section.kind, TASK_KINDS)}")
            kind = TASK_KINDS[section.kind]
            spec = self._task_spec(section)
            return kind.load_target(spec, file.seed) if other is None else kind.load_source(spec, file.seed, other)

        target = self._attempt(("target",), lambda: load(file.target, ("target",), None))
        sources: dict[str, Task] = {}
        for name, section in file.all_sources().items() if target is not None else ():
            with self._collecting(_source_at(name)):
                sources[name] = load(section, _source_at(name), target)
        return target, sources

    def _space(
        self, file: StudyFile, facts: StudyFacts, target: Task | None, sources: Mapping[str, Task]
    ) -> SearchSpace | None:
        before = len(self.problems)
        fields = set(file.target.text).intersection(*(section.text for section in file.all_sources().values()))
        templates = [
            self._attempt(("space", "templates", name), partial(self._template, file, name, text, fields))
            for name, text in file.space.templates.items()
        ]
        labels = all_labels(target, sources.values()) if target else ()
        verbalizers = [
            self._attempt(("space", "verbalizers", name), partial(_verbalizer, name, words, labels))
            for name, words in file.space.verbalizers.items()
        ]
        if target is not None:
            for imported in self._imported(file, target, sorted(fields)):
                texts = {template.text for template in templates if template}
                templates += [template for template in imported.templates if template.text not in texts]
                known = [entry.words for entry in verbalizers if entry]
                verbalizers += [entry for entry in imported.verbalizers if entry.words not in known]
        parameters = self._parameters(file, facts, [*([target] if target else []), *sources.values()])
        self._check_growth(file)
        if len(self.problems) > before:
            return None
        return self._attempt(
            ("space",),
            lambda: SearchSpace(
                tuple(entry for entry in templates if entry),
                tuple(entry for entry in verbalizers if entry),
                tuple(parameters),
                facts,
            ),
        )

    def _imported(self, file: StudyFile, target: Task, fields: list[str]) -> Iterator[Imported]:
        for index, name in enumerate(file.space.promptsource):
            with self._collecting(("space", "promptsource", index)):
                imported = read_promptsource(self.folder / name, target.labels, fields)
                if FAMILIES[file.backbone.family].label_last:
                    imported = imported.that_end_with_the_label()
                for skipped, reason in imported.skipped.items():
                    logger.warning("%s: template %r is left out: %s", name, skipped, reason)
                yield imported

    def _check_growth(self, file: StudyFile) -> None:
        grow = file.space.grow
        if grow is None:
            return
        from promptgraft.objectives.growth import NEEDS_WRITER, TEMPLATE_SOURCES, VERBALIZER_SOURCES

        family = grow.writer.family if grow.writer else file.backbone.family
        for source in grow.verbalizer_sources:
            with self._collecting(("space", "grow", "verbalizer_sources")):
                VERBALIZER_SOURCES[source]
        searched = grow.verbalizers and "likelihood" in grow.verbalizer_sources
        if searched and FAMILIES[file.backbone.family].encoder_decoder:
            self._add(
                ("space", "grow", "verbalizers"),
                "must be 0: label words can't be searched with a seq2seq model; or name other verbalizer_sources",
            )
        for source in grow.sources:
            with self._collecting(("space", "grow", "sources")):
                TEMPLATE_SOURCES[source]
                needed = NEEDS_WRITER.get(source, family)
                if needed != family:
                    raise InvalidInputError(
                        f"{source!r} needs a {needed} that writes, and {family} is none; name one, as "
                        f"space.grow.writer: {{path: ..., family: {needed}}}"
                    )

    def _template(self, file: StudyFile, name: str, text: str, fields: set[str]) -> Template:
        template = Template(name, text)
        template.check_fields(sorted(fields))
        if FAMILIES[file.backbone.family].label_last:
            template.check_label_last()
        return template

    def _parameters(self, file: StudyFile, facts: StudyFacts, tasks: list[Task]) -> list[Parameter]:
        described = {".".join(path): (path, section) for path, section in file.space.described().items()}
        if file.sources:
            described.setdefault("source", (("source",), ParameterSection(choices=tuple(file.sources))))
        parameters, model = [], architecture_of(file.backbone, facts.n_layers, self.model_type)
        for name in (*DIMENSIONS, *(name for name in described if name not in DIMENSIONS)):
            if name not in described:
                continue
            path, section = described[name]
            with self._collecting(("space", *path)):
                dimension = dimension_of(name)
                when = None
                if section.when is not None:
                    when = Condition(section.when.parameter, section.when.choices, section.when.above)
                parameter = dimension.parameter(
                    section.choices, section.low, section.high, section.step, section.log, when
                )
                check_parameter(parameter, facts)
                parameters.append(parameter)
                check_served(model, parameter, tasks)
        return parameters

    def _objective(self, file: StudyFile, space: SearchSpace) -> ObjectiveSpec:
        training = file.source.training if file.source else None
        return ObjectiveSpec(
            backbone=BackboneSpec(
                self._backbone_path(file),
                file.backbone.family,
                **file.backbone.model_dump(exclude={"path", "family"}),
            ),
            target=self._task_spec(file.target),
            source=self._task_spec(file.source) if file.source else None,
            sources={name: self._source_spec(section) for name, section in file.sources.items()},
            space=space,
            metric=file.metric,
            evaluate_every=file.evaluation.every,
            evaluation_batch_size=file.evaluation.batch_size,
            source_training=SourceTraining(**training.model_dump()) if training else SourceTraining(),
            split_seed=file.seed,
            memory_bytes=file.cache.memory,
            minimize=file.minimize,
        )

    def _source_spec(self, section: SourceSection) -> SourceSpec:
        return SourceSpec(self._task_spec(section), SourceTraining(**section.training.model_dump()))

    def _task_spec(self, section: TaskSection) -> TaskSpec:
        values = {
            name: getattr(section, name, None)
            for name in ("test", "validation", "validation_rows", "test_rows", "shots", "folds", "group", "time")
        }
        for name in ("test", "validation"):
            path = values[name]
            if path:
                values[name] = str(self.folder / path)
        return TaskSpec(
            train=str(self.folder / section.train),
            fields=dict(section.text),
            label=section.label,
            kind=section.kind,
            labels=section.labels,
            train_rows=section.train_rows,
            **values,
        )

    def _backbone_path(self, file: StudyFile) -> str:
        return model_path(self.folder, file.backbone.path)

    def _add(self, location: Location, message: str) -> None:
        self.problems.append(self.yaml.problem(location, message))

    @contextmanager
    def _collecting(self, location: Location) -> Iterator[None]:
        try:
            yield
        except InvalidInputError as error:
            self._add(location, str(error))

    def _attempt(self, location: Location, build: Callable[[], T]) -> T | None:
        with self._collecting(location):
            return build()
        return None


def model_path(folder: Path, path: str) -> str:
    """Return an absolute local folder, relative to the study file's, or the hub id as it is."""
    local = folder / path
    looks_local = path.startswith((".", "/", "~")) or local.exists()
    return str(local.expanduser().resolve()) if looks_local else path


def _source_at(name: str) -> Location:
    return ("sources", name) if name else ("source",)


def _verbalizer(name: str, words: dict[str, tuple[str, ...]], labels: Sequence[str]) -> Verbalizer:
    verbalizer = Verbalizer(name, words)
    verbalizer.check_labels(labels)
    return verbalizer


def _delete(content: Any, location: Location) -> None:
    for part in location[:-1]:
        content = content[part]
    del content[location[-1]]


def _keys_at(model: type[BaseModel], location: Location) -> list[str]:
    """List the keys that a study file may have at a location."""
    parts = iter(location)
    for part in parts:
        field = model.model_fields.get(str(part))
        inner = _model_in(field.annotation) if field else None
        if field is None or inner is None:
            return []
        model = inner
        if typing.get_origin(field.annotation) is dict:
            next(parts, None)  # A name that the user chose.
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in typing.get_args(annotation):
        found = _model_in(inner)
        if found is not None:
            return found
    return None

"""From a study file to a study: every error at once, with its line."""

import logging
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from promptgraft.objectives.data import (
    TASK_KINDS,
    Comparison,
    Task,
    TaskSpec,
    all_labels,
    check_same_kind,
    named_by,
)
from promptgraft.objectives.kinds import directions
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.search.study.backbone_checks import (
    BackboneLoader,
    Drafted,
    Rehearse,
    rehearse_here,
    source_at,
    task_spec,
)
from promptgraft.search.study.cautions import cautions_of, times_without_units
from promptgraft.search.study.constraints import Constraints, constraints_of
from promptgraft.search.study.effort import families_of, refuses_baseline, with_effort
from promptgraft.search.study.engines import check_pruner, check_sampler, is_installed
from promptgraft.search.study.schema.study_file import StudyFile, check_study_name, name_advice
from promptgraft.search.study.schema.tasks import TaskSection
from promptgraft.search.study.yaml_lines import LinedYaml, Location, Problem, ProblemCollector, StudyFileError
from promptgraft.spaces import InvalidInputError, SearchSpace, checked_path, did_you_mean

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Study:
    """A checked study.

    Attributes:
        path: The study file.
        file: Its content, with the defaults of its effort and what was drafted for its space.
        objective: The fixed part, as the workers get it; paths are absolute.
        target: The loaded target task.
        sources: The loaded source tasks, by name; a single one's is empty.
        constraints: What candidates must keep to, if anything.
        cautions: What makes scores doubtful, as the rows are: words that give a label away, or few rows of a label.
        on_backbones: The file with each backbone alone, by name, and what was drafted for its space; empty if the
            study doesn't name its backbones.
        drafted: What was drafted since the file leaves it out: nothing, the wording (templates or label words), or the
            whole space.
    """

    path: Path
    file: StudyFile
    objective: ObjectiveSpec
    target: Task
    sources: Mapping[str, Task]
    constraints: Constraints | None = None
    cautions: tuple[str, ...] = ()
    drafted: Drafted = "nothing"
    on_backbones: Mapping[str, StudyFile] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The study's name."""
        return self.file.study

    @property
    def tasks(self) -> dict[str, Task]:
        """All tasks, by what messages call them."""
        return {"target": self.target} | {f"source {name}".rstrip(): task for name, task in self.sources.items()}


def load_study(
    path: Path | str,
    name: str | None = None,
    comparison: Comparison = "fields",
    *,
    rehearsed: bool = False,
    rehearse: Rehearse | None = None,
) -> Study:
    """Read a study file and check it against its data and its backbone.

    Args:
        path: The study file.
        name: What to call the study, if not what the file says.
        comparison: How near duplicates are found.
        rehearsed: Whether to try, too, what trials would do with the backbone's files; imports torch.
        rehearse: Does that elsewhere.

    Raises:
        StudyFileError: With every problem found.
        InvalidInputError: If the file isn't there, or the name can't be one.
    """
    if name is not None:
        check_study_name(name)
    if rehearsed and rehearse is None:
        rehearse = rehearse_here
    return StudyLoader(LinedYaml(checked_path(path, "a study file")), name, comparison).read(rehearse)


class StudyLoader(ProblemCollector):
    """Collects problems while it builds the parts that it can."""

    def __init__(self, yaml: LinedYaml, name: str | None, comparison: Comparison) -> None:
        super().__init__(yaml)
        self.name = name
        self.comparison = comparison
        self.folder = yaml.path.resolve().parent

    def read(self, rehearse: Rehearse | None = None) -> Study:
        """Build the study, or raise with every problem found; see `load_study`."""
        parsed = self._parse()
        if self.attempt(("target", "kind"), lambda: TASK_KINDS[parsed.target.kind]) is None:
            raise StudyFileError(self.yaml.path, self.problems)  # What else may be wrong depends on it.
        file = with_effort(parsed)
        self._check_engines(file)
        self._check_kind(file)
        loaders = self._backbones(file)
        unusable = [loader for loader in loaders if not loader.check()]
        if unusable:
            self._collect(unusable)
            raise StudyFileError(self.yaml.path, self.problems)
        target, sources = self._load_tasks(file)
        file = self._with_label_names(file, [*([target] if target else []), *sources.values()])
        for loader, own in zip(loaders, file.on_each_backbone().values(), strict=True):
            loader.file = own
            loader.read(target, sources, None if self.problems else rehearse)
        self._collect(loaders)
        objective = None if self.problems else _joined(loaders)
        constraints = None
        if objective is not None and target is not None:
            constraints = self.attempt(
                ("constraints",), lambda: constraints_of(file.constraints, objective, target, sources)
            )
        if self.problems or objective is None or target is None:
            raise StudyFileError(self.yaml.path, self.problems)
        files = {loader.name: loader.file for loader in loaders}
        study = Study(
            self.yaml.path.resolve(),
            files.get("", file),
            objective,
            target,
            sources,
            constraints,
            drafted=loaders[0].drafted,
            on_backbones=files if file.backbones else {},
        )
        cautions = self.attempt(("target",), lambda: cautions_of(study.file, study.tasks, study.objective.space))
        if cautions is None:
            raise StudyFileError(self.yaml.path, self.problems)
        budget = self.yaml.plain().get("budget")
        return replace(study, cautions=(*cautions, *times_without_units(budget)))

    def _backbones(self, file: StudyFile) -> list[BackboneLoader]:
        """Return what loads each backbone's part of the study."""
        if file.backbones and file.grow:
            self.add(("space", "grow"), "needs a single `backbone`, which templates are made for; leave it out")
        names = list(file.backbones)
        return [
            BackboneLoader(self.yaml, own, name, names, self.comparison)
            for name, own in file.on_each_backbone().items()
        ]

    def _collect(self, loaders: Sequence[BackboneLoader]) -> None:
        """Take over the problems with each backbone: one that all have once, and what none can serve."""
        for loader in loaders:
            for problem in loader.problems:
                is_its_own = not all(problem in other.problems for other in loaders)
                if is_its_own and not problem.where.startswith("backbones."):
                    problem = replace(problem, message=f"on backbone {loader.name!r}: {problem.message}")
                self.problems += [] if problem in self.problems else [problem]
        for (location, value), reason in loaders[0].left_out.items():
            known = self.yaml.problem(location, "").where in {problem.where for problem in self.problems}
            if not known and all((location, value) in loader.left_out for loader in loaders):
                self.add(location, reason)

    def _with_label_names(self, file: StudyFile, tasks: Sequence[Task]) -> StudyFile:
        """Return the file with its label words under the labels' names as the tables write them."""
        if file.space is None or not file.space.verbalizers or not tasks:
            return file
        labels = all_labels(tasks[0], tasks[1:])
        words = dict(file.space.verbalizers)
        for name, own in file.space.verbalizers.items():
            with self.collecting(("space", "verbalizers", name)):
                words[name] = named_by(own, labels)
        return file.model_copy(update={"space": file.space.model_copy(update={"verbalizers": words})})

    def _parse(self) -> StudyFile:
        content = self.yaml.plain() | ({"study": self.name} if self.name else {})
        self._read_labels_as_written(content)
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

    def _read_labels_as_written(self, content: dict[str, Any]) -> None:
        """Make labels and label words the texts that the file has: 1, 01 and true are labels like any other."""
        sources = content.get("sources")
        sections: list[Location] = [("target",), ("source",), *(("sources", name) for name in sources or ())]
        for location in [*((*section, "labels") for section in sections), ("space", "verbalizers")]:
            parent: Any = content
            for part in location[:-1]:
                parent = parent.get(part) if isinstance(parent, dict) else None
            if isinstance(parent, dict) and location[-1] in parent:
                parent[location[-1]] = self.yaml.as_written(location, parent[location[-1]])

    def _explain(self, entry: dict[str, Any]) -> Problem:
        location: Location = entry["loc"]
        if entry["type"] == "extra_forbidden":
            hint = did_you_mean(str(location[-1]), _keys_at(StudyFile, location[:-1]))
            return self.yaml.problem(location, f"unknown key {location[-1]!r}; {hint}")
        if entry["type"] == "missing":
            return self.yaml.problem(location, "is required but missing")
        if location == ("study",):
            return self.yaml.problem(location, f"{name_advice(entry['input'])}, in quotes if it is a number or a date")
        if entry["type"] in ("dict_type", "model_type"):
            keys = _keys_at(StudyFile, location)
            hint = f" (keys: {', '.join(keys)})" if keys and entry["type"] == "model_type" else ""
            return self.yaml.problem(location, f"expected keys with values, got {entry['input']!r}{hint}")
        message = str(entry["msg"]).removeprefix("Value error, ")
        if location == ("backbones",) and entry["type"] == "value_error":
            return self.yaml.problem(location, message)  # It may be missing, or long.
        if entry["type"] == "literal_error" and entry["input"] == "none" and isinstance(location[-1], int):
            return self.yaml.problem(location[:-1], f"write [] for none; otherwise {message[0].lower()}{message[1:]}")
        return self.yaml.problem(location, f"{message[0].lower()}{message[1:]}, got {entry['input']!r}")

    def _check_engines(self, file: StudyFile) -> None:
        with self.collecting(("metric",)):
            known = directions(TASK_KINDS[file.target.kind])
            if file.metric not in known:
                raise InvalidInputError(f"unknown metric {file.metric!r}; {did_you_mean(file.metric, known)}")
            expected = known[file.metric]
            if file.direction not in (None, expected):
                self.add(("direction",), f"{file.metric} is better the other way: write {expected}")
        with self.collecting(("sampler",)):
            check_sampler(file.sampler.name, file.sampler.options, 1 + len(file.minimize))
        with self.collecting(("pruner",)):
            check_pruner(file.pruner.name, file.pruner.options)
        for name in file.track:
            if not is_installed(name):
                self.add(("track",), f"{name} is not installed: pip install 'promptgraft[track]'")
        if file.budget.gpu_hours is not None and not file.resources.gpu:
            self.add(("budget", "gpu_hours"), "limits GPUs, but resources.gpu is 0; raise it, or set compute")

    def _check_kind(self, file: StudyFile) -> None:
        """Refuse what the kind of task has no use for."""
        name = file.target.kind
        kind = TASK_KINDS[name]
        if not kind.one_label and file.target.unlabelled:
            self.add(("target", "unlabelled"), f"needs rows with one label each, unlike kind {name!r}; leave it out")
        self._check_sampled(file)
        if kind.reads == "images":
            self._check_images(file)
        if file.judging.ensemble > 1 and not kind.ensembles:
            self.add(("judging", "ensemble"), f"must be 1 for tasks of kind {name!r}, whose answers have no mean")
        applies = {"source_language": kind.languages, "target_language": kind.languages}
        for key, applying in {**applies, "histories": kind.reads_histories}.items():
            if (getattr(file.target, key) is None) == applying:
                reason = "is required" if applying else "does not apply"
                self.add(("target", key), f"{reason} for tasks of kind {name!r}")
        named = {("baselines",): file.baselines, ("judging", "controls"): file.judging.controls}
        for location, names in named.items():
            for baseline in filter(partial(refuses_baseline, file), names):
                whose = (
                    f"tasks of kind {name!r}" if kind.refuses_baseline(baseline) else "models that read no label words"
                )
                self.add(location, f"{baseline} does not apply to {whose}; leave it out")

        if file.source is not None and file.sources:
            self.add(("sources",), "can't be given beside `source`; give that one a name among them")

    def _check_sampled(self, file: StudyFile) -> None:
        """Want both or neither: metrics of ranks among items that are drawn, and how many are drawn."""
        name, on_request = file.target.kind, TASK_KINDS[file.target.kind].on_request
        negatives = file.target.histories and file.target.histories.negatives
        if file.metric in on_request and not negatives:
            self.add(("metric",), f"{file.metric} needs target.histories.negatives: how many items are drawn")
        if negatives and not on_request:
            self.add(("target", "histories", "negatives"), f"does not apply to tasks of kind {name!r}; leave it out")

    def _check_images(self, file: StudyFile) -> None:
        """Refuse what needs texts, where rows are images; models may read those of labels beside them."""
        has_words = any(family.has_words for family in families_of(file))
        of_labels = () if has_words else ("templates", "verbalizers", "grow")
        for name in ("chat_templates", "promptsource", *of_labels):
            if file.space is not None and getattr(file.space, name):
                self.add(("space", name), "needs texts, and rows of this kind of task are images; leave it out")
        sections: dict[Location, TaskSection] = {("target",): file.target}
        sections |= {source_at(name): section for name, section in file.all_sources().items()}
        for location, section in sections.items():
            if len(section.text) != 1:
                self.add((*location, "text"), f"must name one column, that of the images, got {len(section.text)}")

    def _load_tasks(self, file: StudyFile) -> tuple[Task | None, dict[str, Task]]:
        def load(section: TaskSection, location: Location, other: Task | None) -> Task:
            with self.collecting((*location, "kind")):
                kind = TASK_KINDS[section.kind]
            spec = self._task_spec(section)
            if other is not None:
                check_same_kind(self._task_spec(file.target), spec, "the source")
            return kind.load_target(spec, file.seed) if other is None else kind.load_source(spec, file.seed, other)

        target = self.attempt(("target",), lambda: load(file.target, ("target",), None))
        sources: dict[str, Task] = {}
        for name, section in file.all_sources().items() if target is not None else ():
            with self.collecting(source_at(name)):
                sources[name] = load(section, source_at(name), target)
        return target, sources

    def _task_spec(self, section: TaskSection) -> TaskSpec:
        return task_spec(section, self.folder, self.comparison)


def _joined(loaders: Sequence[BackboneLoader]) -> ObjectiveSpec | None:
    """Return the fixed part of a study, with that on each of its backbones if it names them."""
    found = {loader.name: loader.objective for loader in loaders if loader.objective is not None}
    if len(found) < len(loaders) or "" in found:
        return found.get("")
    space = SearchSpace.over({name: spec.space for name, spec in found.items()})
    return replace(next(iter(found.values())), space=space, backbones=found)


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

"""The search space of a study file: templates, label words and parameters, checked against backbone and tasks."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from promptgraft.objectives.backbones import FAMILIES, Architecture, check_candidate
from promptgraft.objectives.data import TASK_KINDS, HistorySpec, Task, all_labels
from promptgraft.search.study.promptsource import Answered, Imported, read_promptsource
from promptgraft.search.study.schema.sections import BackboneSection, HistoriesSection, ParameterSection, SpaceSection
from promptgraft.search.study.schema.study_file import StudyFile
from promptgraft.search.study.yaml_lines import LinedYaml, Location, Problem, ProblemCollector
from promptgraft.spaces import (
    BACKBONE,
    DEFAULTS,
    DIMENSIONS,
    LABEL_FIELD,
    Condition,
    InvalidInputError,
    Parameter,
    SearchSpace,
    StudyFacts,
    Template,
    Verbalizer,
    check_can_hold,
    check_parameter,
    did_you_mean,
    dimension_of,
    extremes,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)

SELF_TRAINING = "self_training"


class SpaceLoader(ProblemCollector):
    """Builds the search space of a study file.

    Args:
        yaml: The file.
        problems: Where problems go.
        file: Its content, with a space and one backbone.
        model_type: The backbone's architecture; None if it couldn't be read.
        backbone: Name of the backbone, if the study names its backbones: what it can't serve is left out then, and
            what depends on another one.
        backbones: Their names.

    Attributes:
        left_out: Location and value -> why it is left out.
    """

    def __init__(
        self,
        yaml: LinedYaml,
        problems: list[Problem],
        file: StudyFile,
        model_type: str | None,
        backbone: str = "",
        backbones: Collection[str] = (),
    ) -> None:
        super().__init__(yaml, problems)
        self.file = file
        self.backbone = backbone
        self.backbones = backbones
        self.left_out: dict[tuple[Location, Any], str] = {}
        self.section = file.space or SpaceSection()
        self.family = FAMILIES[file.only_backbone.family]
        self.model_type = model_type
        self.kind = TASK_KINDS[file.target.kind]
        self.folder = yaml.path.resolve().parent

    def read(self, facts: StudyFacts, target: Task | None, sources: Mapping[str, Task]) -> SearchSpace | None:
        """Build the search space; None if anything is wrong with it.

        Args:
            facts: What decides which hyperparameters can have an effect.
            target: The target task; None if it couldn't be loaded.
            sources: The source tasks, by name.
        """
        before = len(self.problems)
        self._check_words()
        fields = self.attempt(("target", "text"), self._shared_fields)
        if fields is None:
            return None
        templates = [
            self._usable(("space", "templates", name), partial(self._template, name, text, fields))
            for name, text in self.section.templates.items()
        ]
        templates += [
            self._usable(("space", "chat_templates", name), partial(self._chat_template, name, text, fields))
            for name, text in self.section.chat_templates.items()
        ]
        labels = all_labels(target, sources.values()) if target else ()
        verbalizers = [
            self.attempt(("space", "verbalizers", name), partial(_verbalizer, name, words, labels))
            for name, words in self.section.verbalizers.items()
        ]
        if target is not None:
            for imported in self._imported(
                Answered(target.labels, bool(self.file.target.labels), labels), sorted(fields)
            ):
                texts = {template.text for template in templates if template}
                templates += [template for template in imported.templates if template.text not in texts]
                known = [entry.words for entry in verbalizers if entry]
                verbalizers += [entry for entry in imported.verbalizers if entry.words not in known]
        if not any(templates) and self.left_out:
            location, _ = first = next(iter(self.left_out))
            self.add(location, self.left_out[first])
        parameters = self._parameters(facts, [*([target] if target else []), *sources.values()])
        self._check_growth()
        if len(self.problems) > before:
            return None
        return self.attempt(
            ("space",),
            lambda: SearchSpace(
                tuple(entry for entry in templates if entry),
                tuple(entry for entry in verbalizers if entry),
                tuple(parameters),
                facts,
            ),
        )

    def _shared_fields(self) -> set[str]:
        """Return the fields that templates may show: those that target and sources have in common."""
        fields = {"target": tuple(self.file.target.text)}
        fields |= {name or "source": tuple(section.text) for name, section in self.file.all_sources().items()}
        shared = set(fields["target"]).intersection(*fields.values())
        if not shared and not self.family.texts_of_labels:
            shown = "; ".join(f"{name}: {', '.join(own)}" for name, own in fields.items())
            raise InvalidInputError(
                f"target and sources have no field in common, which templates could show ({shown}); give fields the "
                "same names, as in `text: {text: COLUMN}`"
            )
        return shared

    def _usable(self, location: Location, build: Callable[[], T], value: Any = None) -> T | None:
        """Build what may be left out where there are other backbones; None if it can't be built."""
        if not self.backbone:
            return self.attempt(location, build)
        try:
            return build()
        except InvalidInputError as error:
            self.left_out[location, value] = str(error)
            return None

    def _check_words(self) -> None:
        """Refuse label words, and what makes or needs them, where the kind of task has none."""
        for name in ("verbalizers", "promptsource", "grow") if not self.kind.one_label else ():
            if getattr(self.section, name):
                self.add(
                    ("space", name),
                    f"needs label words, and rows of kind {self.file.target.kind!r} have no single label; leave it out",
                )

    def _imported(self, answered: Answered, fields: list[str]) -> Iterator[Imported]:
        for index, name in enumerate(self.section.promptsource):
            with self.collecting(("space", "promptsource", index)):
                imported = read_promptsource(Path(local_path(self.folder, name)), answered, fields)
                if self.family.label_last:
                    imported = imported.that_end_with_the_label()
                if not (imported.verbalizers or self.section.verbalizers):
                    raise InvalidInputError(f"{name}: {next(iter(imported.wordless.values()))}")
                for skipped, reason in imported.skipped.items():
                    logger.warning("%s: template %r is left out: %s", name, skipped, reason)
                for reason in imported.wordless.values():
                    logger.warning("%s: answer choices are left out: %s", name, reason)
                yield imported

    def _check_growth(self) -> None:
        grow = self.section.grow
        if grow is None:
            return
        from promptgraft.objectives.growth import NEEDS_WRITER, TEMPLATE_SOURCES, VERBALIZER_SOURCES

        family = grow.writer.family if grow.writer else self.file.only_backbone.family
        for source in grow.verbalizer_sources:
            with self.collecting(("space", "grow", "verbalizer_sources")):
                VERBALIZER_SOURCES[source]
        searched = grow.verbalizers and "likelihood" in grow.verbalizer_sources
        if searched and (self.family.encoder_decoder or self.family.texts_of_labels):
            family = self.file.only_backbone.family
            self.add(
                ("space", "grow", "verbalizers"),
                f"must be 0: label words can't be searched with a {family} model; or name other verbalizer_sources",
            )
        for source in grow.sources:
            with self.collecting(("space", "grow", "sources")):
                TEMPLATE_SOURCES[source]
                needed = NEEDS_WRITER.get(source, family)
                if needed != family:
                    raise InvalidInputError(
                        f"{source!r} needs a {needed} that writes, and {family} is none; name one, as "
                        f"space.grow.writer: {{path: ..., family: {needed}}}"
                    )

    def _template(self, name: str, text: str, fields: set[str]) -> Template:
        template = Template(name, text)
        template.check_fields(() if self.family.texts_of_labels else sorted(fields))
        if reason := self.kind.refuses_template(template):
            raise InvalidInputError(reason)
        if self.family.label_last:
            template.check_label_last()
        return template

    def _chat_template(self, name: str, message: str, fields: set[str]) -> Template:
        backbone = self.file.only_backbone
        if not self.family.label_last:
            raise InvalidInputError(f"{backbone.family!r} models don't chat; write the template under space.templates")
        path = model_path(self.folder, backbone.path)
        from promptgraft.objectives.backbones import in_chat_template  # Here, since it brings torch.

        text = in_chat_template(path, message, trust_remote_code=backbone.trust_remote_code)
        return self._template(name, f"{text}{{{{ {LABEL_FIELD} }}}}", fields)

    def _parameters(self, facts: StudyFacts, tasks: list[Task]) -> list[Parameter]:
        described = {".".join(path): (path, section) for path, section in self.section.described().items()}
        if self.file.sources:
            described.setdefault("source", (("source",), ParameterSection(choices=tuple(self.file.sources))))
        heads = self.family.heads(self.kind.heads)
        if "label_words" not in heads:
            described.setdefault("head", (("head",), ParameterSection(choices=heads[:1])))
        own = described.get("head")
        if own and "probe" in (own[1].choices or ()) and self.family.probe_c != DEFAULTS["probe_c"]:
            described.setdefault("probe_c", (("probe_c",), ParameterSection(choices=(self.family.probe_c,))))
        parameters: list[Parameter] = []
        for name in (*DIMENSIONS, *(name for name in described if name not in DIMENSIONS)):
            if name in described:
                path, section = described[name]
                earlier = {parameter.name: parameter for parameter in parameters}
                build = partial(self._parameter, name, facts=facts, tasks=tasks, earlier=earlier)  # Of a section.
                known = {"template", "verbalizer", *earlier}
                parameter = self._served(("space", *path), section, build, facts, known)
                parameters += [parameter] if parameter else []
        return parameters

    def _served(
        self,
        location: Location,
        section: ParameterSection,
        build: Callable[[ParameterSection], Parameter],
        facts: StudyFacts,
        known: Collection[str],
    ) -> Parameter | None:
        """Build a parameter; where there are other backbones, of those values alone that this one can serve.

        Args:
            location: Where the parameter stands.
            section: What is written there.
            build: Builds the parameter, or raises.
            facts: The study on this backbone.
            known: Names of the parameters before it.
        """
        if not self.backbone:
            return self.attempt(location, partial(build, section))
        when = section.when
        if when is not None and when.parameter == BACKBONE:
            unknown = [str(name) for name in when.choices if name not in self.backbones]
            if unknown:
                self.add(location, f"unknown backbone {unknown[0]!r}; {did_you_mean(unknown[0], self.backbones)}")
            if self.backbone not in when.choices:
                return None
            section = section.model_copy(update={"when": None})
        if section.choices:
            alone = [(value, section.model_copy(update={"choices": (value,)})) for value in section.choices]
            served = [value for value, own in alone if self._usable(location, partial(build, own), repr(value))]
            if not served:
                return None
            section = section.model_copy(update={"choices": tuple(served)})
        elif location == ("space", "frozen_layers") and section.high is not None:
            section = section.model_copy(update={"high": min(section.high, facts.n_layers)})
        parameter = self._usable(location, partial(build, section))
        if parameter is not None and parameter.when is not None and parameter.when.parameter not in known:
            self.left_out[location, None] = f"depends on {parameter.when.parameter!r}, which is not suggested before it"
            return None
        return parameter

    def _parameter(
        self,
        name: str,
        section: ParameterSection,
        facts: StudyFacts,
        tasks: list[Task],
        earlier: Mapping[str, Parameter],
    ) -> Parameter:
        """Build a parameter.

        Raises:
            InvalidInputError: If a value is not allowed, the study or its backbone doesn't support it, or the condition
                on one of the earlier parameters never holds.
        """
        when = None
        if section.when is not None:
            when = Condition(section.when.parameter, section.when.choices, section.when.above)
            if when.parameter in earlier:
                check_can_hold(when, earlier[when.parameter])
        built = dimension_of(name).parameter(
            section.choices, section.low, section.high, section.step, section.log, when
        )
        check_parameter(built, facts)
        for value in extremes(built):
            if reason := self.kind.refuses(name, value):
                raise InvalidInputError(reason)
            if name == SELF_TRAINING and value and not self.file.target.unlabelled:
                raise InvalidInputError(f"{name} needs unlabelled rows; name their table as target.unlabelled")
        check_served(architecture_of(self.file.only_backbone, facts.n_layers, self.model_type), built, tasks)
        return built


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


def _verbalizer(name: str, words: dict[str, tuple[str, ...]], labels: Sequence[str]) -> Verbalizer:
    verbalizer = Verbalizer(name, words)
    verbalizer.check_labels(labels)
    return verbalizer


def model_path(folder: Path, path: str) -> str:
    """Return an absolute local folder, relative to the study file's, or the hub id as it is."""
    local = Path(local_path(folder, path))
    looks_local = path.startswith((".", "/", "~")) or local.exists()
    return str(local.resolve()) if looks_local else path


def history_spec(folder: Path, section: HistoriesSection | None) -> HistorySpec | None:
    """Return where histories come from; None where a task has none."""
    if section is None:
        return None
    users = section.users and local_path(folder, section.users)
    return HistorySpec(**{**section.model_dump(), "items": local_path(folder, section.items), "users": users})


def local_path(folder: Path, path: str) -> str:
    """Return a path that is relative to the study file's folder, or begins with `~`; a URL as it is."""
    if "://" in path:
        return path
    try:
        return str(folder / Path(path).expanduser())
    except RuntimeError:  # There is no such user: it is the name of a file.
        return str(folder / path)

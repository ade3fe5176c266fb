"""The search space of a study file: templates, label words and parameters, checked against backbone and tasks."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from promptgraft.objectives.backbones import FAMILIES
from promptgraft.objectives.data import TASK_KINDS, Task, all_labels
from promptgraft.search.study.backbone_checks import architecture_of, check_served
from promptgraft.search.study.promptsource import Answered, Imported, read_promptsource
from promptgraft.search.study.schema import StudyFile
from promptgraft.search.study.space_schema import ParameterSection, SpaceSection
from promptgraft.search.study.yaml_lines import LinedYaml, Problem, ProblemCollector
from promptgraft.spaces import (
    DIMENSIONS,
    LABEL_FIELD,
    Condition,
    InvalidInputError,
    Parameter,
    SearchSpace,
    StudyFacts,
    Template,
    Verbalizer,
    check_parameter,
    dimension_of,
    extremes,
)

logger = logging.getLogger(__name__)

SELF_TRAINING = "self_training"


class SpaceLoader(ProblemCollector):
    """Builds the search space of a study file.

    Args:
        yaml: The file.
        problems: Where problems go.
        file: Its content, with a space.
        model_type: The backbone's architecture; None if it couldn't be read.
    """

    def __init__(self, yaml: LinedYaml, problems: list[Problem], file: StudyFile, model_type: str | None) -> None:
        super().__init__(yaml, problems)
        self.file = file
        self.section = file.space or SpaceSection()
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
        file = self.file
        before = len(self.problems)
        self._check_words()
        fields = set(file.target.text).intersection(*(section.text for section in file.all_sources().values()))
        templates = [
            self.attempt(("space", "templates", name), partial(self._template, name, text, fields))
            for name, text in self.section.templates.items()
        ]
        templates += [
            self.attempt(("space", "chat_templates", name), partial(self._chat_template, name, text, fields))
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
                if FAMILIES[self.file.backbone.family].label_last:
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

        family = grow.writer.family if grow.writer else self.file.backbone.family
        for source in grow.verbalizer_sources:
            with self.collecting(("space", "grow", "verbalizer_sources")):
                VERBALIZER_SOURCES[source]
        searched = grow.verbalizers and "likelihood" in grow.verbalizer_sources
        if searched and FAMILIES[self.file.backbone.family].encoder_decoder:
            self.add(
                ("space", "grow", "verbalizers"),
                "must be 0: label words can't be searched with a seq2seq model; or name other verbalizer_sources",
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
        template.check_fields(sorted(fields))
        if reason := self.kind.refuses_template(template):
            raise InvalidInputError(reason)
        if FAMILIES[self.file.backbone.family].label_last:
            template.check_label_last()
        return template

    def _chat_template(self, name: str, message: str, fields: set[str]) -> Template:
        family, backbone = self.file.backbone.family, self.file.backbone
        if not FAMILIES[family].label_last:
            raise InvalidInputError(f"{family!r} models don't chat; write the template under space.templates")
        path = model_path(self.folder, backbone.path)
        from promptgraft.objectives.backbones import in_chat_template  # Here, since it brings torch.

        text = in_chat_template(path, message, trust_remote_code=backbone.trust_remote_code)
        return self._template(name, f"{text}{{{{ {LABEL_FIELD} }}}}", fields)

    def _parameters(self, facts: StudyFacts, tasks: list[Task]) -> list[Parameter]:
        described = {".".join(path): (path, section) for path, section in self.section.described().items()}
        if self.file.sources:
            described.setdefault("source", (("source",), ParameterSection(choices=tuple(self.file.sources))))
        if not self.kind.one_label:
            described.setdefault("head", (("head",), ParameterSection(choices=self.kind.heads[:1])))
        parameters, model = [], architecture_of(self.file.backbone, facts.n_layers, self.model_type)
        for name in (*DIMENSIONS, *(name for name in described if name not in DIMENSIONS)):
            if name not in described:
                continue
            path, section = described[name]
            with self.collecting(("space", *path)):
                dimension = dimension_of(name)
                when = None
                if section.when is not None:
                    when = Condition(section.when.parameter, section.when.choices, section.when.above)
                parameter = dimension.parameter(
                    section.choices, section.low, section.high, section.step, section.log, when
                )
                check_parameter(parameter, facts)
                parameters.append(parameter)
                for value in extremes(parameter):
                    if reason := self.kind.refuses(name, value):
                        raise InvalidInputError(reason)
                    if name == SELF_TRAINING and value and not self.file.target.unlabelled:
                        raise InvalidInputError(f"{name} needs unlabelled rows; name their table as target.unlabelled")
                check_served(model, parameter, tasks)
        return parameters


def _verbalizer(name: str, words: dict[str, tuple[str, ...]], labels: Sequence[str]) -> Verbalizer:
    verbalizer = Verbalizer(name, words)
    verbalizer.check_labels(labels)
    return verbalizer


def model_path(folder: Path, path: str) -> str:
    """Return an absolute local folder, relative to the study file's, or the hub id as it is."""
    local = Path(local_path(folder, path))
    looks_local = path.startswith((".", "/", "~")) or local.exists()
    return str(local.resolve()) if looks_local else path


def local_path(folder: Path, path: str) -> str:
    """Return a path that is relative to the study file's folder, or begins with `~`; a URL as it is."""
    if "://" in path:
        return path
    try:
        return str(folder / Path(path).expanduser())
    except RuntimeError:  # There is no such user: it is the name of a file.
        return str(folder / path)

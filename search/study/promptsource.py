"""Templates in PromptSource's format (Bach et al. 2022, arXiv:2202.01279): read as data, nothing of them is built.

A file holds an input and a target for each template, with `|||` between them, and answer choices likewise. What becomes
of one here: the input, then the label's place; its answer choices become a verbalizer. They stand for labels by number,
so they are used only where the numbers of the target's labels are known.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode

from promptgraft.objectives.data import label_number
from promptgraft.spaces import LABEL_FIELD, InvalidInputError, Template, Verbalizer

_BETWEEN = "|||"
_ANSWER = re.compile(r"\{\{\s*answer_choices\s*\[\s*label\s*\]\s*\}\}")


@dataclass(frozen=True, slots=True)
class Imported:
    """What a file gave.

    Attributes:
        templates: Its templates.
        verbalizers: The answer choices of these, each once.
        skipped: Name -> why a template is of no use here.
        wordless: Name -> why a template's answer choices are of no use here.
    """

    templates: tuple[Template, ...]
    verbalizers: tuple[Verbalizer, ...]
    skipped: Mapping[str, str]
    wordless: Mapping[str, str]

    def that_end_with_the_label(self) -> "Imported":
        """Leave out templates that a causal LM can't be asked; all that are made here end with the label."""
        kept, skipped = [], dict(self.skipped)
        for template in self.templates:
            try:
                template.check_label_last()
                kept.append(template)
            except InvalidInputError as error:
                skipped[template.name] = str(error)
        return replace(self, templates=tuple(kept), skipped=skipped)


class _Constructor(SafeConstructor):
    """Reads PromptSource's own tags as the mappings that they stand for."""


def _mapping(constructor: SafeConstructor, node: MappingNode) -> dict[Any, Any]:
    return dict(constructor.construct_mapping(node, deep=True))


for _tag in ("!Template", "!TemplateMetadata"):
    _Constructor.add_constructor(_tag, _mapping)


@dataclass(frozen=True, slots=True)
class Answered:
    """The labels that answer choices may stand for.

    Attributes:
        labels: The target's labels.
        ordered: Whether the study file gives their order.
        others: The labels of the sources, which need words, too.
    """

    labels: Sequence[str]
    ordered: bool = False
    others: Sequence[str] = ()


def read_promptsource(path: Path, answered: Answered, fields: Sequence[str]) -> Imported:
    """Read a file of templates.

    Args:
        path: The file.
        answered: What answer choices stand for.
        fields: Fields that the data have.

    Raises:
        InvalidInputError: If it is no such file, or none of its templates can be used.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    try:
        content = yaml.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidInputError(f"there is no file {path}") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} is not YAML: {error}") from error
    entries = content.get("templates") if isinstance(content, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise InvalidInputError(f"{path} is not in PromptSource's format: it has no mapping `templates` of mappings")
    templates: dict[str, Template] = {}
    verbalizers: dict[str, Verbalizer] = {}
    skipped: dict[str, str] = {}
    wordless: dict[str, str] = {}
    for entry in entries.values():
        name, choices = str(entry.get("name")), entry.get("answer_choices")
        try:
            template = _template(name, str(entry.get("jinja")), choices)
            template.check_fields(fields)
        except InvalidInputError as error:
            skipped[name] = str(error)
            continue
        templates.setdefault(template.text, template)
        try:
            verbalizers.setdefault(json.dumps(_choices(choices)), _verbalizer(name, _choices(choices), answered))
        except InvalidInputError as error:
            wordless[name] = str(error)
    if not templates:
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in skipped.items())
        raise InvalidInputError(f"{path} has no template that can be used here:{reasons or ' it is empty'}")
    return Imported(tuple(templates.values()), tuple(verbalizers.values()), skipped, wordless)


def _verbalizer(name: str, choices: Sequence[str], answered: Answered) -> Verbalizer:
    """Build label words of answer choices: by the labels' numbers, by their names, or in the order that was given.

    Raises:
        InvalidInputError: If it isn't known which choice stands for which label.
    """
    labels = answered.labels
    numbers = [label_number(label) for label in labels]
    names = {choice.casefold(): choice for choice in choices}
    named = {label: names.get(label.casefold()) for label in labels if not label.isdecimal()}
    if len(named) == len(labels) and all(named.values()):
        words = {label: str(choice) for label, choice in named.items()}
    elif all(number is not None and number < len(choices) for number in numbers):
        words = {label: choices[number] for label, number in zip(labels, numbers, strict=True) if number is not None}
    elif answered.ordered and len(choices) == len(labels):
        words = dict(zip(labels, choices, strict=True))
    else:
        raise InvalidInputError(
            f"it isn't known which of the {len(choices)} answer choices of template {name!r} stands for which of the "
            f"{len(labels)} labels, since they stand for the labels' numbers, from 0 on; name all labels under "
            "`target: {labels: [...]}` in the order of the answer choices, or write space.verbalizers"
        )
    verbalizer = Verbalizer(name, {label: (word,) for label, word in words.items()})
    verbalizer.check_labels(answered.others)
    return verbalizer


def _template(name: str, jinja: str, choices: object) -> Template:
    given, between, target = jinja.partition(_BETWEEN)
    if not between or not _ANSWER.fullmatch(target.strip()):
        raise InvalidInputError(
            f"its target must be {{{{ answer_choices[label] }}}} but is {target.strip() or 'missing'!r}"
        )
    if "answer_choices" in given:
        given = f"{{% set answer_choices = {json.dumps(_choices(choices))} %}}{given}"
    joint = "" if given.endswith((" ", "\n")) else " "
    return Template(name, f"{given.lstrip()}{joint}{{{{ {LABEL_FIELD} }}}}", source="promptsource")


def _choices(text: object) -> list[str]:
    """Split answer choices; those that hang on a row's fields are none."""
    if not isinstance(text, str) or "{{" in text or "{%" in text:
        return []
    return [choice.strip() for choice in text.split(_BETWEEN)]

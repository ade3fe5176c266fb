"""Discrete prompt templates: text with named fields and a place for the label."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from promptgraft.spaces.errors import InvalidInputError, did_you_mean

LABEL_FIELD = "label"

# What the code of a template may raise: the sandbox's own errors among them, such as of a range that is too long.
_FAILURES = (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError)

_ENVIRONMENT = ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True
)


def content_id(name: str, content: str) -> str:
    """Build an id that a reader recognises and that changes with the content.

    Returns:
        The name and the first 6 hexadecimal digits of the content's SHA-256, as in `review-1f3a9c`.
    """
    return f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:6]}"


def content_hash(key: str) -> str:
    """Return the part of an id that is made from the content."""
    return key.rpartition("-")[2]


@lru_cache(maxsize=4096)
def _compile(text: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(text)


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """A template with its fields filled in, cut where the label goes.

    Attributes:
        before: Text up to the label.
        after: Text behind the label.
    """

    before: str
    after: str

    def with_label(self, word: str) -> str:
        """Return the whole text with `word` in the label's place."""
        return self.before + word + self.after

    def without_label(self) -> str:
        """Return the text with nothing in the label's place, outer white space removed."""
        return (self.before + self.after).strip()


@dataclass(frozen=True, slots=True)
class Block:
    """A field of a template with the words before it.

    Attributes:
        words: The template's own text before the field.
        field: Name of the field; empty for the text behind the last one.
    """

    words: str
    field: str


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt in jinja2's syntax, rendered in its sandbox with undefined fields refused.

    A field's *value* is data: it is inserted as it is and never parsed as a template.

    Attributes:
        name: The user's name for it.
        text: The template; names its fields as `{{ text }}` and the label's place as `{{ label }}`.
        source: Where it comes from: `written`, `promptsource`, or what made it during the study.
        parents: Ids of the templates that it was made from.

    Raises:
        InvalidInputError: If the text is no template, or doesn't name the label exactly once.
    """

    name: str
    text: str
    source: str = "written"
    parents: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            tree = _ENVIRONMENT.parse(self.text)
            labels = sum(node.name == LABEL_FIELD for node in tree.find_all(nodes.Name))
        except jinja2.TemplateSyntaxError as error:
            raise InvalidInputError(
                f"template {self.name!r} is not valid jinja2: {error.message} (line {error.lineno} of it)"
            ) from error
        if labels != 1:
            raise InvalidInputError(
                f"template {self.name!r} must contain {{{{ {LABEL_FIELD} }}}} exactly once, "
                f"where the label goes, but has it {labels} times"
            )
        if not self.fields:
            raise InvalidInputError(f"template {self.name!r} names no field; add one, such as {{{{ text }}}}")
        self.render(dict.fromkeys(self.fields, "x"))

    @property
    def id(self) -> str:
        """Stable id: the name with a hash of the text."""
        return content_id(self.name, self.text)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields beside the label, sorted."""
        names = meta.find_undeclared_variables(_ENVIRONMENT.parse(self.text))
        return tuple(sorted(names - {LABEL_FIELD}))

    @property
    def words(self) -> str:
        """The template's own text, without fields and label; outer white space removed."""
        empty = self.render(dict.fromkeys(self.fields, ""))
        return f"{empty.before} {empty.after}".strip()

    @property
    def blocks(self) -> tuple[Block, ...] | None:
        """The template cut behind each field; None if it is more than words and fields, as with filters."""
        blocks, words = [], ""
        for node in _ENVIRONMENT.parse(self.text).body:
            if not isinstance(node, nodes.Output):
                return None
            for part in node.nodes:
                if isinstance(part, nodes.TemplateData):
                    words += part.data
                elif isinstance(part, nodes.Name):
                    blocks.append(Block(words, part.name))
                    words = ""
                else:
                    return None
        return (*blocks, Block(words, ""))

    def check_fields(self, available: Iterable[str]) -> None:
        """Refuse fields that the data don't have.

        Raises:
            InvalidInputError: If a field of the template is not among `available`.
        """
        known = list(available)
        for field in self.fields:
            if field not in known:
                raise InvalidInputError(
                    f"template {self.name!r} uses the unknown field {field!r}; {did_you_mean(field, known)}"
                )

    def check_label_last(self) -> None:
        """Refuse a template whose label would have to be guessed before the text is read.

        Raises:
            InvalidInputError: If a field stands behind the label.
        """
        marks = {field: f"\ue001{index}\ue001" for index, field in enumerate(self.fields)}
        prompt = self.render(marks)
        late = [field for field, mark in marks.items() if mark not in prompt.before]
        if late:
            raise InvalidInputError(
                f"template {self.name!r} puts the label before {', '.join(late)}; a causal LM reads from left to "
                "right, so the label must come last"
            )

    def render(self, values: Mapping[str, str]) -> RenderedPrompt:
        """Fill in the fields.

        Args:
            values: Field name -> value.

        Raises:
            InvalidInputError: If a field is missing, or the template fails on these values.
        """
        # A private-use character marks the label's place; it is lengthened until no value contains it.
        mark = "\ue000"
        while any(mark in value for value in values.values()):
            mark += "\ue000"
        try:
            text = _compile(self.text).render({**values, LABEL_FIELD: mark})
        except _FAILURES as error:
            raise InvalidInputError(f"template {self.name!r} can't be rendered: {error}") from error
        if text.count(mark) != 1:
            raise InvalidInputError(f"template {self.name!r} must print the label exactly once")
        before, after = text.split(mark)
        return RenderedPrompt(before, after)

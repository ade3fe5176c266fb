"""Prompt templates: text with named fields and a position for the label."""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import jinja2
from jinja2 import meta, nodes

from promptgraft.spaces.errors import InvalidInputError, did_you_mean
from promptgraft.spaces.template_budget import BudgetedEnvironment, budget

LABEL_FIELD = "label"
# Number of own tokens at which a template of common words has a form score of 0.5.
HALF_TOKENS = 16

Tokenize = Callable[[str], Sequence[object]]

_ENVIRONMENT = BudgetedEnvironment()
_WORD = re.compile(r"\w+")


@lru_cache(maxsize=4096)
def content_id(name: str, content: str) -> str:
    """Build an id that a reader recognizes and that changes with the content.

    Returns:
        The name and the first 6 hexadecimal digits of the content's SHA-256, as in `review-1f3a9c`.
    """
    return f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:6]}"


def content_hash(key: str) -> str:
    """Return the part of an id that depends on the content."""
    return key.rpartition("-")[2]


@lru_cache(maxsize=4096)
def _compile(text: str) -> jinja2.Template:
    return _ENVIRONMENT.compiled(text)


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """A template with its fields filled in, split at the label.

    Attributes:
        before: Text before the label.
        after: Text after the label.
    """

    before: str
    after: str

    def with_label(self, word: str) -> str:
        """Return the whole text with `word` as the label."""
        return self.before + word + self.after

    def without_label(self) -> str:
        """Return the text without the label, stripped of white space."""
        return (self.before + self.after).strip()


@dataclass(frozen=True, slots=True)
class Block:
    """A field of a template and the words before it.

    Attributes:
        words: The template's own text before the field.
        field: Name of the field; empty for the text after the last one.
    """

    words: str
    field: str


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt in jinja2's syntax, rendered in its sandbox; undefined fields are errors.

    A field's *value* is data: it is inserted unchanged and never parsed as a template.

    Attributes:
        name: Name that the user chose.
        text: The template, with fields such as `{{ text }}` and one `{{ label }}`.
        source: Its origin: `written`, `promptsource`, or the source that drafted it during the study.
        parents: Ids of the templates that it was drafted from.
        guarded: What values must not say, such as the names of special tokens, in any spelling: each gets a space
            behind its first character.

    Raises:
        InvalidInputError: If the text is not valid jinja2, or does not contain the label exactly once.
    """

    name: str
    text: str
    source: str = "written"
    parents: tuple[str, ...] = ()
    guarded: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            tree = _ENVIRONMENT.checked(self.text)
            labels = sum(node.name == LABEL_FIELD for node in tree.find_all(nodes.Name))
            fields = self.fields  # Looks up filters, too.
        except jinja2.TemplateSyntaxError as error:
            raise InvalidInputError(
                f"template {self.name!r} is not valid jinja2: {error.message} (line {error.lineno})"
            ) from error
        except (jinja2.TemplateError, RecursionError) as error:
            raise InvalidInputError(f"template {self.name!r} can't be used: {error}") from error
        if labels != 1:
            raise InvalidInputError(
                f"template {self.name!r} must contain {{{{ {LABEL_FIELD} }}}} exactly once, got it {labels} times"
            )
        self.render(dict.fromkeys(fields, "x"))

    @property
    def id(self) -> str:
        """Stable id: the name with a hash of the text."""
        return content_id(self.name, self.text)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields without the label, sorted."""
        return _fields(self.text)

    @property
    def words(self) -> str:
        """The template's own text, without fields and label, stripped of white space."""
        return _words(self)

    @property
    def blocks(self) -> tuple[Block, ...] | None:
        """The template split after each field; None if it contains anything but words and fields, such as filters."""
        return _blocks(self.text)

    def check_fields(self, available: Iterable[str]) -> None:
        """Refuse fields that the data does not have, and a template that shows nothing of the data.

        Args:
            available: Names of the fields; none where texts are of labels alone, beside which a model reads an image.

        Raises:
            InvalidInputError: If a field of the template is not among `available`, or it has none.
        """
        known = list(available)
        if known and not self.fields:
            raise InvalidInputError(f"template {self.name!r} has no field; add one, such as {{{{ {known[0]} }}}}")
        for field in self.fields:
            if not known:
                raise InvalidInputError(
                    f"template {self.name!r} has the field {field!r}, but the model compares the image with the text "
                    "of a label, in which it has no place; leave the field out"
                )
            if field not in known:
                raise InvalidInputError(
                    f"template {self.name!r} uses the unknown field {field!r}; {did_you_mean(field, known)}"
                )

    def check_label_last(self) -> None:
        """Refuse a template whose label is not last, which a causal LM would predict before it has read the text.

        Raises:
            InvalidInputError: If a field comes after the label.
        """
        marks = {field: f"\ue001{index}\ue001" for index, field in enumerate(self.fields)}
        prompt = self.render(marks)
        late = [field for field, mark in marks.items() if mark not in prompt.before]
        if late:
            raise InvalidInputError(
                f"template {self.name!r} has the label before {', '.join(late)}; a causal LM reads from left to "
                "right, so the label must come last"
            )

    def render(self, values: Mapping[str, str]) -> RenderedPrompt:
        """Fill in the fields.

        Args:
            values: Field name -> value.

        Raises:
            InvalidInputError: If a field is missing, or rendering fails for these values.
        """
        if self.guarded:
            values = {name: break_up(self.guarded, value) for name, value in values.items()}
        # Private-use characters mark the label; one more is added until no value contains the mark.
        mark = "\ue000"
        while any(mark in value for value in values.values()):
            mark += "\ue000"
        try:
            compiled = _compile(self.text)
            with budget(self.text, values.values()):
                text = compiled.render({**values, LABEL_FIELD: mark})
        except Exception as error:  # A template is someone's program: whatever it raises is its own fault.
            raise InvalidInputError(f"template {self.name!r} cannot be rendered: {error}") from error
        if text.count(mark) != 1:
            raise InvalidInputError(f"template {self.name!r} must print the label exactly once")
        before, after = text.split(mark)
        return RenderedPrompt(before, after)


def break_up(names: tuple[str, ...], text: str) -> str:
    """Put a space behind the first character of each of some names, in any spelling, so that a text names none."""
    pattern = _any_of(names)
    text = pattern.sub(_with_space, text)
    normal = unicodedata.normalize("NFKC", text)  # As some tokenizers do.
    return pattern.sub(_with_space, normal) if pattern.search(normal) else text


def _with_space(found: re.Match[str]) -> str:
    return f"{found[0][0]} {found[0][1:]}"


@lru_cache(maxsize=16)
def _any_of(names: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)


# A search asks for these of a few templates, row after row and trial after trial.
@lru_cache(maxsize=4096)
def _fields(text: str) -> tuple[str, ...]:
    names = meta.find_undeclared_variables(_ENVIRONMENT.parse(text))
    return tuple(sorted(names - {LABEL_FIELD}))


@lru_cache(maxsize=4096)
def _words(template: Template) -> str:
    empty = template.render(dict.fromkeys(template.fields, ""))
    return f"{empty.before} {empty.after}".strip()


@lru_cache(maxsize=4096)
def _blocks(text: str) -> tuple[Block, ...] | None:
    blocks, words = [], ""
    for node in _ENVIRONMENT.parse(text).body:
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


def form_score(template: Template, tokenize: Tokenize) -> float:
    """Compute the form score of a template: plainness / (1 + tokens / 16).

    Tokens are those of the template's own text, without fields, label and special tokens. Plainness is words per piece,
    in [0, 1]: a vocabulary learned from text (BPE; Sennrich et al. 2016, arXiv:1508.07909) contains common words whole
    and splits rare ones into pieces. Thus `{{ text }} {{ label }}` scores 1 and a template of 16 common words 0.5.

    Args:
        template: The template.
        tokenize: Splits text into tokens, without special tokens.

    Returns:
        The score, in (0, 1].
    """
    text = template.words
    words = _WORD.findall(text)
    pieces = sum(_pieces(word, tokenize) for word in words)
    plainness = len(words) / pieces if words else 1.0
    return plainness / (1 + len(tokenize(text)) / HALF_TOKENS)


def _pieces(word: str, tokenize: Tokenize) -> int:
    """Count the pieces of a word within running text; in many vocabularies a token includes the space before it."""
    return max(1, min(len(tokenize(word)), len(tokenize(f" {word}"))))

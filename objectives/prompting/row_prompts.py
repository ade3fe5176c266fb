"""From a row's fields to what a model is run on: a prompt as token ids, or the number of an image."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from promptgraft.objectives.backbones import FAMILIES, Backbone, LabelScorer, PromptTokens
from promptgraft.objectives.data import WordSplitter, shown_image
from promptgraft.objectives.prompting.demonstrations import Demonstration, DemonstrationPool
from promptgraft.objectives.prompting.encoded_rows import EncodedPrompt
from promptgraft.objectives.prompting.shortening import shorten
from promptgraft.objectives.prompting.word_places import WordPlaces
from promptgraft.spaces import Candidate, InvalidInputError, RenderedPrompt, Template

# Texts are cut to so many characters before they are tokenized: many times what a prompt has room for.
CHARACTERS_PER_TOKEN = 200


class Prompts(ABC):
    """Makes what a model is run on of the fields of rows.

    Attributes:
        words: Finds the words of a row's text, each of which is scored; None where rows are scored as a whole.
        stored: Whether encoding takes so long that what is encoded is kept.
    """

    words: WordPlaces | None = None
    stored = True

    @abstractmethod
    def encode(self, fields: Mapping[str, str], pool: DemonstrationPool | None) -> EncodedPrompt:
        """Make ids of a row.

        Args:
            fields: Template field -> value.
            pool: Its demonstrations, if the candidate has any.
        """

    @abstractmethod
    def render(self, fields: Mapping[str, str], pool: DemonstrationPool | None) -> RenderedPrompt:
        """Show what the model sees of a row; see `encode`."""

    def view(self, ids: tuple[int, ...], augmentation: str, seed: str) -> tuple[tuple[int, ...], bool]:
        """Change a row at random, as one pass over the rows shows it; see `ImageEncoder.view`.

        Raises:
            InvalidInputError: If rows hold texts.
        """
        del seed
        raise InvalidInputError(f"augmentation {augmentation!r} changes images, not texts (of {len(ids)} tokens)")

    @abstractmethod
    def own_tokens(self) -> int:
        """Count the tokens that don't come from a row."""

    def read_words(self, split: WordSplitter) -> None:
        """Find the words of each row's text.

        Args:
            split: Finds the words of a text.

        Raises:
            InvalidInputError: If rows hold no text.
        """
        raise InvalidInputError(f"rows of images have no words that {split} could find; use another kind of task")


def prompts_of(backbone: Backbone, candidate: Candidate, template: Template, scorer: LabelScorer) -> Prompts:
    """Return what makes ids of rows for a model, by what its family reads."""
    if FAMILIES[backbone.family].reads == "images":
        return ImagePrompts(backbone, candidate, template)
    return TextPrompts(backbone, candidate, template, scorer)


class ImagePrompts(Prompts):
    """Images, each in the one field of a row.

    Args:
        backbone: A model that reads images.
        candidate: Says what reads them.
        template: The template, which no row is a part of.
    """

    stored = False

    def __init__(self, backbone: Any, candidate: Candidate, template: Template) -> None:
        self._backbone, self._candidate, self._template = backbone, candidate, template

    def encode(self, fields: Mapping[str, str], pool: DemonstrationPool | None) -> EncodedPrompt:
        """Make ids of an image; see `Prompts`."""
        del pool
        (reference,) = fields.values()
        return EncodedPrompt(self._backbone.image_ids(reference))

    def render(self, fields: Mapping[str, str], pool: DemonstrationPool | None) -> RenderedPrompt:
        """Name the image, and with it the text of a label that is read; see `Prompts`."""
        del pool
        (reference,) = fields.values()
        text = RenderedPrompt("", "")
        if self._candidate.head == "label_words":
            text = self._template.render(dict.fromkeys(self._template.fields, ""))
        return RenderedPrompt(f"{shown_image(reference)} {text.before}", text.after)

    def view(self, ids: tuple[int, ...], augmentation: str, seed: str) -> tuple[tuple[int, ...], bool]:
        """Change an image at random; see `Prompts`."""
        found: tuple[tuple[int, ...], bool] = self._backbone.view(ids, augmentation, seed)
        return found

    def own_tokens(self) -> int:
        """Count the tokens of labels' texts; see `Prompts`."""
        own: int = self._backbone.own_tokens(self._candidate, self._template)
        return own


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A prompt that has no more tokens than it may; see `EncodedPrompt`."""

    prompt: RenderedPrompt
    ids: list[int]
    fields: Mapping[str, str]
    demonstrations: int = 0


class TextPrompts(Prompts):
    """Prompts of a template, with as many of their tokens as there is room for.

    Args:
        backbone: A model that reads texts.
        candidate: Says whether there are demonstrations.
        template: The template.
        scorer: Makes token ids of prompts.
    """

    def __init__(self, backbone: Backbone, candidate: Candidate, template: Template, scorer: LabelScorer) -> None:
        self._backbone = backbone
        self._template = template
        self._scorer = scorer
        self._shows = candidate.demonstrations.count > 0

    def encode(self, fields: Mapping[str, str], pool: DemonstrationPool | None) -> EncodedPrompt:
        """Render and tokenize a row; see `Prompts`."""
        whole, own = self._fit(fields, pool)
        words = self.words.of(fields, own.fields, own.prompt) if self.words else None
        return EncodedPrompt(tuple(whole.ids), whole.demonstrations, len(whole.ids) - len(own.ids), words)

    def render(self, fields: Mapping[str, str], pool: DemonstrationPool | None) -> RenderedPrompt:
        """Render a row; see `Prompts`."""
        return self._fit(fields, pool)[0].prompt

    def own_tokens(self) -> int:
        """Count the tokens of the empty template; see `Prompts`."""
        return len(self._scorer.encode(self._template.render(dict.fromkeys(self._template.fields, ""))))

    def read_words(self, split: WordSplitter) -> None:
        """Find the words of each row's text."""
        names = self._backbone.special_names
        self.words = WordPlaces(split, self._template, PromptTokens(names, self._template))

    def _fit(self, fields: Mapping[str, str], pool: DemonstrationPool | None) -> tuple[_Fitted, _Fitted]:
        """Return the whole prompt, and the row's own part of it."""
        assert (pool is not None) == self._shows
        longest = CHARACTERS_PER_TOKEN * self._backbone.spec.max_tokens
        fields = {name: value[:longest] for name, value in fields.items()}
        own = self._fit_own(fields)
        if pool is None:
            return own, own
        pool.template = self._template
        chosen = pool.choose(fields)
        whole = self._behind(pool, chosen, own)
        if len(whole.ids) <= self._backbone.spec.max_tokens:
            return whole, own
        whole, kept = own, list[Demonstration]()
        for demonstration in chosen:
            longer = self._behind(pool, [*kept, demonstration], own)
            if len(longer.ids) <= self._backbone.spec.max_tokens:
                whole, kept = longer, [*kept, demonstration]
        return whole, own

    def _behind(self, pool: DemonstrationPool, chosen: Sequence[Demonstration], own: _Fitted) -> _Fitted:
        prompt = replace(own.prompt, before=pool.text(chosen) + own.prompt.before)
        return _Fitted(prompt, self._scorer.encode(prompt), own.fields, len(chosen))

    def _fit_own(self, fields: Mapping[str, str]) -> _Fitted:
        limit = self._backbone.spec.max_tokens
        while True:
            prompt = self._template.render(fields)
            ids = self._scorer.encode(prompt)
            if len(ids) <= limit:
                return _Fitted(prompt, ids, fields)
            fields = shorten(self._backbone, self._template, fields, len(ids) - limit)

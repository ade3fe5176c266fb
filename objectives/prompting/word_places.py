"""Where the words of a row's text are among the tokens of its prompt."""

from collections.abc import Mapping

from promptgraft.objectives.backbones import PromptTokens
from promptgraft.objectives.data import WordSplitter
from promptgraft.spaces import InvalidInputError, RenderedPrompt, Template, break_up

# Stands for the text where a template is rendered to see where the text is.
_MARK = "\ue001"


class WordPlaces:
    """Finds the first token of each word of a row's text.

    Args:
        split: Finds the words of a text.
        template: A template with one field, whose value stands in it as it is.
        tokens: Makes token ids of its prompts.

    Raises:
        InvalidInputError: If the template has other fields, or the tokenizer doesn't say where its tokens are.
    """

    def __init__(self, split: WordSplitter, template: Template, tokens: PromptTokens) -> None:
        if len(template.fields) != 1:
            raise InvalidInputError(
                f"template {template.name!r} must have one field, whose words are read, got {len(template.fields)}"
            )
        if not tokens.has_offsets:
            raise InvalidInputError(
                "the backbone's tokenizer doesn't say where in a text its tokens are, which reading words needs; use a "
                "model with a fast tokenizer (tokenizer.json)"
            )
        self._split, self._tokens = split, tokens
        (self._field,) = template.fields
        self._start = template.render({self._field: _MARK}).without_label().find(_MARK)

    def of(self, fields: Mapping[str, str], shown: Mapping[str, str], prompt: RenderedPrompt) -> tuple[int, ...]:
        """Find the words of a row's text.

        Args:
            fields: Template field -> value.
            shown: The same, with so much of the text as the prompt has room for, from its beginning on.
            prompt: The prompt.

        Returns:
            For each word of the whole text the place of the first token that has a part of it; -1 where there is none.
        """
        found = [-1] * len(self._split(fields[self._field]))
        text, names = shown[self._field], self._tokens.broken_up
        seen = break_up(names, text) if names else text
        words = [(self._start + first, self._start + end) for first, end in self._split(seen)]
        whole = self._tokens.seen(prompt.without_label())
        if not whole.startswith(seen, self._start) or len(words) != len(self._split(text)):
            return tuple(found)  # Names of special tokens that were broken up have changed the words.
        next_word = 0
        for place, (first, end) in enumerate(self._tokens.offsets(whole)):
            while next_word < len(words) and words[next_word][1] <= first:
                next_word += 1
            word = next_word
            while first < end and word < len(words) and words[word][0] < end:
                found[word] = place if found[word] < 0 else found[word]
                word += 1
        return tuple(found)

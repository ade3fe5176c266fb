"""Prompts as token ids. What a row says is data: it never becomes a special token, such as `[SEP]` or `</s>`.

Tokenizers look for the names of their special tokens in a text, and can be asked not to. Two cases need more, and there
each such name gets a space behind its first character. A template may name special tokens itself, as chat templates do:
then the names in the rows' texts are broken up. And a tokenizer may have the names among its words, as unigram models
do: then all are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from transformers import AutoTokenizer

from promptgraft.objectives.backbones.files.model_files import model_folder
from promptgraft.spaces import InvalidInputError, Template, Verbalizer, break_up


class SpecialNames:
    """The names of a tokenizer's special tokens.

    Args:
        tokenizer: The tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    @cached_property
    def ids(self) -> dict[str, int]:
        """Name -> token id."""
        added = self.tokenizer.added_tokens_decoder
        known = {token.content: number for number, token in added.items() if token.special}
        known |= {name: self.tokenizer.convert_tokens_to_ids(name) for name in self._roles.values()}
        return {name: number for name, number in known.items() if len(name) > 1 and number is not None}

    @property
    def reserved(self) -> frozenset[int]:
        """The token ids, but that of unknown words, which texts may have, unless it stands for something else, too."""
        others = [name for role, name in self._roles.items() if role != "unk_token"]
        unknown = self._roles.get("unk_token")
        return frozenset(number for name, number in self.ids.items() if name != unknown or name in others)

    @property
    def _roles(self) -> dict[str, str]:
        return {role: name for role, name in self.tokenizer.special_tokens_map.items() if isinstance(name, str)}

    @cached_property
    def can_be_ignored(self) -> bool:
        """Whether the tokenizer can read all of them as text."""
        special = self.reserved
        texts = [text for name in self.ids for text in (name, f"a{name}b", f"a {name} b")]
        return all(special.isdisjoint(self._ignoring(text)) for text in texts)

    def as_text(self, text: str) -> list[int]:
        """Tokenize a text in which no name stands for a special token, and put nothing around it."""
        return self._ignoring(self.apart(text))

    def apart(self, text: str) -> str:
        """Break up names in a text, where the tokenizer can't be asked to ignore them."""
        return text if self.can_be_ignored else break_up(tuple(self.ids), text)

    def guard(self, template: Template, verbalizer: Verbalizer | None) -> Template:
        """Let a template that names special tokens keep such names out of what rows say.

        Args:
            template: The template.
            verbalizer: The label words, which demonstrations show.
        """
        words = [word for own in verbalizer.words.values() for word in own] if verbalizer else []
        named = any(name in text for name in self.ids for text in (template.text, *words))
        return replace(template, guarded=tuple(self.ids)) if named else template

    def _ignoring(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids


class PromptTokens:
    """Tokenizes the prompts of one template.

    Args:
        names: Names of the tokenizer's special tokens.
        template: The template, guarded if it names any; see `SpecialNames.guard`.

    Attributes:
        broken_up: The names that get a space in rows' texts.
        begin: What the tokenizer puts before a text.
        end: What it puts behind.
    """

    def __init__(self, names: SpecialNames, template: Template) -> None:
        self._names = names
        self._named = bool(template.guarded)
        self.broken_up = template.guarded or (() if names.can_be_ignored else tuple(names.ids))
        sample = names.tokenizer("a", return_special_tokens_mask=True)
        special, ids = sample["special_tokens_mask"], sample["input_ids"]
        first, behind = special.index(0), len(special) - special[::-1].index(0)
        self.begin: list[int] = ids[:first]
        self.end: list[int] = ids[behind:]

    def __call__(self, text: str) -> list[int]:
        """Tokenize a prompt, with what belongs around it."""
        if self._named:
            ids: list[int] = self._names.tokenizer(text)["input_ids"]
            return ids
        return [*self.begin, *self._names.as_text(text), *self.end]

    @property
    def has_offsets(self) -> bool:
        """Whether the tokenizer says where in a text its tokens are."""
        return bool(self._names.tokenizer.is_fast)

    def seen(self, text: str) -> str:
        """Return a prompt's text as it is tokenized, with the names in it broken up that have to be."""
        whole = self._named or self._names.can_be_ignored
        return text if whole else break_up(tuple(self._names.ids), text)

    def offsets(self, seen: str) -> list[tuple[int, int]]:
        """Return where each token of a prompt begins and ends in its text; of those around it that is (0, 0).

        Args:
            seen: The text, from `seen`.
        """
        options = {} if self._named else {"add_special_tokens": False, "split_special_tokens": True}
        found: list[tuple[int, int]] = self._names.tokenizer(seen, return_offsets_mapping=True, **options)[
            "offset_mapping"
        ]
        return found if self._named else [*[(0, 0)] * len(self.begin), *found, *[(0, 0)] * len(self.end)]

    def around(self, texts: Iterable[str], between: list[int]) -> list[int]:
        """Tokenize the parts of a prompt, in which no name stands for a special token, and put tokens between them."""
        before, after = (self._names.as_text(text) for text in texts)
        return [*self.begin, *before, *between, *after, *self.end]


class WordTokens:
    """Label words as a backbone's tokenizer reads them.

    Attributes:
        tokenizer: The tokenizer.
    """

    tokenizer: Any

    def words_behind(
        self, template: Template, verbalizer: Verbalizer, labels: Sequence[str]
    ) -> dict[str, list[tuple[int, ...]]]:
        """Tokenize the words of each label as they stand in a template, without special tokens."""
        sample = template.render(dict.fromkeys(template.fields, "x"))
        space = " " if sample.before.endswith(" ") else ""
        return {
            label: [
                tuple(self.tokenizer.encode(space + word, add_special_tokens=False)) for word in verbalizer.words[label]
            ]
            for label in labels
        }

    def check_label_words(self, template: Template, verbalizer: Verbalizer, labels: Sequence[str]) -> None:
        """Refuse label words that are different as text, but the same tokens: their labels would always score the same.

        Args:
            template: The template, whose space before the label belongs to the words.
            verbalizer: The label words.
            labels: The labels.

        Raises:
            InvalidInputError: If two labels have a word in common, or the tokenizer knows nothing of a word.
        """
        owner: dict[tuple[int, ...], tuple[str, str]] = {}
        for label, words in self.words_behind(template, verbalizer, labels).items():
            for word, tokens in zip(verbalizer.words[label], words, strict=True):
                of = f"verbalizer {verbalizer.name!r}: to the tokenizer, the word {word!r} of label {label!r}"
                if set(tokens) <= {self.tokenizer.unk_token_id} and word != self.tokenizer.unk_token:
                    raise InvalidInputError(f"{of} is unknown; use words of its language and alphabet")
                other, theirs = owner.setdefault(tokens, (label, word))
                if other != label:
                    raise InvalidInputError(
                        f"{of} is the same as {theirs!r} of label {other!r}, so both labels would always score the "
                        "same; use other words"
                    )

    def label_word_ids(self, words: Sequence[str]) -> list[int]:
        """Tokenize words and return their token ids in order, without special tokens."""
        return [token for word in words for token in self.tokenizer.encode(" " + word, add_special_tokens=False)]


def in_chat_template(path: str, message: str, *, trust_remote_code: bool = False) -> str:
    """Put a user's message into the chat template of a tokenizer, up to where its answer begins.

    Args:
        path: Folder or hub id of the model.
        message: The message, which may be the text of a template.
        trust_remote_code: Whether Python code that lies beside the weights may be run.

    Raises:
        InvalidInputError: If the tokenizer has no chat template, or doesn't take the message.
    """
    tokenizer = AutoTokenizer.from_pretrained(model_folder(path), trust_remote_code=trust_remote_code)
    if not tokenizer.chat_template:
        raise InvalidInputError(
            f"the tokenizer of {path} has no chat template; write the template under space.templates"
        )
    turn = [{"role": "user", "content": message}]
    found: str = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    if message not in found:
        raise InvalidInputError(f"the chat template of {path} changes the message; write it under space.templates")
    return found

"""Verbalizers: the words that represent each label."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from promptgraft.spaces.errors import InvalidInputError
from promptgraft.spaces.templates import content_id


@dataclass(frozen=True, slots=True)
class Verbalizer:
    """Label words of each label.

    Attributes:
        name: Name that the user chose.
        words: Label words by label; one or more per label, each of one or more tokens.

    Raises:
        InvalidInputError: If a label has no words, one ends with white space, or two labels share a word.
    """

    name: str
    words: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        owner: dict[str, str] = {}
        for label, words in self.words.items():
            if not words or any(not word.strip() for word in words):
                raise InvalidInputError(f"verbalizer {self.name!r} has no words for label {label!r}; give at least one")
            for word in words:
                if word != word.rstrip():
                    raise InvalidInputError(
                        f"verbalizer {self.name!r} has the word {word!r} for {label!r}, which ends with white space: a "
                        "model would have to write that, too; leave it out"
                    )
                if word in owner:
                    raise InvalidInputError(
                        f"verbalizer {self.name!r} uses the word {word!r} for {owner[word]!r} and for {label!r}; "
                        "a word must represent one label, once"
                    )
                owner[word] = label

    @property
    def id(self) -> str:
        """Stable id: the name with a hash of the words."""
        return content_id(self.name, json.dumps({label: list(words) for label, words in self.words.items()}))

    def check_labels(self, labels: Iterable[str]) -> None:
        """Refuse a verbalizer that leaves a label without words.

        Raises:
            InvalidInputError: If a label has no words.
        """
        for label in labels:
            if label not in self.words:
                raise InvalidInputError(
                    f"verbalizer {self.name!r} has no words for label {label!r}; "
                    f"it covers: {', '.join(map(repr, self.words))}"
                )


def words_of_name(label: str) -> str:
    """Write a label's name in words; names with digits stay, in which `-` may be a sign."""
    return label if any(map(str.isdigit, label)) else " ".join(label.replace("_", " ").replace("-", " ").split())

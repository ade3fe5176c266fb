"""Form score: how short and plain the wording of a template is."""

import re
from collections.abc import Callable, Sequence

from promptgraft.spaces.templates import Template

# Number of own tokens at which a template of common words has a form score of 0.5.
HALF_TOKENS = 16

_WORD = re.compile(r"\w+")

Tokenize = Callable[[str], Sequence[object]]


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

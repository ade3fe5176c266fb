"""How short and plain the wording of a template is."""

import re
from collections.abc import Callable, Sequence

from promptgraft.spaces.templates import Template

# Own tokens at which a prompt of common words has half the form of one without any.
HALF_TOKENS = 16

_WORD = re.compile(r"\w+")

Tokenize = Callable[[str], Sequence[object]]


def form_score(template: Template, tokenize: Tokenize) -> float:
    """Measure how short and plain a template is: plainness / (1 + tokens / 16).

    Tokens are those of the template's own text, without fields, label and special tokens. Plainness is words per piece,
    in [0, 1]: a vocabulary learnt from text (BPE; Sennrich et al. 2016, arXiv:1508.07909) holds common words whole and
    cuts rare ones into pieces, the rarer the more. Thus `{{ text }} {{ label }}` has form 1, a template of 16 common
    words 0.5, and each further token or piece takes some away.

    Args:
        template: The template.
        tokenize: Cuts text into tokens, without special ones.

    Returns:
        A number in (0, 1].
    """
    text = template.words
    words = _WORD.findall(text)
    pieces = sum(_pieces(word, tokenize) for word in words)
    plainness = len(words) / pieces if words else 1.0
    return plainness / (1 + len(tokenize(text)) / HALF_TOKENS)


def _pieces(word: str, tokenize: Tokenize) -> int:
    """Count the pieces of a word as it stands in running text; many vocabularies have the space in front in it."""
    return max(1, min(len(tokenize(word)), len(tokenize(f" {word}"))))

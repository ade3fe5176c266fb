"""Edits of templates: mutation and crossover."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from promptgraft.spaces.templates import Block

# White space and punctuation between the parts of a prompt.
SEPARATORS = (" ", "\n", "\n\n", ". ", ": ")

Blocks = tuple[Block, ...]
_SYNTAX = re.compile(r"\{\{|\{%|\{#|\}\}|%\}|#\}")


def join_blocks(blocks: Sequence[Block]) -> str | None:
    """Join blocks to the text of a template, with a space wherever a word would touch a field.

    Returns:
        The text; None if the words contain jinja2's delimiters, which would be parsed as code.
    """
    if any(_SYNTAX.search(block.words) for block in blocks):
        return None
    text = ""
    for index, (words, field) in enumerate((block.words, block.field) for block in blocks):
        behind_field = index > 0 and (words[:1].isalnum() or (not words and bool(field)))
        before_field = words[-1:].isalnum() and bool(field)
        text += " " * behind_field + words + " " * before_field + (f"{{{{ {field} }}}}" if field else "")
    text = text.lstrip()
    # A brace next to a field's own braces would be parsed with them.
    return None if "{{{" in text or "}}}" in text else text


def mutate(blocks: Blocks, random_: random.Random) -> Blocks:
    """Make one random change to a template.

    Args:
        blocks: The template.
        random_: Source of randomness.

    Returns:
        The template with one word removed, without the words before one field, with another separator before a field,
        or with its fields in another order; the same template if the change is not possible.
    """
    changes: tuple[Callable[[Blocks, random.Random], Blocks], ...] = (_drop_word, _drop_words, _separate, _reorder)
    return random_.choice(changes)(blocks, random_)


def cross(first: Blocks, second: Blocks, random_: random.Random) -> Blocks:
    """Combine two templates: the words before each field come from one of them.

    Args:
        first: The template whose fields, in their order, are kept.
        second: The other one.
        random_: Source of randomness.

    Returns:
        A template with the fields of `first`.
    """
    others = {block.field: block.words for block in second}
    child = first
    for index, block in enumerate(first):
        if random_.random() < 0.5:
            child = with_words(child, index, others.get(block.field, block.words))
    return child


def with_words(blocks: Blocks, index: int, words: str) -> Blocks:
    """Replace the words of a block; the white space around them is kept."""
    begin, end = margins(blocks[index].words)
    return _with(blocks, index, begin + words.strip() + end)


def margins(words: str) -> tuple[str, str]:
    """Return the white space before and behind words."""
    return words[: len(words) - len(words.lstrip())], words[len(words.rstrip()) :]


def _with(blocks: Blocks, index: int, words: str) -> Blocks:
    return (*blocks[:index], replace(blocks[index], words=words), *blocks[index + 1 :])


def _worded(blocks: Blocks) -> list[int]:
    return [index for index, block in enumerate(blocks) if block.words.strip()]


def _drop_word(blocks: Blocks, random_: random.Random) -> Blocks:
    worded = _worded(blocks)
    if not worded:
        return blocks
    index = random_.choice(worded)
    words = blocks[index].words.strip().split(" ")
    del words[random_.randrange(len(words))]
    return with_words(blocks, index, " ".join(words))


def _drop_words(blocks: Blocks, random_: random.Random) -> Blocks:
    worded = _worded(blocks)
    if not worded:
        return blocks
    index = random_.choice(worded)
    return _with(blocks, index, " " if 0 < index < len(blocks) - 1 else "")


def _separate(blocks: Blocks, random_: random.Random) -> Blocks:
    index = random_.randrange(1, len(blocks))
    if not blocks[index].field:
        return blocks
    return _with(blocks, index, random_.choice(SEPARATORS) + blocks[index].words.lstrip())


def _reorder(blocks: Blocks, random_: random.Random) -> Blocks:
    """Shuffle the fields with the words before them; the separators keep their positions."""
    fields, tail = list(blocks[:-1]), blocks[-1]
    random_.shuffle(fields)
    separators = [margins(block.words)[0] for block in blocks[:-1]]
    moved = [replace(block, words=sep + block.words.lstrip()) for block, sep in zip(fields, separators, strict=True)]
    return (*moved, tail)

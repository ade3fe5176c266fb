"""Where new templates come from while a study runs, by name: one registered function each."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from promptgraft.objectives.data import Row
from promptgraft.spaces import (
    LABEL_FIELD,
    Block,
    Blocks,
    InvalidInputError,
    Registry,
    Template,
    cross,
    join_blocks,
    margins,
    mutate,
    with_words,
)

if TYPE_CHECKING:
    from promptgraft.objectives.growth.writers import Writer  # Imports torch, which checking a study file doesn't need.

# Labelled rows that a language model reads to find words that fit them.
ROWS_READ = 8
# Of the parents, best first, each is taken this much less often than the one before it.
DECAY = 0.7


@dataclass(frozen=True, slots=True)
class Draft:
    """A template that nobody has tried yet.

    Attributes:
        text: In jinja2's syntax.
        parents: Ids of the templates that it was made from.
    """

    text: str
    parents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """What a source of templates is given.

    Attributes:
        parents: The templates so far, the best first.
        random: The only chance that a source may use.
        rows: Labelled rows of the target's training data.
        words: A word for each label, in the order of the labels' indices.
        writer: A language model; None if the study has none.
    """

    parents: Sequence[Template]
    random: random.Random
    rows: Sequence[Row]
    words: Sequence[str]
    writer: "Writer | None"

    def parent(self) -> tuple[Template, Blocks]:
        """Choose a parent that is words and fields only, better ones more often.

        Raises:
            InvalidInputError: If there is none.
        """
        plain = [(template, blocks) for template in self.parents if (blocks := template.blocks) is not None]
        if not plain:
            raise InvalidInputError(
                "no template is words and fields only, so none can be changed; write one without {% %} and filters"
            )
        weights = [DECAY**rank for rank in range(len(plain))]
        return self.random.choices(plain, weights)[0]

    def some_rows(self) -> list[Row]:
        """Choose a few rows."""
        return self.random.sample(list(self.rows), min(ROWS_READ, len(self.rows)))


# Yields drafts for as long as it is asked; those that are no template, or known, are dropped. One that runs out of new
# ones must yield something all the same, or end: tries are counted in drafts.
TemplateSource: TypeAlias = Callable[[Request], Iterator[Draft]]

TEMPLATE_SOURCES: Registry[TemplateSource] = Registry("template source")
# Sources that need a writer, and of which family.
NEEDS_WRITER = {"paraphrase": "causal_lm", "continuation": "causal_lm", "fill": "masked_lm"}


def _draft(blocks: Blocks, *parents: Template) -> Iterator[Draft]:
    yield Draft(join_blocks(blocks) or "", tuple(dict.fromkeys(parent.id for parent in parents)))


@TEMPLATE_SOURCES.register("mutation")
def mutation(request: Request) -> Iterator[Draft]:
    """Change one thing about a parent, or two."""
    while True:
        template, blocks = request.parent()
        for _ in range(request.random.choice((1, 2))):
            blocks = mutate(blocks, request.random)
        yield from _draft(blocks, template)


@TEMPLATE_SOURCES.register("crossover")
def crossover(request: Request) -> Iterator[Draft]:
    """Mix the words of two parents, as EvoPrompt's (Guo et al. 2024, arXiv:2309.08532), without asking a model."""
    while True:
        (first, mine), (second, others) = request.parent(), request.parent()
        yield from _draft(cross(mine, others, request.random), first, second)


@TEMPLATE_SOURCES.register("paraphrase")
def paraphrase(request: Request) -> Iterator[Draft]:
    """Have a causal LM say a parent's words in other words (as EvoPrompt and CAPO do; arXiv:2504.16005)."""
    assert request.writer is not None
    while True:
        template, blocks = request.parent()
        worded = [index for index, block in enumerate(blocks) if any(map(str.isalpha, block.words))]
        for index in request.random.sample(worded, min(1, len(worded))):
            seed = request.random.getrandbits(31)
            for words in request.writer.paraphrases(blocks[index].words.strip(), 4, seed):
                yield from _draft(with_words(blocks, index, words), template)
        yield from _draft(blocks, template)


@TEMPLATE_SOURCES.register("continuation")
def continuation(request: Request) -> Iterator[Draft]:
    """Put between text and label what a causal LM finds likely after the texts of some rows."""
    assert request.writer is not None
    while True:
        template, blocks = request.parent()
        index = next(i for i, block in enumerate(blocks) if block.field == LABEL_FIELD)
        before = _rendered(blocks[:index], request.some_rows(), request.words)
        for words in request.writer.continuations(before, 8) if index else ():
            separator = request.random.choice((" ", "\n"))
            label = Block(f"{separator}{words} ", LABEL_FIELD)
            yield from _draft((*blocks[:index], label, *blocks[index + 1 :]), template)
        yield from _draft(blocks, template)


@TEMPLATE_SOURCES.register("fill")
def fill(request: Request) -> Iterator[Draft]:
    """Put in place of some words what a masked LM finds likely there in labelled rows (LM-BFF, arXiv:2012.15723)."""
    assert request.writer is not None
    while True:
        template, blocks = request.parent()
        index = request.random.randrange(len(blocks))
        rows = request.some_rows()
        begin, end = margins(blocks[index].words)
        before = _rendered((*blocks[:index], Block(begin or " ", "")), rows, request.words)
        after = _rendered((Block(end or " ", blocks[index].field), *blocks[index + 1 :]), rows, request.words)
        masks = request.random.choice((1, 2, 3))
        for words in request.writer.fillings(list(zip(before, after, strict=True)), masks, 4):
            yield from _draft(with_words(blocks, index, words), template)
        yield from _draft(blocks, template)


def _rendered(blocks: Blocks, rows: Sequence[Row], words: Sequence[str]) -> list[str]:
    """Fill blocks with the values of rows, and the label's place with a word for it."""
    values = [{**row.fields, LABEL_FIELD: words[row.label], "": ""} for row in rows]
    return ["".join(block.words + entry[block.field] for block in blocks) for entry in values]


def drafts(source: str, request: Request, tries: int) -> Iterator[Draft]:
    """Ask a source for at most so many drafts."""
    return islice(TEMPLATE_SOURCES[source](request), tries)

"""Where label words come from while a study runs, by name: one registered function each."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from promptgraft.objectives.data import Row
from promptgraft.spaces import Registry, Template

if TYPE_CHECKING:
    from promptgraft.objectives.trial import Objective  # Imports torch, which checking a study file doesn't need.

# The best of a search that are handed out; the study may have some of them already.
SEARCHED = 64

# Label -> its words.
LabelWords: TypeAlias = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class WordsRequest:
    """What a source of label words is given.

    Attributes:
        labels: Names of the labels: the target's, in the order of the rows' indices, then those only the source has.
        words: How many words each label is to have.
        known: The label words of each verbalizer so far.
        template: The template that they are for: the best so far.
        random: The only chance that a source may use.
        rows: Labelled rows of the target's training data.
        objective: What can score words: the study's objective, with the pretrained weights.
    """

    labels: Sequence[str]
    words: int
    known: Sequence[LabelWords]
    template: Template
    random: random.Random
    rows: Sequence[Row]
    objective: "Objective"


# Yields label words for as long as it is asked; those that can't be used, or are known, are dropped. A label that is
# left out keeps the words of the study's first verbalizer. One that runs out of new ones must yield something all the
# same, or end: tries are counted in drafts.
VerbalizerSource: TypeAlias = Callable[[WordsRequest], Iterator[LabelWords]]

VERBALIZER_SOURCES: Registry[VerbalizerSource] = Registry("verbalizer source")


@VERBALIZER_SOURCES.register("likelihood")
def likelihood(request: WordsRequest) -> Iterator[LabelWords]:
    """Search the words that the untrained backbone finds likeliest, the best first; see `label_word_search`."""
    from promptgraft.objectives.growth.label_word_search import search_label_words

    n = len(request.known) + SEARCHED
    for found in search_label_words(request.objective, request.template, request.rows, n, words=request.words):
        yield found.words


def word_drafts(source: str, request: WordsRequest, tries: int) -> Iterator[LabelWords]:
    """Ask a source for at most so many drafts."""
    return islice(VERBALIZER_SOURCES[source](request), tries)

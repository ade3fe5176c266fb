"""Label-word search: verbalizers proposed by the untrained backbone from a few labelled rows.

As in LM-BFF (Gao et al. 2021, arXiv:2012.15723, section 5.1): first the likeliest words of each label, then the best
combinations of them. Encoders, which have no vocabulary to predict, choose among the words of the training texts.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import logsumexp

from promptgraft.objectives.backbones import Backbone, VocabularyScorer
from promptgraft.objectives.data import Row
from promptgraft.objectives.measures import calibrated_likelihoods
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Candidate, InvalidInputError, Template, Verbalizer

# Words of a label that combinations are made of. More fit a few rows by chance.
TOP_WORDS = 20
# Words that an encoder compares with the rows: the most frequent ones of the training texts.
LISTED_WORDS = 1024
# Combinations that are gone on from at a time.
BEAM_WIDTH = 4

WordScores = npt.NDArray[np.float64]
# Of each label, the places of its words in a table.
Choice = tuple[tuple[int, ...], ...]


def search_label_words(
    objective: Objective, template: Template, rows: Sequence[Row], n: int, *, words: int = 1
) -> list[Verbalizer]:
    """Propose label words for a template.

    A word belongs to the label whose rows find it likeliest: by mean log-probability in the label's place (language
    models; whole words of one token) or by mean cosine (encoders). The `TOP_WORDS` likeliest of each label are combined
    by beam search, for the best mean log-likelihood of the rows' labels with batch calibration, as in
    `objectives.measures.untrained_race`. Memory grows with batch size times vocabulary, not with rows times vocabulary.

    Args:
        objective: The study's objective; what was trained on its backbone is put back.
        template: The template; it needn't be in the study's space.
        rows: Labelled rows of the target, some of each label; not those that winners are chosen by.
        n: Verbalizers to propose, at least 1.
        words: Words of each label, from 1 to `TOP_WORDS`.

    Returns:
        Up to n verbalizers for the target's labels, the best first, named `searched-1`, `searched-2`, …; the same for
        the same input. Labels that only the source has need words by hand.

    Raises:
        InvalidInputError: If n or words is out of range, a label has no row, or fewer than `words` words fit a label.
    """
    labels = objective.target.labels
    if n < 1 or not 1 <= words <= TOP_WORDS:
        raise InvalidInputError(f"n must be at least 1 and words lie in [1, {TOP_WORDS}], got {n} and {words}")
    missing = [name for index, name in enumerate(labels) if all(row.label != index for row in rows)]
    if missing:
        raise InvalidInputError(
            f"no row has the label {', '.join(map(repr, missing))}; label words are searched with rows of every label"
        )
    objective.untrained([])  # Puts the pretrained weights back.
    propose = _from_texts if objective.backbone.has_head else _from_vocabulary
    proposed = propose(objective, template, rows)
    for name, found in zip(labels, proposed, strict=True):
        if len(found) < words:
            raise InvalidInputError(f"only {len(found)} words fit the label {name!r}, but {words} are asked for")
    table = _Table.of(objective, template, [word for found in proposed for word in found], rows)
    ends = np.cumsum([0, *map(len, proposed)]).tolist()
    pools = [range(start, end) for start, end in pairwise(ends)]
    best = _combinations(table, pools, words)[:n]
    return [
        Verbalizer(
            f"searched-{number}",
            {name: tuple(table.words[place] for place in own) for name, own in zip(labels, choice, strict=True)},
        )
        for number, choice in enumerate(best, 1)
    ]


@dataclass(frozen=True, slots=True)
class _Table:
    """Every row's score of every word.

    Attributes:
        words: The words.
        labels: Each row's label, shape (rows,).
        scores: Shape (rows, words): log-probabilities but for a constant of each row, or scaled cosines.
        products: Scalar products of the words' unit embeddings, shape (words, words); None of language models.
    """

    words: Sequence[str]
    labels: npt.NDArray[np.int64]
    scores: WordScores
    products: WordScores | None

    @classmethod
    def of(cls, objective: Objective, template: Template, words: Sequence[str], rows: Sequence[Row]) -> "_Table":
        """Score words as if each were a label of its own."""
        model = _model(objective, template, words)
        scores = model.score(model.encode(rows), words, objective.spec.evaluation_batch_size)
        products = None
        if objective.backbone.has_head:
            embeddings = dict(model.scorer.named_parameters())["weight"].detach().cpu().double()
            products = (embeddings @ embeddings.T).numpy()
        return cls(words, np.array([row.label for row in rows]), scores.double().numpy(), products)

    def means(self, n_labels: int) -> WordScores:
        """Average the scores over each label's rows; shape (labels, words)."""
        return np.stack([self.scores[self.labels == label].mean(0) for label in range(n_labels)])

    def likelihood(self, choice: Choice) -> float:
        """Mean calibrated log-likelihood of the rows' labels, in nats."""
        logits = np.stack([self._together(list(own)) for own in choice], axis=1)
        return float(calibrated_likelihoods(logits, self.labels)[0].mean())

    def _together(self, own: list[int]) -> WordScores:
        """Score a label by several words as the backbone's scorer does; shape (rows,)."""
        chosen = self.scores[:, own]
        if self.products is None:
            together: WordScores = logsumexp(chosen, axis=1) - np.log(len(own))
            return together
        length = np.sqrt(self.products[np.ix_(own, own)].mean())  # Of the mean of the embeddings.
        averaged: WordScores = chosen.mean(1) / length
        return averaged


def _model(objective: Objective, template: Template, words: Sequence[str]) -> PromptedModel:
    """Build a model on the untrained backbone to which each word is a label."""
    verbalizer = Verbalizer("words", {word: (word,) for word in words})
    candidate = Candidate(template.id, verbalizer.id, steps=0)
    return PromptedModel(objective.backbone, candidate, template, verbalizer, words, objective.spec.split_seed)


def _from_vocabulary(objective: Objective, template: Template, rows: Sequence[Row]) -> list[list[str]]:
    """Return the words that are likeliest in the label's place, of each label."""
    backbone = objective.backbone
    any_word = next(_whole_words(backbone, template, range(len(backbone.tokenizer))))
    model = _model(objective, template, [any_word])
    if not isinstance(model.scorer, VocabularyScorer):
        raise InvalidInputError(
            f"label words can't be searched with a backbone of family {backbone.family!r}; give them by hand"
        )
    encoded = model.encode(rows)
    means: list[WordScores] = []
    with torch.inference_mode():
        for label in range(len(objective.target.labels)):
            own = [row for row in encoded if row.label == label]
            sums = [
                model.scorer.vocabulary(model.stack, model.batch([own[index] for index in batch])).double().sum(0)
                for batch in model.split(own, objective.spec.evaluation_batch_size)
            ]
            means.append((torch.stack(sums).sum(0) / len(own)).cpu().numpy())
    return [list(islice(_whole_words(backbone, template, ranked), TOP_WORDS)) for ranked in _ranked(np.stack(means))]


def _from_texts(objective: Objective, template: Template, rows: Sequence[Row]) -> list[list[str]]:
    """Return the words of the training texts that are nearest to the rows, of each label."""
    tasks = [objective.target, *objective.sources.values()]
    counts = Counter(
        word
        for task in tasks
        for row in task.train
        for word in sorted(set(re.findall(r"[^\W\d_]{2,}", " ".join(row.fields.values()).casefold())))
    )
    listed = sorted(counts, key=lambda word: (-counts[word], word))[:LISTED_WORDS]
    means = _Table.of(objective, template, listed, rows).means(len(objective.target.labels))
    # Rows that are nearer to all words alike are not for that reason nearer to each.
    means -= means.mean(1, keepdims=True)
    return [[listed[place] for place in ranked[:TOP_WORDS]] for ranked in _ranked(means)]


def _ranked(means: WordScores) -> list[list[int]]:
    """Give each word to the label that scores it highest.

    Args:
        means: Shape (labels, words).

    Returns:
        The places of each label's words, the best first.
    """
    owner = means.argmax(0)
    order = np.argsort(-means, axis=1, kind="stable")
    return [ranked[owner[ranked] == label].tolist() for label, ranked in enumerate(order)]


def _whole_words(backbone: Backbone, template: Template, tokens: Iterable[int]) -> Iterator[str]:
    """Hand out, once each (case aside), the words that are a single token where the template puts its label."""
    seen: set[str] = set()
    for token in tokens:
        word = backbone.tokenizer.decode([token]).strip()
        if len(word) < 2 or not word.isalpha() or word.casefold() in seen:
            continue
        found = backbone.words_behind(template, Verbalizer("word", {word: (word,)}), [word])[word]
        # Where no space stands before the label, the inside of a word can be read like a whole one.
        if found == [(token,)] and len(backbone.label_word_ids([word])) == 1:
            seen.add(word.casefold())
            yield word


def _combinations(table: _Table, pools: Sequence[Sequence[int]], words: int) -> list[Choice]:
    """Exchange one word of one label at a time, from the best few combinations on, until none of these gets better.

    Args:
        table: Scores of the words.
        pools: Places of each label's words, the best first.
        words: Words of each label.

    Returns:
        All combinations that were looked at, the best first.
    """
    start: Choice = tuple(tuple(pool[:words]) for pool in pools)
    scores = {start: table.likelihood(start)}
    beam: list[Choice] = []
    while beam != (beam := sorted(scores, key=lambda choice: (-scores[choice], choice))[:BEAM_WIDTH]):
        for choice in beam:
            for other in _neighbours(choice, pools):
                if other not in scores:
                    scores[other] = table.likelihood(other)
    return sorted(scores, key=lambda choice: (-scores[choice], choice))


def _neighbours(choice: Choice, pools: Sequence[Sequence[int]]) -> Iterator[Choice]:
    for label, own in enumerate(choice):
        for kept in (own[:index] + own[index + 1 :] for index in range(len(own))):
            for word in pools[label]:
                if word not in own:
                    yield (*choice[:label], tuple(sorted((*kept, word))), *choice[label + 1 :])

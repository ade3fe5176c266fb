"""What reads labels off a backbone's hidden states: the contract of heads and vocabularies."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from promptgraft.objectives.layers import Known, PromptedStack
from promptgraft.spaces import RenderedPrompt


@dataclass(frozen=True, slots=True)
class Batch:
    """Encoded prompts, padded on the right.

    Attributes:
        input_ids: Token ids, shape (rows, tokens).
        lengths: Tokens of each row, shape (rows,).
        known: What the frozen layers make of the prompts, if that was computed before.
        words: Place of the first token of each word that is scored, -1 for none, shape (rows, words); None where rows
            are scored as a whole.
        listed: Places of the labels that are scored of each row, shape (rows, listed); None where all are.
        answers: Token ids of answers that are texts, padded with `IGNORED`; shape (rows, answer tokens). None where
            answers aren't texts, or aren't known.
    """

    input_ids: Tensor
    lengths: Tensor
    known: Known | None = None
    words: Tensor | None = None
    answers: Tensor | None = None
    listed: Tensor | None = None

    @property
    def known_answers(self) -> Tensor:
        """The answers, which must be known."""
        assert self.answers is not None, "rows have their answers"
        return self.answers

    def of(self, rows: Sequence[int]) -> "Batch":
        """Return some of the rows, which are scored as a whole; a row may be taken several times."""
        known = self.known
        if known is not None:
            past = {layer: (keys[rows], values[rows]) for layer, (keys, values) in known.past.items()}
            known = Known(known.depth, known.hidden[rows], past)
        answers = None if self.answers is None else self.answers[rows]
        return Batch(self.input_ids[rows], self.lengths[rows], known, answers=answers)


class LabelScorer(nn.Module, ABC):
    """Reads one logit per label off a backbone's hidden states; may hold trainable weights.

    Attributes:
        continues: Whether it lets the stack see tokens of a label word behind the prompt.
        masks: How many mask tokens stand in the label's place.
        answer_tokens: Most tokens of an answer, where answers are texts; 0 otherwise.
        cells: How many cells, or boxes, of each row are scored, where rows are images that have such; 0 otherwise.
        more: How many numbers of each beside one for each label.
        listed: How many labels of each row are scored, those that a prior ranks first; 0 where all are.
    """

    continues = False
    masks = 0
    answer_tokens = 0
    cells = 0
    more = 0
    listed = 0

    @abstractmethod
    def encode(self, prompt: RenderedPrompt) -> list[int]:
        """Return the token ids that the stack sees."""

    @abstractmethod
    def forward(self, stack: PromptedStack, batch: Batch, labels: Sequence[str]) -> Tensor:
        """Score each label.

        Args:
            stack: The backbone with its soft prompt.
            batch: Encoded prompts.
            labels: The labels to score.

        Returns:
            Logits, shape (rows, len(labels)), or those of the labels that a batch lists, shape (rows, listed), or
            (rows, words, len(labels)), or (rows, cells, len(labels)); of answers that are texts, those of their tokens,
            shape (rows, answer tokens, vocabulary).
        """

    def encode_answer(self, answer: Any) -> Any:
        """Return a row's answer as training takes it: token ids of a text, a mask in the model's size, or as it is."""
        return answer


class VocabularyScorer(LabelScorer):
    """Reads label words off a language model's own vocabulary."""

    @abstractmethod
    def vocabulary(self, stack: PromptedStack, batch: Batch) -> Tensor:
        """Score every token as the first one in the label's place.

        Args:
            stack: The backbone with its soft prompt.
            batch: Encoded prompts.

        Returns:
            Log-probabilities in nats, shape (rows, vocabulary).
        """


class EmbeddingScorer(LabelScorer):
    """Scores labels by an embedding of the text."""

    @abstractmethod
    def embed(self, stack: PromptedStack, batch: Batch) -> Tensor:
        """Embed texts.

        Args:
            stack: The backbone with its soft prompt.
            batch: Encoded prompts.

        Returns:
            Embeddings, shape (rows, hidden), or (rows, words, hidden).
        """


def mean_over_words(scores: Mapping[tuple[int, ...], Tensor], words: Sequence[Sequence[tuple[int, ...]]]) -> Tensor:
    """Average the probabilities of the words of each label.

    Args:
        scores: Label word -> its log-probability in each row, shape (rows,).
        words: The words of each label.

    Returns:
        Log-probabilities, shape (rows, len(words)).
    """
    averages = [torch.logsumexp(torch.stack([scores[word] for word in own]), 0) - math.log(len(own)) for own in words]
    return torch.stack(averages, dim=1)

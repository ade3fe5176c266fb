"""Encoders: pooled hidden states, read by label embeddings or a linear head."""

from collections.abc import Callable, Collection, Sequence
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel

from promptgraft.objectives.backbones.base import BACKBONES, Backbone, Keep
from promptgraft.objectives.backbones.label_scorers import Batch, EmbeddingScorer, LabelScorer
from promptgraft.objectives.backbones.text_tokens import PromptTokens
from promptgraft.objectives.layers import PromptedStack
from promptgraft.spaces import Candidate, RenderedPrompt, Template, Verbalizer

# Cosines are multiplied by this before the softmax: the scale with which sentence encoders are trained
# (sentence-transformers' MultipleNegativesRankingLoss).
COSINE_SCALE = 20.0
# From so many labels on, their words are embedded, so many together.
MANY_LABELS, TOGETHER = 200, 64

Pool: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]


class EncoderScorer(EmbeddingScorer):
    """Pools the text's hidden states and compares them with one trainable row a label.

    Args:
        tokens: Makes token ids of prompts; None where rows aren't texts.
        labels: Labels of both tasks.
        weight: First values, shape (len(labels), hidden).
        head: `label_words` compares by cosine; `linear` by dot product and bias; `probe` likewise, with embeddings of
            unit length.
        pool: See `Encoder.pool`.
    """

    def __init__(
        self, tokens: PromptTokens | None, labels: Sequence[str], weight: Tensor, head: str, pool: Pool
    ) -> None:
        super().__init__()
        self.pool = pool
        self._tokens = tokens
        self._places = {label: place for place, label in enumerate(labels)}
        self.head = head
        self.weight = nn.Parameter(weight)
        is_cosine = head == "label_words"
        self.bias = None if is_cosine else nn.Parameter(torch.zeros(len(labels), device=weight.device))

    @property
    def tokens(self) -> PromptTokens:
        """What makes token ids of prompts."""
        assert self._tokens is not None, "rows are texts"
        return self._tokens

    def encode(self, prompt: RenderedPrompt) -> list[int]:
        """Tokenize the prompt with the label's place left empty."""
        return self.tokens(prompt.without_label())

    def forward(self, stack: PromptedStack, batch: Batch, labels: Sequence[str]) -> Tensor:
        """Score the labels; see `LabelScorer`."""
        features = self.embed(stack, batch)
        rows = self.places(labels)
        weight = self.weight[rows]
        if self.bias is None:
            return COSINE_SCALE * functional.normalize(features, dim=-1) @ functional.normalize(weight, dim=-1).T
        features = functional.normalize(features, dim=-1) if self.head == "probe" else features
        return features @ weight.T + self.bias[rows]

    def embed(self, stack: PromptedStack, batch: Batch) -> Tensor:
        """Pool the text's hidden states into an embedding, shape (rows, hidden); or take those of its words."""
        hidden = stack(batch.input_ids, batch.lengths, batch.lengths, batch.known)
        if batch.words is not None:
            return at_words(hidden, batch.words, stack.shift)
        return self.pool(hidden, self._pooled(stack, batch), stack.shift)

    def places(self, labels: Sequence[str]) -> Tensor:
        """Return where in the head the rows of some labels are, shape (len(labels),)."""
        return torch.tensor([self._places[label] for label in labels], device=self.weight.device)

    def _pooled(self, stack: PromptedStack, batch: Batch) -> Tensor:  # noqa: ARG002
        """Return how many tokens of each row are pooled, from the text's first on; shape (rows,)."""
        return batch.lengths


@BACKBONES.register("encoder")
class Encoder(Backbone):
    """A bidirectional encoder, such as BERT or a sentence encoder.

    Attributes:
        scorer_class: Its head.
        many_labels: From so many labels on, their embeddings are computed together, and kept.
    """

    causal = False

    auto_class = AutoModel
    scorer_class: ClassVar[type[EncoderScorer]] = EncoderScorer
    many_labels: ClassVar[int] = MANY_LABELS
    _keep: Keep | None = None
    _expected: Collection[str] = ()

    def keep(self, keep: Keep) -> None:
        """Let embeddings of many labels, such as the items of a shop, be kept in a store; see `Backbone`."""
        self._keep = keep

    def expect(self, labels: Collection[str]) -> None:
        """Leave out embeddings of labels; see `Backbone`."""
        self._expected = frozenset(labels)

    def label_scorer(
        self,
        candidate: Candidate,
        template: Template,
        verbalizer: Verbalizer | None,
        labels: Sequence[str],
        seed: int,
    ) -> LabelScorer:
        """Build the head; label embeddings start as those of the label words in the empty template."""
        head, pool = candidate.head, self._pool_of(candidate)
        if head == "label_words":
            known = self._label_words(candidate, verbalizer)
            words = {label: self.texts_of(template, known, label) for label in labels if label not in self._expected}
            weight = torch.zeros(len(labels), self.hidden_size, device=self.device)
            if words:
                places = [place for place, label in enumerate(labels) if label in words]
                weight[places] = self._embed_labels(list(words.values()), candidate.pooling, pool).to(weight)
        elif head == "linear":
            generator = torch.Generator().manual_seed(seed)
            weight = torch.randn(len(labels), self.hidden_size, generator=generator) * 0.02
        else:
            weight = torch.zeros(len(labels), self.hidden_size)  # A probe is fitted once there are rows.
        return self._scorer(template, labels, weight.to(self.device), head, pool)

    @staticmethod
    def texts_of(template: Template, verbalizer: Verbalizer, label: str) -> list[str]:
        """Return a label's words, each in the empty template."""
        empty = template.render(dict.fromkeys(template.fields, ""))
        return [empty.with_label(word).strip() for word in verbalizer.words[label]]

    def _scorer(self, template: Template, labels: Sequence[str], weight: Tensor, head: str, pool: Pool) -> LabelScorer:
        """Build the head with its first values."""
        return self.scorer_class(PromptTokens(self.special_names, template), labels, weight, head, pool)

    def _pool_of(self, candidate: Candidate) -> Pool:
        return {"mean": self.pool, "first": first_token, "last": last_token}[candidate.pooling]

    @staticmethod
    def pool(hidden: Tensor, lengths: Tensor, shift: int) -> Tensor:
        """Average the text's own hidden states.

        Args:
            hidden: Shape (rows, tokens, hidden).
            lengths: Tokens of each row's text, shape (rows,).
            shift: Position of the text's first token.

        Returns:
            Shape (rows, hidden).
        """
        position = torch.arange(hidden.shape[1], device=hidden.device) - shift
        mask = ((position >= 0) & (position < lengths[:, None])).to(hidden.dtype)
        return (hidden * mask[..., None]).sum(1) / lengths[:, None].to(hidden.dtype)

    def _embed_labels(self, words: list[list[str]], pooling: str, pool: Pool) -> Tensor:
        """Average the normalised embeddings of each label's words; shape (labels, hidden).

        Labels are embedded one by one, unless there are as many as items of a shop: these go together, by length, and
        are kept for other candidates.

        Args:
            words: Of each label.
            pooling: See `Candidate.pooling`.
            pool: What it means.
        """
        if len(words) < self.many_labels or self.device.type == "meta":
            return torch.stack([self._embed(texts, pool).mean(0) for texts in words])
        if self._keep is None:
            return self._embed_many(words, pool)
        content = {
            "stage": "label embeddings",
            "backbone": self.weights_hash,
            "family": self.family,
            "numerics": self.spec.numerics,
            "device": self.device.type,
            "pooling": pooling,
            "words": words,
        }
        return self._keep(content, lambda: {"weight": self._embed_many(words, pool).cpu()})["weight"]

    def _embed_many(self, words: list[list[str]], pool: Pool) -> Tensor:
        texts = sorted({text for own in words for text in own}, key=lambda text: (len(text), text))
        parts = [texts[first : first + TOGETHER] for first in range(0, len(texts), TOGETHER)]
        known = dict(zip(texts, torch.cat([self._embed(part, pool) for part in parts]), strict=True))
        return torch.stack([torch.stack([known[text] for text in own]).mean(0) for own in words])

    def _embed(self, texts: list[str], pool: Pool) -> Tensor:
        """Return the normalised embeddings of some texts; shape (texts, hidden)."""
        if self.device.type == "meta":
            return self.embeddings.new_empty(len(texts), self.embeddings.shape[1])  # Masks can't be read there.
        encoded = [torch.tensor(self.tokenizer(text)["input_ids"]) for text in texts]
        # Not by the tokenizer: it may have no padding token, and may pad on the left.
        ids = pad_sequence(encoded, batch_first=True, padding_value=self.tokenizer.pad_token_id or 0).to(self.device)
        lengths = torch.tensor([len(row) for row in encoded], device=self.device)
        mask = (torch.arange(ids.shape[1], device=self.device) < lengths[:, None]).long()
        with torch.no_grad():
            hidden = self.stack(input_ids=ids, attention_mask=mask)
        pooled = pool(hidden.last_hidden_state, lengths, 0)
        return functional.normalize(pooled, dim=-1)


def at_words(hidden: Tensor, words: Tensor, shift: int) -> Tensor:
    """Take the hidden states of words' first tokens, and zeros for words without any; shape (rows, words, hidden).

    Args:
        hidden: Shape (rows, tokens, hidden).
        words: Places of the tokens, -1 for none, shape (rows, words).
        shift: Position of the text's first token.
    """
    places = (words.clamp(min=0) + shift)[..., None].expand(-1, -1, hidden.shape[2])
    return hidden.gather(1, places) * (words >= 0).to(hidden.dtype)[..., None]


def first_token(hidden: Tensor, lengths: Tensor, shift: int) -> Tensor:  # noqa: ARG001
    """Take the hidden state of the text's first token, as BGE and its like were trained to; see `Encoder.pool`."""
    return hidden[:, shift]


def last_token(hidden: Tensor, lengths: Tensor, shift: int) -> Tensor:
    """Take the hidden state of the text's last token; see `Encoder.pool`."""
    return hidden[torch.arange(len(hidden), device=hidden.device), lengths + shift - 1]

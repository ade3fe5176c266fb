"""Masked language models: log-probabilities of the label words at mask tokens in the label's place."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM
from transformers.modeling_outputs import BaseModelOutput

from promptgraft.objectives.backbones.base import BACKBONES, Backbone
from promptgraft.objectives.backbones.label_scorers import Batch, LabelScorer, VocabularyScorer, mean_over_words
from promptgraft.objectives.backbones.text_tokens import PromptTokens
from promptgraft.objectives.layers import PromptedStack
from promptgraft.spaces import Candidate, InvalidInputError, RenderedPrompt, Template, Verbalizer


class MaskedScorer(VocabularyScorer):
    """Sums the log-probabilities of a label word's tokens; averages the probabilities of several words.

    There are as many masks as the longest word has tokens, and a shorter one is read at the first of them; all tokens
    are predicted in one pass, none seeing the others (PET with several masks; Schick & Schütze 2021,
    arXiv:2009.07118, as it is trained there).

    Args:
        tokens: Makes token ids of prompts.
        mask: The mask token.
        model: The whole model; hidden states -> logits over the vocabulary is the part that is used.
        words: Label -> label words -> token ids.
    """

    def __init__(
        self, tokens: PromptTokens, mask: int, model: nn.Module, words: dict[str, list[tuple[int, ...]]]
    ) -> None:
        super().__init__()
        self.tokens, self._mask = tokens, mask
        self._model: list[Any] = [model]  # In a list: its weights belong to the backbone.
        self.words = words
        self.masks = max(len(word) for entry in words.values() for word in entry)

    def encode(self, prompt: RenderedPrompt) -> list[int]:
        """Tokenize what stands around the label, and put the masks between; the text can't hold any by itself."""
        return self.tokens.around((prompt.before.rstrip(" "), prompt.after), [self._mask] * self.masks)

    def forward(self, stack: PromptedStack, batch: Batch, labels: Sequence[str]) -> Tensor:
        """Score the labels; see `LabelScorer`."""
        found = self._at_masks(stack, batch)
        scores = {
            word: torch.stack([found[:, place, token] for place, token in enumerate(word)]).sum(0)
            for label in labels
            for word in self.words[label]
        }
        return mean_over_words(scores, [self.words[label] for label in labels])

    def vocabulary(self, stack: PromptedStack, batch: Batch) -> Tensor:
        """Score every token; see `VocabularyScorer`."""
        return self._at_masks(stack, batch)[:, 0]

    def _at_masks(self, stack: PromptedStack, batch: Batch) -> Tensor:
        """Return log-probabilities at the masks, shape (rows, masks, vocabulary)."""
        first = (batch.input_ids == self._mask).int().argmax(1)
        read_at = first[:, None] + stack.shift + torch.arange(self.masks, device=first.device)
        # Behind all tokens, as in encoders: a prompt among them would move those behind it to other positions.
        hidden = stack(batch.input_ids, batch.lengths, batch.lengths, batch.known, read_at)
        hidden = hidden.gather(1, read_at[..., None].expand(-1, -1, hidden.shape[-1]))
        with _hidden_states(self._model[0], hidden):
            logits = self._model[0](input_ids=batch.input_ids[:, :1]).logits
        return torch.log_softmax(logits.to(hidden), dim=-1)


@contextmanager
def _hidden_states(model: Any, hidden: Tensor) -> Iterator[None]:
    """Let a model find its last hidden states already there, so that only its head is run."""
    name = model.base_model_prefix
    stack = model._modules[name]
    model._modules[name] = _Given(hidden)
    try:
        yield
    finally:
        model._modules[name] = stack


class _Given(nn.Module):
    """Stands for a stack whose last hidden states are known."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self._hidden = hidden

    def forward(self, *_: Any, **__: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self._hidden)


@BACKBONES.register("masked_lm")
class MaskedLM(Backbone):
    """An encoder with the head that it was pretrained with, such as RoBERTa."""

    causal = False

    auto_class = AutoModelForMaskedLM

    def label_scorer(
        self,
        candidate: Candidate,
        template: Template,
        verbalizer: Verbalizer | None,
        labels: Sequence[str],
        seed: int,  # noqa: ARG002
    ) -> LabelScorer:
        """Tokenize the label words; what reads them is the backbone's own."""
        verbalizer = self._label_words(candidate, verbalizer)
        if self.tokenizer.mask_token_id is None:
            raise InvalidInputError(f"the tokenizer of {self.spec.path} has no mask token; is it a masked LM?")
        tokens, words = PromptTokens(self.special_names, template), self.words_behind(template, verbalizer, labels)
        return MaskedScorer(tokens, self.tokenizer.mask_token_id, self.model, words)

    def guard(self, template: Template, verbalizer: Verbalizer | None) -> Template:  # noqa: ARG002
        """Leave the template: names in it are text, too; see `Backbone`."""
        return template

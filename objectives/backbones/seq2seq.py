"""Sequence-to-sequence models: log-probabilities of the label words as the decoder's output.

The prompt goes to the encoder. Where the tokenizer has T5's sentinels, the first one stands in the label's place, and
the decoder's output begins with it, as in T5's pretraining (Raffel et al. 2020, arXiv:1910.10683; for prompts LM-BFF,
Gao et al. 2021, arXiv:2012.15723); otherwise the label is left out of the prompt.

`frozen_layers` counts the encoder's layers, and then the decoder's. The embeddings, which both share, are frozen from 1
on, and the encoder's final norm with its last layer.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM
from transformers.modeling_outputs import BaseModelOutput

from promptgraft.objectives.backbones.answers import Limits, Seq2SeqAnswers
from promptgraft.objectives.backbones.base import BACKBONES, Backbone, named_blocks
from promptgraft.objectives.backbones.causal_lm import score_words
from promptgraft.objectives.backbones.label_scorers import Batch, LabelScorer, mean_over_words
from promptgraft.objectives.backbones.text_tokens import PromptTokens
from promptgraft.objectives.backbones.writing import language_tokens
from promptgraft.objectives.layers import PromptedStack, checkpoint_layer
from promptgraft.spaces import Candidate, InvalidInputError, RenderedPrompt, Template, Verbalizer

SENTINEL = "<extra_id_0>"


class Seq2SeqScorer(LabelScorer):
    """Sums the log-probabilities of a label word's tokens; averages the probabilities of several words.

    Args:
        tokens: Makes token ids of prompts.
        sentinel: The token that stands in the label's place; None if the tokenizer has none.
        model: The whole model; encoder states and tokens -> logits over the vocabulary is the part that is used.
        words: Label -> label words -> token ids.
        start: The token that the decoder starts with.
    """

    def __init__(
        self,
        tokens: PromptTokens,
        sentinel: int | None,
        model: nn.Module,
        words: dict[str, list[tuple[int, ...]]],
        start: int,
    ) -> None:
        super().__init__()
        self.tokens, self.sentinel = tokens, sentinel
        self._model: list[Any] = [model]  # In a list: its weights belong to the backbone.
        self.words = words
        # What it is trained on: the output as the tokenizer writes it, moved to the right by the start token.
        self.output_begins = [start, *tokens.begin, *([] if sentinel is None else [sentinel])]

    def encode(self, prompt: RenderedPrompt) -> list[int]:
        """Tokenize the prompt; the text can't hold a sentinel by itself."""
        if self.sentinel is None:
            return self.tokens(prompt.without_label())
        return self.tokens.around((prompt.before.rstrip(" "), prompt.after), [self.sentinel])

    def forward(self, stack: PromptedStack, batch: Batch, labels: Sequence[str]) -> Tensor:
        """Score the labels; see `LabelScorer`."""
        hidden = stack(batch.input_ids, batch.lengths, batch.lengths, batch.known)
        place = torch.arange(hidden.shape[1], device=hidden.device)
        mask = (place < (batch.lengths + stack.length)[:, None]).long()
        encoded = BaseModelOutput(last_hidden_state=hidden)

        def next_tokens(prefix: tuple[int, ...]) -> Tensor:
            output = torch.tensor([*self.output_begins, *prefix], device=hidden.device).expand(len(hidden), -1)
            logits = self._model[0](
                encoder_outputs=encoded,
                attention_mask=mask,
                decoder_input_ids=output,
                past_key_values=stack.past(len(hidden)),
                use_cache=False,
            ).logits
            return torch.log_softmax(logits[:, len(self.output_begins) - 1 :].to(hidden), dim=-1)

        words = [word for label in labels for word in self.words[label]]
        return mean_over_words(score_words(words, next_tokens), [self.words[label] for label in labels])


@BACKBONES.register("seq2seq")
class Seq2Seq(Backbone):
    """An encoder and a decoder, such as T5 or BART; the stack that soft prompts are put on is the encoder."""

    causal = False

    auto_class = AutoModelForSeq2SeqLM

    def label_scorer(
        self,
        candidate: Candidate,
        template: Template,
        verbalizer: Verbalizer | None,
        labels: Sequence[str],
        seed: int,  # noqa: ARG002
    ) -> LabelScorer:
        """Tokenize the label words, as the beginning of an output; nothing is trainable here."""
        if candidate.head == "answer":
            written = candidate.decoding.max_new_tokens
            if self.max_positions is not None and written > self.max_positions:
                raise InvalidInputError(
                    f"decoding.max_new_tokens must be in [1, {self.max_positions}], the backbone's positions, got "
                    f"{written}"
                )
            limits = Limits(self.spec.max_tokens, written)
            first = language_tokens(self.tokenizer, self.spec.languages)
            return Seq2SeqAnswers(self.special_names, template, self.model, candidate.decoding, limits, first)
        verbalizer = self._label_words(candidate, verbalizer)
        start = getattr(self.model.config, "decoder_start_token_id", None)
        if start is None:
            start = self.model.generation_config.decoder_start_token_id
        if start is None:
            raise InvalidInputError(f"{self.spec.path} names no decoder_start_token_id; add it to its config.json")
        words = self.words_behind(template, verbalizer, labels)
        return Seq2SeqScorer(PromptTokens(self.special_names, template), self._sentinel, self.model, words, start)

    def guard(self, template: Template, verbalizer: Verbalizer | None) -> Template:
        """Where there is a sentinel, names in templates are text, too; see `Backbone`."""
        return super().guard(template, verbalizer) if self._sentinel is None else template

    def words_behind(
        self,
        template: Template,  # noqa: ARG002
        verbalizer: Verbalizer,
        labels: Sequence[str],
    ) -> dict[str, list[tuple[int, ...]]]:
        """Tokenize the words of each label as the beginning of an output; see `Backbone`."""
        return {
            label: [tuple(self.tokenizer.encode(word, add_special_tokens=False)) for word in verbalizer.words[label]]
            for label in labels
        }

    @property
    def _sentinel(self) -> int | None:
        found: int | None = self.tokenizer.get_vocab().get(SENTINEL)
        return found

    def _find_stack(self) -> Any:
        return self.model.get_encoder()

    def _depth(self) -> int:
        return len(_layers(self.stack))

    def _find_blocks(self) -> dict[str, nn.Module]:
        return named_blocks(self.model, [*self.layers.layers, *_layers(self.model.get_decoder())])

    def _find_frozen_from(self) -> dict[str, int]:
        inside = {id(parameter) for parameter in self.stack.parameters()}
        found = {}
        for name, parameter in self.pretrained.items():
            layer = self.layer_of(name)
            if layer is not None:
                found[name] = layer + 1
            elif parameter is self.model.get_input_embeddings().weight or "embed" in name:
                found[name] = 1  # BART's norm of the embeddings among them, which stands behind its layers.
            else:
                found[name] = len(self.layers) if id(parameter) in inside else self.n_layers
        return found

    def _checkpoint(self) -> None:
        self.model.config.use_cache = False
        for layer in self.blocks.values():
            checkpoint_layer(layer)

    def _adapted(self) -> Any:
        return self.model

    def prefixed(self) -> tuple[Any, dict[str, int]]:
        """Return the decoder, the only part that takes keys and values; see `Backbone`."""
        decoder, config = self.model.get_decoder(), self.model.config
        heads = getattr(config, "decoder_attention_heads", config.num_attention_heads)
        size = getattr(config, "d_kv", config.d_model // heads)
        sizes = {"num_layers": len(_layers(decoder)), "num_attention_heads": heads, "token_dim": heads * size}
        return decoder, sizes


def _layers(stack: nn.Module) -> nn.ModuleList:
    return next(module for module in stack.modules() if isinstance(module, nn.ModuleList))

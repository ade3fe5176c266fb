"""Causal language models: log-probabilities of the label words at the end of the prompt."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from promptgraft.objectives.backbones.answers import CausalAnswers, Limits, logits_behind
from promptgraft.objectives.backbones.base import BACKBONES, Backbone
from promptgraft.objectives.backbones.families import NOT_DEEP
from promptgraft.objectives.backbones.label_scorers import Batch, LabelScorer, VocabularyScorer, mean_over_words
from promptgraft.objectives.backbones.text_tokens import PromptTokens
from promptgraft.objectives.data import IGNORED
from promptgraft.objectives.layers import Known, PromptedStack
from promptgraft.spaces import Candidate, InvalidInputError, RenderedPrompt, Template, Verbalizer

# Items of a row whose titles are scored.
SHORT_LIST = 50


class CausalScorer(VocabularyScorer):
    """Sums the log-probabilities of a label word's tokens; averages the probabilities of several words.

    Where all words are single tokens, the sum over the vocabulary is the same for all of them and is left out.

    Args:
        tokens: Makes token ids of prompts.
        eos: The token with which a text ends; None if there is none.
        output: The output embeddings: hidden states -> logits over the vocabulary.
        words: Label -> label words -> token ids.
    """

    def __init__(
        self, tokens: PromptTokens, eos: int | None, output: nn.Module, words: dict[str, list[tuple[int, ...]]]
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self._eos = eos
        self._output = [output]  # In a list: its weights belong to the backbone.
        self.words = words
        self.continues = any(len(word) > 1 for entry in words.values() for word in entry)

    def encode(self, prompt: RenderedPrompt) -> list[int]:
        """Tokenize what stands before the label; the space before it belongs to the label word."""
        ids = self.tokens(prompt.before.rstrip(" "))
        return ids[:-1] if len(ids) > 1 and ids[-1] == self._eos else ids

    def forward(self, stack: PromptedStack, batch: Batch, labels: Sequence[str]) -> Tensor:
        """Score the labels; see `LabelScorer`."""
        words = [word for label in labels for word in self.words[label]]
        of_labels = [self.words[label] for label in labels]
        if not self.continues:
            tokens = torch.tensor([word[0] for word in words], device=batch.lengths.device)
            scores = dict(zip(words, self._columns(self._read(stack, batch, ())[:, 0], tokens).T, strict=True))
            return mean_over_words(scores, of_labels)
        scores = score_words(words, lambda prefix: self._next_token_log_probabilities(stack, batch, prefix))
        return mean_over_words(scores, of_labels)

    def vocabulary(self, stack: PromptedStack, batch: Batch) -> Tensor:
        """Score every token; see `VocabularyScorer`."""
        return self._next_token_log_probabilities(stack, batch, ())[:, 0]

    def _columns(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Compute the logits of a few tokens only; shape (rows, len(tokens))."""
        output: Any = self._output[0]
        bias = getattr(output, "bias", None)
        chosen = None if bias is None else bias[tokens.to(bias.device)].to(hidden)
        # Few rows: exact products cost nothing, whatever type the matrix is held in.
        found: Tensor = functional.linear(hidden, output.weight[tokens.to(output.weight.device)].to(hidden), chosen)
        return found

    def _next_token_log_probabilities(self, stack: PromptedStack, batch: Batch, prefix: tuple[int, ...]) -> Tensor:
        """Read the distributions of the tokens behind the prompt and behind each token of `prefix`.

        Returns:
            Log-probabilities, shape (rows, len(prefix) + 1, vocabulary).
        """
        hidden = self._read(stack, batch, prefix)
        return torch.log_softmax(self._output[0](hidden).to(hidden), dim=-1)

    def _read(self, stack: PromptedStack, batch: Batch, prefix: tuple[int, ...]) -> Tensor:
        """Return the last hidden states of the prompt's end and of each token of `prefix` behind it.

        Returns:
            Shape (rows, len(prefix) + 1, hidden).
        """
        input_ids, lengths = batch.input_ids, batch.lengths
        if prefix:
            rows = len(input_ids)
            padded = torch.cat([input_ids, input_ids.new_zeros(rows, len(prefix))], dim=1)
            behind = lengths[:, None] + torch.arange(len(prefix), device=lengths.device)
            input_ids = padded.scatter(1, behind, input_ids.new_tensor(prefix).expand(rows, -1))
        first = lengths + stack.length - 1
        read_at = first[:, None] + torch.arange(len(prefix) + 1, device=lengths.device)
        hidden: Tensor = stack(input_ids, lengths + len(prefix), lengths, batch.known, read_at)
        return hidden.gather(1, read_at[..., None].expand(-1, -1, hidden.shape[-1]))


class TitleScorer(CausalScorer):
    """Scores items by their titles: the mean log-probability of a title's tokens behind the prompt.

    Args:
        tokens: Makes token ids of prompts.
        eos: The token with which a text ends; None if there is none.
        output: The output embeddings: hidden states -> logits over the vocabulary.
        title: Makes token ids of a title.
        shares: Whether titles can be run behind the keys and values of a prompt, which are computed once then.
    """

    listed = SHORT_LIST

    def __init__(
        self,
        tokens: PromptTokens,
        eos: int | None,
        output: nn.Module,
        title: Callable[[str], list[int]],
        *,
        shares: bool,
    ) -> None:
        super().__init__(tokens, eos, output, {})
        self.continues = True
        self._title, self._shares = title, shares

    def forward(self, stack: PromptedStack, batch: Batch, labels: Sequence[str]) -> Tensor:
        """Score the labels that the batch lists, or all; see `LabelScorer`."""
        rows, device = len(batch.input_ids), batch.input_ids.device
        listed = batch.listed
        if listed is None:
            listed = torch.arange(len(labels), device=device).expand(rows, -1)
        if self._shares and not (torch.is_grad_enabled() or stack.before_text):
            batch = _with_keys(stack, batch)
        known = {
            place: torch.tensor(self._title(labels[place]), device=device) for place in set(listed.ravel().tolist())
        }
        pairs = [(row, known[place]) for row, places in enumerate(listed.tolist()) for place in places]
        size = max(listed.shape)
        parts = [self._score(stack, batch, pairs[first : first + size]) for first in range(0, len(pairs), size)]
        return torch.cat(parts).view_as(listed)

    def _score(self, stack: PromptedStack, batch: Batch, pairs: Sequence[tuple[int, Tensor]]) -> Tensor:
        """Score pairs of a row and a title; shape (pairs,)."""
        titles = pad_sequence([title for _, title in pairs], batch_first=True, padding_value=IGNORED)
        counts = (titles != IGNORED).sum(1)
        part = batch.of([row for row, _ in pairs])
        logits = logits_behind(self._output[0], stack, part, titles[:, :-1].clamp(min=0), counts - 1)
        losses = functional.cross_entropy(
            logits.float().flatten(0, 1), titles.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return -losses.view_as(titles).sum(1) / counts


def _with_keys(stack: PromptedStack, batch: Batch) -> Batch:
    """Return a batch of which all layers' keys and values are known, so that only what stands behind it is run."""
    known, layers = batch.known, stack.layers
    depth = known.depth if known else 0
    if depth == len(layers):
        return batch
    begin = {"hidden": known.hidden} if known else {"input_ids": batch.input_ids}
    hidden, past = layers.run_with_keys(depth, len(layers), **begin)
    return replace(batch, known=Known(len(layers), hidden, {**(known.past if known else {}), **past}))


def score_words(
    words: Sequence[tuple[int, ...]], next_tokens: Callable[[tuple[int, ...]], Tensor]
) -> dict[tuple[int, ...], Tensor]:
    """Sum the log-probabilities of each word's tokens, running the model once for words that begin alike.

    Args:
        words: Token ids of each word.
        next_tokens: The first tokens of a word -> log-probabilities of what follows the prompt, and each of them;
            shape (rows, tokens + 1, vocabulary).

    Returns:
        Word -> its log-probability in each row, shape (rows,).
    """
    scores: dict[tuple[int, ...], Tensor] = {}
    for prefix in _longest_prefixes([word[:-1] for word in words]):
        log_probabilities = next_tokens(prefix)
        for word in words:
            if prefix[: len(word) - 1] == word[:-1] and word not in scores:
                parts = [log_probabilities[:, place, token] for place, token in enumerate(word)]
                scores[word] = torch.stack(parts).sum(0)
    return scores


def _longest_prefixes(prefixes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Leave out every prefix that another one starts with."""
    unique = sorted(set(prefixes))
    return [p for p in unique if not any(other != p and other[: len(p)] == p for other in unique)]


@BACKBONES.register("causal_lm")
class CausalLM(Backbone):
    """A decoder that continues text, such as Llama or GPT-2."""

    causal = True

    auto_class = AutoModelForCausalLM

    def label_scorer(
        self,
        candidate: Candidate,
        template: Template,
        verbalizer: Verbalizer | None,
        labels: Sequence[str],
        seed: int,  # noqa: ARG002
    ) -> LabelScorer:
        """Tokenize the label words; nothing is trainable here."""
        template.check_label_last()
        if candidate.head == "answer":
            return CausalAnswers(self.special_names, template, self.model, candidate.decoding, self._limits(candidate))
        tokens, eos = PromptTokens(self.special_names, template), self.tokenizer.eos_token_id
        if candidate.head == "titles":
            return self._title_scorer(candidate, template, tokens)
        verbalizer = self._label_words(candidate, verbalizer)
        words = self.words_behind(template, verbalizer, labels)
        return CausalScorer(tokens, eos, self.model.get_output_embeddings(), words)

    def _title_scorer(self, candidate: Candidate, template: Template, tokens: PromptTokens) -> TitleScorer:
        """Return what scores titles, of which as much is read as there are positions for behind the prompt."""
        most, soft = self.spec.max_tokens, candidate.soft_prompt.length
        room = most if self.max_positions is None else min(most, self.max_positions - most - soft)
        if room < 1:
            raise InvalidInputError(
                f"backbone.max_tokens {most} and soft_prompt.length {soft} leave none of the backbone's "
                f"{self.max_positions} positions for titles; lower one of them"
            )
        space = " " if template.render(dict.fromkeys(template.fields, "x")).before.endswith(" ") else ""
        return TitleScorer(
            tokens,
            self.tokenizer.eos_token_id,
            self.model.get_output_embeddings(),
            lambda title: self.special_names.as_text(f"{space}{title}")[:room],
            shares=self.spec.takes_masks and self.architecture.model_type not in NOT_DEEP,
        )

    def _limits(self, candidate: Candidate) -> Limits:
        """Return how long answers may be: they share the model's positions with the prompt."""
        most, soft = self.spec.max_tokens, candidate.soft_prompt.length
        room = most if self.max_positions is None else self.max_positions - most - soft
        if room < 1 or (self.max_positions is not None and candidate.decoding.max_new_tokens > room):
            raise InvalidInputError(
                f"backbone.max_tokens {most}, soft_prompt.length {soft} and decoding.max_new_tokens "
                f"{candidate.decoding.max_new_tokens} make more positions than the backbone's {self.max_positions}; "
                "lower one of them"
            )
        return Limits(min(most, room), candidate.decoding.max_new_tokens)

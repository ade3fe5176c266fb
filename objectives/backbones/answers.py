"""Answers that a language model writes: the loss of their tokens, and texts by transformers' own generation."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from promptgraft.objectives.backbones.label_scorers import Batch, LabelScorer
from promptgraft.objectives.backbones.text_tokens import PromptTokens, SpecialNames
from promptgraft.objectives.backbones.writing import LanguageTokens, generate_again
from promptgraft.objectives.data import IGNORED
from promptgraft.objectives.kinds import WIDTH, pack
from promptgraft.objectives.layers import PromptedStack
from promptgraft.spaces import Decoding, InvalidInputError, RenderedPrompt, Template


class Limits(NamedTuple):
    """Most tokens of a reference, the rest of which is cut off, and of a text that is written."""

    reference: int
    written: int


class AnswerScorer(LabelScorer):
    """Trains on the tokens of answers, and writes answers.

    Args:
        names: The tokenizer, which knows its special tokens.
        model: The whole model.
        decoding: How texts are written.
        limits: How long answers may be.
    """

    continues = True

    def __init__(self, names: SpecialNames, model: Any, decoding: Decoding, limits: Limits) -> None:
        super().__init__()
        self._names, self._tokenizer = names, names.tokenizer
        self._model: list[Any] = [model]  # In a list: its weights belong to the backbone.
        self._limits = limits
        self.answer_tokens = limits.reference
        self._decoding = decoding
        ends = [self._tokenizer.eos_token_id, *_as_list(getattr(model.config, "eos_token_id", None))]
        self._end = next((end for end in ends if end is not None), -1)
        if self._end < 0:
            raise InvalidInputError(
                "the tokenizer has no end-of-sequence token, with which answers end; name one as eos_token in "
                "tokenizer_config.json"
            )

    @property
    def model(self) -> Any:
        """The whole model."""
        return self._model[0]

    @property
    def width(self) -> int:
        """How many numbers a text takes."""
        return WIDTH

    def outputs(self, stack: PromptedStack, batch: Batch, written: Sequence[bool]) -> Tensor:
        """Compute the loss of the references where they are known, and write texts.

        Args:
            stack: The backbone with its soft prompt.
            batch: Encoded prompts.
            written: Whether each row's answer is written.

        Returns:
            Texts as `kinds.packing` has them, shape (rows, width).
        """
        rows = len(batch.input_ids)
        losses, tokens = np.zeros(rows), np.zeros(rows, dtype=np.int64)
        if batch.answers is not None:
            logits = self(stack, batch, ()).float()
            each = functional.cross_entropy(
                logits.flatten(0, 1), batch.answers.flatten(), ignore_index=IGNORED, reduction="none"
            )
            losses = each.view(rows, -1).sum(1).double().cpu().numpy()
            tokens = (batch.answers != IGNORED).sum(1).cpu().numpy()
        texts: list[str | None] = [None] * rows
        chosen = [row for row, own in enumerate(written) if own]
        if chosen:
            for row, text in zip(chosen, self.write(stack, batch.of(chosen)), strict=True):
                texts[row] = text
        return torch.from_numpy(pack(texts, losses, tokens))

    @abstractmethod
    def write(self, stack: PromptedStack, batch: Batch) -> list[str]:
        """Write a text for each row of a batch."""

    def _settings(self) -> GenerationConfig:
        """Say how texts are written; what isn't said here is as in the model's own configuration of generation."""
        own = self.model.generation_config
        tokens = {
            name: getattr(own, name, None) or getattr(self.model.config, name, None)
            for name in ("decoder_start_token_id", "bos_token_id", "bad_words_ids", "suppress_tokens")
        }
        ends = {self._end, *_as_list(getattr(own, "eos_token_id", None))}
        pad = self._tokenizer.pad_token_id
        decoding = self._decoding
        return GenerationConfig(
            **{name: value for name, value in tokens.items() if value is not None},
            eos_token_id=sorted(ends),
            pad_token_id=self._end if pad is None else pad,
            max_new_tokens=min(decoding.max_new_tokens, self._limits.written),
            num_beams=decoding.beams,
            length_penalty=decoding.length_penalty,
            no_repeat_ngram_size=decoding.no_repeat_ngram_size,
            do_sample=False,
        )

    def _read(self, written: Tensor) -> list[str]:
        """Turn token ids that were written into texts, up to the first end."""
        ends = set(_as_list(self._settings().eos_token_id))
        special = set(self._tokenizer.all_special_ids)
        texts = []
        for ids in written.tolist():
            while ids and ids[0] in special:  # Such as the token that a decoder starts with.
                ids = ids[1:]
            end = next((place for place, token in enumerate(ids) if token in ends), len(ids))
            texts.append(self._tokenizer.decode(ids[:end], skip_special_tokens=True).strip())
        return texts


def logits_behind(output: Any, stack: PromptedStack, batch: Batch, behind: Tensor, lengths: Tensor) -> Tensor:
    """Compute the logits of what follows a prompt, and each token behind it.

    Args:
        output: The output embeddings.
        stack: The backbone with its soft prompt.
        batch: Encoded prompts.
        behind: Tokens behind each prompt, padded with any, shape (rows, behind).
        lengths: How many of them are its own, shape (rows,).

    Returns:
        Shape (rows, behind + 1, vocabulary).
    """
    input_ids, rows, count = batch.input_ids, len(batch.input_ids), behind.shape[1]
    steps = torch.arange(count + 1, device=input_ids.device)
    if count:
        padded = torch.cat([input_ids, input_ids.new_zeros(rows, count)], dim=1)
        input_ids = padded.scatter(1, batch.lengths[:, None] + steps[:-1], behind)
    read_at = (batch.lengths + stack.length - 1)[:, None] + steps
    hidden: Tensor = stack(input_ids, batch.lengths + lengths, batch.lengths, batch.known, read_at)
    found: Tensor = output(hidden.gather(1, read_at[..., None].expand(-1, -1, hidden.shape[-1])))
    return found.to(hidden)


class CausalAnswers(AnswerScorer):
    """Answers behind the prompt, in the place of the template's label.

    Args:
        names: The tokenizer, which knows its special tokens.
        template: The template, whose label is last.
        model: The whole model.
        decoding: How texts are written.
        limits: How long answers may be.
    """

    def __init__(self, names: SpecialNames, template: Template, model: Any, decoding: Decoding, limits: Limits) -> None:
        super().__init__(names, model, decoding, limits)
        self.tokens = PromptTokens(names, template)
        sample = template.render(dict.fromkeys(template.fields, "x"))
        self._space = " " if sample.before.endswith(" ") else ""
        self._after = sample.after.rstrip()

    def encode(self, prompt: RenderedPrompt) -> list[int]:
        """Tokenize what stands before the answer; the space before it belongs to the answer."""
        ids = self.tokens(prompt.before.rstrip(" "))
        return ids[:-1] if len(ids) > 1 and ids[-1] == self._end else ids

    def encode_answer(self, answer: Any) -> tuple[int, ...]:
        """Tokenize an answer, with what the template says behind it, and the token that ends it."""
        after = self._tokenizer.encode(self._after, add_special_tokens=False) if self._after else []
        ids = [*self._names.as_text(f"{self._space}{answer}"), *after, self._end]
        return tuple(ids[: self._limits.reference])

    def forward(self, stack: PromptedStack, batch: Batch, labels: Sequence[str]) -> Tensor:  # noqa: ARG002
        """Return the logits of each token of the answers, shape (rows, answer tokens, vocabulary)."""
        answers = batch.known_answers
        return self._logits(stack, batch, answers[:, :-1].clamp(min=0), (answers != IGNORED).sum(1) - 1)

    def _logits(self, stack: PromptedStack, batch: Batch, behind: Tensor, lengths: Tensor) -> Tensor:
        return logits_behind(self.model.get_output_embeddings(), stack, batch, behind, lengths)

    def write(self, stack: PromptedStack, batch: Batch) -> list[str]:
        """Write answers behind the prompts; with keys and values kept where the prompt stands among the embeddings."""
        embedded = stack.embedded(batch.input_ids, batch.lengths)
        if embedded is None:
            return self.write_again(stack, batch)
        lengths = batch.lengths + stack.length
        place = torch.arange(embedded.shape[1], device=embedded.device) - (embedded.shape[1] - lengths)[:, None]
        moved = embedded.gather(1, place.clamp(min=0)[..., None].expand_as(embedded))
        written = self.model.generate(
            inputs_embeds=moved, attention_mask=(place >= 0).long(), generation_config=self._settings()
        )
        return [self._without_after(text) for text in self._read(written)]

    def write_again(self, stack: PromptedStack, batch: Batch) -> list[str]:
        """Write answers wherever the prompt stands: the stack runs on all tokens for each new one."""

        def next_logits(behind: Tensor, of: Tensor) -> Tensor:
            part = batch.of(of.tolist())
            return self._logits(stack, part, behind, torch.full_like(part.lengths, behind.shape[1]))[:, -1]

        written = generate_again(
            self.model, next_logits, len(batch.input_ids), batch.input_ids.device, self._settings()
        )
        return [self._without_after(text) for text in self._read(written)]

    def _without_after(self, text: str) -> str:
        """Leave out what the template says behind the answer."""
        after = self._after.strip()
        return text.split(after)[0].strip() if after else text


class Seq2SeqAnswers(AnswerScorer):
    """Answers as a decoder's output; the prompt goes to the encoder, without the label's place.

    Args:
        names: The tokenizer, which knows its special tokens.
        template: The template.
        model: The whole model.
        decoding: How texts are written.
        limits: How long answers may be.
        first: Tokens of the languages, where there are any.
    """

    def __init__(
        self,
        names: SpecialNames,
        template: Template,
        model: Any,
        decoding: Decoding,
        limits: Limits,
        first: LanguageTokens,
    ) -> None:
        super().__init__(names, model, decoding, limits)
        self.tokens = PromptTokens(names, template)
        self._first = first

    def encode(self, prompt: RenderedPrompt) -> list[int]:
        """Tokenize the prompt without the label's place, behind the token of the language that is wanted."""
        return [*self._first.read, *self.tokens(prompt.without_label())]

    def encode_answer(self, answer: Any) -> tuple[int, ...]:
        """Tokenize an answer as the tokenizer does for the decoder, with a token that ends it."""
        text = self._names.apart(str(answer))
        ids = self._tokenizer(text_target=text, split_special_tokens=True)["input_ids"]
        return tuple((ids if self._end in ids else [*ids, self._end])[: self._limits.reference])

    def forward(self, stack: PromptedStack, batch: Batch, labels: Sequence[str]) -> Tensor:  # noqa: ARG002
        """Return the logits of each token of the answers, shape (rows, answer tokens, vocabulary)."""
        hidden, mask = self._encoded(stack, batch)
        begun = self._moved(batch.known_answers)
        return self._logits(stack, hidden, mask, begun)

    def _settings(self) -> GenerationConfig:
        found = super()._settings()
        if self._first.written is not None:
            found.forced_bos_token_id = self._first.written
        return found

    def _moved(self, answers: Tensor) -> Tensor:
        """Move answers to the right by the token that the decoder starts with, as the model's own training does."""
        move = getattr(self.model, "prepare_decoder_input_ids_from_labels", None)
        if move is not None:
            found: Tensor = move(labels=answers)
            return found
        settings = self._settings()  # NLLB's and M2M100's, which only moves.
        begun = torch.full_like(answers[:, :1], int(settings.decoder_start_token_id))
        moved = torch.cat([begun, answers[:, :-1]], dim=1)
        return moved.masked_fill(moved == IGNORED, int(settings.pad_token_id))

    @staticmethod
    def _encoded(stack: PromptedStack, batch: Batch) -> tuple[Tensor, Tensor]:
        hidden = stack(batch.input_ids, batch.lengths, batch.lengths, batch.known)
        place = torch.arange(hidden.shape[1], device=hidden.device)
        return hidden, (place < (batch.lengths + stack.length)[:, None]).long()

    def _logits(self, stack: PromptedStack, hidden: Tensor, mask: Tensor, begun: Tensor) -> Tensor:
        found: Tensor = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
            attention_mask=mask,
            decoder_input_ids=begun,
            past_key_values=stack.past(len(hidden)),
            use_cache=False,
        ).logits
        return found.to(hidden)

    def write(self, stack: PromptedStack, batch: Batch) -> list[str]:
        """Write answers by the decoder; with keys and values kept where it has no prefix of its own."""
        if stack.past(1) is not None:
            return self.write_again(stack, batch)
        hidden, mask = self._encoded(stack, batch)
        encoded = BaseModelOutput(last_hidden_state=hidden)
        return self._read(
            self.model.generate(encoder_outputs=encoded, attention_mask=mask, generation_config=self._settings())
        )

    def write_again(self, stack: PromptedStack, batch: Batch) -> list[str]:
        """Write answers whatever prefix the decoder has: it runs on all tokens for each new one."""
        hidden, mask = self._encoded(stack, batch)
        settings = self._settings()
        start = settings.decoder_start_token_id

        def next_logits(behind: Tensor, of: Tensor) -> Tensor:
            begun = torch.cat([behind.new_full((len(behind), 1), start), behind], dim=1)
            return self._logits(stack, hidden[of], mask[of], begun)[:, -1]

        return self._read(generate_again(self.model, next_logits, len(hidden), hidden.device, settings))


def _as_list(value: Any) -> list[int]:
    return [] if value is None else list(value) if isinstance(value, Sequence) else [value]

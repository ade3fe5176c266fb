"""Settings of transformers' generation: the language to write, and a model without cached keys and values."""

import re
from collections.abc import Callable
from copy import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin
from transformers.modeling_outputs import CausalLMOutput

from promptgraft.spaces import InvalidInputError, did_you_mean

# Tokens written so far, shape (n, tokens), and the row of each, shape (n,) -> logits of the next one, (n, vocabulary).
NextLogits = Callable[[Tensor, Tensor], Tensor]


class LanguageTokens(NamedTuple):
    """Tokens that say which language is wanted: before the text that is read, and first in what is written."""

    read: tuple[int, ...] = ()
    written: int | None = None


def language_tokens(tokenizer: Any, languages: tuple[str, str] | None) -> LanguageTokens:
    """Set a tokenizer to two languages, where it has codes for languages.

    Args:
        tokenizer: The tokenizer: one with `src_lang`, such as NLLB's and mBART's; one with tokens such as `>>spa<<`,
            as some of Marian's; or another one, of which nothing is asked.
        languages: The codes of the language that is read, and of the one that is written.

    Raises:
        InvalidInputError: If it doesn't know a code.
    """
    if languages is None:
        return LanguageTokens()
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    source, target = languages
    if hasattr(tokenizer, "src_lang"):
        known = {name.strip("_"): name for name in tokenizer.all_special_tokens + list(tokenizer.added_tokens_encoder)}
        for key, code in (("source_language", source), ("target_language", target)):
            if code not in known:
                codes = [name for name in known if re.match(r"[a-z]{2,3}(_|$)", name)]
                raise InvalidInputError(
                    f"target.{key} {code!r} is no code of the tokenizer; {did_you_mean(code, codes)}"
                )
        tokenizer.src_lang, tokenizer.tgt_lang = source, target
        return LanguageTokens(written=vocabulary[known[target]])
    codes = [name for name in vocabulary if re.fullmatch(r">>.+<<", name)]
    if not codes:
        return LanguageTokens()
    wanted = f">>{target}<<"
    if wanted not in vocabulary:
        hint = did_you_mean(target, [code[2:-2] for code in codes])
        raise InvalidInputError(f"target.target_language {target!r} is no code of the tokenizer; {hint}")
    return LanguageTokens((vocabulary[wanted],))


class _Again(nn.Module, GenerationMixin):  # type: ignore[misc]
    """Lets transformers generate with a model that is run on everything again for each token."""

    main_input_name = "input_ids"
    _is_stateful = False

    def __init__(self, model: Any, next_logits: NextLogits, rows: int) -> None:
        super().__init__()
        self._model = [model]
        self.config, self.generation_config = copy(model.config), model.generation_config
        self.config.is_encoder_decoder = False
        self._next_logits, self._rows = next_logits, rows

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_model"][0], name)

    @property
    def device(self) -> torch.device:
        return self._model[0].device  # type: ignore[no-any-return]

    def can_generate(self) -> bool:
        return True

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,  # noqa: ARG002  # Nothing is padded.
        **_: Any,
    ) -> dict[str, Tensor]:
        return {"input_ids": input_ids}

    def forward(self, input_ids: Tensor, **_: Any) -> CausalLMOutput:
        beams = len(input_ids) // self._rows
        of = torch.arange(len(input_ids), device=input_ids.device) // beams
        return CausalLMOutput(logits=self._next_logits(input_ids[:, 1:], of)[:, None])


def generate_again(
    model: Any, next_logits: NextLogits, rows: int, device: torch.device, settings: GenerationConfig
) -> Tensor:
    """Generate where keys and values can't be kept: the model runs on all tokens for each new one.

    Args:
        model: Whose configuration counts.
        next_logits: Takes the tokens written so far, shape (n, tokens), and which row each belongs to, shape (n,);
            returns the logits of the next one, shape (n, vocabulary).
        rows: Number of rows.
        device: Where.
        settings: How texts are written.

    Returns:
        The tokens that were written, shape (rows, tokens).
    """
    begin = torch.full((rows, 1), int(settings.pad_token_id), device=device)
    settings.use_cache = False
    found: Tensor = _Again(model, next_logits, rows).generate(
        begin, attention_mask=torch.ones_like(begin), generation_config=settings
    )
    return found[:, 1:]

"""A backbone with prompt and label words, as the peers train it: PEFT's prompt tuning where it reaches."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from peft import PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional

COSINE_SCALE = 20.0

Batch = dict[str, Tensor]


class LabelHead(nn.Module):
    """One trainable row a label, compared by cosine or by dot product and bias."""

    def __init__(self, weight: Tensor, cosine: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if cosine else nn.Parameter(torch.zeros(len(weight)))

    def forward(self, features: Tensor, rows: list[int]) -> Tensor:
        if self.bias is None:
            normal = functional.normalize(self.weight[rows], dim=-1)
            return COSINE_SCALE * functional.normalize(features, dim=-1) @ normal.T
        return features @ self.weight[rows].T + self.bias[rows]


class LatePrompt(nn.Module):
    """Trainable vectors behind the padded text, from the embeddings on or from a layer on."""

    def __init__(self, stack: Any, vectors: Tensor, layer: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(vectors.clone())
        self._stack, self.layer = [stack], layer

    def forward(self, input_ids: Tensor, attention_mask: Tensor, extra: Tensor, causal: bool) -> Tensor:
        """Return the last hidden states of text, padding, prompt and `extra` tokens, in this order."""
        stack = self._stack[0]
        rows, width, length = len(input_ids), input_ids.shape[1], len(self.weight)
        embed = stack.get_input_embeddings()
        vectors = self.weight.expand(rows, -1, -1)
        inside = vectors if self.layer == 0 else torch.zeros_like(vectors)
        embedded = torch.cat([embed(input_ids), inside, embed(extra)], dim=1)
        visible = torch.cat([attention_mask, attention_mask.new_ones(rows, length + extra.shape[1])], dim=1)
        position = (visible.cumsum(1) - 1).clamp(min=0)
        if self.layer == 0:
            return stack(inputs_embeds=embedded, attention_mask=visible, position_ids=position).last_hidden_state
        below = visible.clone()
        below[:, width : width + length] = 0
        with ExitStack() as hooks:
            for index, layer in enumerate(layers_of(stack)):
                if index >= self.layer:
                    entering = (width, vectors) if index == self.layer else None
                    hook = _late_hook(_additive(visible, causal, embedded.dtype), entering)
                    hooks.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
            mask = _additive(below, causal, embedded.dtype)
            return stack(inputs_embeds=embedded, attention_mask=mask, position_ids=position).last_hidden_state


def _late_hook(mask: Tensor, entering: tuple[int, Tensor] | None) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        hidden, *rest = args
        if entering is not None:
            start, vectors = entering
            hidden = torch.cat([hidden[:, :start], vectors, hidden[:, start + vectors.shape[1] :]], dim=1)
        if "attention_mask" in kwargs:
            kwargs = {**kwargs, "attention_mask": mask}
        else:
            rest[0] = mask
        return (hidden, *rest), kwargs

    return hook


def _additive(visible: Tensor, causal: bool, dtype: torch.dtype) -> Tensor:
    """Turn visible keys, shape (rows, keys), into an additive mask, shape (rows, 1, queries, keys)."""
    width = visible.shape[1]
    allowed = visible.bool()[:, None, None, :].expand(-1, 1, width, width)
    if causal:
        allowed = allowed & torch.ones(width, width, dtype=torch.bool).tril()
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)


class Prompted(nn.Module):
    """A backbone with soft prompt and head, which returns loss and logits as Trainer wants them.

    Args:
        base: The pretrained model.
        head: The label head of an encoder; None for a causal LM.
        words: Of a causal LM: for each label the tokens of its words.
    """

    def __init__(self, base: Any, head: LabelHead | None, words: list[list[tuple[int, ...]]]) -> None:
        super().__init__()
        self.base, self.head, self.words = base, head, words
        self.stack = base.base_model
        self.late: LatePrompt | None = None
        self.peft: list[Any] = []  # In a list: it holds the stack once more.
        self.before: nn.Parameter | None = None
        self.rows: list[int] = []

    def attach(self, length: int, place: str, vectors: Tensor) -> None:
        """Put a soft prompt on the stack."""
        if place != "prefix":
            self.late = LatePrompt(self.stack, vectors, int(place.split()[1]) if place != "suffix" else 0)
            return
        config = PromptTuningConfig(
            task_type="FEATURE_EXTRACTION",
            num_virtual_tokens=length,
            token_dim=vectors.shape[1],
            num_layers=self.stack.config.num_hidden_layers,
            num_attention_heads=self.stack.config.num_attention_heads,
        )
        peft = get_peft_model(self.stack, config)
        self.before = peft.prompt_encoder["default"].embedding.weight
        with torch.no_grad():
            self.before.copy_(vectors)
        self.peft = [peft]

    def attached(self) -> list[nn.Parameter]:
        """Weights that train with the prompt's learning rate."""
        found = [] if self.head is None else list(self.head.parameters())
        found += [] if self.late is None else list(self.late.parameters())
        return found + ([] if self.before is None else [self.before])

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self._encoder(input_ids, attention_mask) if self.head else self._causal(input_ids, attention_mask)
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}

    def _encoder(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        assert self.head is not None
        width = input_ids.shape[1]
        hidden = self._hidden(input_ids, attention_mask, input_ids[:, :0])
        hidden = hidden[:, -width:] if self.before is not None else hidden[:, :width]
        return self.head(pool(hidden, attention_mask), self.rows)

    def _hidden(self, input_ids: Tensor, attention_mask: Tensor, extra: Tensor) -> Tensor:
        if self.late is not None:
            return self.late(input_ids, attention_mask, extra, self.head is None)
        model = self.peft[0] if self.peft else self.stack
        return model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    def _causal(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        scores: dict[tuple[int, ...], Tensor] = {}
        words = sorted({word for label in self.words for word in label}, key=len, reverse=True)
        for longest in words:
            if longest in scores:
                continue
            read = self._next_tokens(input_ids, attention_mask, longest[:-1])
            for word in words:
                if word[:-1] == longest[: len(word) - 1]:
                    scores[word] = torch.stack([read[:, i, token] for i, token in enumerate(word)]).sum(0)
        means = []
        for row in self.rows:
            of_label = torch.stack([scores[word] for word in self.words[row]])
            means.append(of_label.logsumexp(0) - float(np.log(len(of_label))))
        return torch.stack(means, dim=1)

    def _next_tokens(self, input_ids: Tensor, attention_mask: Tensor, prefix: tuple[int, ...]) -> Tensor:
        """Log-probabilities behind the prompt and each token of `prefix`; the vocabulary only at these places."""
        count, rows = len(prefix), len(input_ids)
        extra = torch.tensor(prefix, dtype=torch.long).expand(rows, count)
        if self.late is not None:
            hidden = self._hidden(input_ids, attention_mask, extra)[:, -1 - count :]
        else:
            lengths = attention_mask.sum(1, keepdim=True)
            if count:
                place = lengths + torch.arange(count)
                input_ids = functional.pad(input_ids, (0, count)).scatter(1, place, extra)
                attention_mask = functional.pad(attention_mask, (0, count)).scatter(1, place, 1)
            hidden = self._hidden(input_ids, attention_mask, extra)
            first = lengths - 1 + (0 if self.before is None else len(self.before))
            place = first + torch.arange(count + 1)
            hidden = hidden.gather(1, place[..., None].expand(-1, -1, hidden.shape[-1]))
        return self.base.get_output_embeddings()(hidden).log_softmax(-1)


def pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average over the tokens that the mask shows."""
    weights = mask.to(hidden.dtype)[..., None]
    return (hidden * weights).sum(1) / weights.sum(1)


def layers_of(stack: Any) -> Sequence[nn.Module]:
    """Return the layers of an encoder or a decoder, lowest first."""
    return stack.encoder.layer if hasattr(stack, "encoder") else stack.layers


def freeze(model: Prompted, layers: int, embeddings: bool) -> None:
    """Freeze the lower layers; with all of them frozen, the whole backbone.

    Args:
        model: The model.
        layers: How many.
        embeddings: Whether to freeze the embeddings below them too.
    """
    stack = model.stack
    prefixed = bool(model.peft)  # PEFT has frozen the stack: the upper layers are freed again.
    everything = layers == len(layers_of(stack))
    for parameter in model.base.parameters():
        parameter.requires_grad_(not everything)
    if everything:
        return
    for layer in layers_of(stack)[:layers]:
        layer.requires_grad_(False)
    if embeddings or prefixed:
        (stack.embeddings if hasattr(stack, "embeddings") else stack.get_input_embeddings()).requires_grad_(layers == 0)

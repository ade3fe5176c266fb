"""Soft prompts: trainable vectors before the text, after it, or entering at a layer.

PEFT expresses the place `prefix` (prompt tuning; Lester et al. 2021, arXiv:2104.08691). The other two are
a small module of ours, since PEFT has nothing for them: `suffix` leaves the keys and values of a causal
LM's text independent of the prompt, and `layer K` (late prompt tuning; Liu et al. 2022, arXiv:2210.11292)
leaves everything below layer K independent of it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PromptTuningConfig, get_peft_model
from torch import Tensor, nn

from promptgraft.spaces import SoftPrompt


def initial_vectors(init: str, length: int, embeddings: Tensor, word_ids: Sequence[int], seed: int) -> Tensor:
    """Choose the first values of a soft prompt.

    Args:
        init: `vocabulary` or `label_words`.
        length: Number of vectors.
        embeddings: Input embedding matrix, shape (vocabulary, hidden).
        word_ids: Token ids of the label words.
        seed: Seed of the sample from the vocabulary.

    Returns:
        Rows of the embedding matrix, shape (length, hidden).
    """
    if init == "label_words":
        ids = torch.tensor([word_ids[i % len(word_ids)] for i in range(length)])
    else:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(embeddings.shape[0], (length,), generator=generator)
    return embeddings.detach()[ids.to(embeddings.device)].clone()


class PromptedStack(nn.Module):
    """A backbone's stack with no soft prompt; the base of those with one.

    Attributes:
        length: Number of vectors in front of the label.
        shift: How far the prompt moves the text's own tokens to the right.
    """

    length = 0
    shift = 0

    def __init__(self, stack: Any, causal: bool) -> None:
        super().__init__()
        self._stack = [stack]  # In a list: its weights belong to the backbone, not to this module.
        self.causal = causal

    @property
    def stack(self) -> Any:
        """The pretrained stack."""
        return self._stack[0]

    def forward(self, input_ids: Tensor, lengths: Tensor, insert_at: Tensor) -> Tensor:  # noqa: ARG002
        """Run the stack.

        Args:
            input_ids: Token ids, padded on the right, shape (rows, tokens).
            lengths: Tokens of each row, shape (rows,).
            insert_at: Where in each row a prompt after the text goes, shape (rows,).

        Returns:
            Last hidden states, shape (rows, tokens + length, hidden). Token i of a row stands at i + shift
            before `insert_at`, and at i + length from there on.
        """
        return self._last_hidden(input_ids=input_ids, attention_mask=self._mask(lengths, input_ids.shape[1]))

    def _mask(self, lengths: Tensor, width: int) -> Tensor | None:
        # Behind a causal mask no token sees the padding on its right.
        return None if self.causal else (torch.arange(width, device=lengths.device) < lengths[:, None]).long()

    def _last_hidden(self, **inputs: Any) -> Tensor:
        hidden: Tensor = self.stack(**inputs).last_hidden_state
        return hidden


class PrefixPrompt(PromptedStack):
    """A soft prompt before the text, by PEFT's prompt tuning."""

    def __init__(self, stack: Any, causal: bool, vectors: Tensor) -> None:
        super().__init__(stack, causal)
        self.length = self.shift = len(vectors)
        config = PromptTuningConfig(
            task_type="FEATURE_EXTRACTION",
            num_virtual_tokens=len(vectors),
            token_dim=vectors.shape[1],
            num_layers=stack.config.num_hidden_layers,
            num_attention_heads=stack.config.num_attention_heads,
        )
        # PEFT freezes the stack; how much of it trains is the candidate's to say.
        required = [parameter.requires_grad for parameter in stack.parameters()]
        self._peft = [get_peft_model(stack, config)]
        for parameter, value in zip(stack.parameters(), required, strict=True):
            parameter.requires_grad_(value)
        embedding = self._peft[0].prompt_encoder["default"].embedding
        with torch.no_grad():
            embedding.weight.copy_(vectors)
        self.weight: nn.Parameter = embedding.weight

    def forward(self, input_ids: Tensor, lengths: Tensor, insert_at: Tensor) -> Tensor:  # noqa: ARG002
        """Run the stack behind the prompt; see `PromptedStack`."""
        mask = self._mask(lengths, input_ids.shape[1])
        hidden: Tensor = self._peft[0](input_ids=input_ids, attention_mask=mask).last_hidden_state
        return hidden


class InsertedPrompt(PromptedStack):
    """A soft prompt after the text, entering with the embeddings or at a layer.

    Args:
        stack: The pretrained stack.
        causal: Whether it is a causal LM's.
        vectors: First values, shape (length, hidden).
        layers: The stack's layers.
        layer: Layer at which the prompt enters; None with the embeddings.
    """

    def __init__(
        self, stack: Any, causal: bool, vectors: Tensor, layers: Sequence[nn.Module], layer: int | None
    ) -> None:
        super().__init__(stack, causal)
        self.length = len(vectors)
        self.weight = nn.Parameter(vectors.clone())
        self._layers = list(layers)
        self._layer = layer

    def forward(self, input_ids: Tensor, lengths: Tensor, insert_at: Tensor) -> Tensor:
        """Run the stack around the prompt; see `PromptedStack`."""
        width = input_ids.shape[1] + self.length
        position = torch.arange(width, device=input_ids.device).expand(len(input_ids), width)
        offset = position - insert_at[:, None]
        slot = (offset >= 0) & (offset < self.length)
        token = torch.where(offset >= self.length, position - self.length, position)
        embedded = self.stack.get_input_embeddings()(
            input_ids.gather(1, token.clamp(max=input_ids.shape[1] - 1).masked_fill(slot, 0))
        )
        vectors = self.weight[offset.clamp(0, self.length - 1)].to(embedded.dtype)
        if self._layer is None:
            embedded = torch.where(slot[..., None], vectors, embedded)
            return self._last_hidden(inputs_embeds=embedded, attention_mask=self._mask(lengths + self.length, width))
        embedded = embedded.masked_fill(slot[..., None], 0.0)
        visible = position < (lengths + self.length)[:, None]
        above = self._additive_mask(visible, embedded.dtype)
        below = self._additive_mask(visible & ~slot, embedded.dtype)
        with self._entering(self._layer, vectors, slot, above):
            return self._last_hidden(inputs_embeds=embedded, attention_mask=below)

    def _additive_mask(self, visible: Tensor, dtype: torch.dtype) -> Tensor:
        """Turn visible keys, shape (rows, keys), into a mask of shape (rows, 1, queries, keys)."""
        width = visible.shape[1]
        allowed = visible[:, None, None, :].expand(-1, 1, width, width)
        if self.causal:
            allowed = allowed & torch.ones(width, width, dtype=torch.bool, device=visible.device).tril()
        return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)

    @contextmanager
    def _entering(self, layer: int, vectors: Tensor, slot: Tensor, mask: Tensor) -> Iterator[None]:
        """Let the vectors in at `layer`, and make them visible from there on."""

        def swap(index: int) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
            def hook(
                module: nn.Module,  # noqa: ARG001
                args: tuple[Any, ...],
                kwargs: dict[str, Any],
            ) -> tuple[tuple[Any, ...], dict[str, Any]]:
                hidden, *rest = args
                if index == layer:
                    hidden = torch.where(slot[..., None], vectors, hidden)
                if "attention_mask" in kwargs:
                    return (hidden, *rest), {**kwargs, "attention_mask": mask}
                return (hidden, mask, *rest[1:]), kwargs

            return hook

        handles = [
            module.register_forward_pre_hook(swap(index), with_kwargs=True)
            for index, module in enumerate(self._layers)
            if index >= layer
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def attach(
    soft_prompt: SoftPrompt, vectors: Tensor, stack: Any, layers: Sequence[nn.Module], causal: bool
) -> PromptedStack:
    """Put a soft prompt on a stack.

    Args:
        soft_prompt: Length and place.
        vectors: First values, shape (length, hidden).
        stack: The pretrained stack.
        layers: Its layers.
        causal: Whether it is a causal LM's.
    """
    if not soft_prompt.length:
        return PromptedStack(stack, causal)
    if soft_prompt.place == "prefix":
        return PrefixPrompt(stack, causal, vectors)
    return InsertedPrompt(stack, causal, vectors, layers, soft_prompt.layer)

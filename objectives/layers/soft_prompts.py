"""Soft prompts after the text, or entering at a layer: a small module of ours, since PEFT has nothing for them.

`suffix` leaves the keys and values of a causal LM's text independent of the prompt, and `layer K` (late prompt tuning;
Liu et al. 2022, arXiv:2210.11292) leaves everything below layer K independent of it. Those by PEFT: `peft_prompts`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from promptgraft.objectives.layers.stack import KeysValues, LayerStack


def initial_vectors(length: int, embeddings: Tensor, word_ids: Sequence[int], seed: int) -> Tensor:
    """Choose the first values of a soft prompt.

    Args:
        length: Number of vectors.
        embeddings: Input embedding matrix, shape (vocabulary, hidden).
        word_ids: Token ids that are repeated; a sample of the vocabulary is taken if there are none.
        seed: Seed of the sample from the vocabulary.

    Returns:
        Rows of the embedding matrix, shape (length, hidden).
    """
    if word_ids:
        ids = torch.tensor([word_ids[i % len(word_ids)] for i in range(length)])
    else:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(embeddings.shape[0], (length,), generator=generator)
    return embeddings.detach()[ids.to(embeddings.device)].clone()


@dataclass(frozen=True, slots=True)
class Known:
    """What the frozen layers make of a batch's text, which no soft prompt changes.

    Attributes:
        depth: The layer that `hidden` enters; their number where it holds the last hidden states.
        hidden: Shape (rows, tokens, hidden), padded on the right.
        past: Layer -> keys and values of the text, in causal LMs; for the layers below `depth` that tokens behind
            the text have to pass.
    """

    depth: int
    hidden: Tensor
    past: Mapping[int, KeysValues]


class PromptedStack(nn.Module):
    """A backbone's stack with no soft prompt; the base of those with one.

    Attributes:
        length: Number of vectors among the hidden states.
        shift: How far the prompt moves the text's own tokens to the right among the hidden states.
        entry: The layer up to which the text doesn't depend on the prompt; None where it never does.
        before_text: Whether every token of the text sees the prompt, in every layer.
        trained: Name -> trainable weight of the prompt.
    """

    length = 0
    shift = 0
    entry: Any = None  # int | None
    before_text = False

    def __init__(self, layers: LayerStack) -> None:
        super().__init__()
        self._layers = [layers]  # In a list: its weights belong to the backbone, not to this module.
        self.trained: dict[str, nn.Parameter] = {}

    @property
    def layers(self) -> LayerStack:
        """The pretrained stack."""
        return self._layers[0]

    def forward(
        self,
        input_ids: Tensor,
        lengths: Tensor,
        insert_at: Tensor,
        known: Known | None = None,
        read_at: Tensor | None = None,
    ) -> Tensor:
        """Run the stack.

        Args:
            input_ids: Token ids, padded on the right, shape (rows, tokens).
            lengths: Tokens of each row, shape (rows,).
            insert_at: Where in each row a prompt after the text goes, shape (rows,).
            known: What is known of the tokens before `insert_at`; all is computed if None.
            read_at: Where in the returned rows anything is read, shape (rows, places); None for everywhere.

        Returns:
            Last hidden states, shape (rows, tokens + length, hidden). Token i of a row stands at i + shift
            before `insert_at`, and at i + length from there on. What isn't read may hold anything.
        """
        layers, width = self.layers, input_ids.shape[1]
        if known is None:
            return layers.run(input_ids=input_ids, read_at=read_at, attention_mask=layers.mask(lengths, width))
        if width > known.hidden.shape[1]:
            return self._continue(known, input_ids, insert_at, read_at)
        if known.depth == len(layers):
            return known.hidden
        mask = layers.mask(lengths, width)
        return layers.run(known.depth, None, known.hidden, read_at, attention_mask=mask)

    def embedded(self, input_ids: Tensor, lengths: Tensor) -> Tensor | None:  # noqa: ARG002
        """Return token embeddings with the prompt among them, which are all that the stack needs of it.

        Args:
            input_ids: Token ids, padded on the right, shape (rows, tokens).
            lengths: Tokens of each row, shape (rows,).

        Returns:
            Shape (rows, tokens + length, hidden), padded on the right; None where the prompt enters elsewhere.
        """
        return self.layers.embed(input_ids)

    def past(self, rows: int) -> Any:  # noqa: ARG002
        """Return what a decoder behind the stack takes as `past_key_values`, for so many rows; None for nothing."""
        return None

    def vectors(self) -> Tensor:
        """Return the vectors among the hidden states as they are now, shape (length, hidden); (0, 0) without any."""
        return torch.empty(0, 0)

    def _enters(self, below: Tensor) -> Tensor:
        """Put the prompt in front of the new tokens; there is none here."""
        return below

    def _continue(self, known: Known, input_ids: Tensor, insert_at: Tensor, read_at: Tensor | None) -> Tensor:
        """Run only what stands behind the text: soft prompt, then the tokens of a label word; causal LMs only."""
        layers, text = self.layers, known.hidden.shape[1]
        rows, behind = len(input_ids), input_ids.shape[1] - text
        place = insert_at[:, None] + torch.arange(self.length + behind, device=input_ids.device)
        word = input_ids.gather(1, place[:, :behind]) if behind else input_ids[:, :0]
        entry = known.depth if self.entry is None or not self.length else min(self.entry, known.depth)
        first = 0 if behind else entry
        new = torch.cat([known.hidden.new_zeros(rows, self.length, known.hidden.shape[2]), layers.embed(word)], dim=1)
        for begin, end in ((first, entry), (entry, known.depth)):
            if self.length and begin == self.entry:
                new = self._enters(new)
            if begin < end:
                mask = self._mask_behind(insert_at, text, new, unseen=self.length if end == entry else 0)
                past = layers.past({layer: known.past[layer] for layer in range(begin, end)})
                new = layers.run(
                    begin, end, new, position_ids=place, attention_mask=mask, past_key_values=past, use_cache=True
                )
        whole = torch.cat([known.hidden, known.hidden.new_zeros(rows, new.shape[1], new.shape[2])], dim=1)
        whole = whole.scatter(1, place[..., None].expand_as(new), new)
        if known.depth == len(layers):
            return whole
        return self._run_above(known.depth, whole, insert_at, behind, read_at)

    def _run_above(self, first: int, hidden: Tensor, insert_at: Tensor, behind: int, read_at: Tensor | None) -> Tensor:
        """Run the layers above the frozen ones on text and all that stands behind it."""
        mask = self.layers.mask(insert_at + self.length + behind, hidden.shape[1])
        return self.layers.run(first, None, hidden, read_at, attention_mask=mask)

    def _mask_behind(self, insert_at: Tensor, text: int, new: Tensor, unseen: int) -> Tensor:
        """Let new tokens see the text and each other, the first few aside; (rows, 1, new tokens, text + new tokens)."""
        count = new.shape[1]
        seen = torch.ones(count, count, dtype=torch.bool, device=new.device).tril()
        seen[:, :unseen] = False
        before = torch.arange(text, device=new.device) < insert_at[:, None]
        return additive(
            torch.cat([before[:, None].expand(-1, count, -1), seen.expand(len(new), -1, -1)], dim=2)[:, None], new.dtype
        )


class InsertedPrompt(PromptedStack):
    """A soft prompt after the text, entering with the embeddings or at a layer.

    Args:
        layers: The pretrained stack.
        vectors: First values, shape (length, hidden).
        layer: Layer at which the prompt enters; None with the embeddings.
        network: Makes the prompt, of shape (1, length, hidden), from 0, ..., length - 1, of shape (1, length); the
            vectors themselves are trained if None.
    """

    def __init__(
        self, layers: LayerStack, vectors: Tensor, layer: int | None, network: nn.Module | None = None
    ) -> None:
        super().__init__(layers)
        self.length = len(vectors)
        self._network = network
        self.trained = (
            {"weight": nn.Parameter(vectors.clone())} if network is None else dict(network.named_parameters())
        )
        self.entry: int = layer or 0
        self._late = layer is not None

    def forward(
        self,
        input_ids: Tensor,
        lengths: Tensor,
        insert_at: Tensor,
        known: Known | None = None,
        read_at: Tensor | None = None,
    ) -> Tensor:
        """Run the stack around the prompt; see `PromptedStack`."""
        layers = self.layers
        if known is not None and layers.causal:
            return self._continue(known, input_ids, insert_at, read_at)
        slot, token = self._places(input_ids, insert_at)
        width = slot.shape[1]
        if known is None:
            hidden = layers.embed(input_ids.gather(1, token).masked_fill(slot, 0))
        else:
            hidden = known.hidden.gather(1, token[..., None].expand(-1, -1, known.hidden.shape[2]))
        if not self._late:
            hidden = torch.where(slot[..., None], self._vectors(slot, insert_at, hidden.dtype), hidden)
            mask = layers.mask(lengths + self.length, width)
            return layers.run(hidden=hidden, read_at=read_at, attention_mask=mask)
        return self._run_late(known.depth if known else 0, hidden, slot, insert_at, lengths + self.length, read_at)

    def embedded(self, input_ids: Tensor, lengths: Tensor) -> Tensor | None:
        """Return token embeddings with the prompt behind the text; None if it enters at a layer."""
        if self._late:
            return None
        slot, token = self._places(input_ids, lengths)
        hidden = self.layers.embed(input_ids.gather(1, token).masked_fill(slot, 0))
        return torch.where(slot[..., None], self._vectors(slot, lengths, hidden.dtype), hidden)

    def vectors(self) -> Tensor:
        """Return the prompt as it is now; see `PromptedStack`."""
        if self._network is None:
            return self.trained["weight"]
        vectors: Tensor = self._network(torch.arange(self.length, device=self.trained["embedding.weight"].device)[None])
        return vectors[0]

    def _enters(self, below: Tensor) -> Tensor:
        vectors = self.vectors().to(below.dtype).expand(len(below), -1, -1)
        return torch.cat([vectors, below[:, self.length :]], dim=1)

    def _run_above(self, first: int, hidden: Tensor, insert_at: Tensor, behind: int, read_at: Tensor | None) -> Tensor:
        if self.entry < first or not self._late:
            return super()._run_above(first, hidden, insert_at, behind, read_at)
        position = torch.arange(hidden.shape[1], device=hidden.device)
        offset = position - insert_at[:, None]
        slot = (offset >= 0) & (offset < self.length)
        return self._run_late(first, hidden, slot, insert_at, insert_at + self.length + behind, read_at)

    def _places(self, input_ids: Tensor, insert_at: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the prompt stands and which token stands elsewhere; both of shape (rows, tokens + length)."""
        width = input_ids.shape[1] + self.length
        position = torch.arange(width, device=input_ids.device)
        offset = position - insert_at[:, None]
        token = torch.where(offset >= self.length, position - self.length, position)
        return (offset >= 0) & (offset < self.length), token.clamp(max=input_ids.shape[1] - 1)

    def _vectors(self, slot: Tensor, insert_at: Tensor, dtype: torch.dtype) -> Tensor:
        offset = torch.arange(slot.shape[1], device=slot.device) - insert_at[:, None]
        return self.vectors()[offset.clamp(0, self.length - 1)].to(dtype)

    def _run_late(
        self,
        first: int,
        hidden: Tensor,
        slot: Tensor,
        insert_at: Tensor,
        lengths: Tensor,
        read_at: Tensor | None,
    ) -> Tensor:
        """Run from layer `first` on, with the prompt entering at its layer."""
        hidden = hidden.masked_fill(slot[..., None], 0.0)
        visible = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
        above, below = self._late_mask(visible, hidden.dtype), self._late_mask(visible & ~slot, hidden.dtype)
        with self._entering(self._vectors(slot, insert_at, hidden.dtype), slot, above):
            return self.layers.run(first, None, hidden, read_at, attention_mask=below)

    def _late_mask(self, visible: Tensor, dtype: torch.dtype) -> Tensor:
        """Turn visible keys, shape (rows, keys), into a mask of shape (rows, 1, queries, keys)."""
        width = visible.shape[1]
        allowed = visible[:, None, None, :].expand(-1, 1, width, width)
        if self.layers.causal:
            allowed = allowed & torch.ones(width, width, dtype=torch.bool, device=visible.device).tril()
        return additive(allowed, dtype)

    @contextmanager
    def _entering(self, vectors: Tensor, slot: Tensor, mask: Tensor) -> Iterator[None]:
        """Let the vectors in at their layer, and make them visible from there on."""

        def swap(index: int) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
            def hook(
                module: nn.Module,
                args: tuple[Any, ...],
                kwargs: dict[str, Any],
            ) -> tuple[tuple[Any, ...], dict[str, Any]]:
                given, device = list(args), args[0].device
                if index == self.entry:
                    given[0] = torch.where(slot[..., None].to(device), vectors.to(device), given[0])
                place = list(signature(module.forward).parameters).index("attention_mask")
                if place >= len(given):
                    return tuple(given), {**kwargs, "attention_mask": mask.to(device)}
                given[place] = mask.to(device)
                return tuple(given), kwargs

            return hook

        handles = [
            module.register_forward_pre_hook(swap(index), with_kwargs=True)
            for index, module in enumerate(self.layers.layers)
            if index >= self.entry
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a mask of what may be seen into one that is added to attention scores."""
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)

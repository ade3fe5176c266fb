"""A stack of layers that can be run in part: from one layer to another, on hidden states that are known."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from promptgraft.objectives.layers.last_layer import LastLayer
from promptgraft.objectives.layers.precision import checkpoint_layer

# Enough random hidden states to see what moves the last token's.
TRIED_ROWS, TRIED_TOKENS = 4, 16

# Keys and values of one layer, each of shape (rows, heads, tokens, size of a head).
KeysValues = tuple[Tensor, Tensor]


class LayerStack:
    """A transformer's stack: token embeddings in, last hidden states out, or any part of that way.

    Args:
        stack: The pretrained stack.
        prefix: Where in it the list of layers is.
        causal: Whether a token sees only those before it.
    """

    def __init__(self, stack: Any, prefix: str, causal: bool) -> None:
        self.stack = stack
        self.causal = causal
        parent, _, self._name = prefix.rpartition(".")
        self._parent: nn.Module = stack.get_submodule(parent) if parent else stack
        self.layers: Sequence[nn.Module] = list(stack.get_submodule(prefix))
        self.last_layer: LastLayer | None = None

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def device(self) -> torch.device:
        """Where the stack is."""
        return next(self.stack.parameters()).device  # type: ignore[no-any-return]

    def embed(self, input_ids: Tensor) -> Tensor:
        """Look up token embeddings; shape (rows, tokens, hidden)."""
        embedded: Tensor = self.stack.get_input_embeddings()(input_ids)
        return embedded

    def mask(self, lengths: Tensor, width: int) -> Tensor | None:
        """Mark the tokens of each row, shape (rows, width); behind a causal mask none sees the padding on its right."""
        return None if self.causal else (torch.arange(width, device=lengths.device) < lengths[:, None]).long()

    def skip_unread(self) -> None:
        """Let the last layer be run only where it is read; called once the stack can run."""
        size, generator = self.stack.config.hidden_size, torch.Generator().manual_seed(0)
        hidden = torch.randn(TRIED_ROWS, TRIED_TOKENS, size, generator=generator).to(self.device)
        self.last_layer = LastLayer(self.layers[-1], lambda states: self.run(len(self) - 1, hidden=states), hidden)

    def reading(self, read_at: Tensor | None) -> AbstractContextManager[None]:
        """Say where the last hidden states are read, shape (rows, places); they may be anything elsewhere."""
        return nullcontext() if self.last_layer is None else self.last_layer.reading(read_at)

    def checkpoint(self) -> None:
        """Let layers run again in the backward pass, instead of keeping what they compute."""
        for layer in self.layers[:-1]:
            checkpoint_layer(layer)
        checkpoint_layer(self.layers[-1], self.last_layer.same_again if self.last_layer else None)

    def run(
        self,
        first: int = 0,
        last: int | None = None,
        hidden: Tensor | None = None,
        read_at: Tensor | None = None,
        **inputs: Any,
    ) -> Tensor:
        """Run the layers from `first` up to `last`.

        Args:
            first: The first layer that is run.
            last: The layer before which to stop; None, or their number, for all the way to the last hidden states,
                final norm included.
            hidden: What enters layer `first`, shape (rows, tokens, hidden); needed if that is not layer 0.
            read_at: Where the last hidden states are read; see `reading`.
            **inputs: Passed on to the stack: `input_ids` or `inputs_embeds` where `first` is 0, masks, positions.

        Returns:
            What enters layer `last`, or the last hidden states; shape (rows, tokens, hidden).
        """
        last = len(self) if last is None else last
        if hidden is not None:
            inputs["inputs_embeds"] = hidden
        found: list[Tensor] = []
        with self._shortened(first, last, hidden, found), self.reading(read_at):
            output: Tensor = self.stack(**inputs).last_hidden_state
        return found[0].to(output) if found else output

    def run_with_keys(self, first: int, last: int, **inputs: Any) -> tuple[Tensor, dict[int, KeysValues]]:
        """Run a part, and keep the keys and values of its layers; see `run`.

        Returns:
            What `run` returns, and layer -> keys and values.
        """
        cache = DynamicCache(config=self.stack.config)
        output = self.run(first, last, use_cache=True, past_key_values=cache, **inputs)
        return output, {layer: (cache.layers[layer].keys, cache.layers[layer].values) for layer in range(first, last)}

    def past(self, known: Mapping[int, KeysValues]) -> DynamicCache:
        """Return keys and values in the form that `run` takes as `past_key_values`."""
        cache = DynamicCache(config=self.stack.config)
        for layer, (keys, values) in known.items():
            device = next(self.layers[layer].parameters()).device
            cache.update(keys.to(device), values.to(device), layer)
        return cache

    @contextmanager
    def _shortened(self, first: int, last: int, hidden: Tensor | None, found: list[Tensor]) -> Iterator[None]:
        """Let the stack pass by the layers outside; the number of layers and their places stay as they are."""
        if first == 0 and last == len(self):
            yield
            return
        modules: list[nn.Module] = [*self.layers]
        modules[:first] = [_Pass(layer) for layer in modules[:first]]
        modules[last:] = [_Pass(layer) for layer in modules[last:]]
        if first:
            assert hidden is not None
            modules[first - 1] = _Enter(self.layers[first - 1], hidden)
        if last < len(self):
            modules[last] = _Catch(self.layers[last], found)
        whole = self._parent._modules[self._name]
        self._parent._modules[self._name] = nn.ModuleList(modules)
        try:
            yield
        finally:
            self._parent._modules[self._name] = whole


class _StandIn(nn.Module):
    """Stands for a layer that isn't run; what a stack asks of its layers, such as their type, it answers for it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._layer = [layer]  # In a list: its weights are not the stand-in's.

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_layer"][0], name)


class _Pass(_StandIn):
    """Hands on what comes in."""

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden


class _Enter(_StandIn):
    """Hands out known hidden states, whatever comes in."""

    def __init__(self, layer: nn.Module, known: Tensor) -> None:
        super().__init__(layer)
        self._known = known

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:  # noqa: ARG002
        return self._known


class _Catch(_StandIn):
    """Keeps what comes in."""

    def __init__(self, layer: nn.Module, found: list[Tensor]) -> None:
        super().__init__(layer)
        self._found = found

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        self._found.append(hidden)
        return hidden

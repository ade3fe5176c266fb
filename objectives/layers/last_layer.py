"""The last layer of a language model, run only where it is read.

Label words are read at the end of a prompt, or at a mask. What the last layer does to all the other tokens is seen by
no one, save their keys and values: their feed-forward network, queries and attention output need not be computed.
With 28 of 30 layers frozen, forward and backward pass of the other two take 0.6 of their time (SmolLM2, 50 tokens,
one core).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

# A part that is given fewer tokens may round differently; one that mixes tokens is far off.
TOLERANCE = 0.05


class LastLayer:
    """Lets the parts of a layer that treat each token alone skip the tokens that nothing reads.

    Which parts these are is found by trying, not by their names, so that any architecture has them: a part that gives
    a token the same output in shorter company, and whose outputs at other tokens don't reach the last one's. Keys and
    values do reach it.

    Args:
        layer: The last layer.
        run: Runs it on hidden states of shape (rows, tokens, hidden); returns those that leave the stack.
        hidden: Hidden states to try it on, shape (rows, tokens, hidden).

    Attributes:
        parts: What is skipped for tokens that nothing reads.
    """

    def __init__(self, layer: nn.Module, run: Callable[[Tensor], Tensor], hidden: Tensor) -> None:
        self._read_at: Tensor | None = None
        self._width = 0  # Of what the part that is running was given.
        self.parts: list[nn.Module] = []
        with torch.no_grad():
            expected = run(hidden)[:, -1:]
            for part in self._find(layer, run, hidden, expected):
                part.register_forward_pre_hook(self._gather)
                part.register_forward_hook(self._scatter)
                self.parts.append(part)

    @contextmanager
    def reading(self, read_at: Tensor | None) -> Iterator[None]:
        """Let the layer be read at a few tokens only; elsewhere its output may be anything finite.

        Args:
            read_at: Their places in each row, shape (rows, places); None for all.
        """
        outside, self._read_at = self._read_at, read_at
        try:
            yield
        finally:
            self._read_at = outside

    def same_again(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Return the contexts of a forward pass and of its repetition, as gradient checkpointing wants them."""
        return nullcontext(), self.reading(self._read_at)

    def _find(
        self, module: nn.Module, run: Callable[[Tensor], Tensor], hidden: Tensor, expected: Tensor
    ) -> Iterator[nn.Module]:
        for part in module.children():
            if not any(parameter.ndim > 1 for parameter in part.parameters()):
                continue  # Norms cost less than picking out tokens.
            if self._is_alone(part, run, hidden, expected):
                yield part
            else:
                yield from self._find(part, run, hidden, expected)

    @staticmethod
    def _is_alone(part: nn.Module, run: Callable[[Tensor], Tensor], hidden: Tensor, expected: Tensor) -> bool:
        alone: list[bool] = []

        def keep_last(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            tensors = (*args, output)
            fits = len(tensors) == 2 and all(isinstance(t, Tensor) and t.shape[:2] == hidden.shape[:2] for t in tensors)
            alone.append(fits and _close(module.forward(args[0][:, -1:]), output[:, -1:]))
            return torch.cat([torch.zeros_like(output[:, :-1]), output[:, -1:]], dim=1) if fits else output

        with part.register_forward_hook(keep_last):
            unmoved = torch.equal(run(hidden)[:, -1:], expected)
        return alone == [True] and unmoved

    def _gather(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:  # noqa: ARG002
        if self._read_at is None:
            return None
        (hidden,) = args
        self._width = hidden.shape[1]
        return (hidden.gather(1, self._places(hidden)),)

    def _scatter(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:  # noqa: ARG002
        if self._read_at is None:
            return None
        whole = output.new_zeros(len(output), self._width, output.shape[2])
        return whole.scatter(1, self._places(output), output)

    def _places(self, hidden: Tensor) -> Tensor:
        assert self._read_at is not None
        return self._read_at.to(hidden.device)[..., None].expand(-1, -1, hidden.shape[2])


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= TOLERANCE * other.abs().max())

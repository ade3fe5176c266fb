"""A model of images that can be run in part: from one block to another, on what is known before it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from promptgraft.objectives.layers import LayerStack, checkpoint_layer


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a model of images, in the order in which they are run.

    Attributes:
        embed: Makes patches or a first map of images, shape (rows, channels, height, width).
        blocks: Layers or stages, each of which takes what the one before makes.
        finish: Makes hidden states, shape (rows, tokens, hidden), of what the last one makes.
        others: What else each block takes.
    """

    embed: Callable[[Tensor], Tensor]
    blocks: Sequence[nn.Module]
    finish: Callable[[Tensor], Tensor]
    others: tuple[Any, ...] = ()


class ImageStack(LayerStack):
    """A model of images: numbers of images in, last hidden states out, or any part of that way.

    Hidden states between two blocks have the shape (rows, tokens, hidden). Where one token is read in the end, all that
    an image has before counts as one, too, such as the maps of convolutional models, whose size changes on the way.

    Args:
        stack: The pretrained model.
        parts: Its parts.
        pixels: Returns images by their numbers, as the model reads them, on a device.
        shape: Shape of one image, on the model's device.
    """

    def __init__(
        self, stack: Any, parts: Parts, pixels: Callable[[Sequence[int], torch.device], Tensor], shape: tuple[int, ...]
    ) -> None:
        self.stack = stack
        self.causal = False
        self.layers = list(parts.blocks)
        self.last_layer = None
        self._parts = parts
        self._pixels = pixels
        self._shapes: list[tuple[int, ...]] = []
        with torch.no_grad():
            state = parts.embed(torch.zeros(1, *shape, device=self.device))
            for block in self.layers:
                self._shapes.append(tuple(state.shape[1:]))
                state = block(state, *parts.others)
            self._shapes.append(tuple(state.shape[1:]))
            _, self.tokens, self.width = map(int, parts.finish(state).shape)

    def embed(self, input_ids: Tensor) -> Tensor:
        """Look images up and embed them; shape (rows, tokens, hidden).

        Args:
            input_ids: Ids of whole images, as `ImageEncoder.image_ids` makes them; shape (rows, tokens).
        """
        return self.embed_pixels(self.pixels(input_ids))

    def pixels(self, input_ids: Tensor) -> Tensor:
        """Look images up; shape (rows, channels, height, width). See `embed`."""
        return self._pixels(input_ids[:, 0].tolist(), self.device)

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """Embed images, shape (rows, channels, height, width); see `embed`."""
        return self._folded(self._parts.embed(pixels))

    def mask(self, lengths: Tensor, width: int) -> Tensor | None:  # noqa: ARG002
        """Return no mask: all images have as many tokens."""
        return None

    def checkpoint(self) -> None:
        """Let blocks run again in the backward pass, instead of keeping what they compute."""
        for block in self.layers:
            checkpoint_layer(block)

    def run(
        self,
        first: int = 0,
        last: int | None = None,
        hidden: Tensor | None = None,
        read_at: Tensor | None = None,  # noqa: ARG002
        **inputs: Any,
    ) -> Tensor:
        """Run the blocks from `first` up to `last`; see `LayerStack`."""
        last = len(self) if last is None else last
        state = self.embed(inputs["input_ids"]) if hidden is None else hidden
        state = state.reshape(-1, *self._shapes[first]) if self.tokens == 1 else state
        for block in self.layers[first:last]:
            state = block(state, *self._parts.others)
        return self._parts.finish(state) if last == len(self) else self._folded(state)

    def _folded(self, state: Tensor) -> Tensor:
        return state.flatten(1)[:, None] if self.tokens == 1 else state


class Onward(nn.Module):
    """Runs a stage on the last of the maps that come, all of them flat beside each other.

    Args:
        stage: The stage.
        shape: Shape of the last map.
        keeps: Whether that map goes on, too, as those before it do, in front of what the stage makes.
    """

    def __init__(self, stage: nn.Module, shape: tuple[int, ...], *, keeps: bool) -> None:
        super().__init__()
        self.stage, self.shape, self.keeps = stage, shape, keeps

    def forward(self, state: Tensor) -> Tensor:
        """Return the maps that go on, shape (rows, numbers)."""
        before, last = state.tensor_split([state.shape[1] - math.prod(self.shape)], dim=1)
        made: Tensor = self.stage(last.reshape(-1, *self.shape)).flatten(1)
        return torch.cat([state if self.keeps else before, made], dim=1)


def maps_of(state: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Return the maps that lie flat beside each other, each of shape (rows, channels, height, width)."""
    parts = torch.split(state, [math.prod(shape) for shape in shapes], dim=1)
    return [own.reshape(-1, *shape) for own, shape in zip(parts, shapes, strict=True)]

"""Prompts of images: vectors that are trained among the patches, and a frame of pixels."""

import torch
from torch import Tensor, nn

from promptgraft.objectives.layers import Known, LayerStack, PromptedStack
from promptgraft.objectives.vision.image_stack import ImageStack
from promptgraft.spaces import InvalidInputError


class VisualPrompt(PromptedStack):
    """Vectors that are trained among an image's patches, from one layer on (visual prompt tuning, shallow).

    Behind the embeddings a vision transformer doesn't know in which order its tokens are. So the vectors stand behind
    the patches, which is the same as between the class token and the patches.

    Args:
        layers: The pretrained model.
        vectors: First values, shape (length, hidden).
        layer: Layer that they enter; 0 with the embeddings.

    Source: Jia et al. 2022, arXiv:2203.12119.
    """

    def __init__(self, layers: LayerStack, vectors: Tensor, layer: int) -> None:
        super().__init__(layers)
        self.length = len(vectors)
        self.entry: int = layer
        self.trained = {"weight": nn.Parameter(vectors.clone())}

    def forward(
        self,
        input_ids: Tensor,
        lengths: Tensor,  # noqa: ARG002
        insert_at: Tensor,  # noqa: ARG002
        known: Known | None = None,
        read_at: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Run the model around the vectors; see `PromptedStack`."""
        layers = self.layers
        depth, hidden = (0, layers.embed(input_ids)) if known is None else (known.depth, known.hidden)
        if depth < self.entry:
            hidden = layers.run(depth, self.entry, hidden)
        vectors = self.vectors().to(hidden.dtype).expand(hidden.shape[0], -1, -1)
        return layers.run(self.entry, None, torch.cat([hidden, vectors], dim=1))

    def vectors(self) -> Tensor:
        """Return the vectors as they are now; see `PromptedStack`."""
        return self.trained["weight"]


class Frame(PromptedStack):
    """What is trained to be added to the outermost pixels of each image, as the model reads them.

    Each side is a weight of its own, top and bottom with the corners. They begin with zeros, so that an untrained frame
    changes nothing. Everything that the model computes depends on them, frozen or not.

    Args:
        layers: The pretrained model.
        width: Of the frame, in pixels.
        shape: Channels, height and width of an image.

    Raises:
        InvalidInputError: If nothing of an image would be left within it.

    Source: Bahng et al. 2022, arXiv:2203.17274, who begin with random values.
    """

    def __init__(self, layers: ImageStack, width: int, shape: tuple[int, int, int]) -> None:
        super().__init__(layers)
        self._model = layers
        channels, high, wide = shape
        if 2 * width >= min(high, wide):
            raise InvalidInputError(
                f"soft_prompt.length {width} is the width of a frame, and the model reads images of {high} x {wide} "
                f"pixels, of which nothing would be left within it; use at most {(min(high, wide) - 1) // 2}"
            )
        self.entry: int = 0
        self._within = (channels, high - 2 * width, wide - 2 * width)
        sizes = {"top": (width, wide), "left": (high - 2 * width, width)}
        sizes |= {"bottom": sizes["top"], "right": sizes["left"]}
        self.trained = {
            side: nn.Parameter(torch.zeros(channels, *size, device=layers.device)) for side, size in sizes.items()
        }

    def forward(
        self,
        input_ids: Tensor,
        lengths: Tensor,  # noqa: ARG002
        insert_at: Tensor,  # noqa: ARG002
        known: Known | None = None,
        read_at: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Run the model on framed images; what is known is what the embeddings make of these. See `PromptedStack`."""
        hidden = self.embed_pixels(self._model.pixels(input_ids)) if known is None else known.hidden
        return self.layers.run(0, None, hidden)

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """Embed images, shape (rows, channels, height, width), with the frame on them; see `ImageStack`."""
        own = self.trained
        middle = torch.cat([own["left"], own["left"].new_zeros(self._within), own["right"]], dim=2)
        return self._model.embed_pixels(pixels + torch.cat([own["top"], middle, own["bottom"]], dim=1))

"""Vision transformers: patches as tokens, layers that are frozen from below, visual prompts, and LoRA."""

import math

import torch
from torch import Tensor, nn

from promptgraft.objectives.backbones import BACKBONES
from promptgraft.objectives.vision.image_encoder import ImageEncoder
from promptgraft.objectives.vision.image_stack import Parts


@BACKBONES.register("vit")
class VisionTransformer(ImageEncoder):
    """A vision transformer, such as ViT, DeiT or DINOv2."""

    def _parts(self) -> Parts:
        if self.model.config.model_type not in _INTERPOLATING:
            self.check_size(self.model.config.image_size)
        layers = self.stack.encoder.layer if hasattr(self.stack, "encoder") else self.stack.layers
        return Parts(self.stack.embeddings, list(layers), self.stack.layernorm)

    def _first_vectors(self, length: int, seed: int) -> Tensor:
        """Draw from a uniform distribution as wide as Xavier's for the embedding of patches; Jia et al. 2022."""
        weight = next(own for own in self.stack.embeddings.modules() if isinstance(own, nn.Conv2d)).weight
        inputs, hidden = weight[0].numel(), len(weight)
        generator = torch.Generator().manual_seed(seed)
        return (torch.rand(length, hidden, generator=generator) * 2 - 1) * math.sqrt(6 / (inputs + hidden))


# Models that fit their positions to the size of an image.
_INTERPOLATING = ("dinov2", "dinov2_with_registers")

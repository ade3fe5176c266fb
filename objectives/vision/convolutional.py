"""Convolutional models: stages that are frozen from below, and features that are means over the last map."""

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from promptgraft.objectives.backbones import BACKBONES
from promptgraft.objectives.vision.image_encoder import ImageEncoder, mean_of_map
from promptgraft.objectives.vision.image_stack import Parts

# Of MobileNetV2's blocks, those that have as many channels.
_MOBILENET_STAGES = (2, 3, 4, 3, 3, 1)


@BACKBONES.register("convolutional")
class Convolutional(ImageEncoder):
    """A convolutional model, such as ResNet, ConvNeXt, EfficientNet, MobileNetV2 or MobileViT."""

    def _parts(self) -> Parts:
        parts = _PARTS[self.model.config.model_type](self.stack)
        layers = self.spec.layers
        if layers is None or layers == len(parts.blocks):
            return parts
        return Parts(parts.embed, parts.blocks[:layers], mean_of_map)

    def _shorten(self, layers: int) -> None:  # noqa: ARG002
        """Leave out all but the lowest stages, and what stands behind the last one."""
        parts = self._parts()
        used = (own.parameters() for own in (parts.embed, *parts.blocks) if isinstance(own, nn.Module))
        _leave_out(self.stack, {id(weight) for weights in used for weight in weights})


def _resnet(stack: Any) -> Parts:
    return Parts(stack.embedder, list(stack.encoder.stages), mean_of_map)


def _convnext(stack: Any) -> Parts:
    def finish(state: Tensor) -> Tensor:
        normed: Tensor = stack.layernorm(mean_of_map(state))
        return normed

    return Parts(stack.embeddings, list(stack.encoder.stages), finish)


def _efficientnet(stack: Any) -> Parts:
    encoder, config = stack.encoder, stack.config
    pooled = _largest_of_map if config.pooling_type == "max" else mean_of_map

    def finish(state: Tensor) -> Tensor:
        return pooled(encoder.top_activation(encoder.top_bn(encoder.top_conv(state))))

    repeats = [-(-repeat * config.depth_coefficient // 1) for repeat in config.num_block_repeats]
    return Parts(stack.embeddings, list(_grouped(encoder.blocks, [int(repeat) for repeat in repeats])), finish)


def _mobilenet_v2(stack: Any) -> Parts:
    return Parts(
        stack.conv_stem,
        list(_grouped(stack.layer, _MOBILENET_STAGES)),
        lambda state: mean_of_map(stack.conv_1x1(state)),
    )


def _mobilevit(stack: Any) -> Parts:
    return Parts(stack.conv_stem, list(stack.encoder.layer), lambda state: mean_of_map(stack.conv_1x1_exp(state)))


def _leave_out(module: nn.Module, used: Collection[int]) -> None:
    """Put nothing in the place of parts none of whose weights is used, by their ids."""
    for name, part in module.named_children():
        weights = {id(own) for own in part.parameters()}
        if weights and weights.isdisjoint(used):
            setattr(module, name, nn.Identity())
        else:
            _leave_out(part, used)


def _grouped(blocks: Sequence[nn.Module], sizes: Sequence[int]) -> Iterator[nn.Module]:
    """Put blocks that follow each other into stages of given sizes."""
    left = iter(blocks)
    for size in sizes:
        yield nn.Sequential(*islice(left, size))


def _largest_of_map(state: Tensor) -> Tensor:
    return torch.flatten(state, 2).amax(dim=2)[:, None]


_PARTS = {
    "convnext": _convnext,
    "convnextv2": _convnext,
    "efficientnet": _efficientnet,
    "mobilenet_v2": _mobilenet_v2,
    "mobilevit": _mobilevit,
    "regnet": _resnet,
    "resnet": _resnet,
}

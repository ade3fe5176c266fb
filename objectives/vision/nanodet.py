"""NanoDet, a small convolutional detector: each cell of three maps finds a box; in transformers' form.

Source: RangiLyu 2021, github.com/RangiLyu/nanodet, the variant with custom CSP stages (NanoDet-g).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForObjectDetection, PreTrainedConfig, PreTrainedModel
from transformers.models.yolos.modeling_yolos import YolosObjectDetectionOutput

from promptgraft.objectives.backbones import NANODET

# Of the first map that has cells; each further one has half as many each way.
FIRST_STRIDE = 8
_SLOPE = 0.1


class NanoDetConfig(PreTrainedConfig):  # type: ignore[misc]
    """The sizes of a NanoDet, in transformers' form.

    Args:
        image_size: Height and width of images.
        widths: Channels within each stage, which hands on twice as many.
        depths: Pairs of convolutions within each stage. All stages but the first have a map of cells.
        hidden_size: Channels of these maps, and features of each cell.
        bins: Numbers, in strides, of which the distance of a box's side is the mean: 0, 1, ..., bins - 1.
        **kwargs: What transformers keeps in every configuration.
    """

    model_type = NANODET

    def __init__(
        self,
        image_size: Sequence[int] = (416, 416),
        widths: Sequence[int] = (32, 64, 128, 256),
        depths: Sequence[int] = (1, 2, 2, 3),
        hidden_size: int = 128,
        bins: int = 11,
        **kwargs: Any,
    ) -> None:
        self.image_size = list(image_size)
        self.widths = list(widths)
        self.depths = list(depths)
        self.num_hidden_layers = len(self.depths)
        self.hidden_size = hidden_size
        self.bins = bins
        super().__init__(**{name: own for name, own in kwargs.items() if name != "num_hidden_layers"})


class Convolution(nn.Module):
    """A convolution and a leaky rectifier.

    Args:
        entering: Channels that enter.
        leaving: Channels that leave.
        stride: Cells that are one cell afterwards, each way.
    """

    def __init__(self, entering: int, leaving: int, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(entering, leaving, 3, stride, 1)

    def forward(self, state: Tensor) -> Tensor:
        """Return a map of shape (rows, leaving, height, width)."""
        return functional.leaky_relu(self.convolution(state), _SLOPE)


class Stem(nn.Module):
    """What makes the first map of images, a quarter as wide and high.

    Args:
        width: Its channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = Convolution(3, width, stride=2)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return a map of shape (rows, width, height / 4, width / 4)."""
        return functional.max_pool2d(self.enter(pixels), 3, 2, 1)


class Pair(nn.Module):
    """Two convolutions of half the width, whose maps stand beside each other afterwards.

    Args:
        width: Channels that enter and leave.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = Convolution(width, width // 2), Convolution(width // 2, width // 2)

    def forward(self, state: Tensor) -> Tensor:
        """Return a map of the same shape."""
        first = self.first(state)
        return torch.cat([self.second(first), first], dim=1)


class Stage(nn.Module):
    """A stage: pairs of convolutions, and a way around them (CSPNet, Wang et al. 2020, arXiv:1911.11929).

    Args:
        entering: Channels that enter.
        width: Channels within, half of those that leave.
        depth: Number of pairs.
        stride: Cells that are one cell afterwards, each way.
    """

    def __init__(self, entering: int, width: int, depth: int, stride: int) -> None:
        super().__init__()
        self.enter = Convolution(entering, width, stride)
        self.pairs = nn.Sequential(*(Pair(width) for _ in range(depth)))
        self.leave = Convolution(width, width)

    def forward(self, state: Tensor) -> Tensor:
        """Return a map of shape (rows, 2 * width, height / stride, width / stride)."""
        entered = self.enter(state)
        return torch.cat([self.leave(self.pairs(entered)), entered], dim=1)


class Neck(nn.Module):
    """What makes features of each cell: maps are added downwards and upwards, and go through a convolution each.

    Args:
        entering: Channels of each map.
        width: Channels that leave.
    """

    def __init__(self, entering: Sequence[int], width: int) -> None:
        super().__init__()
        self.narrow = nn.ModuleList(nn.Conv2d(own, width, 1) for own in entering)
        self.leave = nn.ModuleList(Convolution(width, width) for _ in entering)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return maps of as many channels, the finest first."""
        found = [narrow(own) for narrow, own in zip(self.narrow, maps, strict=True)]
        for place in reversed(range(len(found) - 1)):
            found[place] = found[place] + _resized(found[place + 1], found[place])
        for place in range(1, len(found)):
            found[place] = found[place] + _resized(found[place - 1], found[place])
        return [leave(own) for leave, own in zip(self.leave, found, strict=True)]


class Boxes(nn.Module):
    """Makes a box of each cell's features: how far each of its sides is from the cell's centre.

    Args:
        config: The sizes.
        maps: Number of maps.
    """

    def __init__(self, config: NanoDetConfig, maps: int) -> None:
        super().__init__()
        self.bins, self.size = config.bins, tuple(config.image_size)
        self.distances = nn.ModuleList(nn.Conv2d(config.hidden_size, 4 * config.bins, 1) for _ in range(maps))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return centre, width and height of each box as shares of the image; shape (rows, cells, 4)."""
        pairs = zip(self.distances, maps, strict=True)
        found = [self._of(place, distances(own)) for place, (distances, own) in enumerate(pairs)]
        return torch.cat(found, dim=1)

    def _of(self, place: int, scores: Tensor) -> Tensor:
        stride, (high, wide) = FIRST_STRIDE * 2**place, scores.shape[2:]
        bins = torch.arange(self.bins, device=scores.device, dtype=scores.dtype)
        chances = scores.reshape(-1, 4, self.bins, high, wide).softmax(dim=2)
        left, top, right, bottom = (torch.einsum("rsbhw,b->rshw", chances, bins) * stride).unbind(dim=1)
        x = (torch.arange(wide, device=scores.device, dtype=scores.dtype) + 0.5) * stride
        y = (torch.arange(high, device=scores.device, dtype=scores.dtype)[:, None] + 0.5) * stride
        height, width = self.size
        found = [
            (x + (right - left) / 2) / width,
            (y + (bottom - top) / 2) / height,
            (left + right) / width,
            (top + bottom) / height,
        ]
        return torch.stack(found, dim=-1).flatten(1, 2)


class NanoDetForObjectDetection(PreTrainedModel):  # type: ignore[misc]
    """A NanoDet: scores of labels, and a box, of each cell.

    Args:
        config: The sizes.
    """

    config_class = NanoDetConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"

    def __init__(self, config: NanoDetConfig) -> None:
        super().__init__(config)
        self.stem = Stem(config.widths[0])
        entering = [config.widths[0], *(2 * width for width in config.widths)]
        self.stages = nn.ModuleList(
            Stage(entering[place], width, depth, 2 if place else 1)
            for place, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True))
        )
        self.neck = Neck(entering[2:], config.hidden_size)
        self.bbox_predictor = Boxes(config, len(entering) - 2)
        self.class_labels_classifier = nn.ModuleList(
            nn.Conv2d(config.hidden_size, config.num_labels, 1) for _ in entering[2:]
        )
        self.post_init()

    def forward(self, pixel_values: Tensor, **_: Any) -> YolosObjectDetectionOutput:
        """Find boxes in images of shape (rows, 3, height, width); logits are those of a sigmoid for each label."""
        state, maps = self.stem(pixel_values), []
        for stage in self.stages:
            state = stage(state)
            maps.append(state)
        maps = self.neck(maps[1:])
        pairs = zip(self.class_labels_classifier, maps, strict=True)
        scores = [classifier(own).flatten(2).transpose(1, 2) for classifier, own in pairs]
        return YolosObjectDetectionOutput(logits=torch.cat(scores, dim=1), pred_boxes=self.bbox_predictor(maps))


def _resized(state: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(state, size=like.shape[2:], mode="bilinear", align_corners=False)


AutoConfig.register(NANODET, NanoDetConfig)
AutoModelForObjectDetection.register(NanoDetConfig, NanoDetForObjectDetection)

"""Models that find the class of each pixel: stages that are frozen from below, one map of them, and a linear head."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSemanticSegmentation

from promptgraft.objectives.backbones import BACKBONES, Batch, EncoderScorer, LabelScorer, Pool
from promptgraft.objectives.layers import PromptedStack
from promptgraft.objectives.vision.image_encoder import ImageEncoder
from promptgraft.objectives.vision.image_stack import Parts
from promptgraft.spaces import InvalidInputError, Template

# What makes logits of maps, by `model_type`.
_HEADS = {"mobilevit": "segmentation_head", "segformer": "decode_head"}


@BACKBONES.register("segmentation")
class Segmentation(ImageEncoder):
    """A model of semantic segmentation: SegFormer or MobileViT, without the convolution that scores its own labels.

    Its blocks are the stages of the encoder, and what makes one map of all their maps, or of the last one. That map has
    a cell for some pixels each way; a head scores each cell, as a convolution of 1 x 1 does, and the scores are
    interpolated.
    """

    auto_class = AutoModelForSemanticSegmentation

    @property
    def hidden_size(self) -> int:
        """Numbers of each cell; see `ImageEncoder`."""
        return int(self._map_shape[0])

    @property
    def cells(self) -> int:
        """Cells of the map that a head scores."""
        return prod(self._map_shape[1:])

    def _find_stack(self) -> Any:
        self._head = getattr(self.model, _HEADS[self.model.config.model_type])
        self._head.classifier = nn.Identity()  # Its labels are others.
        return self.model

    def _parts(self) -> Parts:
        model = self.model
        if model.config.model_type == "mobilevit":
            embed, stages = model.mobilevit.conv_stem, list(model.mobilevit.encoder.layer)
            last = self._shapes(embed, stages)[-1:]  # Its head reads no other.
            return Parts(embed, [*stages, self._map_of(last)], lambda state: state)
        stages = list(model.segformer.stages)
        _, *made = self._shapes(nn.Identity(), stages)
        blocks = [_Stage(stage, shape) for stage, shape in zip(stages, [None, *made[:-1]], strict=True)]
        return Parts(lambda pixels: pixels, [*blocks, self._map_of(made)], lambda state: state)

    def _shapes(self, embed: nn.Module, stages: Sequence[nn.Module]) -> list[torch.Size]:
        """Return the shape of the map that each stage reads, and of the one that the last one makes."""
        with torch.no_grad():
            maps = [embed(torch.zeros(1, *self.pixels.shape, device=self.device))]
            for stage in stages:
                maps.append(stage(maps[-1]))
        return [own.shape[1:] for own in maps]

    def _map_of(self, made: Sequence[torch.Size]) -> "_MapOfAll":
        """Return what makes the map that is read of those that stages made."""
        if not getattr(self.model.config, "reshape_last_stage", True) or made[0][1] != made[0][2]:
            raise InvalidInputError(
                f"{self.spec.path}: its image processor makes images of {self.pixels.shape[1]} x "
                f"{self.pixels.shape[2]} pixels, but square ones are needed; set size in preprocessor_config.json so, "
                "and reshape_last_stage in config.json, where it is there, to true"
            )
        with torch.no_grad():
            found = self._head([torch.zeros(1, *shape, device=self.device) for shape in made])
        self._map_shape = tuple(found.shape[1:])
        return _MapOfAll(self._head, made)

    def _scorer(self, template: Template, labels: Sequence[str], weight: Tensor, head: str, pool: Pool) -> LabelScorer:
        del template
        if head != "linear":
            raise InvalidInputError(f"head {head!r} doesn't score cells, which {self.family!r} models make; use linear")
        return CellScorer(labels, weight, pool, self)


class CellScorer(EncoderScorer):
    """Scores each cell of an image's map by a linear head.

    Args:
        labels: Labels of both tasks.
        weight: First values, shape (len(labels), hidden).
        pool: Not used: nothing is pooled.
        backbone: Makes maps of images, and masks of their size.
    """

    def __init__(self, labels: Sequence[str], weight: Tensor, pool: Pool, backbone: Segmentation) -> None:
        super().__init__(None, labels, weight, "linear", pool)
        self.cells = backbone.cells
        self._pixels = backbone.pixels

    def embed(self, stack: PromptedStack, batch: Batch) -> Tensor:
        """Return what the model makes of each cell, shape (rows, cells, hidden); see `EmbeddingScorer`."""
        hidden = stack(batch.input_ids, batch.lengths, batch.lengths, batch.known)
        cells: Tensor = hidden.reshape(len(hidden), self.cells, -1)
        return cells

    def encode_answer(self, answer: Any) -> str:
        """Return a mask in the size of the images that the model reads; see `LabelScorer`."""
        return self._pixels.mask(answer)


class _Stage(nn.Module):
    """Runs a stage of the encoder on the last of the maps so far, and puts what it makes behind them.

    All maps are flat, one behind the other, shape (rows, 1, numbers): the head reads all of them.
    """

    def __init__(self, stage: nn.Module, shape: torch.Size | None) -> None:
        """Take a stage, and the shape of the map that it reads; None for images, which the head doesn't read."""
        super().__init__()
        self.stage = stage
        self._shape = shape

    def forward(self, state: Tensor) -> Tensor:
        if self._shape is None:
            return self.stage(state).flatten(1)[:, None]  # type: ignore[no-any-return]
        last = state[:, 0, -prod(self._shape) :].reshape(len(state), *self._shape)
        return torch.cat([state, self.stage(last).flatten(1)[:, None]], dim=2)


class _MapOfAll(nn.Module):
    """Makes of the maps of stages one whose cells are read, shape (rows, 1, cells * hidden), cell after cell."""

    def __init__(self, head: nn.Module, shapes: Sequence[torch.Size]) -> None:
        super().__init__()
        self.head = head
        self._shapes = shapes

    def forward(self, state: Tensor) -> Tensor:
        flat = torch.split(state.flatten(1), [prod(shape) for shape in self._shapes], dim=1)
        maps = [own.reshape(len(state), *shape) for own, shape in zip(flat, self._shapes, strict=True)]
        found: Tensor = self.head(maps)
        return found.flatten(2).transpose(1, 2).flatten(1)[:, None]

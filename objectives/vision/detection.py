"""Models that find boxes: transformers with queries, frozen from below, and a linear head."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForObjectDetection

from promptgraft.objectives.backbones import BACKBONES, NANODET, RT_DETR, Batch, EncoderScorer, LabelScorer, Pool
from promptgraft.objectives.layers import PromptedStack
from promptgraft.objectives.vision.image_encoder import ImageEncoder
from promptgraft.objectives.vision.image_stack import Onward, Parts, maps_of
from promptgraft.objectives.vision.nanodet import NanoDetForObjectDetection
from promptgraft.objectives.vision.rt_detr import parts_of_rt_detr, take_labels_out
from promptgraft.spaces import InvalidInputError, Template

# Numbers of a box: centre, width and height.
BOX = 4
# Of a NanoDet's cells, those that are handed on, out of the surest; those of them that overlap a surer one by more.
HANDED_ON, SUREST, OVERLAP = 50, 100, 0.5
# First logit of no object, where most cells are around none; and what is added to it around what was found already.
NOTHING, SUPPRESSED = 3.0, 30.0


@BACKBONES.register("detection")
class Detection(ImageEncoder):
    """A model of object detection: YOLOS, DETR, RT-DETR or NanoDet, without the matrix that scores its own labels.

    Its blocks are the layers of the transformer, DETR's encoder, or the stages of RT-DETR and NanoDet, and what makes a
    box and features of each query, or cell: of both DETRs the decoder, too, and of NanoDet the neck. RT-DETR's encoder
    is a block by itself. A head scores the features.
    """

    auto_class = AutoModelForObjectDetection

    @property
    def hidden_size(self) -> int:
        """Width of a query's features; see `ImageEncoder`."""
        return int(self.model.config.hidden_size)

    @property
    def queries(self) -> int:
        """Number of boxes that are found in each image, most of them around nothing."""
        config = self.model.config
        if config.model_type == NANODET:
            return self.layers.width // (self.hidden_size + BOX)
        return int(config.num_detection_tokens if config.model_type == "yolos" else config.num_queries)

    def _find_stack(self) -> Any:
        if self.model.config.model_type in ("detr", NANODET):
            self.model.class_labels_classifier = nn.Identity()  # Its labels are others.
        elif self.model.config.model_type in RT_DETR:
            take_labels_out(self.model)
        else:
            self.model.class_labels_classifier.layers[-1] = nn.Identity()
        return self.model

    def _parts(self) -> Parts:
        if self.model.config.model_type == "detr":
            return self._parts_of_detr()
        if self.model.config.model_type == NANODET:
            return self._parts_of_nanodet()
        if self.model.config.model_type in RT_DETR:
            return parts_of_rt_detr(self.model, self.spec.path, self.pixels.shape)
        config, vit = self.model.config, self.model.vit
        if config.use_mid_position_embeddings:
            raise InvalidInputError(
                f"{self.spec.path}: the model adds positions in every layer (use_mid_position_embeddings in its "
                "config.json), which isn't supported; use one without"
            )
        return Parts(vit.embeddings, [*vit.encoder.layer, _Found(self.model)], lambda state: state)

    def _parts_of_detr(self) -> Parts:
        """Return the parts of a DETR; its layers all get the positions of the map that its convolutions make."""
        detr, config = self.model.model, self.model.config

        def convolved(pixels: Tensor) -> Tensor:
            everywhere = torch.ones_like(pixels[:, 0])
            return detr.input_projection(detr.backbone(pixels, everywhere)[-1][0])  # type: ignore[no-any-return]

        def embed(pixels: Tensor) -> Tensor:
            tokens = convolved(pixels).flatten(2).transpose(1, 2)
            return nn.functional.dropout(tokens, config.dropout, detr.encoder.training)

        with torch.no_grad():
            made = convolved(torch.zeros(1, *self.pixels.shape, device=self.device))
            positions = detr.position_embedding(shape=made.shape, device=made.device, dtype=made.dtype)
        others = (None, positions.flatten(2).transpose(1, 2))
        blocks = [*detr.encoder.layers, _FoundByDecoder(self.model)]
        return Parts(embed, blocks, lambda state: state.flatten(1)[:, None], others)

    def _parts_of_nanodet(self) -> Parts:
        """Return the parts of a NanoDet; between its stages go the maps of those before, too, which its neck reads."""
        self.check_size(self.model.config.image_size)
        blocks, shapes = list[nn.Module](), list[tuple[int, ...]]()
        with torch.no_grad():
            made = self.model.stem(torch.zeros(1, *self.pixels.shape, device=self.device))
            for place, stage in enumerate(self.model.stages):
                blocks.append(Onward(stage, tuple(made.shape[1:]), keeps=place > 1))
                made = stage(made)
                shapes.append(tuple(made.shape[1:]))
        blocks.append(_FoundByCells(self.model, shapes[1:]))

        def embed(pixels: Tensor) -> Tensor:
            flat: Tensor = self.model.stem(pixels).flatten(1)
            return flat

        return Parts(embed, blocks, lambda state: state.flatten(1)[:, None])

    def _scorer(self, template: Template, labels: Sequence[str], weight: Tensor, head: str, pool: Pool) -> LabelScorer:
        del template
        if head != "linear":
            raise InvalidInputError(f"head {head!r} doesn't score boxes, which {self.family!r} models find; use linear")
        scorer = CellScorer if self.model.config.model_type == NANODET else BoxScorer
        return scorer(labels, weight, pool, self.queries)


class BoxScorer(EncoderScorer):
    """Scores each query's labels, and that there is no object, by a linear head, and hands on its box.

    Args:
        labels: Labels of both tasks.
        weight: First values, shape (len(labels), hidden).
        pool: Not used: nothing is pooled.
        queries: Number of boxes of each image.
    """

    def __init__(self, labels: Sequence[str], weight: Tensor, pool: Pool, queries: int) -> None:
        super().__init__(None, labels, weight, "linear", pool)
        self.queries, self.cells, self.more = queries, queries, 1 + BOX
        self.nothing = nn.Parameter(torch.zeros(1, weight.shape[1], device=weight.device))
        self.nothing_bias = nn.Parameter(torch.zeros(1, device=weight.device))

    def forward(self, stack: PromptedStack, batch: Batch, labels: Sequence[str]) -> Tensor:
        """Return logits of the labels and of no object, and the box; shape (rows, queries, len(labels) + 5)."""
        found, rows = self.embed(stack, batch), self.places(labels)
        weight, bias = torch.cat([self.weight[rows], self.nothing]), self._biases(rows)
        return torch.cat([found[..., :-BOX] @ weight.T + bias, found[..., -BOX:]], dim=-1)

    def embed(self, stack: PromptedStack, batch: Batch) -> Tensor:
        """Return features and box of each query, shape (rows, queries, hidden + 4); see `EmbeddingScorer`."""
        hidden: Tensor = stack(batch.input_ids, batch.lengths, batch.lengths, batch.known)
        return hidden.reshape(len(hidden), -1, self.weight.shape[1] + BOX)[:, -self.queries :]

    def _biases(self, rows: Tensor) -> Tensor:
        assert self.bias is not None, "a linear head has biases"
        return torch.cat([self.bias[rows], self.nothing_bias])


class CellScorer(BoxScorer):
    """Scores cells as `BoxScorer` does queries, and hands on the surest, but one of those that overlap.

    Cells beside each other find the same box. Training sees what is handed on, too: so no cell has to learn that
    another one is surer, and few boxes are matched.

    Args:
        labels: Labels of both tasks.
        weight: First values, shape (len(labels), hidden).
        pool: Not used: nothing is pooled.
        queries: Number of cells of each image.
    """

    def __init__(self, labels: Sequence[str], weight: Tensor, pool: Pool, queries: int) -> None:
        super().__init__(labels, weight, pool, queries)
        self.cells = min(queries, HANDED_ON)
        with torch.no_grad():
            self.nothing_bias.add_(NOTHING)

    def forward(self, stack: PromptedStack, batch: Batch, labels: Sequence[str]) -> Tensor:
        """Return logits and box of cells in their order, shape (rows, `cells`, len(labels) + 5); see `BoxScorer`."""
        outputs = super().forward(stack, batch, labels)
        with torch.no_grad():
            nothing = torch.zeros_like(outputs[..., len(labels)])
            scores = outputs[..., : len(labels)].amax(dim=2) - outputs[..., len(labels)]
            scores, surest = scores.topk(min(self.queries, SUREST), dim=1)
            found_before = SUPPRESSED * _overlapped(_taken(outputs[..., -BOX:], surest)).to(scores.dtype)
            nothing.scatter_(1, surest, found_before)
            places = surest.gather(1, (scores - found_before).topk(self.cells, dim=1).indices).sort(dim=1).values
        added = nn.functional.pad(nothing[..., None], (len(labels), BOX))
        return _taken(outputs + added, places)


class _Found(nn.Module):
    """Makes features and a box of every token, of which those of the queries are read; (rows, tokens, hidden + 4)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.norm, self.features, self.boxes = model.vit.layernorm, model.class_labels_classifier, model.bbox_predictor

    def forward(self, state: Tensor) -> Tensor:
        normed = self.norm(state)
        return torch.cat([self.features(normed), self.boxes(normed).sigmoid()], dim=-1)


class _FoundByDecoder(nn.Module):
    """Makes features and a box of each of DETR's queries, shape (rows, queries, hidden + 4)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder, self.boxes = model.model.decoder, model.bbox_predictor
        self.queries = model.model.query_position_embeddings

    def forward(self, state: Tensor, mask: None, positions: Tensor) -> Tensor:  # noqa: ARG002
        queries = self.queries.weight.expand(len(state), -1, -1)
        found = self.decoder(
            inputs_embeds=torch.zeros_like(queries),
            spatial_position_embeddings=positions,
            object_queries_position_embeddings=queries,
            encoder_hidden_states=state,
        ).last_hidden_state
        return torch.cat([found, self.boxes(found).sigmoid()], dim=-1)


class _FoundByCells(nn.Module):
    """Makes features and a box of each cell of NanoDet's maps, shape (rows, cells, hidden + 4).

    Args:
        model: The model.
        shapes: Shape of each map; they come flat beside each other.
    """

    def __init__(self, model: NanoDetForObjectDetection, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.neck, self.boxes, self.shapes = model.neck, model.bbox_predictor, list(shapes)

    def forward(self, state: Tensor) -> Tensor:
        maps = self.neck(maps_of(state, self.shapes))
        features = torch.cat([own.flatten(2).transpose(1, 2) for own in maps], dim=1)
        return torch.cat([features, self.boxes(maps)], dim=-1)


def _taken(values: Tensor, places: Tensor) -> Tensor:
    """Return some cells of each row, shape (rows, places, numbers)."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[2]))


def _overlapped(boxes: Tensor) -> Tensor:
    """Whether a surer box, itself not overlapped, overlaps a box by more than `OVERLAP`; shape (rows, boxes).

    Args:
        boxes: Centre, width and height, the surest first; shape (rows, boxes, 4).
    """
    starts, ends = boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2
    common = torch.minimum(ends[:, :, None], ends[:, None]) - torch.maximum(starts[:, :, None], starts[:, None])
    both, areas = common.clamp(min=0).prod(dim=3), boxes[..., 2:].prod(dim=2)
    pairs = (both > OVERLAP * (areas[:, :, None] + areas[:, None] - both)).triu(1)
    found = torch.zeros_like(areas, dtype=torch.bool)
    for place in range(boxes.shape[1] - 1):
        found = found | (pairs[:, place] & ~found[:, place, None])
    return found

"""Models that find boxes: transformers with queries, frozen from below, and a linear head."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForObjectDetection

from promptgraft.objectives.backbones import BACKBONES, Batch, EncoderScorer, LabelScorer, Pool
from promptgraft.objectives.layers import PromptedStack
from promptgraft.objectives.vision.image_encoder import ImageEncoder
from promptgraft.objectives.vision.image_stack import Parts
from promptgraft.spaces import InvalidInputError, Template

# Numbers of a box: centre, width and height.
BOX = 4


@BACKBONES.register("detection")
class Detection(ImageEncoder):
    """A model of object detection: YOLOS or DETR, without the matrix that scores its own labels.

    Its blocks are the layers of the transformer, DETR's encoder, and what makes a box and features of each query: of
    DETR the decoder, too. A head scores the features.
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
        return int(config.num_queries if config.model_type == "detr" else config.num_detection_tokens)

    def _find_stack(self) -> Any:
        if self.model.config.model_type == "detr":
            self.model.class_labels_classifier = nn.Identity()  # Its labels are others.
        else:
            self.model.class_labels_classifier.layers[-1] = nn.Identity()
        return self.model

    def _parts(self) -> Parts:
        if self.model.config.model_type == "detr":
            return self._parts_of_detr()
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

    def _scorer(self, template: Template, labels: Sequence[str], weight: Tensor, head: str, pool: Pool) -> LabelScorer:
        del template
        if head != "linear":
            raise InvalidInputError(f"head {head!r} doesn't score boxes, which {self.family!r} models find; use linear")
        return BoxScorer(labels, weight, pool, self.queries)


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
        self.cells, self.more = queries, 1 + BOX
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
        return hidden.reshape(len(hidden), -1, self.weight.shape[1] + BOX)[:, -self.cells :]

    def _biases(self, rows: Tensor) -> Tensor:
        assert self.bias is not None, "a linear head has biases"
        return torch.cat([self.bias[rows], self.nothing_bias])


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

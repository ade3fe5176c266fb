"""Models that find boxes: transformers with queries among the patches, frozen from below, and a linear head."""

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
    """A model of object detection, such as YOLOS, without the matrix that scores its own labels.

    Its blocks are the layers of the transformer, and what makes a box and features of each query. A head scores the
    features.
    """

    auto_class = AutoModelForObjectDetection

    @property
    def hidden_size(self) -> int:
        """Width of a query's features; see `ImageEncoder`."""
        return int(self.model.config.hidden_size)

    @property
    def queries(self) -> int:
        """Number of boxes that are found in each image, most of them around nothing."""
        return int(self.model.config.num_detection_tokens)

    def _find_stack(self) -> Any:
        self.model.class_labels_classifier.layers[-1] = nn.Identity()  # Its labels are others.
        return self.model

    def _parts(self) -> Parts:
        config, vit = self.model.config, self.model.vit
        if config.use_mid_position_embeddings:
            raise InvalidInputError(
                f"{self.spec.path}: the model adds positions in every layer (use_mid_position_embeddings in its "
                "config.json), which isn't supported; use one without"
            )
        return Parts(vit.embeddings, [*vit.encoder.layer, _Found(self.model)], lambda state: state)

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
        return hidden[:, -self.cells :]

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

"""RT-DETR in parts: stages of convolutions, the encoder of their maps, and the decoder that finds boxes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from promptgraft.objectives.vision.image_stack import Onward, Parts, maps_of
from promptgraft.spaces import InvalidInputError


def take_labels_out(model: Any) -> None:
    """Take out what only training on a model's own labels needs, or scores them in the end.

    Which places of the maps become queries is still told by the pretrained scores of these labels.

    Args:
        model: `RTDetrForObjectDetection` or its second version.

    Source: Zhao et al. (2023), arXiv:2304.08069.
    """
    model.class_embed = model.model.decoder.class_embed = None
    model.model.denoising_class_embed = None  # It makes further queries from the boxes of training rows.
    model.config.anchor_image_size = None  # So that anchors are those of the images that come.


def parts_of_rt_detr(model: Any, path: str, shape: tuple[int, ...]) -> Parts:
    """Return the parts of an RT-DETR, from which `take_labels_out` has taken what scores its own labels.

    Args:
        model: `RTDetrForObjectDetection` or its second version.
        path: Its folder, for the message.
        shape: Shape of an image, (channels, height, width).

    Raises:
        InvalidInputError: If its convolutions aren't a ResNet.
    """
    detr, resnet = model.model, model.model.backbone.model
    if not hasattr(resnet, "embedder"):
        raise InvalidInputError(
            f"{path}: the convolutions are a {type(resnet).__name__}, of which no stages are known; use an RT-DETR "
            "with rt_detr_resnet as its backbone_config"
        )
    handed_on = [resnet.stage_names.index(name) - 1 for name in resnet.out_features]
    blocks, shapes = list[nn.Module](), list[tuple[int, ...]]()
    with torch.no_grad():
        made = resnet.embedder(torch.zeros(1, *shape, device=model.device))
        for place, stage in enumerate(resnet.encoder.stages):
            blocks.append(Onward(stage, tuple(made.shape[1:]), keeps=place - 1 in handed_on))
            made = stage(made)
            shapes += [tuple(made.shape[1:])] if place in handed_on else []
    joined = [(detr.config.encoder_hidden_dim, *own[1:]) for own in shapes]
    blocks += [_MapsJoined(detr, shapes), _FoundByQueries(detr, joined)]

    def embed(pixels: Tensor) -> Tensor:
        flat: Tensor = resnet.embedder(pixels).flatten(1)
        return flat

    return Parts(embed, blocks, lambda state: state.flatten(1)[:, None])


class _MapsJoined(nn.Module):
    """Lets the maps of the stages see each other."""

    def __init__(self, detr: Any, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.projections, self.encoder, self.shapes = detr.encoder_input_proj, detr.encoder, list(shapes)

    def forward(self, state: Tensor) -> Tensor:
        maps = [own(each) for own, each in zip(self.projections, maps_of(state, self.shapes), strict=True)]
        return torch.cat([own.flatten(1) for own in self.encoder(maps).last_hidden_state], dim=1)


class _FoundByQueries(nn.Module):
    """Chooses queries, and makes features and a box of each, shape (rows, queries, hidden + 4)."""

    def __init__(self, detr: Any, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.projections, self.decoder = detr.decoder_input_proj, detr.decoder
        self.features, self.scores, self.boxes = detr.enc_output, detr.enc_score_head, detr.enc_bbox_head
        self.shapes = list(shapes)
        self._run = [detr]  # In a list, so that its weights aren't this block's.

    def forward(self, state: Tensor) -> Tensor:
        outputs = self._run[0](None, inputs_embeds=state, encoder_outputs=(maps_of(state, self.shapes),))
        return torch.cat([outputs.last_hidden_state, outputs.intermediate_reference_points[:, -1]], dim=-1)

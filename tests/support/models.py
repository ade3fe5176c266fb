"""Small random models of every family, with real tokenizers, and the folders of the real models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptgraft.objectives.backbones import FAMILIES
from tests.support.paths import MODELS
from tests.support.tokenizers import write_clip_tokenizer

if TYPE_CHECKING:
    from promptgraft.objectives.backbones import Backbone

TINY_LAYERS = 3
TEXT_FAMILIES = sorted(name for name in FAMILIES if FAMILIES[name].reads == "text")
REAL = {"encoder": "minilm", "causal_lm": "smollm2"}
MASKED_LMS = ("bert", "roberta", "distilbert", "electra", "modernbert")
_SMALL = {"num_hidden_layers": TINY_LAYERS, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}


def real_model(family: str) -> str:
    """Return the folder of the installed model of a family; only those of `REAL` have one."""
    return str(MODELS / REAL[family])


class TinyModels(dict[str, str]):
    """Family -> folder of a small random model, written when it is first asked for.

    Args:
        make_folder: Makes an empty folder of about that name.
    """

    def __init__(self, make_folder: Callable[[str], Path]) -> None:
        super().__init__()
        self._make_folder = make_folder

    def __missing__(self, family: str) -> str:
        if family not in WRITERS:
            raise KeyError(f"the family {family!r} has no tiny model; add one to WRITERS in {__file__}")
        self[family] = WRITERS[family](self._make_folder(family))
        return self[family]


def _write_tiny_transformer(folder: Path, real: str, auto: str, extra: dict[str, Any]) -> str:
    """Write a model of a real one's architecture, with its tokenizer, or so much of it as `extra` has `vocab_size`."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(MODELS / real, **_SMALL, **extra)
    torch.manual_seed(0)
    save_enlarged(getattr(transformers, auto).from_config(config), folder)
    transformers.AutoTokenizer.from_pretrained(MODELS / real).save_pretrained(folder)
    if "vocab_size" in extra:
        _keep_first_tokens(folder / "tokenizer.json", extra["vocab_size"])
    return str(folder)


def _keep_first_tokens(file: Path, count: int) -> None:
    """Undo the last merges of byte-pair encoding: its tokens are numbered in the order in which it learnt them."""
    content = json.loads(file.read_text())
    kept = {token: number for token, number in content["model"]["vocab"].items() if number < count}
    merges = [merge for merge in content["model"]["merges"] if "".join(merge) in kept]
    content["model"] |= {"vocab": kept, "merges": merges}
    file.write_text(json.dumps(content))


def write_tiny_seq2seq(folder: Path, architecture: str, *, sentinel: bool) -> str:
    """Write two encoder layers under one decoder layer; neither real ones nor their tokenizers can be installed."""
    import torch
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODELS / "minilm")
    if sentinel:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<extra_id_0>"]})
    sizes: dict[str, Any] = {"d_model": 32, "vocab_size": len(tokenizer), "decoder_start_token_id": 0}
    sizes |= {"pad_token_id": 0, "bos_token_id": 101, "eos_token_id": 102, "tie_word_embeddings": True}
    if architecture == "t5":
        sizes |= {"num_layers": 2, "num_decoder_layers": 1, "num_heads": 4, "d_kv": 8, "d_ff": 64}
    else:
        sizes |= {"encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
        sizes |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 512}
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(architecture, **sizes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.1 if "embed" in name or "shared" in name else 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def write_tiny_recurrent(folder: Path, cell: str, *, bidirectional: bool) -> str:
    """Write an LSTM or GRU, into a folder of its name."""
    from transformers import AutoModel

    from promptgraft.objectives.backbones import write_recurrent

    sizes = {"hidden_size": 32, "num_hidden_layers": TINY_LAYERS, "dropout": 0.1}
    path = folder / cell
    write_recurrent(path, str(MODELS / "minilm"), 0, cell=cell, bidirectional=bidirectional, **sizes)
    save_enlarged(AutoModel.from_pretrained(path), path)
    return str(path)


def save_enlarged(model: Any, folder: Path) -> None:
    """Save four times the usual random weights: with those, all classes get the same score."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    model.save_pretrained(folder)


IMAGE_SIDE = 32
_SMALL_MOBILEVIT: dict[str, Any] = {
    "hidden_sizes": [8, 8, 8],
    "neck_hidden_sizes": [8, 8, 8, 8, 16, 16, 32],
    "num_attention_heads": 2,
    "initializer_range": 0.25,
}


def write_tiny_image_model(folder: Path, model_type: str, side: int = IMAGE_SIDE) -> str:
    """Write a small random model of images, with the processor of ViT; norms have means and variances of their own."""
    import torch
    from transformers import AutoConfig, AutoModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    sizes = {name: value for name, value in _SMALL.items() if name != "intermediate_size"}
    transformer: dict[str, Any] = {
        **sizes,
        "intermediate_size": 64,
        "mlp_ratio": 2,
        "image_size": side,
        "patch_size": 8,
    }
    stages: dict[str, Any] = {"hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8}
    own: dict[str, dict[str, Any]] = {
        "convnext": {**stages, "num_stages": 2},
        "efficientnet": {"image_size": side, "width_coefficient": 0.1, "depth_coefficient": 0.5, "hidden_dim": 128},
        "mobilenet_v2": {"image_size": side, "depth_multiplier": 0.1, "min_depth": 8},
        "regnet": {**stages, "groups_width": 4},
        "resnet": {**stages, "layer_type": "basic"},
        "mobilevit": {**_SMALL_MOBILEVIT, "image_size": side},
    }
    own["convnextv2"] = own["convnext"]
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(model_type, **own.get(model_type, transformer)))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)
    return str(folder)


def write_tiny_segmenter(folder: Path, model_type: str = "segformer", side: int = IMAGE_SIDE) -> str:
    """Write a small random model of masks, with a processor; its norms have means and variances of their own."""
    import torch
    from transformers import AutoConfig, AutoModelForSemanticSegmentation
    from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

    torch.manual_seed(0)
    own: dict[str, dict[str, Any]] = {
        "segformer": {
            "hidden_sizes": [8, 8, 16, 16],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 1, 2, 2],
            "decoder_hidden_size": 16,
            "drop_path_rate": 0.1,
        },
        "mobilevit": {**_SMALL_MOBILEVIT, "aspp_out_channels": 16, "output_stride": 8, "atrous_rates": [1, 2, 3]},
    }
    config = AutoConfig.for_model(model_type, num_labels=5, **own[model_type])
    model = AutoModelForSemanticSegmentation.from_config(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
    save_enlarged(model, folder)
    SegformerImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)
    return str(folder)


def write_tiny_detector(folder: Path, model_type: str = "yolos", side: int = IMAGE_SIDE) -> str:
    """Write a small random model of boxes with six queries, with a processor."""
    import torch
    from transformers import AutoConfig, AutoModelForObjectDetection
    from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

    import promptgraft.objectives.vision.nanodet  # noqa: F401, it makes itself known to transformers
    from promptgraft.objectives.backbones import NANODET

    torch.manual_seed(0)
    sizes = {name: value for name, value in _SMALL.items() if name != "intermediate_size"}
    resnet = {"model_type": "resnet", "hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8}
    resnet |= {"layer_type": "basic", "out_features": ["stage2"]}
    halves = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    small_rt_detr = {
        **halves,
        **{f"{part}_ffn_dim": 64 for part in ("encoder", "decoder")},
        "encoder_layers": 1,
        "d_model": 32,
        "encoder_hidden_dim": 32,
        "encoder_in_channels": [8, 8, 16],
        "decoder_in_channels": [32, 32, 32],
        "num_queries": 6,
        "num_denoising": 4,
        "backbone_config": resnet
        | {
            "model_type": "rt_detr_resnet",
            "hidden_sizes": [8, 8, 8, 16],
            "depths": [1, 1, 1, 1],
            "out_features": ["stage2", "stage3", "stage4"],
        },
    }
    own: dict[str, dict[str, Any]] = {
        "yolos": {
            **sizes,
            "intermediate_size": 64,
            "image_size": [side, side],
            "patch_size": 8,
            "num_detection_tokens": 6,
            "use_mid_position_embeddings": False,
        },
        "detr": {
            **halves,
            "d_model": 32,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "num_queries": 6,
            "backbone_config": resnet,
        },
        "rt_detr": small_rt_detr,
        "rt_detr_v2": small_rt_detr,
        NANODET: {"image_size": [side, side], "widths": [4, 4, 8, 8], "depths": [1, 1, 1, 1], "hidden_size": 32},
    }
    config = AutoConfig.for_model(model_type, num_labels=2, **own[model_type])
    model = AutoModelForObjectDetection.from_config(config)
    if model_type == "yolos":
        for name in ("detection_tokens", "position_embeddings", "cls_token"):
            torch.nn.init.normal_(getattr(model.vit.embeddings, name))
    save_enlarged(model, folder)
    YolosImageProcessorPil(size={"height": side, "width": side}, do_pad=False).save_pretrained(folder)
    return str(folder)


CLIP_POSITIONS = 24


def write_tiny_clip(folder: Path, model_type: str = "clip", side: int = IMAGE_SIDE, **changes: Any) -> str:
    """Write a small random model of images and texts, with tokenizer and image processor; all its weights differ."""
    import torch
    from transformers import AutoConfig, AutoModelForZeroShotImageClassification
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    vocabulary = write_clip_tokenizer(folder, ["a photo of a red, green or blue stripe", "the colour is red"])
    small = {**_SMALL, "attention_dropout": 0.1}
    ids = {"vocab_size": vocabulary, "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1}
    ids |= {"pad_token_id": vocabulary - 1, "max_position_embeddings": CLIP_POSITIONS, "hidden_size": 48}
    config = AutoConfig.for_model(
        model_type,
        text_config={**small, **ids, "num_hidden_layers": 2, "projection_size": 32, **changes},
        vision_config={**small, "image_size": side, "patch_size": 8},
        projection_dim=16,
        logit_scale_init_value=2.0,
    )
    torch.manual_seed(0)
    model = AutoModelForZeroShotImageClassification.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif "embedding" in name:
                parameter.normal_(0, 0.5)
    save_enlarged(model, folder)
    CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(
        folder
    )
    return str(folder)


WRITERS: dict[str, Callable[[Path], str]] = {
    "encoder": lambda folder: _write_tiny_transformer(folder, "minilm", "AutoModel", {}),
    "masked_lm": lambda folder: _write_tiny_transformer(folder, "minilm", "AutoModelForMaskedLM", {}),
    "causal_lm": lambda folder: _write_tiny_transformer(
        folder, "smollm2", "AutoModelForCausalLM", {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": 16384}
    ),
    "recurrent": lambda folder: write_tiny_recurrent(folder, "lstm", bidirectional=True),
    "seq2seq": lambda folder: write_tiny_seq2seq(folder, "t5", sentinel=True),
    "vit": lambda folder: write_tiny_image_model(folder, "vit"),
    "convolutional": lambda folder: write_tiny_image_model(folder, "resnet"),
    "segmentation": write_tiny_segmenter,
    "detection": write_tiny_detector,
    "clip": write_tiny_clip,
}


def load_masked_lm(architecture: str, folder: Path, window: int = 256) -> "Backbone":
    """Write a small random masked LM of an architecture, with a real tokenizer, and load it.

    Args:
        architecture: One of `MASKED_LMS`, as transformers spells it.
        folder: Where to write it.
        window: Tokens that a local layer of ModernBERT sees.
    """
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

    from promptgraft.objectives.backbones.masked_lm import MaskedLM
    from promptgraft.objectives.spec import BackboneSpec

    tokenizer = AutoTokenizer.from_pretrained(MODELS / "minilm")
    size: dict[str, Any] = {"num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 4}
    if architecture == "distilbert":
        size = {"n_layers": 3, "dim": 32, "n_heads": 4, "hidden_dim": 64}
    if architecture == "electra":
        size["embedding_size"] = 32
    if architecture == "modernbert":
        size["local_attention"] = window
    ids = {"pad_token_id": 0, "cls_token_id": 101, "bos_token_id": 101, "sep_token_id": 102, "eos_token_id": 102}
    size |= {"intermediate_size": 64, "max_position_embeddings": 130, "vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(architecture, **size, **ids))
    save_enlarged(model, folder)
    tokenizer.save_pretrained(folder)
    return MaskedLM(BackboneSpec(str(folder), "masked_lm", 64), torch.device("cpu"))

"""The files of a pretrained model: where they are, what they hash to, how deep the model is."""

import hashlib
from pathlib import Path
from typing import Any

from promptgraft.objectives.backbones.families import (
    CLIP,
    CONVOLUTIONAL,
    DETECTION,
    FAMILIES,
    RECURRENT,
    RT_DETR,
    SEGMENTATION,
)
from promptgraft.objectives.backbones.files.checkpoint_files import read_object, refuse_adapter
from promptgraft.objectives.progress import report_progress
from promptgraft.spaces import InvalidInputError

# What transformers' configurations call the number of layers.
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_ENCODER_DECODER_KEYS = (("encoder_layers", "num_layers"), ("decoder_layers", "num_decoder_layers"))
# Layers of a vision tower whose configuration doesn't state them: transformers' default for all of `CLIP`.
_TOWER_LAYERS = 12
# Stages of an RT-DETR's ResNet whose configuration doesn't state their depths, since they are transformers' default.
_RESNET_STAGES = 4

# Files of a model on the hub that are fetched: all but weights in other formats than safetensors.
_FETCHED = [f"*.{kind}" for kind in ("json", "txt", "model", "safetensors", "jinja", "spm", "tiktoken", "bpe", "py")]


def weights_hash(path: str) -> str:
    """Hash a model's configuration, tokenizer and weights into one; 16 hexadecimal digits."""
    hashes = file_hashes(path)
    content = "".join(f"{name}:{value};" for name, value in sorted(hashes.items()))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def file_hashes(path: str) -> dict[str, str]:
    """SHA-256 of the configuration, tokenizer and weight files of a model, and of Python code beside them.

    Args:
        path: Local folder or hub id.

    Returns:
        File name -> hexadecimal SHA-256.
    """
    folder = model_folder(path)
    names = sorted(
        file.name
        for file in folder.iterdir()
        if file.suffix in (".safetensors", ".json", ".txt", ".model", ".py") or file.name.startswith("pytorch_model")
    )
    hashes = {}
    for done, name in enumerate(names):
        report_progress("hashing files", done, len(names))
        with (folder / name).open("rb") as stream:
            hashes[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    report_progress("hashing files", len(names), len(names))
    return hashes


def model_folder(path: str) -> Path:
    """Return the local folder of a model, fetching a hub id through the hub's own cache.

    Args:
        path: The folder, or the hub id, with `@` and a branch, tag or commit behind it if it isn't to be the newest.

    Raises:
        InvalidInputError: If there is no such folder and no such model.
    """
    if Path(path).is_dir():
        return Path(path)
    if Path(path).is_absolute():
        raise InvalidInputError(f"backbone {path!r}: no such folder; expected one that transformers can load")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = path.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=_FETCHED))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidInputError(
            f"backbone {path!r} is neither a local folder nor a model that the hub serves: {reason}"
        ) from error


def count_layers(path: str, family: str = "encoder") -> int:
    """Read a model's number of layers from its config.json.

    Args:
        path: Local folder or hub id.
        family: Its family; where models have an encoder and a decoder, the layers of both are counted.

    Raises:
        InvalidInputError: If the model or the number isn't there.
    """
    content = _config(path)
    kind = str(content.get("model_type"))
    segments = family == "segmentation"
    stages = (SEGMENTATION if segments else CONVOLUTIONAL).get(kind)
    if isinstance(stages, str) and isinstance(content.get(stages), list):
        stages = len(content[stages])
    if isinstance(stages, int):
        return stages + segments

    def first(keys: tuple[str, ...]) -> int:
        for key in keys:
            if isinstance(content.get(key), int) and content[key] > 0:
                return int(content[key])
        raise InvalidInputError(
            f"the config.json of {path} states no number of layers; expected one of {', '.join(keys)} where family is "
            f"{family}"
        )

    if kind in CLIP:
        return int((content.get("vision_config") or {}).get("num_hidden_layers", _TOWER_LAYERS))
    if kind in RT_DETR:
        depths = (content.get("backbone_config") or {}).get("depths")
        return (len(depths) if depths else _RESNET_STAGES) + 2
    if kind in DETECTION:
        return first((*_LAYER_KEYS, "encoder_layers")) + 1
    return sum(map(first, _ENCODER_DECODER_KEYS)) if FAMILIES[family].encoder_decoder else first(_LAYER_KEYS)


def check_family(path: str, family: str) -> None:
    """Refuse a model that is plainly of another family.

    Raises:
        InvalidInputError: If a transformer is called recurrent, or the other way round, an encoder with a decoder is
            called anything but that, or a model of images one of texts, or the other way round.
    """
    config = _config(path)
    model_type, both = config.get("model_type"), config.get("is_encoder_decoder", False) is True
    _check_model_type(path, str(model_type), family)
    if both and not (FAMILIES[family].encoder_decoder or FAMILIES[family].model_types):
        raise InvalidInputError(
            f"{path} is a {model_type!r} model with an encoder and a decoder, not of the family {family!r}; write "
            "family: seq2seq"
        )
    if (model_type == RECURRENT) != FAMILIES[family].recurrent:
        raise InvalidInputError(
            f"{path} is a {model_type!r} model, not of the family {family!r}; family: recurrent is for the models that "
            "`promptgraft new-recurrent` writes, and they are of no other"
        )


def _check_model_type(path: str, model_type: str, family: str) -> None:
    own = FAMILIES[family].model_types
    if model_type in own:
        return
    others = [name for name in FAMILIES if model_type in FAMILIES[name].model_types and name != family]
    if own or others:
        remedy = f"write family: {others[0]}" if others else f"expected one of {', '.join(own)}"
        raise InvalidInputError(f"{path} is a {model_type!r} model, not of the family {family!r}; {remedy}")


def guess_family(path: str) -> str:
    """Return the family that a model's config.json speaks for; `encoder` where it speaks for no other.

    Args:
        path: Local folder or hub id.

    Raises:
        InvalidInputError: If the model or its config.json isn't there.
    """
    config = _config(path)
    if config.get("model_type") == RECURRENT:
        return "recurrent"
    architectures = " ".join(config.get("architectures") or ())
    known = [name for name in FAMILIES if config.get("model_type") in FAMILIES[name].model_types]
    if known:  # The last one where a model's masks are what its file is for.
        return known[-1 if "ForSemanticSegmentation" in architectures else 0]
    if config.get("is_encoder_decoder"):
        return "seq2seq"
    if "ForCausalLM" in architectures or "LMHeadModel" in architectures:
        return "causal_lm"
    return "masked_lm" if "ForMaskedLM" in architectures else "encoder"


def model_type(path: str) -> str:
    """Read what a model's config.json calls its architecture; empty if it doesn't say."""
    return str(_config(path).get("model_type", ""))


def _config(path: str) -> dict[str, Any]:
    config = model_folder(path) / "config.json"
    refuse_adapter(config.parent)
    if not config.is_file():
        raise InvalidInputError(f"{path} holds no config.json; expected a folder that transformers can load")
    return read_object(config)

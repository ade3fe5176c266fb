"""The files of a pretrained model: where they are, what they hash to, how deep the model is."""

import hashlib
import json
from pathlib import Path

from promptgraft.spaces import InvalidInputError

# What transformers' configurations call the number of layers.
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def weights_hash(path: str) -> str:
    """Hash a model's configuration, tokenizer and weights into one; 16 hexadecimal digits."""
    hashes = file_hashes(path)
    content = "".join(f"{name}:{value};" for name, value in sorted(hashes.items()))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def file_hashes(path: str) -> dict[str, str]:
    """SHA-256 of the configuration, tokenizer and weight files of a model.

    Args:
        path: Local folder or hub id.

    Returns:
        File name -> hexadecimal SHA-256.
    """
    folder = model_folder(path)
    names = sorted(
        file.name
        for file in folder.iterdir()
        if file.suffix in (".safetensors", ".json", ".txt", ".model") or file.name.startswith("pytorch_model")
    )
    hashes = {}
    for name in names:
        with (folder / name).open("rb") as stream:
            hashes[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashes


def model_folder(path: str) -> Path:
    """Return the local folder of a model, fetching a hub id through the hub's own cache.

    Raises:
        InvalidInputError: If there is no such folder and no such model.
    """
    if Path(path).is_dir():
        return Path(path)
    if Path(path).is_absolute():
        raise InvalidInputError(f"backbone {path!r}: no such folder; expected one that transformers can load")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path, allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidInputError(
            f"backbone {path!r} is neither a local folder nor a model that the hub serves: {reason}"
        ) from error


def count_layers(path: str) -> int:
    """Read a model's number of transformer layers from its config.json.

    Raises:
        InvalidInputError: If the model or the number isn't there.
    """
    config = model_folder(path) / "config.json"
    if not config.is_file():
        raise InvalidInputError(f"{path} holds no config.json; expected a folder that transformers can load")
    content = json.loads(config.read_text(encoding="utf-8"))
    for key in _LAYER_KEYS:
        if key in content:
            return int(content[key])
    raise InvalidInputError(f"{config} states no number of layers; expected one of {', '.join(_LAYER_KEYS)}")

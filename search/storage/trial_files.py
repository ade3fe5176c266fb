"""The files that a finished trial leaves among the study's."""

from hashlib import sha256
from typing import TYPE_CHECKING

from promptgraft.objectives.file_store import FileStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from promptgraft.objectives.trial import Result

DELTA_FILE = "delta.safetensors"
LOGITS_FILE = "validation_logits.safetensors"
REFIT_LOGITS_FILE = "refit_logits.safetensors"
FLOAT32_LOGITS_FILE = "validation_logits_float32.safetensors"


def trial_file(number: int, name: str) -> str:
    """Return where a trial's file is in the study's files."""
    return f"artifacts/trial-{number}/{name}"


def hash_of_weights(tensors: "Mapping[str, Tensor]") -> str:
    """Return a hash of names, types, shapes and every bit of some weights."""
    import torch

    found = sha256()
    for name, tensor in sorted(tensors.items()):
        content = tensor.detach().cpu().contiguous()
        found.update(f"{name} {content.dtype} {tuple(content.shape)}\n".encode())
        found.update(content.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:32]


def keep_result(files: FileStore, number: int, result: "Result") -> str | None:
    """Write the validation logits of a finished trial, and its weights if it has any of its own.

    Returns:
        Hash of the weights, None if there are none.
    """
    import torch

    files.write_tensors(trial_file(number, LOGITS_FILE), {"logits": torch.from_numpy(result.logits)})
    if not result.delta:
        return None
    files.write_tensors(trial_file(number, DELTA_FILE), result.delta)
    return hash_of_weights(result.delta)

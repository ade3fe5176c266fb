"""The files that a finished trial leaves among the study's."""

from typing import TYPE_CHECKING

from promptgraft.objectives.file_store import FileStore

if TYPE_CHECKING:
    from promptgraft.objectives.trial import Result

DELTA_FILE = "delta.safetensors"
LOGITS_FILE = "validation_logits.safetensors"
REFIT_LOGITS_FILE = "refit_logits.safetensors"
FLOAT32_LOGITS_FILE = "validation_logits_float32.safetensors"


def trial_file(number: int, name: str) -> str:
    """Return where a trial's file is in the study's files."""
    return f"artifacts/trial-{number}/{name}"


def keep_result(files: FileStore, number: int, result: "Result") -> None:
    """Write the validation logits of a finished trial, and its weights if it has any of its own."""
    import torch

    files.write_tensors(trial_file(number, LOGITS_FILE), {"logits": torch.from_numpy(result.logits)})
    if result.delta:
        files.write_tensors(trial_file(number, DELTA_FILE), result.delta)

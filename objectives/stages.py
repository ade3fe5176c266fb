"""Content-addressed store of finished stages, shared by all trials and workers."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

logger = logging.getLogger(__name__)

# Part of every key: raise it when the code that computes a stage changes its outcome.
STAGE_VERSION = 1


class StageStore:
    """Computes each stage once, whichever worker asks first.

    Args:
        folder: Where entries live; None computes every time.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, key: Mapping[str, object], compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return a stage's tensors, computing them if nobody has.

        Args:
            key: Everything that decides the outcome, as JSON types.
            compute: Computes the tensors, on the CPU.

        Returns:
            Name -> tensor, equal bit for bit whether computed or read.
        """
        if self.folder is None:
            return compute()
        self.folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"version": STAGE_VERSION, **key}, sort_keys=True)
        path = self.folder / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.safetensors"
        with FileLock(path.with_suffix(".lock")):
            if path.exists():
                try:
                    return load_file(path)
                except SafetensorError as error:
                    logger.warning("stage %s is damaged (%s) and is computed again", path.name, error)
            tensors = compute()
            write_tensors(path, tensors)
            return tensors


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file under a temporary name and rename it, so that no reader sees half of it."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    save_file({name: value.contiguous() for name, value in tensors.items()}, partial)
    partial.replace(path)

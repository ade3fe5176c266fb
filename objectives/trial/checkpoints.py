"""Checkpoints of a cycle: safetensors with a JSON header, from which it goes on bit for bit."""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from promptgraft.objectives.file_store import FileStore
from promptgraft.spaces import Candidate

logger = logging.getLogger(__name__)

# Part of every identity: raise it when the code changes what a trial computes.
VERSION = 6
FOLDER = "checkpoints"
_HEADER = "checkpoint"
# A checkpoint is written only after this many times what the last one took: at most 5 % of the time.
_SPARING = 20


def checkpoint_name(candidate_key: str, seed: int) -> str:
    """Return where the checkpoint of a candidate is, whichever trial runs it; those of its folds are beside it."""
    return f"{FOLDER}/{candidate_key}-{seed}.safetensors"


def values_of(candidate: Candidate) -> dict[str, object]:
    """Return a candidate as JSON types, without a field that earlier versions did not have, unless it is used."""
    return {name: value for name, value in candidate.to_dict().items() if name != "self_training" or value}


@dataclass(frozen=True, slots=True)
class Saved:
    """What a checkpoint holds.

    Attributes:
        content: JSON types.
        tensors: Name -> tensor.
    """

    content: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors below a prefix, without it."""
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}


class Checkpoint:
    """Where one cycle saves its state, and when.

    Args:
        files: The study's files.
        name: The checkpoint's; see `checkpoint_name`.
        every_s: Seconds between two checkpoints, at least.
    """

    def __init__(self, files: FileStore, name: str, every_s: float) -> None:
        self.files = files
        self.name = name
        self.every_s = every_s
        self._due_at = time.monotonic() + every_s

    def of_fold(self, fold: int) -> "Checkpoint":
        """Return where one fold's cycle saves its state."""
        name = self.name.removesuffix(".safetensors")
        return Checkpoint(self.files, f"{name}-{fold}.safetensors", self.every_s)

    def load(self, identity: Mapping[str, Any]) -> Saved | None:
        """Return the saved state; None if there is none, it is damaged, or it belongs to something else."""
        try:
            header = self.files.read_metadata(self.name)
            content = json.loads(header[_HEADER])
            if content["identity"] != json.loads(json.dumps(identity)):
                logger.warning("checkpoint %s is of other data or settings; starting at step 0", self.name)
                return None
            return Saved(content, self.files.read_tensors(self.name))
        except FileNotFoundError:
            return None
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            logger.warning("checkpoint %s is damaged (%s); starting at step 0", self.name, error)
            return None

    def delete(self) -> None:
        """Delete what is saved, if anything is."""
        self.files.delete(self.name)

    @property
    def is_due(self) -> bool:
        """Whether it is time for another checkpoint."""
        return time.monotonic() >= self._due_at

    def save(self, identity: Mapping[str, Any], content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Save a state; where there is no room, the cycle goes on without."""
        started = time.monotonic()
        text = json.dumps({"identity": identity, **content})
        self.files.try_to_write(self.name, tensors, {_HEADER: text})
        now = time.monotonic()
        self._due_at = now + max(self.every_s, _SPARING * (now - started))

"""Content-addressed store of finished stages, shared by all trials and workers."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping

from safetensors import SafetensorError
from torch import Tensor

from promptgraft.objectives.files import FileStore

logger = logging.getLogger(__name__)

# Part of every key: raise it when the code that computes a stage changes its outcome.
STAGE_VERSION = 1
FOLDER = "stages"


class StageStore:
    """Computes each stage once, whichever worker asks first.

    Args:
        files: Where entries live; None computes every time.
    """

    def __init__(self, files: FileStore | None) -> None:
        self.files = files

    def get(self, key: Mapping[str, object], compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return a stage's tensors, computing them if nobody has.

        Args:
            key: Everything that decides the outcome, as JSON types.
            compute: Computes the tensors, on the CPU.

        Returns:
            Name -> tensor, equal bit for bit whether computed or read.
        """
        if self.files is None:
            return compute()
        content = json.dumps({"version": STAGE_VERSION, **key}, sort_keys=True)
        name = f"{FOLDER}/{hashlib.sha256(content.encode()).hexdigest()[:32]}.safetensors"
        with self.files.lock(name):
            try:
                return self.files.read_tensors(name)
            except FileNotFoundError:
                pass
            except SafetensorError as error:
                logger.warning("stage %s is damaged (%s) and is computed again", name, error)
            tensors = compute()
            self.files.try_to_write(name, tensors)
            return tensors

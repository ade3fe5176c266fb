"""Content-addressed store of finished stages, shared by all trials and workers."""

import hashlib
import json
import logging
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor

from promptgraft.objectives.file_store import FileStore

logger = logging.getLogger(__name__)

# Part of every key: raise it when the code that computes a stage changes its outcome.
STAGE_VERSION = 5
FOLDER = "stages"
_Progress = TypeVar("_Progress")


@dataclass(frozen=True, slots=True)
class StageKey:
    """Everything that decides the outcome of a stage.

    Attributes:
        content: As JSON.
        name: Where the stage is among the files: a hash of the content.
    """

    content: str
    name: str

    @classmethod
    def of(cls, key: Mapping[str, object]) -> "StageKey":
        """Build a key from JSON types."""
        content = json.dumps({"version": STAGE_VERSION, **key}, sort_keys=True)
        return cls(content, f"{FOLDER}/{hashlib.sha256(content.encode()).hexdigest()[:32]}.safetensors")


@dataclass(frozen=True, slots=True)
class StageUse:
    """What the store was good for.

    Attributes:
        hits: Stages found.
        misses: Stages computed.
        saved_s: Time that computing the found ones took, when they were computed.
        spent_s: Time that computing the others took.
    """

    hits: int = 0
    misses: int = 0
    saved_s: float = 0.0
    spent_s: float = 0.0

    def __sub__(self, before: "StageUse") -> "StageUse":
        return StageUse(
            self.hits - before.hits,
            self.misses - before.misses,
            self.saved_s - before.saved_s,
            self.spent_s - before.spent_s,
        )


class StageStore:
    """Computes each stage once, whichever worker asks first.

    Entries are files within a disk quota (`search.trials.quota`), which deletes those not used for longest; the last
    ones used are kept in memory, too. What is handed out is shared: it must not be changed in place.

    Args:
        files: Where entries live; None for memory only.
        memory_bytes: How much of them to keep in memory.

    Attributes:
        use: What it was good for so far; a stage that one trial asks for several times counts once.
    """

    def __init__(self, files: FileStore | None, memory_bytes: int) -> None:
        self.files = files
        self.memory_bytes = memory_bytes
        self.use = StageUse()
        self._use_before = self.use
        self._memory: OrderedDict[str, tuple[dict[str, Tensor], int, float]] = OrderedDict()
        self._in_memory_bytes = 0
        self._asked: set[str] = set()  # By this trial.

    def start_trial(self) -> None:
        """Count what the next trial asks for anew; without files, forget what the last one computed."""
        self._use_before = self.use
        self._asked.clear()
        if self.files is None:
            self._memory.clear()
            self._in_memory_bytes = 0

    @property
    def use_of_trial(self) -> StageUse:
        """What the store was good for since the last trial began."""
        return self.use - self._use_before

    def get(self, key: StageKey, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return a stage's tensors, computing them if nobody has.

        Args:
            key: Everything that decides the outcome.
            compute: Computes the tensors.

        Returns:
            Name -> tensor on the CPU, equal bit for bit whether computed or read.
        """

        def computed() -> Generator[None, None, dict[str, Tensor]]:
            yield from ()
            return compute()

        return _returned(self.get_in_steps(key, computed))

    def get_in_steps(
        self, key: StageKey, compute: Callable[[], Generator[_Progress, None, dict[str, Tensor]]]
    ) -> Generator[_Progress, None, dict[str, Tensor]]:
        """Do as `get` does, for a stage that takes long: pass on how far it has come.

        Others that need the stage wait until it is computed, or the generator is closed.
        """
        name, is_new = key.name, key.name not in self._asked
        self._asked.add(name)
        found = self._remembered(name) or self._read(name, key.content)
        if found is None:
            with self.files.lock(name) if self.files else nullcontext():
                found = self._read(name, key.content)
                if found is None:
                    return (yield from self._compute(name, key.content, compute))
        tensors, seconds = found
        if is_new:
            use = self.use
            self.use = StageUse(use.hits + 1, use.misses, use.saved_s + seconds, use.spent_s)
        return tensors

    def _compute(
        self, name: str, content: str, compute: Callable[[], Generator[_Progress, None, dict[str, Tensor]]]
    ) -> Generator[_Progress, None, dict[str, Tensor]]:
        before, started = self.use.spent_s, time.perf_counter()
        computed = yield from compute()
        tensors = {key: value.detach().to("cpu").contiguous() for key, value in computed.items()}
        # A stage may be computed from another one, whose time counts once.
        seconds = time.perf_counter() - started - (self.use.spent_s - before)
        use = self.use
        self.use = StageUse(use.hits, use.misses + 1, use.saved_s, use.spent_s + seconds)
        if self.files is not None:
            header = {"key": content, "seconds": f"{seconds:.6f}", "crc32": checksum(tensors)}
            self.files.try_to_write(name, tensors, header)
        self._remember(name, tensors, seconds)
        return tensors

    def _read(self, name: str, content: str) -> tuple[dict[str, Tensor], float] | None:
        """Read an entry; None if it isn't there or is damaged."""
        if self.files is None:
            return None
        try:
            header = self.files.read_metadata(name)
            tensors, seconds = self.files.read_tensors(name), float(header["seconds"])
            if header["key"] != content or checksum(tensors) != header["crc32"]:
                raise SafetensorError("its key or its checksum is wrong")
        except FileNotFoundError:
            return None
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            logger.warning("stage %s is damaged (%s) and is computed again", name, error)
            return None
        self._remember(name, tensors, seconds)
        return tensors, seconds

    def _remembered(self, name: str) -> tuple[dict[str, Tensor], float] | None:
        entry = self._memory.get(name)
        if entry is None:
            return None
        self._memory.move_to_end(name)
        return entry[0], entry[2]

    def _remember(self, name: str, tensors: dict[str, Tensor], seconds: float) -> None:
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size > self.memory_bytes:
            return
        self._memory[name] = (tensors, size, seconds)
        self._in_memory_bytes += size
        self.keep(self.memory_bytes)

    def keep(self, memory_bytes: int) -> None:
        """Keep at most so much in memory from now on."""
        self.memory_bytes = memory_bytes
        while self._in_memory_bytes > self.memory_bytes:
            _, (_, freed, _) = self._memory.popitem(last=False)
            self._in_memory_bytes -= freed


def _returned(steps: Generator[object, None, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Run a generator to its end; return what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return a checksum of the tensors' bytes: safetensors notices a file cut short, but no changed byte."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"

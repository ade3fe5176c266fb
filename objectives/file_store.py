"""Where a study's files are: a local folder, a shared disk or an object store, through fsspec."""

import contextlib
import errno
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import fsspec
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem

from promptgraft.spaces import InvalidInputError, PromptgraftError, masked, masked_url

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

T = TypeVar("T")

logger = logging.getLogger(__name__)

# Left free on a local disk by what can be computed again; results may use three quarters of it.
MIN_FREE_BYTES = 512 * 2**20
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFullError(PromptgraftError, OSError):
    """There is no room for a result; the trial is not to blame."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a study.

    Attributes:
        name: Path below the store, with `/`.
        size_bytes: Its size.
        used: When it was last written or read, seconds since the epoch; 0 if unknown.
    """

    name: str
    size_bytes: int
    used: float


class FileStore:
    """Reads and writes whole files by name.

    Args:
        url: A local folder, or a URL that fsspec knows, such as `s3://bucket/study`.
        min_free_bytes: Room to leave on a local disk.
    """

    def __init__(self, url: str, min_free_bytes: int = MIN_FREE_BYTES) -> None:
        self.fs, self.root = _file_system(url)
        self.is_local = isinstance(self.fs, LocalFileSystem)
        self.min_free_bytes = min_free_bytes
        # For messages, where what the URL says of a password must not be.
        self.shown = self.root if self.is_local else masked_url(url)

    def path(self, name: str) -> str:
        """Return the full path of a file, without the protocol."""
        return f"{self.root.rstrip('/')}/{name}"

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        return bool(self.fs.exists(self.path(name)))

    def delete(self, name: str) -> None:
        """Delete a file; it may be gone already."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    def files(self) -> list[StoredFile]:
        """List all files of the store."""
        if not self.fs.exists(self.root):
            return []
        found = self.fs.find(self.root, detail=True)
        prefix = len(self.root.rstrip("/")) + 1
        return [StoredFile(path[prefix:], int(info["size"] or 0), _used(info)) for path, info in found.items()]

    def free_bytes(self) -> int | None:
        """Room on the disk of a local store; None elsewhere."""
        if not self.is_local:
            return None
        folder = Path(self.root)
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def lock(self, name: str) -> AbstractContextManager[object]:
        """Keep others from computing the same file; on an object store they may, and get the same."""
        if not self.is_local:
            return nullcontext()
        path = Path(self.path(f"{name}.lock"))
        path.parent.mkdir(parents=True, exist_ok=True)
        return file_lock(path)

    def read_text(self, name: str) -> str | None:
        """Read a small file; None if it isn't there."""
        try:
            return bytes(self.fs.cat_file(self.path(name))).decode()
        except FileNotFoundError:
            return None

    def create_text(self, name: str, text: str) -> bool:
        """Write a small file unless it is there already.

        Returns:
            Whether it was written.
        """
        if self.exists(name):
            return False
        if self.is_local:
            return _create(Path(self.path(name)), text)
        try:
            self.fs.pipe_file(self.path(name), text.encode(), mode="create")
        except FileExistsError:
            return False
        except (NotImplementedError, TypeError, ValueError):  # Some file systems can't create exclusively.
            self.fs.pipe_file(self.path(name), text.encode())
        return True

    def read_tensors(self, name: str) -> "dict[str, Tensor]":
        """Read a safetensors file.

        Raises:
            FileNotFoundError: If it isn't there.
            SafetensorError: If it is damaged.
        """
        from safetensors.torch import load, load_file

        return self._read_whole(name, load_file, load)

    def read_logits(self, name: str) -> "npt.NDArray[np.float32]":
        """Read the tensor `logits` of a safetensors file; imports no torch. See `read_tensors`."""
        return self.read_arrays(name)["logits"]

    def read_arrays(self, name: str) -> "dict[str, npt.NDArray[np.float32]]":
        """Read a safetensors file of numbers in float32; imports no torch. See `read_tensors`."""
        from safetensors.numpy import load, load_file

        return self._read_whole(name, load_file, load)

    def _read_whole(
        self, name: str, load_file: Callable[[Path], dict[str, T]], load: Callable[[bytes], dict[str, T]]
    ) -> dict[str, T]:
        if not self.is_local:
            return load(self.fs.cat_file(self.path(name)))
        path = Path(self.path(name))
        tensors = load_file(path)
        with contextlib.suppress(OSError):  # It may be gone meanwhile, somebody else's, or on a disk that is read only.
            os.utime(path)  # So that what is used stays longest.
        return tensors

    def read_metadata(self, name: str) -> dict[str, str]:
        """Read the texts in a safetensors file's header; see `read_tensors`."""
        from safetensors import safe_open

        if self.is_local:
            with safe_open(self.path(name), "pt") as opened:
                return dict(opened.metadata() or {})
        with self.fs.open(self.path(name), "rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            return dict(json.loads(stream.read(size)).get("__metadata__", {}))

    def write_tensors(
        self, name: str, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str] | None = None
    ) -> None:
        """Write a safetensors file, so that no reader ever sees half of it.

        Raises:
            DiskFullError: If a local disk has no room for it.
        """
        from safetensors.torch import save, save_file

        content = {key: value.contiguous() for key, value in tensors.items()}
        self._check_room(content, self.min_free_bytes // 4)
        texts = dict(metadata) if metadata else None
        if not self.is_local:
            self.fs.pipe_file(self.path(name), save(content, texts))
            return
        path = Path(self.path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            save_file(content, partial, texts)
            share(partial)
            partial.replace(path)
        except Exception as error:
            if not _is_full(error):
                raise
            raise DiskFullError(f"no room for {path}: {error}") from error
        finally:
            partial.unlink(missing_ok=True)

    def try_to_write(
        self, name: str, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str] | None = None
    ) -> None:
        """Write a file that can be done without; where there is no room, say so and go on."""
        try:
            self._check_room(tensors, self.min_free_bytes)
            self.write_tensors(name, tensors, metadata)
        except DiskFullError as error:
            logger.warning("not kept: %s", error)

    def _check_room(self, tensors: "Mapping[str, Tensor]", leave_bytes: int) -> None:
        free = self.free_bytes()
        wanted = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if free is not None and free - wanted < leave_bytes:
            raise DiskFullError(
                f"{wanted / 2**20:.0f} MiB would leave less than {leave_bytes / 2**20:.0f} MiB free on the disk of "
                f"{self.shown} ({free / 2**20:.0f} MiB are free)"
            )


def _file_system(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return a URL's file system and its path there; a local folder is one whatever signs its name has."""
    if "://" not in url:
        return LocalFileSystem(), str(Path(url).resolve())
    try:
        found: tuple[fsspec.AbstractFileSystem, str] = fsspec.url_to_fs(url)
    except (ValueError, ImportError) as error:  # It isn't known, or needs another package.
        raise InvalidInputError(f"can't keep files at {masked_url(url)}: {masked(str(error))}") from error
    return found


def _create(path: Path, text: str) -> bool:
    """Write a local file whole, unless somebody else has; return whether it was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    partial.write_text(text)
    try:
        path.hardlink_to(partial)
    except FileExistsError:
        return False
    except OSError:  # The disk has no hard links.
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return True


def file_lock(path: Path, timeout_s: float = -1) -> FileLock:
    """Return a lock on a file, which is created now.

    Where the folder is there but takes no files, as /proc, filelock believes that another process removes the file
    again and again, and never gives up.

    Args:
        path: The file; its folder exists.
        timeout_s: Longest wait for the lock, in seconds; no limit if negative.

    Raises:
        OSError: If the file can't be created.
    """
    if not os.path.lexists(path):
        path.touch()
    return FileLock(path, timeout=timeout_s)


def share(path: Path) -> None:
    """Let those read and write a file who may its folder: safetensors writes for its owner alone."""
    path.chmod(path.parent.stat().st_mode & 0o666)


def _used(info: Mapping[str, object]) -> float:
    for key in ("mtime", "LastModified", "created"):
        value = info.get(key)
        if isinstance(value, int | float):
            return float(value)
        stamp = getattr(value, "timestamp", None)
        if stamp is not None:
            return float(stamp())
    return 0.0


def _is_full(error: BaseException) -> bool:
    """Tell whether the disk is full; safetensors wraps the system's error into a text of its own."""
    return getattr(error, "errno", None) in _DISK_FULL or "No space left" in str(error) or "os error 28" in str(error)

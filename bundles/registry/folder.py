"""A registry of bundles in a folder.

`champion` in a folder is a link to the bundle that production is to load, so that every tool that takes a bundle takes
`REGISTRY/champion`. Bundles stay under `versions`, each under a number, and nothing in them is ever changed. Apart from
`champion`, no link is followed.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptgraft.bundles.registry.base import CHAMPION, HISTORY, VERSIONS, BundleRegistry
from promptgraft.objectives.file_store import file_lock
from promptgraft.spaces import InvalidInputError

if TYPE_CHECKING:  # A history needs no torch.
    from promptgraft.bundles import Manifest

_KEYS = {"version", "action", "when", "who", "study", "trial", "digest"}
_LOCK, _PARTIAL = ".lock", f"{VERSIONS}.partial"


class FolderRegistry(BundleRegistry):
    """A folder of bundles.

    Args:
        folder: Where it is; made by the first promotion.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def champion(self) -> Path:
        """The link to what production is to load."""
        return self.folder / CHAMPION

    def history(self) -> list[dict[str, Any]]:
        """List what became champion; see `BundleRegistry`.

        A last line that was cut short counts for nothing: what it was to record hadn't been done yet.

        Raises:
            InvalidInputError: If there is no such folder, or another line is damaged.
        """
        if not self.folder.is_dir():
            raise InvalidInputError(f"{self}: no registry is there; the first promotion makes one")
        path = self.folder / HISTORY
        if not path.is_file():
            return []
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        entries = [_entry_in(line) for line in lines if line.strip("\0 ")]
        if entries and entries[-1] is None:
            entries.pop()
        if None in entries:
            raise InvalidInputError(
                f"{path}: line {entries.index(None) + 1} is damaged; restore the file, or remove that line"
            )
        return [entry for entry in entries if entry is not None]

    def _add(self, bundle: Path, manifest: "Manifest", version: int) -> int:  # noqa: ARG002
        from promptgraft.bundles import copy_bundle

        partial = self.folder / _PARTIAL
        shutil.rmtree(partial, ignore_errors=True)  # Of a promotion that was cut short.
        copy_bundle(bundle, partial)
        while self._place(version).exists():  # It isn't on record, but may be the champion all the same.
            version += 1
        self._place(version).parent.mkdir(exist_ok=True)
        partial.replace(self._place(version))
        return version

    def _place(self, version: int) -> Path:
        return self.folder / VERSIONS / f"{version:04d}"

    def _check(self, version: int, digest: str) -> None:
        from promptgraft.bundles import check_intact

        _refuse_link(self._place(version))
        check_intact(self._place(version), digest)

    def _record(self, entry: dict[str, Any]) -> None:
        partial = self.folder / f"{HISTORY}.partial"
        partial.unlink(missing_ok=True)
        with partial.open("x", encoding="utf-8") as stream:
            stream.writelines(json.dumps(known) + "\n" for known in (*self.history(), entry))
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(self.folder / HISTORY)

    def _point(self, version: int) -> None:
        partial = self.folder / f"{CHAMPION}.partial"
        partial.unlink(missing_ok=True)
        partial.symlink_to(Path(VERSIONS) / self._place(version).name, target_is_directory=True)
        partial.replace(self.champion)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in (_LOCK, HISTORY, VERSIONS, _PARTIAL):
                _refuse_link(self.folder / name)
            if self.champion.exists() and not self.champion.is_symlink():
                raise InvalidInputError(
                    f"{self.champion} is not the link of a registry; name a folder that is none yet"
                )
            with file_lock(self.folder / _LOCK):
                yield
        except OSError as error:
            raise InvalidInputError(
                f"{self}: the registry can't be changed, and the champion stays: {error.strerror or error}"
                + (f" ({error.filename})" if error.filename else "")
            ) from error


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise InvalidInputError(f"{path} is a link, which a registry doesn't follow; put what it leads to in its place")


def _entry_in(line: str) -> dict[str, Any] | None:
    """Read an entry; of one that was appended to another that had been cut short, the latter part. None if damaged."""
    for text in (line, line[line.rfind("{") :]):
        try:
            entry = json.loads(text)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.keys() >= _KEYS and isinstance(entry["version"], int):
            return entry
    return None

"""A registry of bundles in a folder.

`champion` in a folder is a link to the bundle that production is to load, so that every tool that takes a bundle takes
`REGISTRY/champion`. Bundles stay under `versions`, each under a number, and nothing in them is ever changed.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from promptgraft.bundles.registry.base import CHAMPION, HISTORY, VERSIONS, BundleRegistry

if TYPE_CHECKING:  # Only a promotion loads models: history and rolling back need no torch.
    from promptgraft.bundles import Manifest


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
        """List what became champion; see `Registry`."""
        path = self.folder / HISTORY
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []

    def _add(self, bundle: Path, manifest: "Manifest", version: int) -> int:  # noqa: ARG002
        place, partial = self._place(version), self.folder / f"{VERSIONS}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(bundle, partial)
        shutil.rmtree(place, ignore_errors=True)  # Of a promotion that was cut short.
        place.parent.mkdir(exist_ok=True)
        partial.replace(place)
        return version

    def _place(self, version: int) -> Path:
        return self.folder / VERSIONS / f"{version:04d}"

    def _record(self, entry: dict[str, Any]) -> None:
        with (self.folder / HISTORY).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _point(self, version: int) -> None:
        partial = self.folder / f"{CHAMPION}.partial"
        partial.unlink(missing_ok=True)
        partial.symlink_to(Path(VERSIONS) / self._place(version).name, target_is_directory=True)
        partial.replace(self.champion)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            yield

"""A registry of bundles: which one is the champion, and which were; in a folder, or in MLflow's registry of models.

`champion` in a folder is a link to the bundle that production is to load, so that every tool that takes a bundle takes
`REGISTRY/champion`. Bundles stay under `versions`, each under a number, and nothing in them is ever changed.
"""

import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from promptgraft.objectives.acts import now, who
from promptgraft.spaces import InvalidInputError

if TYPE_CHECKING:  # Only a promotion loads models: history and rolling back need no torch.
    from promptgraft.objectives.bundle import Manifest
    from promptgraft.objectives.verification import Verification

CHAMPION, VERSIONS, HISTORY = "champion", "versions", "history.jsonl"
# How MLflow's own URIs of registered models begin.
MODELS = "models:/"


class Registry(ABC):
    """Bundles under numbers, and the champion among them."""

    @property
    @abstractmethod
    def champion(self) -> Path | str:
        """What production is to load."""

    @abstractmethod
    def history(self) -> list[dict[str, Any]]:
        """List what became champion, the last one today's.

        Returns:
            `version`, `action`, `when`, `who`, `study`, `trial` and `digest` of each.
        """

    @abstractmethod
    def _add(self, bundle: Path, manifest: "Manifest", version: int) -> int:
        """Take a bundle in, under this number if it may choose; return the number."""

    @abstractmethod
    def _record(self, entry: dict[str, Any]) -> None:
        """Write down what is about to happen: cut short, the same command does it again."""

    @abstractmethod
    def _point(self, version: int) -> None:
        """Make a version the champion."""

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep others from changing the registry meanwhile, where that can be done."""
        yield

    def promote(self, bundle: Path, backbone: str | None = None, *, trust_remote_code: bool = False) -> int:
        """Copy a bundle into the registry and make it the champion, if it is what was exported.

        Args:
            bundle: The bundle.
            backbone: See `Predictor`.
            trust_remote_code: See `Predictor`.

        Returns:
            Its version; that which it has already, if it was promoted before.

        Raises:
            InvalidInputError: If it doesn't pass `verify`.
        """
        from promptgraft.objectives.bundle import read_manifest
        from promptgraft.objectives.verification import verify

        check(bundle, verify(bundle, backbone, trust_remote_code=trust_remote_code))
        manifest = read_manifest(bundle)
        with self._locked():
            known = {entry["digest"]: entry["version"] for entry in self.history()}
            version = known.get(manifest.digest)
            if version is None:
                version = self._add(bundle, manifest, 1 + max(known.values(), default=0))
            if self._stack()[-1:] != [version]:
                self._record(_entry(version, "promote") | manifest.origin)
            self._point(version)
            return version

    def roll_back(self) -> int:
        """Make the champion what it was before the last promotion that still counts; return its version.

        Raises:
            InvalidInputError: If there was none before.
        """
        with self._locked():
            stack = self._stack()
            if len(stack) < 2:
                raise InvalidInputError(f"{self} has no earlier champion to go back to")
            before = next(entry for entry in self.history() if entry["version"] == stack[-2])
            self._record(before | _entry(stack[-2], "roll back"))
            self._point(stack[-2])
            return stack[-2]

    def _stack(self) -> list[int]:
        """Return the promotions that weren't rolled back."""
        stack: list[int] = []
        for entry in self.history():
            if entry["action"] == "promote":
                stack.append(entry["version"])
            else:
                stack.pop()
        return stack


def _entry(version: int, action: str) -> dict[str, Any]:
    return {"version": version, "action": action, "when": now(), "who": who()}


def open_registry(place: str) -> Registry:
    """Return the registry at a folder's path, or at `models:/NAME` in MLflow."""
    if place.startswith(MODELS):
        from promptgraft.objectives.mlflow_registry import MlflowRegistry

        return MlflowRegistry(place.removeprefix(MODELS))
    return FolderRegistry(Path(place))


class FolderRegistry(Registry):
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


def check(bundle: Path, found: "Verification") -> None:
    """Refuse a bundle that didn't pass.

    Raises:
        InvalidInputError: With what was found.
    """
    if not found.passed:
        problems = "; ".join(f"{name} {problem}" for name, problem in found.problems)
        raise InvalidInputError(
            f"{bundle} is not what was exported: "
            + (problems or f"{found.agreeing} of {found.rows} rows agree, logits differ by {found.difference:.1e}")
        )

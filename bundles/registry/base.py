"""What every registry of bundles does: numbered versions, one champion, a history."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptgraft.bundles import current_user, timestamp
from promptgraft.spaces import InvalidInputError

if TYPE_CHECKING:  # A history needs no torch.
    from promptgraft.bundles import Manifest, Verification

logger = logging.getLogger(__name__)

# How MLflow's own URIs of registered models begin.
MODELS = "models:/"
CHAMPION, VERSIONS, HISTORY = "champion", "versions", "history.jsonl"


class BundleRegistry(ABC):
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
    def _check(self, version: int, digest: str) -> None:
        """Refuse a version that isn't, to the byte, the bundle of this digest.

        Raises:
            InvalidInputError: With what is wrong with it.
        """

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
            InvalidInputError: If it doesn't pass `verify`; files that its manifest doesn't list stay behind.
        """
        from promptgraft.bundles import read_manifest, verify

        check(bundle, verify(bundle, backbone, trust_remote_code=trust_remote_code))
        manifest = read_manifest(bundle)
        with self._locked():
            known = {entry["digest"]: entry["version"] for entry in self.history()}
            version = known.get(manifest.digest)
            if version is None or not self._holds(version, manifest.digest):
                version = self._add(bundle, manifest, 1 + max(known.values(), default=0))
                self._check(version, manifest.digest)
            if self._stack()[-1:] != [version]:
                self._record(_entry(version, "promote") | manifest.origin)
            self._point(version)
            return version

    def roll_back(self) -> int:
        """Make the champion what it was before the last promotion that still counts; return its version.

        Raises:
            InvalidInputError: If there was none before, or it isn't what was promoted any more.
        """
        self._earlier()  # Before anything is written there, such as a lock.
        with self._locked():
            version = self._earlier()
            before = next(entry for entry in self.history() if entry["version"] == version)
            try:
                self._check(version, before["digest"])
            except InvalidInputError as error:
                raise InvalidInputError(
                    f"{self} can't go back to version {version}, and the champion stays: {error}; promote a good "
                    "bundle in its place"
                ) from error
            self._record(before | _entry(version, "roll back"))
            self._point(version)
            return version

    def _earlier(self) -> int:
        """Return the version before the champion.

        Raises:
            InvalidInputError: If there is none.
        """
        stack = self._stack()
        if len(stack) < 2:
            raise InvalidInputError(f"{self} has no earlier champion to go back to")
        return stack[-2]

    def _holds(self, version: int, digest: str) -> bool:
        """Tell whether a version is the bundle of this digest; one that is damaged is replaced by a new version."""
        try:
            self._check(version, digest)
        except InvalidInputError as error:
            logger.warning("version %d is passed over: %s", version, error)
            return False
        return True

    def _stack(self) -> list[int]:
        """Return the promotions that weren't rolled back."""
        stack: list[int] = []
        for entry in self.history():
            if entry["action"] == "promote":
                stack.append(entry["version"])
            elif stack:
                stack.pop()
        return stack


def _entry(version: int, action: str) -> dict[str, Any]:
    return {"version": version, "action": action, "when": timestamp(), "who": current_user()}


def check(bundle: Path, found: "Verification") -> None:
    """Refuse a bundle that didn't pass.

    Raises:
        InvalidInputError: With what was found.
    """
    if not found.intact:
        problems = "; ".join(f"{name} {problem}" for name, problem in found.problems)
        raise InvalidInputError(
            f"{bundle} is not what was exported: "
            + (problems or f"{found.agreeing} of {found.rows} rows agree, logits differ by {found.difference:.1e}")
        )

"""Writing a bundle: aside and checked, then put in place in one step, so that an earlier one is whole until it is gone.

Exports into one folder take turns. Only an empty folder is written to, or one that holds a bundle of the same study.
"""

import ctypes
import errno
import importlib.metadata
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from promptgraft.bundles.folder import TURN_FILE, file_sha256, locked_requirements
from promptgraft.bundles.manifest import (
    BACKBONE_FOLDER,
    CARD_FILE,
    EXAMPLES_FILE,
    LOCK_FILE,
    MANIFEST_FILE,
    Examples,
    Manifest,
    is_plain,
)
from promptgraft.objectives.file_store import file_lock, share
from promptgraft.spaces import InvalidInputError, PromptgraftError, plugin_versions

logger = logging.getLogger(__name__)

_VERSIONED = ("promptgraft", "torch", "transformers", "tokenizers", "peft", "safetensors", "scikit-learn")
# Of Linux's renameat2: relative to the working directory; swap the two.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def _also_needed(manifest: Manifest) -> tuple[str, ...]:
    """Name the packages that a kind of task needs beside those that all do."""
    return ("pillow",) if manifest.task.reads == "images" else ()


class BundleNotWrittenError(PromptgraftError, OSError):
    """The bundle couldn't be written; what was in its folder is as it was."""


@dataclass(frozen=True, slots=True)
class Staging:
    """A bundle on its way into its folder.

    Attributes:
        folder: Where it is to be.
        path: Where it is written.
    """

    folder: Path
    path: Path

    def write(
        self,
        manifest: Manifest,
        deltas: Sequence[Mapping[str, Tensor]],
        card: str,
        examples: Examples | None = None,
        backbone: Path | None = None,
    ) -> Manifest:
        """Write the whole bundle aside.

        Args:
            manifest: Its manifest, without `files` and `versions`.
            deltas: Of each model, the weights that differ from the backbone's, and the attached ones.
            card: The model card, in Markdown.
            examples: Rows with the trial's logits; none if the rows must not leave the study.
            backbone: Folder of the pretrained model, if the bundle is to bring it along.

        Returns:
            The manifest as written.

        Raises:
            BundleNotWrittenError: If it can't be written, as on a full disk.
        """
        with _explained(self.folder, "can't be written"):
            for member, delta in zip(manifest.models, deltas, strict=True):
                save_file({name: tensor.contiguous() for name, tensor in delta.items()}, self.path / member.file)
                share(self.path / member.file)
            self._write_text(LOCK_FILE, "\n".join(locked_requirements(_also_needed(manifest))) + "\n")
            if examples is not None:
                self._write_text(EXAMPLES_FILE, examples.model_dump_json() + "\n")
            if backbone is not None:
                (self.path / BACKBONE_FOLDER).mkdir()
                for name in manifest.backbone.files:
                    shutil.copyfile(backbone / name, self.path / BACKBONE_FOLDER / name)
            reference = manifest.backbone.model_copy(update={"bundled": backbone is not None})
        return self.describe(manifest.model_copy(update={"backbone": reference}), card)

    def describe(self, manifest: Manifest, card: str) -> Manifest:
        """Write the manifest and the card of what is written, or write them anew.

        Args:
            manifest: The manifest; `files` and `versions` are filled in here.
            card: The model card, in Markdown.

        Returns:
            The manifest as written.

        Raises:
            BundleNotWrittenError: If they can't be written.
        """
        with _explained(self.folder, "can't be written"):
            self._write_text(CARD_FILE, card)
            names = [member.file for member in manifest.models] + [CARD_FILE, LOCK_FILE]
            names += [EXAMPLES_FILE] if (self.path / EXAMPLES_FILE).exists() else []
            files = {name: file_sha256(self.path / name) for name in names}
            versioned = (*_VERSIONED, *_also_needed(manifest))
            versions = {name: importlib.metadata.version(name) for name in versioned} | plugin_versions()
            text = manifest.model_copy(update={"files": files, "versions": versions}).to_json()
            self._write_text(MANIFEST_FILE, text)
        return Manifest.model_validate_json(text)

    def put_in_place(self) -> None:
        """Let the bundle take the place of what is in its folder; files there that are no bundle's stay.

        On Linux that is one step: at any time the folder holds the earlier bundle or this one. Where that can't be (a
        folder that is a mount point, a file system that swaps no folders), files are moved one by one, the manifest
        last: a bundle that was replaced in part only doesn't load.

        Raises:
            BundleNotWrittenError: If it can't be moved there.
        """
        with _explained(self.folder, "can't be put in place"):
            _flush(self.path)
            if self.path.parent != self.folder and self._swapped():
                return
            ours, theirs = own_files(self.path), own_files(self.folder)
            self.folder.mkdir(exist_ok=True)
            for name in sorted(ours | theirs, key=lambda name: (name == MANIFEST_FILE, name)):
                if name in ours:
                    (self.folder / name).parent.mkdir(exist_ok=True)
                    (self.path / name).replace(self.folder / name)
                else:
                    (self.folder / name).unlink(missing_ok=True)
            with suppress(OSError):  # Other files may be in it.
                (self.folder / BACKBONE_FOLDER).rmdir()

    def _swapped(self) -> bool:
        """Move the bundle into its folder in one step; False if that can't be done here."""
        try:
            if not self.folder.exists() or not any(self.folder.iterdir()):
                self.path.replace(self.folder)
                return True
            _carry_over(self.folder, self.path)
            _exchange(self.path, self.folder)
        except OSError as error:
            logger.info("%s: its files are replaced one by one, since it can't be swapped: %s", self.folder, error)
            return False
        return True

    def _write_text(self, name: str, text: str) -> None:
        (self.path / name).write_text(text, encoding="utf-8")


@contextmanager
def staged_bundle(folder: Path, study: str, *, force: bool = False) -> Iterator[Staging]:
    """Prepare to write a bundle, and keep others from writing to the same folder meanwhile.

    Args:
        folder: Where the bundle is to be.
        study: The study that it is from.
        force: Whether it may take the place of another study's bundle.

    Raises:
        InvalidInputError: If something else is in the folder, or it can't be written to.
    """
    with _explained(folder, "can't be written to", InvalidInputError):
        folder = folder.resolve()
        _check_folder(folder, study, force=force)
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = not folder.exists() or os.access(folder.parent, os.W_OK | os.X_OK)
        turn = file_lock(folder.with_name(f".{folder.name}.lock") if beside else folder / TURN_FILE)
        try:
            turn.acquire(timeout=0)
        except Timeout:
            logger.warning("another export writes to %s: waiting for it", folder)
            turn.acquire()
    try:
        with _explained(folder, "can't be written to", InvalidInputError):
            _check_folder(folder, study, force=force)  # Another one may have written there meanwhile.
            # A folder that is a mount point, or where this process works, must stay the one that it is.
            fixed = os.path.ismount(folder) or Path.cwd().is_relative_to(folder)
            path = folder.with_name(f".{folder.name}.partial") if beside and not fixed else folder / ".partial"
            shutil.rmtree(path, ignore_errors=True)  # Of an export that was killed.
            path.mkdir()
            if folder.exists():
                path.chmod(folder.stat().st_mode)  # Who may read the folder may read its files.
        try:
            yield Staging(folder, path)
        finally:
            shutil.rmtree(path, ignore_errors=True)
    finally:
        turn.release()


def own_files(folder: Path) -> set[str]:
    """Return the names of a bundle's own files, as its manifest lists them, whatever version wrote it; none if none."""
    about = _manifest_in(folder)
    if about is None:
        return set()
    names, backbone = about.get("files"), about.get("backbone")
    own = {MANIFEST_FILE, *(name for name in names or () if is_plain(name))} if isinstance(names, dict) else set()
    if isinstance(backbone, dict) and backbone.get("bundled") and not (folder / BACKBONE_FOLDER).is_symlink():
        own |= {f"{BACKBONE_FOLDER}/{name}" for name in dict(backbone.get("files") or {}) if is_plain(name)}
    return own


def _manifest_in(folder: Path) -> dict[str, Any] | None:
    """Read the manifest of a bundle of any version, unchecked; None if there is none."""
    try:
        content = json.loads((folder / MANIFEST_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    is_ours = isinstance(content, dict) and {"schema_version", "study", "trial", "candidate"} <= content.keys()
    return content if is_ours else None


def _check_folder(folder: Path, study: str, *, force: bool) -> None:
    """Refuse to write where something else is than a bundle of this study, and within another bundle.

    Raises:
        InvalidInputError: With what is there.
    """
    around = next((parent for parent in folder.parents if _manifest_in(parent) is not None), None)
    if around is not None:
        raise InvalidInputError(
            f"{folder} is in the bundle {around}, which holds only what was exported; name another folder"
        )
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InvalidInputError(f"{folder} is a file; name a new folder for the bundle")
    about = _manifest_in(folder)
    if about is None:
        found = sorted(path.name for path in folder.iterdir() if path.name not in (TURN_FILE, ".partial", "lost+found"))
        if found:
            some = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
            raise InvalidInputError(
                f"{folder} holds no bundle but other files ({some}), which an export would mix with its own; name a "
                "new or an empty folder"
            )
    elif about["study"] != study and not force:
        raise InvalidInputError(
            f"{folder} holds the bundle of study {about['study']!r}, not of {study!r}; name another folder, or replace "
            "it with --force"
        )


def _carry_over(folder: Path, successor: Path) -> None:
    """Give a bundle's successor the files of others that are in its folder."""
    own = own_files(folder)

    def skipped(place: str, names: list[str]) -> list[str]:
        inner = Path(place).relative_to(folder)
        return [name for name in names if (inner / name).as_posix() in own or (successor / inner / name).is_file()]

    shutil.copytree(folder, successor, symlinks=True, ignore=skipped, copy_function=_link, dirs_exist_ok=True)
    with suppress(OSError):  # It is empty, unless others have put files there.
        (successor / BACKBONE_FOLDER).rmdir()


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # A file system without hard links.
        shutil.copy2(source, target, follow_symlinks=False)


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders in one step.

    Raises:
        OSError: If the system or the file system can't.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _flush(folder: Path) -> None:
    """Have the system write a folder's files to the disk, which may be full only then."""
    for place, _, names in os.walk(folder):
        for name in names:
            with (Path(place) / name).open("rb") as stream:
                os.fsync(stream.fileno())


@contextmanager
def _explained(folder: Path, what: str, kind: type[PromptgraftError] = BundleNotWrittenError) -> Iterator[None]:
    """Turn the system's errors into one sentence about the bundle's folder."""
    try:
        yield
    except PromptgraftError:
        raise
    except (OSError, RuntimeError, SafetensorError, shutil.Error) as error:  # RuntimeError: a link to itself.
        reason = getattr(error, "strerror", None) or error
        name = getattr(error, "filename", None)
        where = f" ({name})" if name else ""
        stays = "" if kind is InvalidInputError else "; what was there before is as it was"
        raise kind(f"{folder}: the bundle {what}: {reason}{where}{stays}") from error

"""A bundle's folder: written as a whole, read back, and every byte of it checked.

The files are hashed by the manifest, the manifest by itself. That finds damage and mistakes; it can't find a forger,
who would hash anew.
"""

import hashlib
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import ValidationError
from torch import Tensor

from promptgraft.bundles.manifest import (
    BACKBONE_FOLDER,
    CARD_FILE,
    EXAMPLES_FILE,
    LOCK_FILE,
    MANIFEST_FILE,
    SCHEMA_VERSION,
    Examples,
    Manifest,
)
from promptgraft.objectives.file_store import FileStore
from promptgraft.spaces import InvalidInputError, plugin_versions

_VERSIONED = ("promptgraft", "torch", "transformers", "tokenizers", "peft", "safetensors", "scikit-learn")


def file_sha256(path: Path) -> str:
    """Hash a file; hexadecimal SHA-256."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_bundle(
    folder: Path,
    manifest: Manifest,
    deltas: Sequence[Mapping[str, Tensor]],
    card: str,
    examples: Examples | None = None,
    backbone: Path | None = None,
) -> Manifest:
    """Write a bundle.

    It is written as a whole beside an earlier one in the folder, and then takes its place: whatever goes wrong before,
    such as a full disk, the earlier bundle stays. Other files in the folder stay, too.

    Args:
        folder: Where to; an earlier bundle there is replaced.
        manifest: Its manifest, without `files` and `versions`.
        deltas: Of each model, the weights that differ from the backbone's, and the attached ones.
        card: The model card, in Markdown.
        examples: Rows with the trial's logits; none if the rows must not leave the study.
        backbone: Folder of the pretrained model, if the bundle is to bring it along.

    Returns:
        The manifest as written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Inside the folder, so that renaming works even if the folder is a mount point.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as name:
        partial = Path(name)
        partial.chmod(folder.stat().st_mode)  # Who may read the folder may read its files.
        weights = dict(zip((member.file for member in manifest.models), deltas, strict=True))
        for name, delta in weights.items():
            FileStore(str(partial)).write_tensors(name, delta)
        texts = {CARD_FILE: card, LOCK_FILE: "\n".join(locked_requirements()) + "\n"}
        if examples is not None:
            texts[EXAMPLES_FILE] = examples.model_dump_json() + "\n"
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
        if backbone is not None:
            (partial / BACKBONE_FOLDER).mkdir()
            for name in manifest.backbone.files:
                shutil.copyfile(backbone / name, partial / BACKBONE_FOLDER / name)
        reference = manifest.backbone.model_copy(update={"bundled": backbone is not None})
        files = {name: file_sha256(partial / name) for name in (*weights, *texts)}
        versions = {name: importlib.metadata.version(name) for name in _VERSIONED} | plugin_versions()
        written = manifest.model_copy(update={"files": files, "versions": versions, "backbone": reference})
        text = written.to_json()
        (partial / MANIFEST_FILE).write_text(text, encoding="utf-8")
        _put_in_place(partial, folder)
    return Manifest.model_validate_json(text)


def _put_in_place(partial: Path, folder: Path) -> None:
    """Move a bundle's files into the folder, the manifest last: it tells a bundle that was replaced in part only."""
    if (folder / BACKBONE_FOLDER).exists():
        (folder / BACKBONE_FOLDER).rename(partial / "earlier")
    deltas = sorted({path.name for own in (partial, folder) for path in own.glob("delta*.safetensors")})
    for name in (BACKBONE_FOLDER, *deltas, CARD_FILE, EXAMPLES_FILE, LOCK_FILE, MANIFEST_FILE):
        if (partial / name).exists():
            (partial / name).replace(folder / name)
        elif name != BACKBONE_FOLDER:
            (folder / name).unlink(missing_ok=True)


def read_manifest(folder: Path) -> Manifest:
    """Read a bundle's manifest and check the bundle's own files against it.

    Raises:
        InvalidInputError: If it is no bundle, is of another version, or a file was changed.
    """
    manifest = parse_manifest(folder)
    for name in changed_files(folder, manifest):
        raise InvalidInputError(f"{folder / name} is missing or was changed after the export")
    return manifest


def parse_manifest(folder: Path) -> Manifest:
    """Read a bundle's manifest, but none of its other files.

    Raises:
        InvalidInputError: If it is no bundle, is of another version, or its manifest was changed.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise InvalidInputError(f"{folder} is not a bundle: it holds no {MANIFEST_FILE}")
    content = path.read_bytes()
    try:
        version = json.loads(content)["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidInputError(
            f"{path} is not a bundle's manifest, or was changed after the export: {error}"
        ) from error
    if version != SCHEMA_VERSION:
        raise InvalidInputError(
            f"{path} has schema version {version}, this promptgraft reads {SCHEMA_VERSION}; use the version that wrote "
            "it, or export the trial again"
        )
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise InvalidInputError(
            f"{path} is not a bundle's manifest, or was changed after the export: {error}"
        ) from error
    if manifest.to_json().encode() != content:
        raise InvalidInputError(f"{path} was changed after the export")
    return manifest


def changed_files(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yield the names of a bundle's own files that are missing or aren't those of the export."""
    for name, expected in manifest.files.items():
        if not (folder / name).is_file() or file_sha256(folder / name) != expected:
            yield name


def read_examples(folder: Path) -> Examples | None:
    """Read a bundle's examples, checked before; None if it has none."""
    path = folder / EXAMPLES_FILE
    return Examples.model_validate_json(path.read_bytes()) if path.is_file() else None


def locked_requirements() -> list[str]:
    """List what is installed of promptgraft and all that it needs to predict, in pip's format."""
    waiting, found = ["promptgraft"], dict[str, str]()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # Needed on other systems only.
        found[name] = f"{name}=={distribution.version}"
        for text in distribution.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return [found[name] for name in sorted(found)]

"""A bundle's folder, read back, and every byte of it checked.

The files are hashed by the manifest, the manifest by itself. That finds damage and mistakes; it can't find a forger,
who would hash anew.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import ValidationError

from promptgraft.bundles.manifest import (
    BACKBONE_FOLDER,
    EXAMPLES_FILE,
    MANIFEST_FILE,
    SCHEMA_VERSION,
    Examples,
    Manifest,
)
from promptgraft.objectives.data import TASK_KINDS
from promptgraft.spaces import InvalidInputError

# Locked by an export that can't write beside the bundle's folder.
TURN_FILE = ".lock"
# What git and the hub's clients keep in a folder that they fetch; no part of a bundle, and nothing reads it.
_BOOKKEEPING = (TURN_FILE, ".git", ".gitattributes", ".gitignore", ".cache")


def file_sha256(path: Path) -> str:
    """Hash a file; hexadecimal SHA-256."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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


def listed_files(manifest: Manifest) -> list[str]:
    """Return the names of all files of a bundle, its manifest and its backbone's included."""
    backbone = [f"{BACKBONE_FOLDER}/{name}" for name in manifest.backbone.files] if manifest.backbone.bundled else []
    return [MANIFEST_FILE, *manifest.files, *backbone]


def check_no_links(folder: Path, manifest: Manifest) -> None:
    """Refuse a bundle of which a file lies elsewhere.

    Raises:
        InvalidInputError: If a file of it, or its backbone's folder, is a link.
    """
    for name in (*([BACKBONE_FOLDER] if manifest.backbone.bundled else []), *listed_files(manifest)):
        if (folder / name).is_symlink():
            raise InvalidInputError(f"{folder / name} is a link, and what it leads to may change; copy the file there")


def copy_bundle(folder: Path, target: Path) -> None:
    """Copy what a bundle's manifest lists, and nothing else, and check the copy.

    Args:
        folder: The bundle.
        target: Where to; a new folder.

    Raises:
        InvalidInputError: If it isn't what was exported, or a file of it is a link.
    """
    manifest = read_manifest(folder)
    check_no_links(folder, manifest)
    target.mkdir(parents=True)
    for name in listed_files(manifest):
        (target / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / name, target / name, follow_symlinks=False)
    check_intact(target, manifest.digest)


def check_intact(folder: Path, digest: str) -> None:
    """Refuse a folder that isn't, to the byte, the bundle of a digest.

    Raises:
        InvalidInputError: If it is another one, isn't whole, or is made of links.
    """
    manifest = read_manifest(folder)
    check_no_links(folder, manifest)
    if manifest.digest != digest:
        raise InvalidInputError(f"{folder} is another bundle: its digest is {manifest.digest:.12}, not {digest:.12}")
    if manifest.backbone.bundled:
        for name, expected in manifest.backbone.files.items():
            file = folder / BACKBONE_FOLDER / name
            if not file.is_file() or file_sha256(file) != expected:
                raise InvalidInputError(f"{file} is missing or was changed after the export")


def unlisted_files(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yield the names of files that a bundle's manifest doesn't list, but for those of git and the hub."""
    listed = set(listed_files(manifest))
    for place, folders, names in os.walk(folder):
        inner = Path(place).relative_to(folder)
        if inner == Path():
            folders[:] = [name for name in folders if name not in _BOOKKEEPING]
            names = [name for name in names if name not in _BOOKKEEPING]
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        yield from sorted(name for name in ((inner / own).as_posix() for own in (*names, *links)) if name not in listed)


def read_examples(folder: Path) -> Examples | None:
    """Read a bundle's examples; None if it has none.

    Raises:
        InvalidInputError: If they aren't rows with the templates' fields, and a finite logit a label each.
    """
    path = folder / EXAMPLES_FILE
    if not path.is_file():
        return None
    manifest = parse_manifest(folder)
    try:
        examples = Examples.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        # Of logits, pydantic also names the branch of the union that it tried.
        parts = [
            part for part in first["loc"] if part == "logits" or "logits" not in first["loc"] or isinstance(part, int)
        ]
        place = ".".join(map(str, parts)) or "the file"
        raise _no_examples(path, f"{place}: {first['msg']}") from error
    if len(examples.logits) != len(examples.rows):
        raise _no_examples(path, f"{len(examples.rows)} rows have {len(examples.logits)} rows of logits")
    for number, (row, logits) in enumerate(zip(examples.rows, examples.logits, strict=True)):
        kind, width = TASK_KINDS[manifest.kind], manifest.task.width
        for own in logits if kind.in_places else (logits,):
            if not isinstance(own, tuple) or len(own) != width:
                found = len(own) if isinstance(own, tuple) else "single"
                raise _no_examples(path, f"row {number} has {found} logits for {width} labels")
        if missing := sorted(manifest.columns.keys() - row.keys()):
            raise _no_examples(path, f"row {number} lacks the field {missing[0]!r}")
    return examples


def _no_examples(path: Path, problem: str) -> InvalidInputError:
    return InvalidInputError(f"{path} doesn't hold example rows with their logits: {problem}; export the trial again")


@cache
def locked_requirements(others: tuple[str, ...] = ()) -> tuple[str, ...]:
    """List what is installed of promptgraft and all that it needs to predict, in pip's format.

    Args:
        others: Further packages that are needed.
    """
    waiting, found = ["promptgraft", *others], dict[str, str]()
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
    return tuple(found[name] for name in sorted(found))

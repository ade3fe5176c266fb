"""The bundle: everything that production needs of a winner, as safetensors and JSON; nothing in it is code.

Every byte of it is hashed: the files by the manifest, the manifest by itself. That finds damage and mistakes; it can't
find a forger, who would hash anew.
"""

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from promptgraft.objectives.demonstrations import DemonstrationPool
from promptgraft.objectives.files import FileStore
from promptgraft.objectives.tasks import Row
from promptgraft.spaces import Candidate, InvalidInputError, Template, Verbalizer
from promptgraft.spaces.dimensions import DIMENSIONS
from promptgraft.spaces.registry import plugin_versions

SCHEMA_VERSION = 2
MANIFEST_FILE, DELTA_FILE, CARD_FILE = "manifest.json", "delta.safetensors", "README.md"
EXAMPLES_FILE, LOCK_FILE, BACKBONE_FOLDER = "examples.json", "requirements.txt", "backbone"
_VERSIONED = ("promptgraft", "torch", "transformers", "tokenizers", "peft", "safetensors", "scikit-learn")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BackboneReference(_Part):
    """The pretrained model that the delta belongs to.

    Attributes:
        path: Local folder or hub id; where it was, if the bundle brings it along.
        bundled: Whether the bundle brings it along, in its folder `backbone`.
        family: Backbone family.
        max_tokens: Longest rendered prompt, in tokens.
        files: File name -> SHA-256 of its content.
        trust_remote_code: Whether the model needs Python code that lies beside its weights.
        dtype: Type in which it is loaded and computes.
        attn_implementation: How transformers computes attention; its own choice if None.
    """

    path: str
    bundled: bool = False
    family: str
    max_tokens: int = Field(ge=8)
    files: dict[str, str]
    trust_remote_code: bool = False
    dtype: Literal["float32"] = "float32"
    attn_implementation: str | None = None


class DemonstrationRow(_Part):
    """A training row that prompts may show.

    Attributes:
        fields: Template field -> value.
        label: Its label.
    """

    fields: dict[str, str]
    label: str


class TemplatePart(_Part):
    """A template.

    Attributes:
        name: The user's name for it.
        text: In jinja2's syntax.
    """

    name: str
    text: str


class VerbalizerPart(_Part):
    """A verbalizer.

    Attributes:
        name: The user's name for it.
        words: Label -> label words.
    """

    name: str
    words: dict[str, tuple[str, ...]]


class Examples(_Part):
    """Rows with the logits that the trial gave them, by which `verify` checks that a bundle still gives the same.

    Attributes:
        rows: Template field -> value, a mapping a row.
        logits: Shape (rows, labels).
    """

    rows: tuple[dict[str, str], ...]
    logits: tuple[tuple[float, ...], ...]


class Manifest(_Part):
    """What a bundle says of itself.

    Attributes:
        schema_version: Version of this layout.
        study: Name of the study.
        trial: Number of the winning trial.
        seed: Seed of that trial.
        candidate: The candidate, by parameter name.
        template: The template.
        verbalizer: The verbalizer; None if the head uses none.
        labels: The target's labels, in the order of the logits.
        head_labels: Labels that the head was built for: the target's and the source's.
        columns: Template field -> column of the input table.
        backbone: The pretrained model.
        evaluation_batch_size: Rows a batch.
        metrics: Split -> metric -> value.
        intervals: Split -> metric -> ends of the interval of that value on rows like these.
        data: `target rows`, `source rows` and `test rows` -> hash of those that the study was started with.
        demonstrations: Training rows that are shown in front of a prompt, in the order of preference; all of them where
            each prompt is shown those nearest to it.
        files: File of this bundle -> SHA-256 of its content.
        versions: Package -> version that wrote it; `requirements.txt` has all that these need.
        digest: SHA-256 of this manifest, written as it is with an empty digest.
    """

    schema_version: int = SCHEMA_VERSION
    study: str
    trial: int
    seed: int = Field(ge=0, lt=2**31)
    candidate: dict[str, Any]
    template: TemplatePart
    verbalizer: VerbalizerPart | None
    labels: tuple[str, ...]
    head_labels: tuple[str, ...]
    columns: dict[str, str]
    backbone: BackboneReference
    evaluation_batch_size: int = Field(ge=1, le=100_000)
    metrics: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    data: dict[str, str | dict[str, str] | None] = {}
    demonstrations: tuple[DemonstrationRow, ...] = ()
    files: dict[str, str] = {}
    versions: dict[str, str] = {}
    digest: str = ""

    @model_validator(mode="after")
    def _fits_together(self) -> "Manifest":
        if len(set(self.labels)) < max(2, len(self.labels)) or len(set(self.head_labels)) < len(self.head_labels):
            raise ValueError("labels must be two or more, each once")
        if not set(self.labels) <= set(self.head_labels):
            raise ValueError("labels must be among head_labels")
        if not {entry.label for entry in self.demonstrations} <= set(self.labels):
            raise ValueError("labels of demonstrations must be among labels")
        return self

    @property
    def origin(self) -> dict[str, Any]:
        """`study`, `trial` and `digest`: what others' records say of a bundle."""
        return {"study": self.study, "trial": self.trial, "digest": self.digest}

    def to_json(self) -> str:
        """Write it as it stands in a bundle, with its digest."""
        bare = self.model_copy(update={"digest": ""}).model_dump_json(indent=2)
        digest = hashlib.sha256(bare.encode()).hexdigest()
        return self.model_copy(update={"digest": digest}).model_dump_json(indent=2) + "\n"

    def parts(self) -> tuple[Candidate, Template, Verbalizer | None]:
        """Build the candidate, its template and its verbalizer.

        Raises:
            InvalidInputError: If they don't make sense, or the verbalizer lacks words for a label.
        """
        verbalizer = None
        if self.verbalizer is not None:
            verbalizer = Verbalizer(self.verbalizer.name, self.verbalizer.words)
            verbalizer.check_labels(self.head_labels)
        template = Template(self.template.name, self.template.text)
        template.check_fields(self.columns)
        return self._candidate(), template, verbalizer

    def _candidate(self) -> Candidate:
        values: dict[str, Any] = {}
        for name, value in self.candidate.items():
            if name in DIMENSIONS:
                value = DIMENSIONS[name].check(value)
            elif not isinstance(value, str | int | float):
                raise InvalidInputError(f"{name} must be text or a number but got {value!r}")
            values[name] = value
        return Candidate.from_values(values)

    def pool(self) -> DemonstrationPool | None:
        """Build the pool of demonstrations; None if the candidate has none.

        Raises:
            InvalidInputError: If there are too few rows.
        """
        candidate, template, verbalizer = self.parts()
        if not candidate.demonstrations.count or verbalizer is None:
            return None
        rows = [Row(entry.fields, self.labels.index(entry.label)) for entry in self.demonstrations]
        return DemonstrationPool(candidate.demonstrations, rows, self.labels, template, verbalizer)


def demonstration_rows(pool: DemonstrationPool | None, labels: Sequence[str]) -> tuple[DemonstrationRow, ...]:
    """Write down a pool's rows.

    Args:
        pool: The pool; none gives no rows.
        labels: The target's labels.
    """
    rows = pool.rows if pool else ()
    return tuple(DemonstrationRow(fields=dict(row.fields), label=labels[row.label]) for row in rows)


def file_sha256(path: Path) -> str:
    """Hash a file; hexadecimal SHA-256."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_bundle(
    folder: Path,
    manifest: Manifest,
    delta: Mapping[str, Tensor],
    card: str,
    examples: Examples | None = None,
    backbone: Path | None = None,
) -> Manifest:
    """Write a bundle.

    Args:
        folder: Where to; an earlier bundle there is replaced.
        manifest: Its manifest, without `files` and `versions`.
        delta: The weights that differ from the backbone's, and the attached ones.
        card: The model card, in Markdown.
        examples: Rows with the trial's logits; none if the rows must not leave the study.
        backbone: Folder of the pretrained model, if the bundle is to bring it along.

    Returns:
        The manifest as written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_earlier(folder)
    FileStore(str(folder)).write_tensors(DELTA_FILE, delta)
    texts = {CARD_FILE: card, LOCK_FILE: "\n".join(locked_requirements()) + "\n"}
    if examples is not None:
        texts[EXAMPLES_FILE] = examples.model_dump_json() + "\n"
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    if backbone is not None:
        (folder / BACKBONE_FOLDER).mkdir()
        for name in manifest.backbone.files:
            shutil.copyfile(backbone / name, folder / BACKBONE_FOLDER / name)
    reference = manifest.backbone.model_copy(update={"bundled": backbone is not None})
    files = {name: file_sha256(folder / name) for name in (DELTA_FILE, *texts)}
    versions = {name: importlib.metadata.version(name) for name in _VERSIONED} | plugin_versions()
    written = manifest.model_copy(update={"files": files, "versions": versions, "backbone": reference})
    text = written.to_json()
    partial = folder / f"{MANIFEST_FILE}.partial"
    partial.write_text(text, encoding="utf-8")
    partial.replace(folder / MANIFEST_FILE)
    return Manifest.model_validate_json(text)


def _remove_earlier(folder: Path) -> None:
    """Remove a bundle, the manifest first: what is left of it when this is cut short is no bundle."""
    for name in (MANIFEST_FILE, DELTA_FILE, CARD_FILE, EXAMPLES_FILE, LOCK_FILE):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / BACKBONE_FOLDER, ignore_errors=True)


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

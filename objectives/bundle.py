"""The bundle: everything that production needs of a winner, as safetensors and JSON."""

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from promptgraft.objectives.demonstrations import DemonstrationPool
from promptgraft.objectives.files import FileStore
from promptgraft.objectives.tasks import Row
from promptgraft.spaces import Candidate, InvalidInputError, Template, Verbalizer
from promptgraft.spaces.registry import plugin_versions

SCHEMA_VERSION = 1
MANIFEST_FILE, DELTA_FILE = "manifest.json", "delta.safetensors"
_VERSIONED = ("promptgraft", "torch", "transformers", "tokenizers", "peft", "safetensors", "scikit-learn")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BackboneReference(_Part):
    """The pretrained model that the delta belongs to.

    Attributes:
        path: Local folder or hub id.
        family: Backbone family.
        max_tokens: Longest rendered prompt, in tokens.
        files: File name -> SHA-256 of its content.
        trust_remote_code: Whether the model needs Python code that lies beside its weights.
        dtype: Type in which it is loaded and computes.
        attn_implementation: How transformers computes attention; its own choice if None.
    """

    path: str
    family: str
    max_tokens: int
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


class Manifest(_Part):
    """What a bundle says of itself.

    Attributes:
        schema_version: Version of this layout.
        study: Name of the study.
        trial: Number of the winning trial.
        seed: Seed of that trial.
        candidate: The candidate, by parameter name.
        template: Name and text.
        verbalizer: Name and label -> words; None if the head uses none.
        labels: The target's labels, in the order of the logits.
        head_labels: Labels that the head was built for: the target's and the source's.
        columns: Template field -> column of the input table.
        backbone: The pretrained model.
        evaluation_batch_size: Rows a batch.
        metrics: Split -> metric -> value.
        demonstrations: Training rows that are shown in front of a prompt, in the order of preference; all of them where
            each prompt is shown those nearest to it.
        files: File of this bundle -> SHA-256 of its content.
        versions: Package -> version that wrote it.
    """

    schema_version: int = SCHEMA_VERSION
    study: str
    trial: int
    seed: int
    candidate: dict[str, Any]
    template: dict[str, str]
    verbalizer: dict[str, Any] | None
    labels: tuple[str, ...]
    head_labels: tuple[str, ...]
    columns: dict[str, str]
    backbone: BackboneReference
    evaluation_batch_size: int
    metrics: dict[str, dict[str, float]]
    demonstrations: tuple[DemonstrationRow, ...] = ()
    files: dict[str, str] = {}
    versions: dict[str, str] = {}

    def parts(self) -> tuple[Candidate, Template, Verbalizer | None]:
        """Build the candidate, its template and its verbalizer."""
        verbalizer = None
        if self.verbalizer is not None:
            words = {label: tuple(entry) for label, entry in self.verbalizer["words"].items()}
            verbalizer = Verbalizer(self.verbalizer["name"], words)
        return Candidate.from_values(self.candidate), Template(self.template["name"], self.template["text"]), verbalizer

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


def write_bundle(folder: Path, manifest: Manifest, delta: Mapping[str, Tensor], card: str) -> Manifest:
    """Write a bundle.

    Args:
        folder: Where to; files of an earlier bundle are replaced.
        manifest: Its manifest, without `files` and `versions`.
        delta: The weights that differ from the backbone's, and the attached ones.
        card: The model card, in Markdown.

    Returns:
        The manifest as written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    FileStore(str(folder)).write_tensors(DELTA_FILE, delta)
    (folder / "README.md").write_text(card, encoding="utf-8")
    files = {name: file_sha256(folder / name) for name in (DELTA_FILE, "README.md")}
    versions = {name: importlib.metadata.version(name) for name in _VERSIONED} | plugin_versions()
    written = manifest.model_copy(update={"files": files, "versions": versions})
    partial = folder / f"{MANIFEST_FILE}.partial"
    partial.write_text(written.model_dump_json(indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / MANIFEST_FILE)
    return written


def read_manifest(folder: Path) -> Manifest:
    """Read a bundle's manifest and check the bundle's own files against it.

    Raises:
        InvalidInputError: If it is no bundle, was written by a newer version, or a file was changed.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise InvalidInputError(f"{folder} is not a bundle: it holds no {MANIFEST_FILE}")
    try:
        manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} is not a bundle's manifest: {error}") from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise InvalidInputError(
            f"{path} has schema version {manifest.schema_version}, this promptgraft reads {SCHEMA_VERSION}; "
            "use the version that wrote it"
        )
    for name, expected in manifest.files.items():
        if not (folder / name).is_file() or file_sha256(folder / name) != expected:
            raise InvalidInputError(f"{folder / name} is missing or was changed after the export")
    return manifest

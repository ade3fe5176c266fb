"""Predictions from a bundle; needs neither Optuna nor Ray."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from promptgraft.bundles.folder import read_manifest
from promptgraft.bundles.manifest import BACKBONE_FOLDER, MemberPart, check_abstaining
from promptgraft.bundles.new_items import NewItems, read_new_items, with_items, with_rows
from promptgraft.objectives.backbones import BACKBONES, FAMILIES, file_hashes
from promptgraft.objectives.caching import Activations, StageKey, StageStore
from promptgraft.objectives.data import Prediction, has_text, joined, read_frame, row_named
from promptgraft.objectives.prompting import BACKBONE, DemonstrationPool, PromptedModel
from promptgraft.objectives.runtime import choose_device
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.spaces import InvalidInputError, checked_path

# Rows whose hidden states the models of an ensemble share at a time, and room for these.
SHARED_ROWS, SHARED_BYTES = 256, 2**30
# Probabilities of labels that are held at a time: 128 MB.
MOST_NUMBERS = 2**24
# A row: template field -> value, or the value alone where there is but one field.
Input = str | Mapping[str, str]
# Rows; of a frame, the columns that the model was fitted to.
Inputs = Iterable[Input] | pd.DataFrame


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model of a bundle.

    Attributes:
        model: The backbone with all that the bundle puts on it.
        pool: What demonstrations are chosen from; None if prompts show none.
        weight: Its share of an ensemble's probabilities; 1 where it is alone.
        changed: The weights that its trial trained: name -> hash of its values.
    """

    model: PromptedModel
    pool: DemonstrationPool | None
    weight: float
    changed: Mapping[str, str]

    def shares(self) -> int:
        """Return how many of the lowest layers other models may compute for it: those that it froze."""
        reuse = self.model.reuse()
        return 0 if reuse is None or reuse.keys_from < reuse.depth else reuse.depth

    def changed_below(self, depth: int) -> dict[str, str]:
        """Return those of `changed` that the lowest layers compute with."""
        names = (BACKBONE + name for name in self.model.backbone.names_below(depth))
        return {name: self.changed[name] for name in names if name in self.changed}

    def share(self, stages: StageStore, depth: int) -> None:
        """Look up in a store what frozen layers make of a prompt, and put there what isn't in it.

        Args:
            stages: The store that the models of an ensemble share.
            depth: The lowest layers that they have in common.
        """
        backbone, reuse = self.model.backbone, self.model.reuse()
        if not self.shares() or reuse is None:
            return
        on_the_way = depth if FAMILIES[backbone.family].in_parts else 0
        self.model.activations = Activations(stages, backbone.layers, reuse, on_the_way, self.changed_below)

    def take_over(self, other: PromptedModel, names: Sequence[str]) -> None:
        """Give up this one's copy of some weights for those of another model, which have the same values."""
        theirs, own = other.weights(), self.model.weights()
        for name in names:
            own[name].data = theirs[name].data
        self.model.backbone.weights.pristine = other.backbone.weights.pristine


class Predictor:
    """A loaded bundle; threads may share it, and take turns.

    Args:
        folder: The bundle.
        backbone: Folder or hub id of the pretrained model, where it is not at the recorded place.
        device: Where to compute; chosen from what this process was given if None.
        trust_remote_code: Whether Python code that lies beside the weights may be run.
        items: Table of items that may be recommended, too, though the bundle has never seen them; see `new_items`.

    Attributes:
        folder: The bundle.
        manifest: What it says of itself.
        task: The kind of task, which says what outputs mean.
        new_items: What the table of items has added.
        members: Its models: more than one if it holds an ensemble. They share the weights that none has changed.

    Raises:
        InvalidInputError: If the bundle or the backbone is not the recorded one.
    """

    def __init__(
        self,
        folder: Path | str,
        backbone: str | None = None,
        device: torch.device | None = None,
        *,
        trust_remote_code: bool = False,
        items: str | None = None,
    ) -> None:
        self.folder = folder = checked_path(folder, "a bundle")
        self.manifest = read_manifest(folder)
        self.new_items = read_new_items(items, self.manifest) if items else NewItems()
        reference = self.manifest.backbone
        if reference.family not in BACKBONES:
            raise InvalidInputError(
                f"{folder} needs the backbone family {reference.family!r}, which no package brings that is installed "
                "here; install the one that the study was run with"
            )
        path = backbone or (str(folder / BACKBONE_FOLDER) if reference.bundled else reference.path)
        found = file_hashes(path)
        for name, expected in reference.files.items():
            if found.get(name) != expected:
                raise InvalidInputError(
                    f"{path}: {name} is not the file that this bundle was trained with; pass the right model "
                    "with --backbone"
                )
        if reference.trust_remote_code and not trust_remote_code:
            raise InvalidInputError(
                f"{path} needs Python code of its own; read it, and if you trust it, pass --trust-remote-code"
            )
        spec = BackboneSpec(
            path,
            reference.family,
            reference.max_tokens,
            trust_remote_code,
            dtype=reference.dtype,
            attn_implementation=reference.attn_implementation,
            languages=self.manifest.languages,
            layers=reference.layers,
            image_size=reference.image_size,
        )
        self.task = replace(self.manifest.task, labels=(*self.manifest.labels, *self.new_items.names))
        self._lock = Lock()
        members: list[LoadedModel] = []
        for part in self.manifest.models:
            loaded = self._load(part, spec, device or choose_device())
            if members:
                first = members[0]
                common = first.model.weights().keys() & loaded.model.weights().keys()
                loaded.take_over(first.model, sorted(common - first.changed.keys() - loaded.changed.keys()))
            members.append(loaded)
        self.members = tuple(members)

    def _load(self, part: MemberPart, spec: BackboneSpec, device: torch.device) -> LoadedModel:
        manifest, file, new = self.manifest, self.folder / part.file, self.new_items.names
        candidate, template, verbalizer = with_items(part, new).parts(manifest.head_labels, manifest.shown)
        backbone = BACKBONES[spec.family](spec, device)
        backbone.expect(manifest.head_labels)
        model = PromptedModel(backbone, candidate, template, verbalizer, (*manifest.head_labels, *new), manifest.seed)
        if words := self.task.words():
            model.read_words(words)
        model.read_prior(self.task, manifest.head_labels)
        try:
            delta = load_file(file)
        except (SafetensorError, OSError, ValueError) as error:
            raise InvalidInputError(f"{file} is no whole safetensors file ({error}); export the trial again") from error
        try:
            model.load_all(with_rows(delta, model, len(new)), len(manifest.labels))
        except InvalidInputError as error:
            raise InvalidInputError(
                f"{file} doesn't fit the manifest's candidate: {error}; export the trial again"
            ) from error
        if candidate.calibration != "none" and model.bias is None:
            raise InvalidInputError(
                f"{file} has no calibration.bias, but the candidate's calibration is {candidate.calibration!r}; "
                "export the trial again"
            )
        if self.task.has_numbers and model.scaling is None:
            raise InvalidInputError(
                f"{file} has no tensor `scaling`, which numbers are computed by; export the trial again"
            )
        # A model that is alone has nobody to share with.
        changed = {name: "" if len(manifest.models) == 1 else _hash(tensor) for name, tensor in delta.items()}
        return LoadedModel(model, manifest.pool(part), part.weight, changed)

    def share_weights(self, other: "Predictor") -> None:
        """Give up this one's copy of the weights for those of another predictor of the same bundle.

        Each can then predict in a thread of its own, in the memory of one.
        """
        for own, theirs in zip(self.members, other.members, strict=True):
            own.take_over(theirs.model, list(own.model.weights()))

    def only_model(self, what: str) -> LoadedModel:
        """Return the one model of a bundle that holds no ensemble.

        Args:
            what: What can't hold several, for the message.

        Raises:
            InvalidInputError: If it holds an ensemble.
        """
        if len(self.members) > 1:
            trials = ", ".join(str(part.trial) for part in self.manifest.models)
            raise InvalidInputError(
                f"{self.folder} is an ensemble of the trials {trials}, and {what} holds one model only; export a "
                f"single trial, as with --trial {self.manifest.trial}, and convert that"
            )
        return self.members[0]

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names, in the order of the logits."""
        return self.task.labels

    def predict(self, rows: Inputs) -> list[Prediction]:
        """Return the likeliest label of each row, all that apply, a number, a text or spans, by the kind of task."""
        texts = self.texts(rows)
        return self.task.predict(self.expected(texts), texts)

    def predict_proba(self, rows: Inputs) -> npt.NDArray[np.float64]:
        """Return each label's probability, shape (len(rows), len(labels)), or of each word; see `logits`.

        Raises:
            InvalidInputError: If the bundle predicts numbers or texts, which have no probability, or as `logits`.
        """
        if not self.task.has_labels:
            what = "numbers" if self.task.has_numbers else "texts"
            raise InvalidInputError(f"{self.folder} predicts {what}, which have no probabilities; use predict")
        return self.expected(rows)

    def expected(self, rows: Inputs) -> npt.NDArray[np.float64]:
        """Return each label's probability, or the numbers; see `logits`."""
        return self.task.expected(self.logits(rows).astype(np.float64) / self.manifest.temperature)

    def logits(self, rows: Inputs) -> npt.NDArray[np.float32]:
        """Score rows; one that is too long is cut as it was in training.

        Args:
            rows: Template field -> value, one mapping a row; or texts, where templates have but one field; or a frame
                with the columns of the study's table.

        Returns:
            Logits before the temperature, shape (len(rows), len(labels)); those of an ensemble are the logarithms of
            the mean probabilities. Where the kind of task is of numbers, these. Where each word has an output, shape
            (len(rows), words, len(labels)), with zeros behind the last word of a row.

        Raises:
            InvalidInputError: If a row lacks a field, or has one that is empty or no text.
        """
        checked = [{name: value.strip() for name, value in row.items()} for row in self.texts(rows)]
        size = len(checked) if len(self.members) == 1 else SHARED_ROWS
        with self._lock, row_named(checked):
            parts = [self._score_all(checked[start : start + size]) for start in range(0, len(checked), size or 1)]
        scores = [joined(own) for own in zip(*parts, strict=True)] if parts else self._score_all([])
        return self.task.combine(scores, [member.weight for member in self.members])

    def _score_all(self, rows: Sequence[Mapping[str, str]]) -> list[npt.NDArray[np.float32]]:
        """Score rows by each model; frozen layers that several have in common are run once for the same prompt."""
        stages, depth = StageStore(None, SHARED_BYTES), self._common_depth()
        try:
            for member in self.members if len(self.members) > 1 else ():
                member.share(stages, depth)
                member.model.backbone.keep(lambda content, compute: stages.get(StageKey.of(content), compute))
            return [self._score(member, rows) for member in self.members]
        finally:
            for member in self.members:
                member.model.activations = None
                member.model.backbone.forget()

    def _common_depth(self) -> int:
        """Count the lowest layers that all models which froze any have in common."""
        sharing = [member for member in self.members if member.shares()]
        for depth in range(min((member.shares() for member in sharing), default=0), 0, -1):
            below = [member.changed_below(depth) for member in sharing]
            if all(own == below[0] for own in below):
                return depth
        return 0

    def _score(self, member: LoadedModel, rows: Sequence[Mapping[str, str]]) -> npt.NDArray[np.float32]:
        model, size = member.model, self.manifest.evaluation_batch_size
        encoded = model.encode_fields(rows, member.pool)
        if model.activations is not None:
            by_length = sorted(range(len(encoded)), key=lambda index: len(encoded[index].ids))
            model.activations.add([row.ids for row in encoded], by_length)
        found: npt.NDArray[np.float32] = model.score(encoded, self.labels, size).numpy()
        return found

    def texts(self, rows: Inputs) -> list[Mapping[str, str]]:
        """Return the fields of rows, as they were given; see `logits`."""
        if isinstance(rows, pd.DataFrame):
            columns = self.manifest.columns
            cells = read_frame(rows, list(dict.fromkeys(columns.values()))).to_dict("records")
            rows = [{name: own[column] for name, column in columns.items()} for own in cells]
        if isinstance(rows, str | Mapping) or not isinstance(rows, Iterable):
            raise InvalidInputError(f"expected a list of rows, or a frame, got {type(rows).__name__}; write [row]")
        return [self._fields(number, row) for number, row in enumerate(rows)]

    def _fields(self, number: int, row: Input) -> Mapping[str, str]:
        names = list(self.manifest.columns)
        if isinstance(row, str) and len(names) == 1:
            row = {names[0]: row}
        wanted = f"row {number}: expected the field{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"
        if not isinstance(row, Mapping):
            raise InvalidInputError(f"{wanted}, got {type(row).__name__}")
        for name in names:
            if not has_text(row.get(name)):
                raise InvalidInputError(f"{wanted}, each a text that isn't empty, got {row.get(name)!r} for {name!r}")
        return {name: row[name] for name in names}

    def predict_table(self, path: str, abstain_below: float = 0.0) -> pd.DataFrame:
        """Predict every row of a CSV, TSV, JSONL or Parquet file, or of such a table on standard input (`-`).

        Args:
            path: The file; where rows are images, also a folder of them.
            abstain_below: See `predict_rows`.

        Returns:
            All columns of the table, and those of `predict_rows`; columns of the table with such a name are called
            `input_...`. A row whose text is missing, or is no text, has no prediction.

        Raises:
            InvalidInputError: If the file can't be read or lacks a column.
        """
        columns = self.manifest.columns
        texts, whole = self.task.read_unanswered(path, list(columns.values()))
        rows = [{name: record[column] for name, column in columns.items()} for record in texts.to_dict("records")]
        predictions = self.predict_rows(rows, abstain_below)
        names = [str(name) for name in whole.columns]
        for place, name in enumerate(names):
            if name in predictions.columns:
                while name in predictions.columns or name in names:
                    name = f"input_{name}"
                names[place] = name
        whole.columns = pd.Index(names)
        return pd.concat([whole, predictions], axis=1)

    def predict_rows(self, rows: Sequence[Mapping[str, object]], abstain_below: float = 0.0) -> pd.DataFrame:
        """Predict rows of which some may lack a text.

        Args:
            rows: Template field -> value, one mapping a row.
            abstain_below: Smallest probability at which a row gets a label; `Manifest.coverage` says what that brings.

        Returns:
            `label` (or `labels`, `value`, `answer`, `spans`, by the kind of task), and one column `probability_<label>`
            a label where rows have labels; empty where a field is missing or is no text.

        Raises:
            InvalidInputError: If rows are to get no label though the kind of task has no single one.
        """
        check_abstaining(self.task, abstain_below)
        places = [
            place
            for place, row in enumerate(rows)
            if all(self.task.can_read(row.get(name)) for name in self.manifest.columns)
        ]
        texts = [{name: str(rows[place][name]) for name in self.manifest.columns} for place in places]
        sure, columns = self._in_parts(texts)
        (name, predicted), *others = columns.items()
        first = np.full(len(rows), None, dtype=object)
        for place, value, own in zip(places, predicted, sure, strict=True):
            first[place] = value if not abstain_below or own >= abstain_below else None
        frame = pd.DataFrame({name: first.astype(np.float64) if self.task.has_numbers else first})
        for name, values in others:
            found = np.asarray(values)
            column = np.full(len(rows), np.nan, dtype=np.float64 if found.dtype.kind in "fiub" else object)
            column[places] = found
            frame[name] = column
        return frame

    def _in_parts(self, texts: Sequence[Mapping[str, str]]) -> tuple[list[float], dict[str, list[Any]]]:
        """Return each row's largest probability and its cells by column; with many labels some rows at a time."""
        columns = {name: list(own) for name, own in self.task.columns(np.zeros((0, self.task.width)), []).items()}
        size, sure = max(1, MOST_NUMBERS // self.task.width), list[float]()
        for start in range(0, len(texts), size):
            own = texts[start : start + size]
            expected = self.expected(own)
            sure += expected.reshape(len(own), -1).max(axis=1, initial=0.0).tolist()
            for name, values in self.task.columns(expected, own).items():
                columns[name] += list(values)
        return sure, columns


def _hash(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()

"""Predictions from a bundle; needs neither Optuna nor Ray."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from safetensors.torch import load_file
from scipy.special import softmax

# Imported for their registration.
from promptgraft.objectives import causal_lm, encoder, masked_lm, recurrent, seq2seq  # noqa: F401
from promptgraft.objectives.backbones import BACKBONES, choose_device
from promptgraft.objectives.bundle import DELTA_FILE, read_manifest
from promptgraft.objectives.model_files import file_hashes
from promptgraft.objectives.prompted_model import PromptedModel
from promptgraft.objectives.specs import BackboneSpec
from promptgraft.objectives.tables import read_table
from promptgraft.objectives.tasks import Row
from promptgraft.spaces import InvalidInputError


class Predictor:
    """A loaded bundle.

    Args:
        folder: The bundle.
        backbone: Folder or hub id of the pretrained model, where it is not at the recorded place.
        device: Where to compute; chosen from what this process was given if None.
        trust_remote_code: Whether Python code that lies beside the weights may be run.

    Raises:
        InvalidInputError: If the bundle or the backbone is not the recorded one.
    """

    def __init__(
        self,
        folder: Path,
        backbone: str | None = None,
        device: torch.device | None = None,
        *,
        trust_remote_code: bool = False,
    ) -> None:
        self.manifest = read_manifest(folder)
        reference = self.manifest.backbone
        if reference.family not in BACKBONES:
            raise InvalidInputError(
                f"{folder} needs the backbone family {reference.family!r}, which no package brings that is installed "
                "here; install the one that the study was run with"
            )
        path = backbone or reference.path
        found = file_hashes(path)
        for name, expected in reference.files.items():
            if found.get(name) != expected:
                raise InvalidInputError(
                    f"{path}: {name} is not the file that this bundle was trained with; pass the right model "
                    "with --backbone"
                )
        candidate, template, verbalizer = self.manifest.parts()
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
        )
        loaded = BACKBONES[reference.family](spec, device or choose_device())
        self._model = PromptedModel(
            loaded, candidate, template, verbalizer, self.manifest.head_labels, self.manifest.seed
        )
        self._pool = self.manifest.pool()
        self._model.load(load_file(folder / DELTA_FILE))
        if candidate.calibration != "none" and self._model.bias is None:
            raise InvalidInputError(
                f"{folder / DELTA_FILE} has no calibration.bias, but the candidate's calibration is "
                f"{candidate.calibration!r}; export the trial again"
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names, in the order of the logits."""
        return self.manifest.labels

    def logits(self, rows: Sequence[Mapping[str, str]]) -> npt.NDArray[np.float32]:
        """Score rows.

        Args:
            rows: Template field -> value, one mapping a row.

        Returns:
            Logits, shape (len(rows), len(labels)).
        """
        encoded = self._model.encode([Row(fields, 0) for fields in rows], self._pool)
        result: npt.NDArray[np.float32] = self._model.score(
            encoded, self.labels, self.manifest.evaluation_batch_size
        ).numpy()
        return result

    def predict_table(self, path: str) -> pd.DataFrame:
        """Predict every row of a CSV, JSONL or Parquet file.

        Returns:
            The text columns, `label`, and one column `probability_<label>` a label. A row with an empty field
            has no prediction.

        Raises:
            InvalidInputError: If the file can't be read or lacks a column.
        """
        columns = self.manifest.columns
        frame = read_table(path, list(columns.values()))
        complete = frame.notna().all(axis=1).to_numpy()
        records = frame[complete].to_dict("records")
        logits = self.logits([{field: record[column] for field, column in columns.items()} for record in records])
        probabilities = softmax(logits.astype(np.float64), axis=1)
        frame["label"] = None
        frame.loc[complete, "label"] = [self.labels[index] for index in logits.argmax(axis=1)]
        for index, label in enumerate(self.labels):
            frame.loc[complete, f"probability_{label}"] = probabilities[:, index]
        return frame

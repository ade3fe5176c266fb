"""A bundle as an MLflow model (pyfunc); MLflow calls this module to load it, and nothing is pickled."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from promptgraft.bundles import LOCK_FILE, Manifest, Predictor, copy_bundle

if TYPE_CHECKING:
    from mlflow.models import ModelSignature


class BundleModel:
    """What MLflow calls: a table of texts in, a table of predictions out.

    Args:
        predictor: The loaded bundle.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:  # noqa: ARG002
        """Predict rows.

        Args:
            model_input: One column a field.
            params: Not used.

        Returns:
            What `Predictor.predict_rows` returns; empty where a row lacks a text.
        """
        rows = model_input[list(self.predictor.manifest.columns)].to_dict("records")
        return self.predictor.predict_rows([{str(name): value for name, value in row.items()} for row in rows])


def _load_pyfunc(data_path: str) -> BundleModel:
    """Load a bundle for MLflow."""
    return BundleModel(Predictor(Path(data_path)))


def write_mlflow_model(predictor: Predictor, folder: Path) -> None:
    """Write a bundle as an MLflow model with a signature; the bundle in it stays what it is, and can be verified.

    Args:
        predictor: The loaded bundle.
        folder: Where to; a new folder.
    """
    save_bundle(predictor.folder, predictor.manifest, folder)


def save_bundle(bundle: Path, manifest: Manifest, folder: Path) -> None:
    """Write a bundle as an MLflow model, without loading it.

    Args:
        bundle: The bundle.
        manifest: What it says of itself.
        folder: Where to; a new folder.
    """
    import mlflow.pyfunc

    locked = (bundle / LOCK_FILE).read_text(encoding="utf-8").splitlines()
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / (bundle.resolve().name or "bundle")
        copy_bundle(bundle, copy)  # MLflow would take all that is in the folder, and follow links.
        mlflow.pyfunc.save_model(
            folder,
            loader_module=__name__,
            data_path=str(copy),
            signature=_signature(manifest),
            input_example=pd.DataFrame([{name: f"a {name}" for name in manifest.columns}]),
            pip_requirements=locked,
            metadata=manifest.origin,
        )


def _signature(manifest: Manifest) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    task = manifest.task
    first, *others = task.columns(np.zeros((0, task.width)), [])
    kind = DataType.double if task.has_numbers else DataType.string
    outputs: list[ColSpec | TensorSpec] = [ColSpec(kind, first, required=False)]
    ranked = task.one_label and task.reads_histories  # Then other columns are lists, in JSON.
    rest = DataType.string if ranked else DataType.double
    outputs += [ColSpec(rest, name, required=False) for name in others]
    return ModelSignature(Schema([ColSpec(DataType.string, name) for name in manifest.columns]), Schema(outputs))

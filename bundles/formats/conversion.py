"""Other people's formats for a bundle, each checked against the bundle once it is written."""

import runpy
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.special import log_softmax

from promptgraft.bundles import TOLERANCE, Predictor, read_examples
from promptgraft.bundles.formats.mlflow import write_mlflow_model
from promptgraft.bundles.formats.onnx import write_onnx_model
from promptgraft.bundles.formats.peft import write_peft_adapter
from promptgraft.bundles.formats.plain import write_plain_model
from promptgraft.bundles.formats.script_parts import SCRIPT_FILE
from promptgraft.objectives.backbones import CausalScorer, model_folder
from promptgraft.objectives.file_store import share
from promptgraft.spaces import InvalidInputError, did_you_mean

Rows = Sequence[Mapping[str, str]]
LogProbabilities = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Format:
    """A format.

    Attributes:
        write: Writes a loaded bundle into a folder.
        read: Loads it from there as its users would, and scores rows: (folder, bundle, rows) -> log-probabilities of
            the labels, shape (rows, labels).
    """

    write: Callable[[Predictor, Path], None]
    read: Callable[[Path, Predictor, Rows], LogProbabilities]


def convert(
    bundle: Path,
    folder: Path,
    name: str,
    backbone: str | None = None,
    rows: Rows | None = None,
    *,
    trust_remote_code: bool = False,
) -> float | None:
    """Write a bundle in another format, and compare what that predicts with what the bundle does.

    Args:
        bundle: The bundle.
        folder: Where to; it must not be there yet.
        name: Of the format; see `FORMATS`.
        backbone: See `Predictor`.
        rows: Rows to compare on; the bundle's examples if None.
        trust_remote_code: See `Predictor`.

    Returns:
        Largest difference of a label's log-probability, as a share of the largest logit; None without rows.

    Raises:
        InvalidInputError: If the format can't hold the bundle, or what was written predicts something else.
    """
    if name not in FORMATS:
        raise InvalidInputError(f"unknown format {name!r}; {did_you_mean(name, FORMATS)}")
    if folder.exists():
        raise InvalidInputError(f"{folder} is there already; name a new folder")
    if folder.resolve().is_relative_to(bundle.resolve()):
        raise InvalidInputError(f"{folder} is in the bundle, which holds only what was exported; name another folder")
    predictor = Predictor(bundle, backbone, trust_remote_code=trust_remote_code)
    if name != "mlflow" and (reason := _refused(predictor, name)) is not None:
        raise InvalidInputError(f"{bundle} {reason}")
    if rows is None:
        examples = read_examples(bundle)
        rows = examples.rows if examples else ()
    logits = predictor.logits(rows).astype(np.float64) if rows else np.zeros((0, 0))
    _write(FORMATS[name], predictor, folder)
    if not rows:
        return None
    again = Predictor(bundle, backbone, trust_remote_code=trust_remote_code)
    if predictor.task.one_label and not (predictor.task.reads_histories and name == "mlflow"):
        found = FORMATS[name].read(folder, again, rows)
        difference = float(np.abs(found - log_softmax(logits, axis=1)).max() / np.abs(logits).max())
    else:
        difference = _difference(_table_by_mlflow(folder, rows), again.predict_rows(rows))
    if difference > TOLERANCE:
        raise InvalidInputError(
            f"{folder} predicts something else than the bundle: log-probabilities differ by {difference:.1e} of the "
            f"largest logit, or numbers of the largest number (allowed: {TOLERANCE:.0e}); don't use it"
        )
    return difference


def _write(form: Format, predictor: Predictor, folder: Path) -> None:
    """Write a new folder, whole or not at all: a part would pass for a model, and be in the way of the next attempt."""
    try:
        form.write(predictor, folder)
        for path in folder.rglob("*.safetensors"):
            share(path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _refused(predictor: Predictor, name: str) -> str | None:
    """Say why a format can't hold a bundle, as MLflow's can, which is the bundle itself; None if it may."""
    task = predictor.task
    if not task.one_label or (task.reads != "text" and name != "onnx"):
        which = "mlflow and onnx alone hold" if task.one_label else "only mlflow holds"
        return (
            f"is of the task kind {predictor.manifest.kind!r}, which of other formats {which}; convert it to that, or "
            "predict or serve the bundle itself"
        )
    counting = next((own.model.prior.name for own in predictor.members if own.model.prior is not None), None)
    if counting is None:
        return None
    return (
        f"adds a prior ({counting!r}) to what its model says, which of other formats only mlflow holds; convert it to "
        "that, or export a trial with prior none, as with --trial N"
    )


def _by_script(folder: Path, _: Predictor, rows: Rows) -> LogProbabilities:
    """Score rows with the script that was written beside a model."""
    names = runpy.run_path(str(folder / SCRIPT_FILE))
    loaded = names["load"]()
    scores = np.stack([np.asarray(names["score"](*loaded, dict(row)), dtype=np.float64) for row in rows])
    return np.asarray(log_softmax(scores, axis=1))


def _by_peft(folder: Path, bundle: Predictor, rows: Rows) -> LogProbabilities:
    """Score the label words with the model that PEFT loads."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    loaded = bundle.only_model("an adapter of PEFT")
    scorer, path = loaded.model.scorer, loaded.model.backbone.spec.path
    assert isinstance(scorer, CausalScorer)
    base = AutoModelForCausalLM.from_pretrained(model_folder(path), dtype=torch.float32)
    model = PeftModel.from_pretrained(base, folder).eval()
    scores = torch.empty(len(rows), len(bundle.labels), dtype=torch.float64)
    for place, row in enumerate(loaded.model.encode_fields(rows, loaded.pool)):
        for column, label in enumerate(bundle.labels):
            words = []
            for word in scorer.words[label]:
                ids = torch.tensor([[*row.ids, *word]])
                with torch.inference_mode():
                    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
                chances = torch.log_softmax(logits[-len(word) - 1 : -1].double(), dim=-1)
                words.append(chances[range(len(word)), list(word)].sum())
            scores[place, column] = torch.logsumexp(torch.stack(words), 0) - np.log(len(words))
    return np.asarray(log_softmax(scores.numpy(), axis=1))


def _by_mlflow(folder: Path, bundle: Predictor, rows: Rows) -> LogProbabilities:
    """Score rows with the model that MLflow loads."""
    found = _table_by_mlflow(folder, rows)
    chances = found[[f"probability_{label}" for label in bundle.labels]].to_numpy(dtype=np.float64)
    return np.asarray(log_softmax(np.log(chances) * bundle.manifest.temperature, axis=1))


def _table_by_mlflow(folder: Path, rows: Rows) -> pd.DataFrame:
    """Predict rows with the model that MLflow loads."""
    import mlflow.pyfunc

    found: pd.DataFrame = mlflow.pyfunc.load_model(str(folder)).predict(pd.DataFrame([dict(row) for row in rows]))
    return found


def _difference(found: pd.DataFrame, expected: pd.DataFrame) -> float:
    """Return the largest difference of a number, as a share of the largest; infinity if any text differs."""
    numbers = expected.select_dtypes("number").columns
    if not found.drop(columns=numbers).equals(expected.drop(columns=numbers)):
        return float("inf")
    if numbers.empty:
        return 0.0
    return float((found[numbers] - expected[numbers]).abs().to_numpy().max() / expected[numbers].abs().to_numpy().max())


FORMATS: Mapping[str, Format] = {
    "peft": Format(write_peft_adapter, _by_peft),
    "plain": Format(write_plain_model, _by_script),
    "onnx": Format(write_onnx_model, _by_script),
    "mlflow": Format(write_mlflow_model, _by_mlflow),
}

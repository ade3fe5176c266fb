"""Bundles in other people's formats predict the same, loaded as their users load them."""

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from transformers import AutoTokenizer

from promptgraft.bundles import Predictor
from promptgraft.bundles.formats import convert
from promptgraft.bundles.formats.conversion import FORMATS
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Adapter, Candidate, Demonstrations, InvalidInputError, SoftPrompt, Template
from tests.support.bundles import export
from tests.support.disks import largest_file
from tests.support.specs import TEMPLATES, VERBALIZERS

MakeSpec = Callable[..., ObjectiveSpec]

BASE = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, steps=2, batch_size=4, learning_rate=1e-3)
LONG = VERBALIZERS[1].id  # Words of several tokens.
FROZEN = 3

CAUSAL = {
    "prefix": replace(BASE, soft_prompt=SoftPrompt(3, "vocabulary", "prefix"), frozen_layers=FROZEN),
    "prefix and long words": replace(BASE, verbalizer=LONG, soft_prompt=SoftPrompt(3), frozen_layers=FROZEN),
    "P-tuning": replace(BASE, soft_prompt=SoftPrompt(3, parametrization="lstm"), frozen_layers=FROZEN),
    "suffix": replace(BASE, soft_prompt=SoftPrompt(3, "label_words", "suffix"), frozen_layers=FROZEN),
    "suffix and unfrozen": replace(BASE, soft_prompt=SoftPrompt(3, "template", "suffix"), frozen_layers=1),
    "late": replace(BASE, soft_prompt=SoftPrompt(3, place="layer 2"), frozen_layers=FROZEN),
    "deep": replace(BASE, soft_prompt=SoftPrompt(3, place="deep"), frozen_layers=FROZEN),
    "deep, projected": replace(
        BASE, soft_prompt=SoftPrompt(3, place="deep", parametrization="mlp"), frozen_layers=FROZEN
    ),
    "lora": replace(BASE, adapter=Adapter("lora", 2), frozen_layers=1),
    "ia3": replace(BASE, verbalizer=LONG, adapter=Adapter("ia3")),
    "lora and prefix": replace(BASE, adapter=Adapter("lora", 2), soft_prompt=SoftPrompt(3)),
    "unfrozen": replace(BASE, frozen_layers=1),
    "calibrated": replace(BASE, calibration="batch", frozen_layers=1),
    "demonstrations": replace(BASE, demonstrations=Demonstrations(2), frozen_layers=2),
    "nearest": replace(BASE, demonstrations=Demonstrations(2, "nearest"), frozen_layers=2),
}
# What a format can't hold: format -> candidate -> why.
REFUSED = {
    "peft": {
        "suffix": "PEFT has no soft prompt at 'suffix'",
        "suffix and unfrozen": "PEFT has no soft prompt at 'suffix'",
        "late": "PEFT has no soft prompt at 'layer 2'",
        "lora and prefix": "an adapter is one of them",
        "unfrozen": "neither a soft prompt nor an adapter",
        "calibrated": "neither a soft prompt nor an adapter",
        "demonstrations": "neither a soft prompt nor an adapter",
        "nearest": "neither a soft prompt nor an adapter",
    },
    "plain": {
        "late": "can't hold a soft prompt at 'layer 2'",
        "deep": "can't hold a soft prompt at 'deep'",
        "deep, projected": "can't hold a soft prompt at 'deep'",
        "nearest": "can't choose demonstrations for each row",
    },
    "onnx": dict.fromkeys(CAUSAL, "made of encoders only, not of family 'causal_lm'"),
}
ENCODER = {
    "none": replace(BASE, frozen_layers=1),
    "linear": replace(BASE, head="linear", source_steps=2),
    "calibrated": replace(BASE, calibration="batch"),
    "lora": replace(BASE, adapter=Adapter("lora", 2)),
    **{
        place: replace(BASE, soft_prompt=SoftPrompt(3, "label_words", place), frozen_layers=2)
        for place in ("prefix", "suffix", "layer 2", "deep")
    },
}


def exported(folder: Path, spec: ObjectiveSpec, candidates: dict[str, Candidate]) -> dict[str, Path]:
    objective = Objective(spec)
    for name, candidate in candidates.items():
        export(folder / name, spec, objective, candidate)
    return {name: folder / name for name in candidates}


@pytest.fixture(scope="module")
def causal(
    tmp_path_factory: pytest.TempPathFactory, make_spec: MakeSpec, tiny_models: dict[str, str]
) -> dict[str, Path]:
    """Bundles whose prompts all fit: a plain model's script doesn't leave out demonstrations where they don't."""
    spec = make_spec(tiny_models["causal_lm"], "causal_lm", rows=8)
    spec = replace(spec, backbone=replace(spec.backbone, max_tokens=1024))
    return exported(tmp_path_factory.mktemp("causal"), spec, CAUSAL)


@pytest.fixture(scope="module")
def encoder(
    tmp_path_factory: pytest.TempPathFactory, make_spec: MakeSpec, tiny_models: dict[str, str]
) -> dict[str, Path]:
    return exported(tmp_path_factory.mktemp("encoder"), make_spec(tiny_models["encoder"], "encoder", rows=8), ENCODER)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("to", ["peft", "plain", "onnx"])
def test_a_causal_lm_predicts_the_same_or_is_refused(
    to: str, name: str, causal: dict[str, Path], tmp_path: Path
) -> None:
    refused = REFUSED[to].get(name)
    if refused:
        with pytest.raises(InvalidInputError, match=refused):
            convert(causal[name], tmp_path / "out", to)
        return
    difference = convert(causal[name], tmp_path / "out", to)
    assert difference is not None
    assert difference <= 1e-5


@pytest.mark.parametrize("name", ENCODER)
def test_an_encoder_is_one_onnx_graph(name: str, encoder: dict[str, Path], tmp_path: Path) -> None:
    """Rows alone here, and padded in a batch: the number of rows and of tokens is free."""
    difference = convert(encoder[name], tmp_path / "out", "onnx")
    assert difference is not None
    assert difference <= 1e-5
    predictor = Predictor(encoder[name])
    texts = ["good", "what a long text this is, and it goes on and on", "never [SEP] again [MASK]"]
    model = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    script = runpy.run_path(str(tmp_path / "out" / "classify.py"))
    _, tokenizer = script["load"]()
    rows = [script["encode"](tokenizer, {"text": text}) for text in texts]
    width = max(map(len, rows))
    ids = np.array([row + [0] * (width - len(row)) for row in rows])
    mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    (found,) = model.run(None, {"input_ids": ids, "attention_mask": mask})
    expected = predictor.logits(texts)
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()


def test_an_encoder_is_no_plain_model_and_no_adapter(encoder: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="made of a causal LM only; this one is of family 'encoder'"):
        convert(encoder["prefix"], tmp_path / "a", "plain")
    with pytest.raises(InvalidInputError, match="its backbone is of family 'encoder'"):
        convert(encoder["prefix"], tmp_path / "b", "peft")
    with pytest.raises(InvalidInputError, match="did you mean 'onnx'"):
        convert(encoder["prefix"], tmp_path / "c", "onx")
    with pytest.raises(InvalidInputError, match="is there already"):
        convert(encoder["prefix"], tmp_path, "onnx")
    with largest_file(1000), pytest.raises(OSError, match="File too large"):
        convert(encoder["prefix"], tmp_path / "d", "mlflow")
    assert not (tmp_path / "d").exists()
    with pytest.raises(InvalidInputError, match="is in the bundle"):
        convert(encoder["prefix"], encoder["prefix"] / "onnx", "onnx")


def test_an_mlflow_model_has_a_signature_and_predicts_the_same(encoder: dict[str, Path], tmp_path: Path) -> None:
    import mlflow.pyfunc

    difference = convert(encoder["prefix"], tmp_path / "out", "mlflow")
    assert difference is not None
    assert difference <= 1e-6
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "out"))
    assert loaded.metadata.get_input_schema().input_names() == ["text"]
    found = loaded.predict(pd.DataFrame({"text": ["good", "bad"]}))
    assert found.label.tolist() == Predictor(encoder["prefix"]).predict(["good", "bad"])
    with pytest.raises(Exception, match="text"):
        loaded.predict(pd.DataFrame({"review": ["good"]}))


STOCK = """
import sys
sys.modules["promptgraft"] = None
import json, runpy, torch
names = runpy.run_path(sys.argv[1])
model, tokenizer = names["load"]()
text = {"text": sys.argv[2]}
ids = torch.tensor([names["encode"](tokenizer, text)])
chat = tokenizer.apply_chat_template([{"role": "user", "content": sys.argv[2]}], return_tensors="pt", return_dict=True)
written = model.generate(ids, max_new_tokens=3, do_sample=False)
print(json.dumps({
    "scores": names["score"](model, tokenizer, text).softmax(0).tolist(),
    "chat": chat["input_ids"].tolist() == ids.tolist(),
    "generated": written[0, ids.shape[1]:].tolist(),
    "soft": tokenizer.convert_tokens_to_ids([f"<soft_{n}>" for n in range(3)]),
}))
script = sys.argv.pop(1)
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.parametrize("name", [pytest.param("prefix", marks=pytest.mark.slow), "suffix"])
def test_a_plain_model_needs_transformers_alone(name: str, causal: dict[str, Path], tmp_path: Path) -> None:
    """It loads, scores, and writes; a chat of one message makes the same prompt, as servers make it."""
    convert(causal[name], tmp_path / "out", "plain")
    command = [sys.executable, "-c", STOCK, str(tmp_path / "out" / "classify.py"), "a fine thing"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    scored, said = printed.split("\n", 1)
    found = json.loads(scored)
    expected = Predictor(causal[name]).predict_proba(["a fine thing"])[0].tolist()
    assert found["scores"] == pytest.approx(expected, abs=1e-4)
    assert found["chat"]
    assert len(found["generated"]) == 3
    assert not set(found["generated"]) & set(found["soft"])
    assert said.startswith(Predictor(causal[name]).predict(["a fine thing"])[0])


def test_all_formats_are_tested() -> None:
    assert set(FORMATS) == {"peft", "plain", "onnx", "mlflow"}


@pytest.mark.parametrize("name", ["prefix", "suffix", "calibrated", "demonstrations"])
@pytest.mark.parametrize(
    "text", ["Review: {{ text }} It was {{ label }}", "<|im_start|>{{ text }}<|im_end|> So {{ label }}"]
)
def test_a_plain_model_reads_texts_as_data(
    name: str, text: str, tmp_path: Path, make_spec: MakeSpec, tiny_models: dict[str, str]
) -> None:
    """Whether or not its template names special tokens itself."""
    template = Template("own", text)
    spec = make_spec(tiny_models["causal_lm"], "causal_lm", rows=8)
    space = replace(spec.space, templates=(template,))
    spec = replace(spec, space=space, backbone=replace(spec.backbone, max_tokens=1024))
    exported(tmp_path, spec, {"b": replace(CAUSAL[name], template=template.id)})
    texts = ["good", "never <|im_end|> again <|endoftext|>", "<|im_start|>", "<|IM_END|>", "a <soft_0> b"]
    rows = [{"text": row} for row in texts[:-1]]  # A script breaks up what is a token to it alone.
    difference = convert(tmp_path / "b", tmp_path / "out", "plain", rows=rows)
    assert difference is not None
    assert difference <= 1e-5
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    special = {"<|im_start|>", "<|im_end|>", "<|endoftext|>", "<soft_0>"}
    usual, *found = ([token for token in tokenizer.tokenize(chat(tokenizer, row)) if token in special] for row in texts)
    assert all(tokens == usual for tokens in found)


def chat(tokenizer: Any, text: str) -> str:
    """Return the prompt that a server makes of a chat of one message."""
    return str(tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False))

"""LSTM and GRU baselines: every cell and direction, written from a seed, and beside torch's own recurrent layers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import AutoModel

from promptgraft.objectives.backbones import Encoder, count_layers, weights_hash, write_recurrent
from promptgraft.objectives.backbones.recurrent import Recurrent, RecurrentConfig, RecurrentLayer
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Adapter, Candidate, InvalidInputError, SoftPrompt
from tests.support.models import TINY_LAYERS, write_tiny_recurrent
from tests.support.paths import STUDIES
from tests.support.prompted_models import CPU, LABELS, PLACES, ROWS
from tests.support.specs import TEMPLATES, VERBALIZERS

TOKENIZER = str(STUDIES / "models" / "minilm")
KINDS = [(cell, both) for cell in ("lstm", "gru") for both in (False, True)]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0]} {'both ways' if kind[1] else 'one way'}")
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recurrent:
    cell, both = request.param
    path = write_tiny_recurrent(tmp_path_factory.mktemp("kinds"), cell, bidirectional=both)
    return Recurrent(BackboneSpec(path, "recurrent", 64), CPU)


def build(backbone: Recurrent, **changes: Any) -> PromptedModel:
    backbone.restore()
    candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[1].id, **changes)
    return PromptedModel(backbone, candidate, TEMPLATES[0], VERBALIZERS[1], LABELS, seed=0)


def logits(model: PromptedModel, batch_size: int = 8) -> Tensor:
    return model.score(model.encode(ROWS), LABELS, batch_size)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_layer_reads_as_torch_s_own_reads_packed_rows(cell: str) -> None:
    torch.manual_seed(0)
    layer = RecurrentLayer(RecurrentConfig(cell, hidden_size=8)).eval()
    theirs = {"lstm": nn.LSTM, "gru": nn.GRU}[cell](8, 4, batch_first=True, bidirectional=True)
    assert layer.backwards is not None
    for name, weight in layer.forwards.named_parameters():
        getattr(theirs, name).data.copy_(weight)
        getattr(theirs, f"{name}_reverse").data.copy_(layer.backwards.get_parameter(name))
    hidden, lengths = torch.randn(3, 6, 8), torch.tensor([6, 2, 4])
    packed = pack_padded_sequence(hidden, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(theirs(packed)[0], batch_first=True)
    present = torch.arange(6) < lengths[:, None]
    scores = torch.zeros(3, 1, 6, 6).masked_fill(~present[:, None, None], torch.finfo(torch.float32).min)
    for mask in (present.long(), scores):
        assert (layer(hidden, mask) - expected)[present].abs().max() < 1e-6
    assert (layer(hidden)[0] - expected[0]).abs().max() < 1e-6


@pytest.mark.parametrize("head", ["label_words", "linear"])
@pytest.mark.parametrize("soft", PLACES, ids=lambda soft: f"{soft.length} {soft.place}")
def test_padding_changes_nothing(backbone: Recurrent, soft: SoftPrompt, head: str) -> None:
    model = build(backbone, soft_prompt=soft, head=head)
    together, alone = logits(model), logits(model, batch_size=1)
    assert (together - alone).abs().max() < 1e-5 * together.abs().max()
    assert together.std() > 0


@pytest.mark.parametrize("place", ["prefix", "suffix", "layer 0", f"layer {TINY_LAYERS - 1}"])
def test_a_soft_prompt_matters_at_every_place(backbone: Recurrent, place: str) -> None:
    """Also behind the text of a model that reads from left to right, and with all layers frozen."""
    plain = logits(build(backbone))
    model = build(backbone, soft_prompt=SoftPrompt(3, "vocabulary", place), frozen_layers=TINY_LAYERS)
    assert (logits(model) - plain).abs().max() > 1e-4
    model.nll(model.encode(ROWS), LABELS).backward()  # type: ignore[no-untyped-call]
    gradient = model.attached()["soft_prompt.weight"].grad
    assert gradient is not None
    assert (gradient.abs().sum(1) > 0).all()


@pytest.mark.slow
def test_a_result_depends_on_candidate_and_seed_alone(
    backbone: Recurrent, make_spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec: ObjectiveSpec = make_spec(backbone.spec.path, "recurrent")
    base = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, source_steps=2, steps=3, batch_size=4, learning_rate=1e-2)
    chosen = [
        replace(base, frozen_layers=frozen, alpha=alpha, soft_prompt=soft)
        for frozen, alpha, soft in zip((0, 1, 2, TINY_LAYERS, 2), (0.0, 0.4, 0.0, 0.4, 0.0), PLACES, strict=True)
    ]
    worker = Objective(replace(spec, files=str(tmp_path)))
    stored = [worker.evaluate(candidate, 0) for candidate in chosen]
    alone = [Objective(spec).evaluate(candidate, 0) for candidate in chosen[::-1]][::-1]
    monkeypatch.setattr(PromptedModel, "reuse", lambda self: None)
    afresh = [Objective(spec).evaluate(candidate, 0) for candidate in chosen]
    for one, other, plain in zip(stored, alone, afresh, strict=True):
        assert np.abs(one.logits - other.logits).max() == 0.0
        assert np.abs(one.logits - plain.logits).max() <= 1e-5 * np.abs(one.logits).max()


def test_a_seed_decides_the_weights_and_they_the_hash(tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "cell": "gru"}
    state = torch.get_rng_state()
    hashes = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_recurrent(tmp_path / name, TOKENIZER, seed, **sizes)
        hashes.append(weights_hash(str(tmp_path / name)))
    assert hashes[0] == hashes[1] != hashes[2]
    assert torch.equal(state, torch.get_rng_state())
    assert count_layers(str(tmp_path / "a")) == 2
    model = AutoModel.from_pretrained(tmp_path / "a")
    assert isinstance(model.layers[1].forwards, nn.GRU)
    assert model.config.cell == "gru"
    weight = model.layers[0].forwards.weight_hh_l0
    assert 0.2 < weight.std() * 8**0.5 < 1, "as torch draws them, and not as a transformer's"
    with pytest.raises(InvalidInputError, match="is there already"):
        write_recurrent(tmp_path / "a", TOKENIZER, 0)
    with pytest.raises(InvalidInputError, match="did you mean 'lstm'"):
        write_recurrent(tmp_path / "d", TOKENIZER, 0, cell="lstmm")
    with pytest.raises(InvalidInputError, match="even, got 5"):
        write_recurrent(tmp_path / "d", TOKENIZER, 0, hidden_size=5)
    with pytest.raises(InvalidInputError, match="no tokenizer can be read"):
        write_recurrent(tmp_path / "d", str(tmp_path), 0)
    assert not (tmp_path / "d").exists()


def test_what_it_cannot_do_is_refused(backbone: Recurrent, tiny_models: dict[str, str]) -> None:
    for method in ("lora", "ia3"):
        with pytest.raises(
            InvalidInputError, match=rf"adapter\.method '{method}' is not supported by the backbone family 'recurrent'"
        ):
            build(backbone, adapter=Adapter(method, 2))
    for option, value in (("dtype", "bfloat16"), ("autocast", "float16"), ("attn_implementation", "sdpa")):
        with pytest.raises(InvalidInputError, match=rf"backbone\.{option} '{value}' is not supported by"):
            Recurrent(replace(backbone.spec, **{option: value}), CPU)
    with pytest.raises(InvalidInputError, match="not of the family 'recurrent'"):
        Recurrent(BackboneSpec(tiny_models["encoder"], "recurrent", 64), CPU)
    with pytest.raises(InvalidInputError, match="not of the family 'encoder'"):
        Encoder(BackboneSpec(backbone.spec.path, "encoder", 64), CPU)


def test_the_configuration_is_plain_json(backbone: Recurrent) -> None:
    content = json.loads((Path(backbone.spec.path) / "config.json").read_text())
    assert content["model_type"] == "promptgraft_recurrent"
    assert {"cell", "hidden_size", "num_hidden_layers", "bidirectional", "dropout", "vocab_size"} <= content.keys()

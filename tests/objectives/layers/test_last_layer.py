"""The last layer, run only where it is read, against the whole layer."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from promptgraft.objectives.backbones import BACKBONES, Backbone
from promptgraft.objectives.layers import LayerStack
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Candidate
from tests.support.models import TINY_LAYERS
from tests.support.paths import STUDIES
from tests.support.specs import TEMPLATES, VERBALIZERS


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = AutoTokenizer.from_pretrained(STUDIES / "models" / "smollm2")
    torch.manual_seed(0)
    no_dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    size = {"n_layer": TINY_LAYERS, "n_embd": 32, "n_head": 4, "n_positions": 128}
    config = GPT2Config(vocab_size=len(tokenizer), **size, **no_dropout)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def load(path: str, family: str = "causal_lm") -> Backbone:
    return BACKBONES[family](BackboneSpec(path, family, 64), torch.device("cpu"))


def skipped(backbone: Backbone) -> list[str]:
    names = {id(module): name for name, module in backbone.layers.layers[-1].named_modules()}
    assert backbone.layers.last_layer is not None
    return [names[id(part)] for part in backbone.layers.last_layer.parts]


def test_keys_and_values_are_computed_for_all_tokens(tiny_models: dict[str, str], gpt2: str) -> None:
    assert skipped(load(tiny_models["causal_lm"])) == ["self_attn.q_proj", "self_attn.o_proj", "mlp"]
    assert skipped(load(gpt2)) == ["attn.c_proj", "mlp"], "queries, keys and values are one matrix there"
    assert load(tiny_models["encoder"], "encoder").layers.last_layer is None, "its tokens are all read"


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def objective(
    request: pytest.FixtureRequest, make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str], gpt2: str
) -> Objective:
    path = gpt2 if request.param == "gpt2" else tiny_models["causal_lm"]
    return Objective(make_spec(path, "causal_lm", rows=8))


@pytest.mark.parametrize("place", ["none", "prefix", "suffix", "layer 1"])
@pytest.mark.parametrize("frozen", [0, 2, TINY_LAYERS])
@pytest.mark.parametrize("verbalizer", [verbalizer.id for verbalizer in VERBALIZERS])
def test_what_is_read_and_its_gradients_equal_those_of_the_whole_layer(
    objective: Objective, monkeypatch: pytest.MonkeyPatch, place: str, frozen: int, verbalizer: str
) -> None:
    values = {"template": TEMPLATES[0].id, "verbalizer": verbalizer, "frozen_layers": frozen, "steps": 2}
    soft = {} if place == "none" else {"soft_prompt.length": 3, "soft_prompt.place": place}
    found = []
    for whole in (False, True):
        if whole:
            monkeypatch.setattr(LayerStack, "reading", lambda self, read_at: nullcontext())
        found.append(objective.evaluate(Candidate.from_values({**values, **soft}), 0).logits)
    torch.testing.assert_close(*found, atol=1e-5, rtol=0)
    assert found[0].std() > 0


def test_other_tokens_are_not_computed(tiny_models: dict[str, str]) -> None:
    layers = load(tiny_models["causal_lm"]).layers
    rows: list[int] = []

    def count(module: Any, args: tuple[Tensor, ...], output: Any) -> None:
        rows.append(args[0].shape[1])

    layers.layers[-1].mlp.register_forward_hook(count)  # type: ignore[union-attr]
    hidden, read_at = torch.randn(2, 9, 32), torch.tensor([[3, 4], [7, 8]])
    part, whole = layers.run(1, None, hidden, read_at), layers.run(1, None, hidden)
    assert rows == [2, 9]
    index = read_at[..., None].expand(-1, -1, 32)
    torch.testing.assert_close(part.gather(1, index), whole.gather(1, index), atol=1e-6, rtol=0)
    assert torch.isfinite(part).all()

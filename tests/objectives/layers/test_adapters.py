"""LoRA and (IA)3 in place of unfreezing, for every family."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from promptgraft.objectives.backbones import BACKBONES, FAMILIES, Backbone
from promptgraft.objectives.data import Row
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Adapter, Candidate, InvalidInputError, SoftPrompt
from tests.support.models import TINY_LAYERS, load_masked_lm
from tests.support.specs import TEMPLATES, VERBALIZERS

LABELS = ("negative", "positive")
ROWS = [Row({"text": text}, index % 2) for index, text in enumerate(("great camera", "it broke at once", "fine"))]
ADAPTERS = [Adapter("lora", 2), Adapter("ia3")]


@pytest.fixture(scope="module", params=["encoder", "masked_lm", "causal_lm"])
def backbone(request: pytest.FixtureRequest, tiny_models: dict[str, str]) -> Backbone:
    return BACKBONES[request.param](BackboneSpec(tiny_models[request.param], request.param, 64), torch.device("cpu"))


def build(backbone: Backbone, **changes: object) -> PromptedModel:
    backbone.restore()
    candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[1].id, **changes)  # type: ignore[arg-type]
    return PromptedModel(backbone, candidate, TEMPLATES[0], VERBALIZERS[1], LABELS, seed=0)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.method)
@pytest.mark.parametrize("frozen", range(TINY_LAYERS))
def test_only_adapters_in_the_upper_layers_change(backbone: Backbone, adapter: Adapter, frozen: int) -> None:
    plain = build(backbone, frozen_layers=frozen)
    expected = plain.score(plain.encode(ROWS), LABELS, 8)
    model = build(backbone, frozen_layers=frozen, adapter=adapter)
    assert torch.equal(model.score(model.encode(ROWS), LABELS, 8), expected), "without effect before training"
    before = model.snapshot(list(model.weights()))
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=0.1)
    for _ in range(2):  # LoRA's first matrix has no gradient before its second one has moved.
        optimizer.zero_grad()
        model.nll(model.encode(ROWS), LABELS).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    changed = {name for name, value in model.weights().items() if not torch.equal(value, before[name])}
    assert {name for name in changed if name.startswith("backbone.")} == set()
    assert set(model.adapters()) <= changed
    layers = {int(name.split(".layer")[1].lstrip("s.").split(".")[0]) for name in model.adapters()}
    assert layers == set(range(frozen, TINY_LAYERS))
    assert (model.score(model.encode(ROWS), LABELS, 8) - expected).abs().max() > 1e-3
    names = [name for name, _ in backbone.model.named_parameters()]
    backbone.restore()
    again = build(backbone, frozen_layers=frozen)
    assert torch.equal(again.score(again.encode(ROWS), LABELS, 8), expected), "nothing is left of it"
    assert [name for name, _ in backbone.model.named_parameters()] == list(backbone.pretrained) != names


@pytest.mark.slow
@pytest.mark.filterwarnings("error::UserWarning:peft")
def test_adapters_go_with_every_place_and_any_store(spec: ObjectiveSpec, tmp_path: Path) -> None:
    """With a store, without one, in any order, and scored again from what is exported: the same logits."""
    if not FAMILIES[spec.backbone.family].adapters:
        pytest.skip("refused; see test_recurrent.py")
    places = ["none", "suffix", *(["layer 1"] if FAMILIES[spec.backbone.family].in_parts else [])]
    pairs = [*product(places, ADAPTERS), ("prefix", ADAPTERS[0]), ("deep", ADAPTERS[1])]
    chosen = [
        Candidate(
            TEMPLATES[0].id,
            VERBALIZERS[number % 2].id,
            soft_prompt=SoftPrompt() if place == "none" else SoftPrompt(2, "vocabulary", place),
            adapter=adapter,
            frozen_layers=number % TINY_LAYERS,
            source_steps=(0, 2)[number % 2],
            alpha=(0.0, 0.4)[number // 2 % 2],
            steps=3,
            batch_size=4,
            learning_rate=1e-2,
        )
        for number, (place, adapter) in enumerate(pairs)
    ]
    without = [Objective(spec).evaluate(candidate, 0) for candidate in chosen]
    objective = Objective(replace(spec, files=str(tmp_path)))
    stored = [objective.evaluate(candidate, 0) for candidate in chosen[::-1]][::-1]
    for candidate, one, other in zip(chosen, without, stored, strict=True):
        assert np.abs(one.logits - other.logits).max() == 0.0, candidate
        scored = objective.score(candidate, one.delta, objective.target.validation)
        assert np.abs(scored - one.logits).max() <= 1e-5 * max(1.0, np.abs(one.logits).max()), candidate
        assert any(name.startswith("adapter.") for name in one.load_report.fresh)


def test_equivalent_candidates_are_one(spec: ObjectiveSpec) -> None:
    facts = spec.space.facts
    base = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, steps=4)
    everything_frozen = replace(base, frozen_layers=TINY_LAYERS)
    assert replace(everything_frozen, adapter=Adapter("lora")).canonical(facts) == everything_frozen.canonical(facts)
    ia3 = [replace(base, adapter=Adapter("ia3", rank)).canonical(facts) for rank in (2, 4)]
    assert ia3[0] == ia3[1] != base.canonical(facts)
    assert replace(base, adapter=Adapter("none", 4)).canonical(facts) == base.canonical(facts)
    lora = [replace(base, adapter=Adapter("lora", rank)) for rank in (2, 4)]
    assert len({candidate.canonical(facts).key for candidate in (*lora, *ia3, base)}) == 4
    assert Candidate.from_values(lora[0].to_dict()) == lora[0]  # type: ignore[arg-type]


def test_what_peft_does_not_know_is_refused_in_the_study_s_terms(tmp_path: Path) -> None:
    backbone = load_masked_lm("electra", tmp_path)
    with pytest.raises(InvalidInputError, match=r"adapter\.method 'ia3' into a 'electra' model"):
        build(backbone, adapter=Adapter("ia3"))
    build(backbone)

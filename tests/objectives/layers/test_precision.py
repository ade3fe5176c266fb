"""Low precision, attention, gradient checkpointing and device maps: close to float32, exact where they must be."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from promptgraft.objectives.backbones import BACKBONES, Backbone
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec
from promptgraft.objectives.trial import Objective, Result
from promptgraft.spaces import Candidate, InvalidInputError, SoftPrompt
from tests.support.models import TINY_LAYERS
from tests.support.prompted_models import CPU, LABELS, ROWS, build
from tests.support.specs import TEMPLATES, VERBALIZERS

FAMILIES = ["causal_lm", "encoder", "masked_lm"]
PLACES = ["none", "prefix", "suffix", "layer 1"]


def soft(place: str) -> SoftPrompt:
    return SoftPrompt() if place == "none" else SoftPrompt(3, "vocabulary", place)


def candidate(place: str, frozen: int, **changes: Any) -> Candidate:
    base = Candidate(TEMPLATES[0].id, VERBALIZERS[1].id, soft_prompt=soft(place), frozen_layers=frozen)
    return replace(base, **({"steps": 3, "batch_size": 4, "learning_rate": 1e-3} | changes))


@pytest.fixture(scope="module")
def load(tiny_models: dict[str, str]) -> Callable[..., Backbone]:
    known: dict[str, Backbone] = {}

    def loaded(family: str, **options: Any) -> Backbone:
        name = f"{family} {options}"
        if name not in known:
            known[name] = BACKBONES[family](BackboneSpec(tiny_models[family], family, 64, **options), CPU)
        return known[name]

    return loaded


def gradients(model: PromptedModel) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.backbone.train()
    torch.manual_seed(0)
    loss = model.nll(model.encode(ROWS), LABELS)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), {n: p.grad.clone() for n, p in model.trainable().items() if p.grad is not None}


def logits(model: PromptedModel) -> torch.Tensor:
    return model.score(model.encode(ROWS), LABELS, 8)


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"autocast": "bfloat16"}, {"dtype": "float16"}])
@pytest.mark.parametrize("place", [*PLACES, "deep"])
@pytest.mark.parametrize("family", FAMILIES)
def test_low_precision_is_close_to_float32(
    load: Callable[..., Backbone], family: str, place: str, options: dict[str, str]
) -> None:
    """The random models' weights are four times the usual size, and so are their rounding errors."""
    for frozen in (2,) if place == "deep" else (0, 2, TINY_LAYERS):
        changes = {"soft_prompt": soft(place), "frozen_layers": frozen}
        full, low = build(load(family), **changes), build(load(family, **options), **changes)
        first, second = logits(full), logits(low)
        assert second.dtype == torch.float32
        assert 0 < (first - second).abs().max() < 0.03 * first.abs().max(), frozen
        for name, weight in low.weights().items():
            frozen_low = not weight.requires_grad and weight.ndim > 1 and "dtype" in options
            assert weight.dtype == (getattr(torch, options["dtype"]) if frozen_low else torch.float32), name


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_matrices_stay_and_trained_ones_move_in_low_precision(
    load: Callable[..., Backbone], family: str, place: str
) -> None:
    backbone = load(family, dtype="bfloat16")
    pristine = {name: value.clone() for name, value in backbone.model.named_parameters()}
    model = build(backbone, soft_prompt=soft(place), frozen_layers=2)
    before = model.snapshot(list(model.weights()))
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=1e-4)
    gradients(model)
    optimizer.step()
    for name, weight in model.weights().items():
        assert weight.requires_grad != torch.equal(weight, before[name]) or weight.grad is None, name
    with torch.no_grad():
        for parameter in backbone.model.parameters():
            parameter.add_(1.0)
    backbone.restore()
    for name, parameter in backbone.model.named_parameters():
        expected = backbone.weights.pristine[name].to(parameter.dtype)
        assert torch.equal(parameter, expected), name
        assert parameter.grad is None
        assert parameter.dtype == (torch.bfloat16 if parameter.ndim > 1 else torch.float32)
    assert pristine.keys() == backbone.weights.pristine.keys()


def difference(first: Result, second: Result) -> float:
    return float(np.abs(first.logits - second.logits).max())


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_order_does_not_matter_in_low_precision(
    make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str], family: str, tmp_path: Path
) -> None:
    """With a store, without one, after other candidates, read from disk: equal to the bit, and close to float32."""
    spec = make_spec(tiny_models[family], family)
    low = replace(spec, backbone=replace(spec.backbone, dtype="bfloat16"))
    chosen = [candidate(place, frozen) for place in PLACES for frozen in (0, 2, TINY_LAYERS)]
    chosen.append(candidate("suffix", 2, source_steps=2, alpha=0.4))
    one = Objective(replace(low, files=str(tmp_path / "a")))
    forward = [one.evaluate(entry, 0) for entry in chosen]
    other = Objective(replace(low, files=str(tmp_path / "b")))
    backward = [other.evaluate(entry, 0) for entry in chosen[::-1]][::-1]
    read = Objective(replace(low, files=str(tmp_path / "a"), memory_bytes=0))
    full = Objective(replace(spec, files=str(tmp_path / "a")))
    for entry, first, second in zip(chosen, forward, backward, strict=True):
        again = read.evaluate(entry, 0)
        assert difference(first, second) == difference(first, again) == 0.0, entry
        assert again.stages.misses == 0
        exact = full.evaluate(entry, 0)  # In the same store: nothing of the other precision may be taken from it.
        assert difference(first, exact) > 0
        scored = full.score(entry.canonical(spec.space.facts), first.delta, full.target.validation)
        # A masked LM's whole head is in low precision.
        assert np.abs(scored - first.logits).max() < (0.1 if family == "masked_lm" else 0.05) * np.abs(scored).max()


@pytest.mark.parametrize("frozen", [0, 2, TINY_LAYERS])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_changes_nothing(
    load: Callable[..., Backbone], family: str, place: str, frozen: int
) -> None:
    if family != "encoder" and (place, frozen) == ("none", TINY_LAYERS):
        pytest.skip("nothing is trained")
    changes = {"soft_prompt": soft(place), "frozen_layers": frozen}
    loss, plain = gradients(build(load(family), **changes))
    again, checkpointed = gradients(build(load(family, gradient_checkpointing=True), **changes))
    assert (loss - again).abs() <= 1e-6
    assert plain.keys() == checkpointed.keys()
    for name, value in plain.items():
        assert torch.allclose(value, checkpointed[name], rtol=1e-6, atol=1e-6), name


def test_layers_are_run_again_in_the_backward_pass_frozen_ones_too(load: Callable[..., Backbone]) -> None:
    backbone = load("causal_lm", gradient_checkpointing=True)
    model = build(backbone, soft_prompt=soft("prefix"), frozen_layers=TINY_LAYERS)
    runs: list[int] = []
    inner = backbone.layers.layers[0].mlp
    handle = inner.register_forward_pre_hook(lambda *_: runs.append(1))
    gradients(model)
    handle.remove()
    assert len(runs) == 2 * len(VERBALIZERS[1].words["negative"]), "twice for each run of the stack"


def test_checkpointing_leaves_stored_keys_alone(
    make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str], tmp_path: Path
) -> None:
    spec = make_spec(tiny_models["causal_lm"], "causal_lm")
    checkpointed = replace(spec, backbone=replace(spec.backbone, gradient_checkpointing=True))
    for entry in (candidate("suffix", TINY_LAYERS), candidate("layer 1", 2), candidate("none", 1)):
        results = [
            Objective(replace(each, files=str(tmp_path / str(index)))).evaluate(entry, 0)
            for index, each in enumerate((spec, checkpointed))
        ]
        assert difference(*results) <= 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_implementations_agree_and_share_no_stages(
    make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str], family: str, tmp_path: Path
) -> None:
    spec = replace(make_spec(tiny_models[family], family), files=str(tmp_path))
    results = []
    for name in ("eager", "sdpa"):
        worker = Objective(replace(spec, backbone=replace(spec.backbone, attn_implementation=name)))
        assert worker.backbone.model.config._attn_implementation == name
        results.append(worker.evaluate(candidate("layer 1", 2, source_steps=2), 0))
        assert results[-1].stages.misses > 1  # Token ids are shared, and nothing else.
    assert difference(*results) < 1e-3


def test_attention_that_takes_no_masks_refuses_late_prompts(
    load: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load("causal_lm")
    monkeypatch.setattr(backbone, "spec", replace(backbone.spec, attn_implementation="flash_attention_2"))
    with pytest.raises(InvalidInputError, match=r"needs masks that backbone\.attn_implementation"):
        build(backbone, soft_prompt=soft("layer 1"))
    assert build(backbone, soft_prompt=soft("suffix"), frozen_layers=2).reuse() is None


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, "auto"])
@pytest.mark.parametrize("family", FAMILIES)
def test_device_maps(load: Callable[..., Backbone], family: str, device_map: Any) -> None:
    mapped = load(family, device_map=device_map)
    assert mapped.device == CPU
    for place in PLACES:
        changes = {"soft_prompt": soft(place), "frozen_layers": 2}
        assert (logits(build(load(family), **changes)) - logits(build(mapped, **changes))).abs().max() == 0.0
    low = load(family, device_map=device_map, dtype="bfloat16")
    first = logits(build(load(family), frozen_layers=2))
    assert (first - logits(build(low, frozen_layers=2))).abs().max() < 0.05 * first.abs().max()


def test_weights_on_no_device_are_refused(load: Callable[..., Backbone]) -> None:
    from promptgraft.objectives.layers import PretrainedWeights

    with pytest.raises(InvalidInputError, match="leaves 2 weights"):
        PretrainedWeights(torch.nn.Linear(2, 2, device="meta"), torch.float32, CPU)

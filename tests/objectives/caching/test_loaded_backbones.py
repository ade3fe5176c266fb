"""Several backbones in one worker: results don't depend on which ran before, and memory decides which stay."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from promptgraft.objectives.caching import LoadedBackbones, StageKey, StageStore
from promptgraft.objectives.measures import CostMeter, PromptMeter
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec
from promptgraft.objectives.trial import Objective, Result
from promptgraft.spaces import InvalidInputError
from tests.support.models import TinyModels
from tests.support.specs import TRAINED, spec_over

FAMILIES = ("encoder", "causal_lm")
PLAIN = replace(TRAINED, source_steps=0, alpha=0.0, steps=3)
CANDIDATES = {family: replace(PLAIN, backbone=family) for family in FAMILIES}
NOTHING, PLENTY = 0, 2**30


@pytest.fixture(scope="module")
def spec(tiny_models: TinyModels) -> ObjectiveSpec:
    return spec_over({family: tiny_models[family] for family in FAMILIES}, source=False)


@pytest.fixture(scope="module")
def alone(spec: ObjectiveSpec) -> dict[str, Result]:
    """What each backbone gives in a study of its own."""
    return {family: Objective(spec.on(family)).evaluate(CANDIDATES[family], 0) for family in FAMILIES}


@pytest.mark.parametrize(
    ("order", "memory_bytes"),
    [(FAMILIES, NOTHING), (FAMILIES[::-1], PLENTY)],
    ids=["one kept", "both kept, the other way round"],
)
def test_results_do_not_depend_on_the_backbone_that_ran_before(
    spec: ObjectiveSpec, alone: dict[str, Result], order: tuple[str, str], memory_bytes: int, tmp_path: Path
) -> None:
    """Equal to the bit."""
    worker = Objective(replace(spec, files=str(tmp_path), memory_bytes=memory_bytes))
    for family in (*order, order[0]):
        result = worker.evaluate(CANDIDATES[family], 0)
        assert np.abs(result.logits - alone[family].logits).max() == 0.0
        assert result.delta.keys() == alone[family].delta.keys()
        assert all(torch.equal(value, alone[family].delta[name]) for name, value in result.delta.items())
    assert np.abs(alone["encoder"].logits - alone["causal_lm"].logits).max() > 0


def test_meters_measure_on_the_backbone_of_the_candidate(tiny_models: TinyModels) -> None:
    spec = spec_over({f: tiny_models[f] for f in FAMILIES}, source=False, minimize=("trainable_parameters",))
    together = Objective(spec)
    meters = PromptMeter(together), CostMeter(together)
    for family in FAMILIES:
        own = Objective(spec.on(family))
        expected = PromptMeter(own).measure(CANDIDATES[family]), CostMeter(own).measure(CANDIDATES[family])
        assert tuple(meter.measure(CANDIDATES[family]) for meter in meters) == expected


def test_an_unknown_backbone_is_refused(tiny_models: TinyModels) -> None:
    spec = spec_over({"encoder": tiny_models["encoder"]})
    with pytest.raises(InvalidInputError, match="unknown backbone 'encodr'; did you mean 'encoder'"):
        Objective(spec).run(replace(TRAINED, backbone="encodr"), 0)


@pytest.fixture
def specs(tiny_models: TinyModels) -> list[BackboneSpec]:
    """Three that differ in how much they read."""
    return [BackboneSpec(tiny_models["encoder"], "encoder", max_tokens) for max_tokens in (32, 48, 64)]


@pytest.fixture(scope="module")
def size_bytes(tiny_models: TinyModels) -> int:
    """Of the weights, and of the copy that they are restored from."""
    spec = BackboneSpec(tiny_models["encoder"], "encoder")
    backbone = LoadedBackbones(torch.device("cpu"), StageStore(None, 0)).get(spec)
    return 2 * sum(parameter.nbytes for parameter in backbone.model.parameters())


def test_those_not_used_for_longest_are_dropped(specs: list[BackboneSpec], size_bytes: int) -> None:
    first, second, third = specs
    room = LoadedBackbones(torch.device("cpu"), StageStore(None, size_bytes))
    kept = room.get(first)
    other = room.get(second)
    assert room.get(first) is kept
    assert room.get(second) is other
    room.get(third)  # `first` is dropped: there is room for one beside the one in use.
    assert room.get(second) is other
    assert room.get(first) is not kept


def test_stages_get_the_memory_that_backbones_leave(specs: list[BackboneSpec], size_bytes: int) -> None:
    stages = StageStore(None, size_bytes + 1000)
    backbones = LoadedBackbones(torch.device("cpu"), stages)
    computed: list[str] = []

    def use(name: str) -> None:
        def compute() -> dict[str, torch.Tensor]:
            computed.append(name)
            return {"zeros": torch.zeros(400)}

        stages.get(StageKey.of({"stage": name}), compute)

    backbones.get(specs[0])
    for name in ("a", "b", "a"):
        use(name)
    assert computed == ["a", "b"]
    backbones.get(specs[1])  # Leaves 1,000 bytes, less than a stage has.
    for name in ("a", "a"):
        use(name)
    assert computed == ["a", "b", "a", "a"]

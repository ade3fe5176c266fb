"""What is known of the frozen layers changes no result: not its values, not its order, not its gradients."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from promptgraft.objectives.caching import activations
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.objectives.spec import ObjectiveSpec, SourceTraining
from promptgraft.objectives.trial import Objective, Result
from promptgraft.spaces import Candidate, SoftPrompt
from tests.support.models import TINY_LAYERS
from tests.support.prompted_models import is_refused
from tests.support.specs import TEMPLATES, VERBALIZERS

PLACES = ["none", "suffix", "layer 1", "layer 2"]
NETWORKS = ["direct", "mlp", "lstm"]


def candidates() -> Iterator[Candidate]:
    """Every place from which something is shared, at every depth, with short label words and long ones.

    Networks take turns; a deep prefix shares something in sequence-to-sequence models only.
    """
    for number, (place, frozen) in enumerate([*product(PLACES, (1, 2, TINY_LAYERS)), ("deep", 2)]):
        soft = SoftPrompt() if place == "none" else SoftPrompt(2, "vocabulary", place, NETWORKS[(number * 4 // 3) % 3])
        if place == "deep":
            soft = SoftPrompt(2, "source", place, "mlp")
        yield Candidate(
            TEMPLATES[0].id,
            VERBALIZERS[number % 2].id,
            soft_prompt=soft,
            frozen_layers=frozen,
            alpha=(0.0, 0.4)[number // 2 % 2],
            source_steps=(0, 2)[number // 4 % 2],
            steps=3,
            batch_size=4,
            learning_rate=1e-3,
        )


@pytest.fixture(scope="module", name="spec")
def spec_with_source_training(spec: ObjectiveSpec) -> ObjectiveSpec:
    return replace(spec, source_training=SourceTraining(batch_size=4, learning_rate=1e-3, frozen_layers=1))


def results(spec: ObjectiveSpec, chosen: list[Candidate]) -> list[Result]:
    worker = Objective(spec)
    return [worker.evaluate(candidate, 0) for candidate in chosen]


def difference(first: Result, second: Result) -> float:
    return float(np.abs(first.logits - second.logits).max())


def test_results_equal_those_computed_afresh(
    spec: ObjectiveSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every store off, in another order, or from an old store: 0.0 apart."""
    monkeypatch.setattr(activations, "WINDOW_ROWS", 6)
    family = spec.backbone.family
    chosen = [each for each in candidates() if not is_refused(family, each.soft_prompt)]
    chosen = [each for each in chosen if not each.soft_prompt.deep or family == "seq2seq"]
    stored = results(replace(spec, files=str(tmp_path)), chosen)
    for kept in (2**30, 0):  # Within a trial; not even there, so that a row's window is run again for each batch.
        off = results(replace(spec, memory_bytes=kept), chosen)
        for one, other, candidate in zip(off, stored, chosen, strict=True):
            assert difference(one, other) == 0.0, candidate
    monkeypatch.setattr(PromptedModel, "reuse", lambda self: None)
    plain = results(spec, chosen)
    for one, other, candidate in zip(plain, stored, chosen, strict=True):
        assert difference(one, other) <= 1e-5, candidate
    monkeypatch.undo()
    monkeypatch.setattr(activations, "WINDOW_ROWS", 6)
    backwards = results(replace(spec, files=str(tmp_path / "other")), chosen[::-1])[::-1]
    again = results(replace(spec, files=str(tmp_path), memory_bytes=0), chosen)
    for one, other, warm in zip(stored, backwards, again, strict=True):
        assert difference(one, other) == difference(one, warm) == 0.0
        assert all(torch.equal(value, other.delta[name]) for name, value in one.delta.items())
    assert all(result.stages.misses == 0 for result in again)


def test_only_what_is_trained_is_run(spec: ObjectiveSpec, tmp_path: Path) -> None:
    """Once its activations are stored, a candidate doesn't run its frozen layers at all."""
    candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, frozen_layers=2, steps=2, batch_size=4)
    worker = Objective(replace(spec, files=str(tmp_path)))
    worker.evaluate(candidate, 0)
    runs = [0] * TINY_LAYERS
    for index, layer in enumerate(worker.backbone.blocks.values()):

        def count(*_: object, index: int = index) -> None:
            runs[index] += 1

        layer.register_forward_pre_hook(count)
    worker.evaluate(candidate, 0)
    heads = int(worker.backbone.has_head)  # An encoder's label embeddings are those of the label words: two runs.
    assert runs[0] == runs[1] == 2 * heads
    assert runs[2] > runs[0]


def test_a_candidate_finds_what_others_left(spec: ObjectiveSpec, tmp_path: Path) -> None:
    base = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, frozen_layers=2, steps=2, batch_size=4)
    worker = Objective(replace(spec, files=str(tmp_path)))
    assert worker.evaluate(base, 0).stages.misses > 0
    other = Objective(replace(spec, files=str(tmp_path)))
    use = other.evaluate(replace(base, learning_rate=1e-2, steps=4, batch_size=8), 0).stages
    assert (use.misses, use.spent_s) == (0, 0.0)
    assert use.hits > 0
    assert use.saved_s > 0

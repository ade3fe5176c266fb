"""Objectives on CUDA, with no more than torch and transformers: `make test-gpu`.

Tolerances are shares of the largest logit. Sums run in another order on a GPU, which float32 shows in the sixth digit;
the random models' weights are four times the usual size, and a few updates of AdamW spread what differs.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from promptgraft.objectives.backbones import BACKBONES, FAMILIES
from promptgraft.objectives.data import TaskSpec
from promptgraft.objectives.file_store import FileStore
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial import Checkpoint, Objective, Result, checkpoint_name, checkpoints
from promptgraft.spaces import Candidate, SoftPrompt
from tests.support.models import TINY_LAYERS
from tests.support.prompted_models import LABELS, ROWS, build, is_refused
from tests.support.specs import TEMPLATES, TRAINED, VERBALIZERS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device on this machine"),
]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PLACES = ("none", "prefix", "suffix", "layer 1", "deep")
UNTRAINED, TRAINED_ON, LOW = 1e-5, 1e-3, 0.05
GRADIENT = 1e-3  # Of a tensor's largest entry.
Float32 = npt.NDArray[np.float32]


def soft(place: str) -> SoftPrompt:
    return SoftPrompt() if place == "none" else SoftPrompt(3, "label_words", place)


def skip_if_refused(family: str, place: str) -> None:
    if is_refused(family, soft(place)):
        pytest.skip(f"{family} supports no soft prompt at {place!r}")


def apart(first: Float32, second: Float32) -> float:
    """Return the largest difference as a share of the largest logit."""
    return float(np.abs(first - second).max() / np.abs(first).max())


@pytest.mark.parametrize("place", PLACES)
def test_a_trial_ends_as_on_the_cpu(spec: ObjectiveSpec, place: str) -> None:
    """Untrained, and after updates without dropout, whose numbers differ between devices."""
    skip_if_refused(spec.backbone.family, place)
    objectives = [Objective(spec, device) for device in (CPU, CUDA)]
    candidate = replace(TRAINED, soft_prompt=soft(place), frozen_layers=TINY_LAYERS, source_steps=0)
    rows = objectives[0].target.validation
    assert apart(*(objective.score(candidate, {}, rows) for objective in objectives)) < UNTRAINED
    trains = place != "none" or FAMILIES[spec.backbone.family].has_head
    candidate = replace(candidate, steps=3 if trains else 0)
    on_cpu, on_gpu = (objective.evaluate(candidate, 0, at=candidate.steps) for objective in objectives)
    assert apart(on_cpu.logits, on_gpu.logits) < TRAINED_ON
    assert on_gpu.trainable_parameters == on_cpu.trainable_parameters
    assert {name: value.device for name, value in on_gpu.delta.items()} == dict.fromkeys(on_cpu.delta, CPU)


@pytest.mark.parametrize("frozen_layers", [0, 2])
@pytest.mark.parametrize("place", PLACES)
def test_gradients_are_those_of_the_cpu(spec: ObjectiveSpec, place: str, frozen_layers: int) -> None:
    skip_if_refused(spec.backbone.family, place)
    found = []
    for device in (CPU, CUDA):
        backbone = BACKBONES[spec.backbone.family](spec.backbone, device)
        model = build(backbone, soft_prompt=soft(place), frozen_layers=frozen_layers)
        model.backbone.model.eval()
        model.nll(model.batch(model.encode(ROWS)), LABELS).backward()  # type: ignore[no-untyped-call]
        found.append({name: p.grad.cpu() for name, p in model.trainable().items() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert (gradient - found[1][name]).abs().max() <= GRADIENT * gradient.abs().max() + 1e-7, name


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"autocast": "bfloat16"}], ids=["bfloat16", "autocast"])
def test_low_precision_is_close_to_float32(spec: ObjectiveSpec, options: dict[str, str]) -> None:
    if not FAMILIES[spec.backbone.family].numerics:
        pytest.skip(f"{spec.backbone.family} computes in float32 only")
    low = replace(spec, backbone=replace(spec.backbone, **options))
    full, reduced = Objective(spec, CUDA), Objective(low, CUDA)
    rows = full.target.validation
    untrained = [objective.score(TRAINED, {}, rows) for objective in (full, reduced)]
    assert 0 < apart(*untrained) < LOW
    result = reduced.evaluate(TRAINED, 0)
    assert np.isfinite(result.logits).all()
    assert all(value.dtype == torch.float32 for name, value in result.delta.items() if name.startswith("soft_prompt"))
    candidate = TRAINED.canonical(spec.space.facts)
    assert apart(full.score(candidate, result.delta, rows), result.logits) < 2 * LOW


def test_stored_activations_change_nothing(spec: ObjectiveSpec, tmp_path: Path) -> None:
    candidate = replace(TRAINED, frozen_layers=TINY_LAYERS, soft_prompt=soft("suffix"))
    stored = replace(spec, files=str(tmp_path))
    first, again = Objective(stored, CUDA).evaluate(candidate, 0), Objective(stored, CUDA).evaluate(candidate, 0)
    assert again.stages.misses == 0
    without = Objective(spec, CUDA).evaluate(candidate, 0)
    assert max(apart(first.logits, other.logits) for other in (again, without)) < UNTRAINED


def test_a_cycle_goes_on_from_a_checkpoint(
    spec: ObjectiveSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout: the state of the device's generator is part of the checkpoint."""
    monkeypatch.setattr(checkpoints, "_SPARING", 0)
    candidate = replace(TRAINED, steps=8)

    def checkpoint() -> Checkpoint:
        return Checkpoint(FileStore(str(tmp_path)), checkpoint_name("key", 0), every_s=0.0)

    whole = Objective(spec, CUDA).evaluate(candidate, 0)
    cycle = Objective(spec, CUDA).run(candidate, 0, checkpoint())
    for _ in range(3):
        next(cycle)
    *_, last = Objective(spec, CUDA).run(candidate, 0, checkpoint())
    assert last.result is not None
    assert last.result.resumed_at > 0
    assert apart(whole.logits, last.result.logits) < UNTRAINED


@pytest.fixture
def long_rows(make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str], tmp_path: Path) -> ObjectiveSpec:
    """A study of long texts, whose attention, written out in full, takes most of the memory."""
    path = tmp_path / "long.csv"
    texts = [f"number {number} " + " ".join(f"word{number}x{place}" for place in range(80)) for number in range(300)]
    rows = [f"{text},{'positive' if number % 2 else 'negative'}" for number, text in enumerate(texts)]
    path.write_text("\n".join(["text,label", *rows]))
    target = TaskSpec(str(path), {"text": "text"}, "label", train_rows=128, validation_rows=16, test_rows=16)
    spec = make_spec(tiny_models["encoder"], "encoder", source=False, target=target)
    return replace(spec, backbone=replace(spec.backbone, max_tokens=256, attn_implementation="eager"))


def test_memory_that_runs_out_halves_what_is_run_at_once(long_rows: ObjectiveSpec) -> None:
    """Really: the process is held to less memory than the whole batch takes."""
    # All frozen but the head: no dropout. The soft prompt makes the backward pass go through all layers.
    candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, soft_prompt=SoftPrompt(3), frozen_layers=TINY_LAYERS)
    candidate = replace(candidate, steps=2, batch_size=128, learning_rate=1e-3)

    def run(rows: int | None) -> tuple[Result, int]:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        spec = replace(long_rows, backbone=replace(long_rows.backbone, micro_batch_size=rows))
        result = Objective(spec, CUDA).evaluate(candidate, 0, at=2)
        return result, torch.cuda.max_memory_reserved()

    (parts, little), (whole, much) = run(16), run(None)
    assert parts.reduced_to is whole.reduced_to is None
    assert 0 < parts.max_gpu_bytes < whole.max_gpu_bytes <= much
    assert little < much / 2
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((little + much) / 2 / total)
    try:
        held, _ = run(None)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert held.reduced_to in (16, 32, 64)
    assert held.max_gpu_bytes < whole.max_gpu_bytes
    assert apart(parts.logits, held.logits) < TRAINED_ON

"""The training loop where memory runs out: less is run at once, and nothing else changes."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from promptgraft.objectives.prompting import EncodedRow, PromptedModel
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import TrialError
from tests.support.models import TINY_LAYERS, TinyModels
from tests.support.specs import TRAINED

# Nothing has dropout, which would draw other numbers for other parts.
CANDIDATE = replace(TRAINED, frozen_layers=TINY_LAYERS, source_steps=0)


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Let the device hold the gradients of so many rows, from a pass on: in the middle of an update, if it is odd."""
    encode = PromptedModel.batch

    def limit(rows: int, from_pass: int) -> None:
        passes = 0

        def batch(model: PromptedModel, chosen: Sequence[EncodedRow]) -> object:
            nonlocal passes
            passes += torch.is_grad_enabled()
            if torch.is_grad_enabled() and passes > from_pass and len(chosen) > rows:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return encode(model, chosen)

        monkeypatch.setattr(PromptedModel, "batch", batch)

    return limit


@pytest.mark.parametrize("from_pass", [0, 1], ids=["at once", "with half of the gradient"])
def test_memory_that_runs_out_halves_what_is_run_at_once(
    spec: ObjectiveSpec, small_memory: Callable[[int, int], None], from_pass: int, caplog: pytest.LogCaptureFixture
) -> None:
    """And what the failed pass had added to the gradient is gone: the result is that of micro-batches, to the bit."""
    parts = Objective(replace(spec, backbone=replace(spec.backbone, micro_batch_size=1))).evaluate(CANDIDATE, 0)
    assert parts.reduced_to is None
    small_memory(1, from_pass)
    with caplog.at_level(logging.WARNING):
        found = Objective(spec).evaluate(CANDIDATE, 0)
    assert found.reduced_to == 1
    # At which step is up to the rows: those of very different lengths are not run at once anyway.
    told = [message.partition(" at step ")[0] for message in caplog.messages]
    assert told == [f"out of memory with {rows} rows at once" for rows in (4, 2)]
    assert np.array_equal(found.logits, parts.logits)
    assert found.delta.keys() == parts.delta.keys()
    assert all(torch.equal(value, parts.delta[name]) for name, value in found.delta.items())


def test_a_single_row_that_does_not_fit_fails_the_trial(
    spec: ObjectiveSpec, small_memory: Callable[[int, int], None]
) -> None:
    small_memory(0, 0)
    with pytest.raises(TrialError, match="a single row at step 1; set backbone"):
        Objective(spec).evaluate(CANDIDATE, 0)


def test_a_contrastive_batch_is_not_cut(
    make_spec: Callable[..., ObjectiveSpec], tiny_models: TinyModels, small_memory: Callable[[int, int], None]
) -> None:
    spec = make_spec(tiny_models["encoder"], "encoder")
    candidate = replace(CANDIDATE, frozen_layers=0, contrastive_steps=1)
    small_memory(2, 0)
    with pytest.raises(TrialError, match="4 rows at step 1, and a contrastive loss needs the whole batch at once"):
        Objective(spec).evaluate(candidate, 0)


def test_without_a_gpu_there_is_no_peak_of_its_memory(spec: ObjectiveSpec) -> None:
    assert Objective(spec, torch.device("cpu")).evaluate(replace(CANDIDATE, steps=1), 0).max_gpu_bytes == 0

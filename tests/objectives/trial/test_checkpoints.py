"""A cycle that goes on from a checkpoint ends as if it had never stopped: 0.0 apart."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from promptgraft.objectives.file_store import FileStore
from promptgraft.objectives.progress import StageProgress
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial import (
    Checkpoint,
    Objective,
    Result,
    checkpoint_name,
    checkpoints,
    stage_training,
)
from promptgraft.objectives.trial.training import Trainer, Update
from promptgraft.spaces import Candidate, SoftPrompt
from tests.support.prompted_models import is_refused
from tests.support.specs import TEMPLATES, VERBALIZERS

BASE = Candidate(
    template=TEMPLATES[0].id,
    verbalizer=VERBALIZERS[0].id,
    frozen_layers=1,
    source_steps=3,
    alpha=0.5,
    steps=10,
    batch_size=4,
    learning_rate=1e-3,
)


def checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(FileStore(str(folder)), checkpoint_name("key", 0), every_s=0.0)


@pytest.fixture(autouse=True)
def _always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_SPARING", 0)


def stop_after(spec: ObjectiveSpec, candidate: Candidate, folder: Path, evaluations: int) -> None:
    """Leave a cycle behind a number of evaluations, as a killed worker does."""
    cycle = Objective(spec).run(candidate, 0, checkpoint(folder))
    for _ in range(evaluations):
        next(cycle)


def same(a: Result, b: Result) -> bool:
    return (
        np.array_equal(a.logits, b.logits)
        and a.delta.keys() == b.delta.keys()
        and all(torch.equal(a.delta[name], b.delta[name]) for name in a.delta)
        and (a.value, a.step, a.metrics, a.confusion) == (b.value, b.step, b.metrics, b.confusion)
    )


@pytest.mark.parametrize(
    ("evaluations", "stored"),
    [(1, True), (3, True), (5, True), (2, False)],
    ids=["before the first checkpoint", "in the middle", "at the end", "no store"],
)
def test_a_resumed_cycle_equals_an_uninterrupted_one(
    spec: ObjectiveSpec, tmp_path: Path, evaluations: int, stored: bool
) -> None:
    whole = list(Objective(replace(spec, files=str(tmp_path / "other") if stored else None)).run(BASE, 0))
    spec = replace(spec, files=str(tmp_path)) if stored else spec
    stop_after(spec, BASE, tmp_path, evaluations)
    saved = (tmp_path / "checkpoints" / "key-0.safetensors").is_file()
    assert saved is (evaluations > 1), "it is saved when it is asked to go on"
    resumed = list(Objective(spec).run(BASE, 0, checkpoint(tmp_path)))
    assert [replace(each, result=None) for each in resumed] == [replace(each, result=None) for each in whole]
    assert whole[-1].result is not None
    assert resumed[-1].result is not None
    assert same(resumed[-1].result, whole[-1].result)


@pytest.mark.parametrize(
    ("place", "network", "frozen_layers"),
    [
        ("prefix", "direct", 3),
        ("prefix", "lstm", 0),
        ("suffix", "mlp", 3),
        ("layer 1", "direct", 3),
        ("layer 1", "mlp", 0),
        ("deep", "mlp", 3),
    ],
)
def test_soft_prompts_resume_too(
    spec: ObjectiveSpec, tmp_path: Path, place: str, network: str, frozen_layers: int
) -> None:
    soft = SoftPrompt(2, place=place, parametrization=network)
    if is_refused(spec.backbone.family, soft):
        pytest.skip("see test_backbones.py")
    candidate = replace(BASE, soft_prompt=soft, frozen_layers=frozen_layers, source_steps=0, alpha=0.0)
    whole = Objective(spec).evaluate(candidate, 0)
    stop_after(spec, candidate, tmp_path, 4)
    *_, last = Objective(spec).run(candidate, 0, checkpoint(tmp_path))
    assert last.result is not None
    assert same(last.result, whole)


def test_only_what_was_not_done_is_done(spec: ObjectiveSpec, tmp_path: Path) -> None:
    candidate = replace(BASE, source_steps=0)
    stop_after(spec, candidate, tmp_path, 4)  # Saved behind the third evaluation, at step 4.
    objective = Objective(spec)
    trained: list[bool] = []
    last = objective.backbone.layers.layers[-1]
    last.register_forward_pre_hook(lambda *_: trained.append(torch.is_grad_enabled() and last.training))
    cycle = objective.run(candidate, 0, checkpoint(tmp_path))
    assert [next(cycle).step for _ in range(3)] == [0, 2, 4]
    assert not any(trained)
    assert next(cycle).step == 6
    assert any(trained)


@pytest.mark.parametrize("damage", ["cut", "other seed", "emptied"])
def test_a_checkpoint_that_can_t_serve_is_left_aside(
    spec: ObjectiveSpec, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    stop_after(spec, BASE, tmp_path, 3)
    path = tmp_path / "checkpoints" / "key-0.safetensors"
    if damage != "other seed":
        path.write_bytes(path.read_bytes()[: 2000 if damage == "cut" else 0])
    seed = int(damage == "other seed")
    *_, last = Objective(spec).run(BASE, seed, checkpoint(tmp_path))
    assert last.result is not None
    assert same(last.result, Objective(spec).evaluate(BASE, seed))
    assert "starting at step 0" in caplog.text


def test_checkpoints_are_sparing(spec: ObjectiveSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_SPARING", 10**9)
    point = checkpoint(tmp_path)
    for _ in Objective(spec).run(BASE, 0, point):
        pass
    assert not point.is_due


@pytest.mark.parametrize("objective", ["labels", "contrastive"])
def test_a_source_stage_goes_on_at_its_last_checkpoint(
    spec: ObjectiveSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    """Whoever needs it next: what was trained before a kill is not trained again, and the weights are the same."""
    if objective == "contrastive" and spec.backbone.family != "encoder":
        pytest.skip("one family is enough")
    candidate = replace(BASE, source_steps=6, steps=2)
    if objective == "contrastive":
        candidate = replace(candidate, source_objective="contrastive")
    whole = Objective(replace(spec, files=str(tmp_path / "whole"))).evaluate(candidate, 0)
    spec = replace(spec, files=str(tmp_path / "killed"))

    class KilledError(Exception):
        pass

    steps: list[int] = []
    updates = Trainer.updates

    def counted(trainer: Trainer, until: int) -> Iterator[Update]:
        for update in updates(trainer):
            steps.append(trainer.step)
            if len(steps) == until:
                raise KilledError
            yield update

    monkeypatch.setattr(Trainer, "updates", lambda trainer: counted(trainer, 4))
    with pytest.raises(KilledError):
        Objective(spec).run(candidate, 0, checkpoint(tmp_path / "killed")).__next__()
    assert steps == [1, 2, 3, 4]
    steps.clear()
    monkeypatch.setattr(Trainer, "updates", lambda trainer: counted(trainer, 100))
    other = replace(candidate, learning_rate=2e-3)  # Another trial has the same source stage.
    assert Objective(spec).evaluate(other, 0).step in (0, 2)
    assert steps[:3] == [4, 5, 6], "saved behind update 3"
    assert not list((tmp_path / "killed" / "stages").glob("*.checkpoint.safetensors")), "it is done"
    resumed = Objective(spec).evaluate(candidate, 0)
    assert same(resumed, whole)
    (stage, *_) = (tmp_path / "whole" / "stages").glob("*.safetensors")
    assert stage.name in {path.name for path in (tmp_path / "killed" / "stages").iterdir()}


@pytest.mark.parametrize("folds", [1, 2])
def test_a_long_source_stage_reports_and_is_let_go(
    spec: ObjectiveSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folds: int
) -> None:
    """A trial that is stopped within its source stage lets others compute it, and reports change no weights."""
    if spec.backbone.family != "encoder":
        pytest.skip("one family is enough")
    target = replace(spec.target, validation_rows=None, folds=folds) if folds > 1 else spec.target
    spec = replace(spec, target=target, files=str(tmp_path / "stopped"))
    candidate = replace(BASE, source_steps=5, steps=2, contrastive_steps=2)
    whole = Objective(replace(spec, files=str(tmp_path / "whole"))).evaluate(candidate, 0)
    monkeypatch.setattr(stage_training, "REPORT_EVERY_S", 0.0)
    stopped = Objective(spec).run(candidate, 0, checkpoint(tmp_path / "stopped"))
    assert [stopped.advance() for _ in range(3)] == [StageProgress("source stage", step, 5) for step in (1, 2, 3)]
    stopped.close()
    going_on = Objective(spec).run(candidate, 0, checkpoint(tmp_path / "stopped"))
    reports = list(iter(going_on.advance, None))
    stages = [report for report in reports if isinstance(report, StageProgress)]
    expected = [StageProgress("source stage", step, 5) for step in (4, 5)]
    expected += [StageProgress("contrastive stage", step, 2) for step in (1, 2)] * folds
    assert stages == expected, "saved behind update 3"
    assert reports[-1].result is not None  # type: ignore[union-attr]
    assert same(reports[-1].result, whole)  # type: ignore[union-attr]

"""Cross-validation of one candidate: the cycles of its folds, put together."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
import torch

from promptgraft.objectives.data import WHOLE, Split
from promptgraft.objectives.file_store import FileStore
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial import Checkpoint, Evaluation, Objective, Result, checkpoint_name, checkpoints
from promptgraft.spaces import Candidate, SoftPrompt
from tests.support.models import TinyModels
from tests.support.specs import TEMPLATES, TRAINED, VERBALIZERS, small_spec

FOLDS = 3
BASE = replace(TRAINED, soft_prompt=SoftPrompt(), steps=6)
OTHER = replace(BASE, source_steps=2, learning_rate=1e-3)


@pytest.fixture(scope="module")
def spec(tiny_models: TinyModels) -> ObjectiveSpec:
    """A study of 24 labelled rows in three folds."""
    found = small_spec(tiny_models["encoder"], "encoder", rows=24)
    return replace(found, target=replace(found.target, validation_rows=None, folds=FOLDS))


def run(spec: ObjectiveSpec, candidate: Candidate = BASE, folder: Path | None = None) -> list[Evaluation]:
    checkpoint = None
    if folder is not None:
        checkpoint = Checkpoint(FileStore(str(folder)), checkpoint_name(candidate.key, 0), every_s=0.0)
    return list(Objective(spec).run(candidate, 0, checkpoint))


def result(evaluations: list[Evaluation]) -> Result:
    found = evaluations[-1].result
    assert found is not None
    return found


def test_each_fold_is_a_cycle_of_its_own(spec: ObjectiveSpec) -> None:
    evaluations = run(spec)
    found = result(evaluations)
    assert [(entry.fold, entry.step) for entry in evaluations] == [
        (fold, fold * (BASE.steps + 1) + step) for fold in range(FOLDS) for step in (0, 2, 4, 6)
    ]
    objective, logits, values = Objective(spec), [], []
    for fold in range(FOLDS):
        objective.use_split(Split(0, fold))
        alone = objective.evaluate(BASE, 0, at=found.step)
        logits.append(alone.logits)
        values.append(alone.value)
    assert np.array_equal(found.logits, np.concatenate(logits))
    assert (found.fold_values, found.value) == (tuple(values), mean(values))
    assert found.standard_error == pytest.approx(stdev(values) / FOLDS**0.5)
    objective.use_split(Split())
    rows = objective.target.scored()
    assert (np.sum(found.confusion), len(found.logits)) == (24, len(rows))
    assert found.confusion == objective.target.confusion(found.logits, rows)


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
@pytest.mark.parametrize("learning_rate", [1e-2, 1e-4])
def test_the_step_is_the_surest_of_those_near_the_best_mean(
    spec: ObjectiveSpec, metric: str, learning_rate: float
) -> None:
    objective = Objective(replace(spec, metric=metric))
    candidate = replace(BASE, learning_rate=learning_rate)
    at = {step: objective.evaluate(candidate, 0, at=step) for step in (0, 2, 4, 6)}
    sign = 1 if metric == "accuracy" else -1
    best = max(at.values(), key=lambda own: (sign * own.value, -own.metrics["loss"]))
    near = [step for step, own in at.items() if sign * (best.value - own.value) <= (best.standard_error or 0.0)]
    rows = objective.target.scored()
    surest = max(near, key=lambda step: objective.target.row_scores(at[step].logits, rows).mean())
    found = objective.evaluate(candidate, 0)
    assert found.step == (surest if metric == "accuracy" else best.step)
    assert (found.value, found.fold_values) == (at[found.step].value, at[found.step].fold_values)
    if learning_rate == 1e-2 and metric == "accuracy":
        assert found.step != best.step, "or nothing would be told apart"


def test_what_ran_before_does_not_matter(spec: ObjectiveSpec, tmp_path: Path) -> None:
    """Not even where trials share the stages that are stored."""
    shared = Objective(replace(spec, files=str(tmp_path)))
    forward = [shared.evaluate(candidate, 0).logits for candidate in (BASE, OTHER)]
    backward = [shared.evaluate(candidate, 0).logits for candidate in (OTHER, BASE)][::-1]
    alone = [Objective(spec).evaluate(candidate, 0).logits for candidate in (BASE, OTHER)]
    for found in (forward, backward):
        assert all(np.array_equal(one, other) for one, other in zip(found, alone, strict=True))
    assert not np.array_equal(*alone)


def test_folds_share_the_source_stage(spec: ObjectiveSpec, tmp_path: Path) -> None:
    """It is trained once: nothing of the target's rows is in it."""
    objective = Objective(replace(spec, files=str(tmp_path)))
    objective.evaluate(replace(BASE, steps=0, alpha=0.0), 0)
    files = FileStore(str(tmp_path))
    keys = [
        json.loads(files.read_metadata(file.name)["key"]) for file in files.files() if file.name.endswith("safetensors")
    ]
    assert Counter(key["stage"] for key in keys)["source"] == 1


@pytest.mark.parametrize("evaluations", [2, 4, 5, 9, 11])
def test_a_trial_goes_on_from_the_middle_of_a_fold(
    spec: ObjectiveSpec, tmp_path: Path, evaluations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_SPARING", 0)
    whole = run(spec)
    checkpoint = Checkpoint(FileStore(str(tmp_path)), checkpoint_name(BASE.key, 0), every_s=0.0)
    cycle = Objective(spec).run(BASE, 0, checkpoint)
    for _ in range(evaluations):
        next(cycle)
    again = Objective(spec).run(BASE, 0, checkpoint)
    seen, examples = [], []
    for evaluation in again:
        seen.append(evaluation)
        examples.append(again.example())
    assert [(entry.step, entry.fold, entry.metrics) for entry in seen] == [
        (entry.step, entry.fold, entry.metrics) for entry in whole
    ]
    one, other = result(seen), result(whole)
    assert np.array_equal(one.logits, other.logits)
    assert (one.value, one.step, one.fold_values) == (other.value, other.step, other.fold_values)
    assert (one.resumed_at > 0, other.resumed_at) == (evaluations > 2, 0)
    assert all("Sentiment: [" in example for example in examples)


def test_training_ends_once_it_took_twice_as_long_as_up_to_its_best(
    spec: ObjectiveSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first fold decides, by the metric and by the probability of the right label; so it does if it is resumed."""
    monkeypatch.setattr(checkpoints, "_SPARING", 0)
    spec, candidate = replace(spec, evaluate_every=8), replace(BASE, steps=160)
    task = Objective(spec).target  # On the first fold.
    cycle = Objective(spec).run(candidate, 0)
    whole, surest = [], []
    for evaluation in cycle:
        whole.append(evaluation)
        if evaluation.fold == 0:
            assert cycle._cycle is not None  # type: ignore[union-attr]
            logits = cycle._cycle.curve[-1][1]  # type: ignore[union-attr]
            surest.append(float(task.row_scores(logits, task.validation).mean()))
    steps = {fold: [entry.step % 161 for entry in whole if entry.fold == fold] for fold in range(FOLDS)}
    first = [entry for entry in whole if entry.fold == 0]
    best = max(range(len(first)), key=lambda place: (first[place].value, -first[place].metrics["loss"]))
    last = max(32, 2 * steps[0][max(best, int(np.argmax(surest)))])
    assert steps == {fold: list(range(0, last + 1, 8)) for fold in range(FOLDS)}
    assert last < 160, "or nothing would be saved"
    found = result(whole)
    assert np.array_equal(found.logits, Objective(spec).evaluate(candidate, 0, at=found.step).logits)
    checkpoint = Checkpoint(FileStore(str(tmp_path)), checkpoint_name(candidate.key, 0), every_s=0.0)
    cut_off = Objective(spec).run(candidate, 0, checkpoint)
    for _ in first[1:]:
        next(cut_off)
    again = list(Objective(spec).run(candidate, 0, checkpoint))
    assert [(entry.step, entry.metrics) for entry in again] == [(entry.step, entry.metrics) for entry in whole]
    assert np.array_equal(result(again).logits, found.logits)


def test_what_ships_is_trained_on_every_row(spec: ObjectiveSpec) -> None:
    objective = Objective(spec)
    found = objective.evaluate(BASE, 0)
    objective.use_split(WHOLE)
    shipped = objective.evaluate(BASE, 0, at=found.step)
    assert (found.delta, shipped.step) == ({}, found.step)
    assert len(shipped.logits) == len(objective.target.labelled) == 24
    again = objective.score(BASE, shipped.delta, objective.target.labelled, 0)
    np.testing.assert_allclose(again, shipped.logits, atol=1e-5)


def test_a_candidate_without_updates_is_evaluated_once_a_fold(spec: ObjectiveSpec) -> None:
    evaluations = run(spec, Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, steps=0))
    assert [(entry.step, entry.fold) for entry in evaluations] == [(0, 0), (1, 1), (2, 2)]
    assert result(evaluations).step == 0


def test_another_run_ends_this_one(spec: ObjectiveSpec) -> None:
    objective = Objective(spec)
    first = objective.run(BASE, 0)
    next(first)
    objective.run(OTHER, 0)
    with pytest.raises(Exception, match="another cycle was started"):
        next(first)
    assert torch.is_grad_enabled()

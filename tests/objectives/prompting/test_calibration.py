"""Calibration against its formula, for every family; it changes evaluation and prediction, and never the training."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.special import log_softmax

from promptgraft.bundles import Predictor, read_manifest
from promptgraft.bundles.folder import file_sha256
from promptgraft.bundles.manifest import DELTA_FILE, MANIFEST_FILE
from promptgraft.objectives.backbones import FAMILIES
from promptgraft.objectives.data import Row
from promptgraft.objectives.file_store import FileStore
from promptgraft.objectives.prompting import calibration
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial import Checkpoint, Objective, Result, checkpoint_name, checkpoints
from promptgraft.search.judging import score_in_float32
from promptgraft.search.storage import DELTA_FILE as TRIAL_DELTA
from promptgraft.search.storage import LOGITS_FILE, trial_file
from promptgraft.spaces import Candidate, InvalidInputError, SoftPrompt, Template
from tests.support.bundles import export
from tests.support.models import TINY_LAYERS
from tests.support.specs import TEMPLATES, TRAINED, VERBALIZERS

KINDS = ("contextual", "batch")
BASE = replace(TRAINED, source_steps=2, steps=4)
BIAS = "calibration.bias"


@pytest.fixture(scope="module")
def objective(spec: ObjectiveSpec) -> Objective:
    return Objective(spec)


def inputs(objective: Objective, kind: str) -> Sequence[Row]:
    if kind == "batch":
        return objective.target.train
    return [Row({"text": text}, 0) for text in ("N/A", "", "[MASK]")]


def scores(
    objective: Objective, candidate: Candidate, delta: dict[str, torch.Tensor], rows: Sequence[Row]
) -> npt.NDArray[np.float64]:
    """Score rows without calibration."""
    plain = replace(candidate, calibration="none")
    return objective.score(plain, delta, rows).astype(np.float64)


def by_hand(
    objective: Objective, candidate: Candidate, delta: dict[str, torch.Tensor]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return each label's mean log-probability, and the calibrated validation logits."""
    weights = {name: value for name, value in delta.items() if name != BIAS}
    bias = log_softmax(scores(objective, candidate, weights, inputs(objective, candidate.calibration)), axis=1).mean(0)
    return bias, scores(objective, candidate, weights, objective.target.validation) - bias


def same(first: Result, second: Result) -> bool:
    return (
        np.array_equal(first.logits, second.logits)
        and first.delta.keys() == second.delta.keys()
        and all(torch.equal(value, second.delta[name]) for name, value in first.delta.items())
        and (first.step, first.metrics) == (second.step, second.metrics)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"steps": 0},
        {"alpha": 1.0},
        {"alpha": 0.0, "source_steps": 0, "frozen_layers": TINY_LAYERS},
        {"soft_prompt": SoftPrompt(2, "vocabulary", "prefix"), "template": TEMPLATES[1].id},
        {"soft_prompt": SoftPrompt(), "verbalizer": VERBALIZERS[0].id, "frozen_layers": 0},
    ],
    ids=["mixed", "untrained", "source only", "all frozen", "prefix", "no prompt"],
)
def test_the_mean_log_probability_of_each_label_is_taken_off(
    objective: Objective, kind: str, changes: dict[str, object]
) -> None:
    candidate = replace(BASE, calibration=kind, **changes)  # type: ignore[arg-type]
    result = objective.evaluate(candidate, 0)
    bias, logits = by_hand(objective, candidate, dict(result.delta))
    assert result.delta[BIAS].shape == (2,)
    np.testing.assert_allclose(result.delta[BIAS], bias, atol=2e-5)
    np.testing.assert_allclose(result.logits, logits, atol=5e-5)
    assert result.metrics == objective.target.measure(result.logits, objective.target.validation)
    assert np.ptp(bias) > 1e-3, "the tiny models prefer one of the labels, so that there is something to see"


@pytest.mark.parametrize("kind", KINDS)
def test_training_does_not_know_it(objective: Objective, kind: str) -> None:
    """The losses are equal; so is the uncalibrated part of each evaluation, from step 0 on."""
    without = list(objective.run(BASE, 0))
    calibrated = list(objective.run(replace(BASE, calibration=kind), 0))
    assert [(e.step, e.source_loss, e.target_loss) for e in calibrated] == [
        (e.step, e.source_loss, e.target_loss) for e in without
    ]
    assert all(a.metrics["loss"] != b.metrics["loss"] for a, b in zip(calibrated, without, strict=True))
    first, last = without[-1].result, calibrated[-1].result
    assert first is not None
    assert last is not None
    assert BIAS not in first.delta
    assert first.delta.keys() == last.delta.keys() - {BIAS}


@pytest.mark.slow
def test_a_result_does_not_depend_on_the_trials_before_it(spec: ObjectiveSpec, tmp_path: Path) -> None:
    """Any order, with a store or without, after other calibrations of the same weights: 0.0 apart."""
    if spec.backbone.family not in ("encoder", "causal_lm"):
        pytest.skip("one family with a head and one without say it all, and it takes long")
    chosen = [
        replace(BASE, calibration=kind, frozen_layers=frozen)
        for frozen in (1, TINY_LAYERS)
        for kind in ("none", *KINDS)
    ]
    at = BASE.steps  # The best step may be the first one, which all depths share.
    alone = [Objective(spec).evaluate(candidate, 0, at=at) for candidate in chosen]
    worker = Objective(replace(spec, files=str(tmp_path)))
    stored = [worker.evaluate(candidate, 0, at=at) for candidate in chosen[::-1]][::-1]
    again = [Objective(replace(spec, files=str(tmp_path))).evaluate(candidate, 0, at=at) for candidate in chosen]
    for one, two, three in zip(alone, stored, again, strict=True):
        assert same(one, two)
        assert same(one, three)
    assert len({tuple(result.logits.flatten().tolist()) for result in alone}) == len(chosen)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_those_beside_it(objective: Objective, kind: str) -> None:
    candidate = replace(BASE, calibration=kind)
    delta = objective.evaluate(candidate, 0).delta
    rows = objective.target.test
    together = objective.score(candidate, delta, rows)
    for index in (0, 7):
        alone = objective.score(candidate, delta, rows[index : index + 1])
        np.testing.assert_allclose(alone[0], together[index], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_pretrained_weights_alone_are_calibrated_too(objective: Objective, kind: str) -> None:
    candidate = replace(BASE, calibration=kind, source_steps=0, soft_prompt=SoftPrompt(), steps=0)
    found = objective.score(candidate, {}, objective.target.validation)
    _, expected = by_hand(objective, candidate, {})
    np.testing.assert_allclose(found, expected, atol=5e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frozen", [0, 2])
def test_a_bundle_predicts_what_its_trial_saw(spec: ObjectiveSpec, tmp_path: Path, kind: str, frozen: int) -> None:
    objective = Objective(spec)
    candidate = replace(BASE, calibration=kind, frozen_layers=frozen)
    logits = export(tmp_path, spec, objective, candidate)
    rows = objective.target.validation
    predicted = Predictor(tmp_path).logits([row.fields for row in rows])
    delta = load_file(tmp_path / DELTA_FILE)
    assert np.abs(predicted - objective.score(candidate, delta, rows)).max() == 0.0
    if frozen:
        # The trial ran what stands behind the frozen layers, production runs the whole model.
        assert np.abs(predicted - logits).max() <= 1e-5 * max(1.0, np.abs(logits).max())
    else:
        assert np.abs(predicted - logits).max() == 0.0
    assert read_manifest(tmp_path).candidate["calibration"] == kind


def test_a_bundle_without_its_calibration_is_refused(spec: ObjectiveSpec, tmp_path: Path) -> None:
    export(tmp_path, spec, Objective(spec), replace(BASE, calibration="batch", steps=0))
    path = tmp_path / DELTA_FILE
    manifest, delta = read_manifest(tmp_path), load_file(path)
    del delta[BIAS]
    save_file(delta, path)
    changed = manifest.model_copy(update={"files": manifest.files | {DELTA_FILE: file_sha256(path)}})
    (tmp_path / MANIFEST_FILE).write_text(changed.to_json())
    with pytest.raises(InvalidInputError, match=r"no calibration\.bias, but the candidate's calibration is 'batch'"):
        Predictor(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_cycle_equals_an_uninterrupted_one(
    spec: ObjectiveSpec, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_SPARING", 0)
    candidate = replace(BASE, calibration=kind, steps=8)
    whole = list(Objective(spec).run(candidate, 0))
    for evaluations in (3, 4):
        folder = tmp_path / str(evaluations)
        files = FileStore(str(folder))
        cycle = Objective(spec).run(candidate, 0, Checkpoint(files, checkpoint_name("key", 0), every_s=0.0))
        for _ in range(evaluations):
            next(cycle)
        resumed = list(Objective(spec).run(candidate, 0, Checkpoint(files, checkpoint_name("key", 0), every_s=0.0)))
        assert resumed[-1].result is not None
        assert whole[-1].result is not None
        assert resumed[-1].result.resumed_at > 0
        assert [replace(each, result=None) for each in resumed] == [replace(each, result=None) for each in whole]
        assert same(resumed[-1].result, whole[-1].result)


def test_finalists_keep_the_calibration_of_the_search(spec: ObjectiveSpec, tmp_path: Path) -> None:
    """Scored again in float32 with the stored bias, as a bundle predicts."""
    if not FAMILIES[spec.backbone.family].numerics:
        pytest.skip("computes in float32 anyway")
    low = replace(spec, backbone=replace(spec.backbone, dtype="bfloat16"), files=str(tmp_path))
    candidate = replace(BASE, calibration="batch", frozen_layers=2)
    result = Objective(low).evaluate(candidate, 0)
    files = FileStore(str(tmp_path))
    files.write_tensors(trial_file(0, TRIAL_DELTA), result.delta)
    files.write_tensors(trial_file(0, LOGITS_FILE), {"logits": torch.from_numpy(result.logits)})
    (found,) = score_in_float32(low, [(0, candidate.to_dict(), None)]).values()
    wide = replace(spec, backbone=spec.backbone.in_float32())
    objective = Objective(wide)
    plain = objective.score(replace(candidate, calibration="none"), without_bias(result), objective.target.validation)
    expected = plain - result.delta[BIAS].numpy()
    assert found.metrics == objective.target.measure(expected, objective.target.validation)


def without_bias(result: Result) -> dict[str, torch.Tensor]:
    return {name: value for name, value in result.delta.items() if name != BIAS}


def test_an_empty_field_renders_and_encodes(spec: ObjectiveSpec) -> None:
    """A causal LM's prompt that would have no token at all is left out; all others stay."""
    bare = Template("bare", "{{ text }} {{ label }}")
    objective = Objective(replace(spec, space=replace(spec.space, templates=(*TEMPLATES, bare))))
    for template in (*TEMPLATES, bare):
        candidate = replace(BASE, template=template.id, calibration="contextual", source_steps=0)
        (model,) = objective.untrained([candidate])
        found = calibration.content_free(model)
        causal_and_bare = objective.backbone.causal and template == bare
        assert len(found) == (2 if causal_and_bare else 3)
        assert all(row.ids for row in found)
        result = objective.evaluate(candidate, 0)
        assert np.isfinite(result.logits).all()


def test_no_more_than_some_rows_are_averaged(
    make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = Objective(make_spec(tiny_models["encoder"], "encoder"))
    candidate = replace(BASE, calibration="batch", source_steps=0, steps=0)
    whole = objective.evaluate(candidate, 0).delta[BIAS]
    monkeypatch.setattr(calibration, "MAX_ROWS", 5)
    few = objective.evaluate(candidate, 0).delta[BIAS]
    expected = log_softmax(scores(objective, candidate, {}, objective.target.train[:5]), axis=1).mean(0)
    assert not torch.equal(whole, few)
    np.testing.assert_allclose(few, expected, atol=2e-5)


def test_each_calibration_makes_another_candidate() -> None:
    assert len({replace(BASE, calibration=kind).key for kind in ("none", *KINDS)}) == 3
    for kind in ("none", *KINDS):
        candidate = replace(BASE, calibration=kind)
        assert Candidate.from_values(candidate.to_dict()) == candidate  # type: ignore[arg-type]


def test_it_matters_whatever_else_is_done(spec: ObjectiveSpec) -> None:
    untrained = replace(BASE, calibration="batch", steps=0, soft_prompt=SoftPrompt(), frozen_layers=TINY_LAYERS)
    assert untrained.canonical(spec.space.facts).calibration == "batch"
    assert BASE.canonical(spec.space.facts).calibration == "none"

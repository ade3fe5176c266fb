"""Controls have as many updates as the winner, and know nothing of the rows that they are scored on."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from promptgraft.objectives.data import Row, Split
from promptgraft.objectives.measures import FITTED, TrainedControl, tfidf, trained_controls
from promptgraft.objectives.measures.controls import features
from promptgraft.objectives.spec import ObjectiveSpec, SourceTraining
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Adapter, Candidate, SoftPrompt
from tests.support.models import TINY_LAYERS
from tests.support.specs import TEMPLATES, VERBALIZERS

MakeSpec = Callable[..., ObjectiveSpec]

WINNER = Candidate(
    TEMPLATES[0].id,
    VERBALIZERS[0].id,
    soft_prompt=SoftPrompt(2, "source"),
    frozen_layers=1,
    adapter=Adapter("lora"),
    alpha=0.4,
    source_steps=3,
    steps=8,
    batch_size=4,
)

SOURCE = SourceTraining(batch_size=12, learning_rate=1e-3, frozen_layers=1)


def test_trained_controls_have_as_many_updates(make_spec: MakeSpec, tiny_models: dict[str, str]) -> None:
    space = make_spec(tiny_models["encoder"], "encoder").space
    controls = trained_controls(
        TrainedControl(WINNER.canonical(space.facts), 4), space, shared_labels=True, source=SOURCE
    )
    updates = {name: arm.candidate.source_steps + arm.step for name, arm in controls.items()}
    assert updates == {"target_only": 7, "source_only": 7, "full_fine_tuning": 7}
    alone, source, tuned = (controls[name].candidate for name in ("target_only", "source_only", "full_fine_tuning"))
    assert (alone.alpha, alone.source_steps, alone.soft_prompt) == (0.0, 0, SoftPrompt(2))
    assert (alone.frozen_layers, alone.adapter) == (1, Adapter("lora"))
    assert (source.alpha, source.steps, source.source_steps) == (1.0, 8, 3)
    assert (tuned.frozen_layers, tuned.adapter, tuned.soft_prompt, tuned.alpha) == (0, Adapter(), SoftPrompt(), 0.0)
    assert not controls["target_only"].candidate.uses_source
    assert "source_only" not in trained_controls(TrainedControl(WINNER, 4), space, shared_labels=False, source=SOURCE)
    plain = replace(WINNER, alpha=0.0, source_steps=0)
    assert set(trained_controls(TrainedControl(plain, 4), space, shared_labels=True, source=SOURCE)) == {
        "source_only",
        "full_fine_tuning",
    }
    assert trained_controls(TrainedControl(plain, 0), space, shared_labels=True, source=SOURCE) == {}
    probe = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, head="probe", alpha=0.4, steps=0).canonical(space.facts)
    alone = trained_controls(TrainedControl(probe, 0), space, shared_labels=True, source=SOURCE)
    assert list(alone) == ["target_only"]
    assert alone["target_only"] == TrainedControl(replace(probe, alpha=0.0).canonical(space.facts), 0)


def test_a_winner_that_is_the_source_s_weights_is_compared_with_as_many_updates_on_the_target(
    make_spec: MakeSpec, tiny_models: dict[str, str]
) -> None:
    spec = make_spec(tiny_models["causal_lm"], "causal_lm")
    facts = replace(spec.space.facts, n_layers=TINY_LAYERS, has_head=False, has_source=True)
    space = replace(spec.space, facts=facts)
    winner = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, source_steps=3, steps=0).canonical(facts)
    assert winner.frozen_layers == TINY_LAYERS
    arm = trained_controls(TrainedControl(winner, 0), space, shared_labels=True, source=SOURCE)["target_only"]
    own = arm.candidate
    assert (own.frozen_layers, own.batch_size, own.learning_rate, own.source_steps) == (1, 12, 1e-3, 0)
    assert (own.steps, arm.step) == (3, 3)
    assert Objective(replace(spec, space=space)).evaluate(own, 0, at=arm.step).step == 3


@pytest.mark.parametrize("family", ["encoder", "causal_lm", "seq2seq", "recurrent", "masked_lm"])
def test_fitted_controls_know_nothing_of_what_they_predict(
    make_spec: MakeSpec, tiny_models: dict[str, str], family: str
) -> None:
    """Neither the labels of the rows nor the other rows beside them change a prediction."""
    objective = Objective(make_spec(tiny_models[family], family))
    rows = objective.target.test[:6]

    def wrong(own: Sequence[Row]) -> list[Row]:
        return [replace(row, answer=1 - row.label) for row in own]

    applying = {name: own for name, own in FITTED.items() if not objective.target.refuses_baseline(name)}
    assert {"tfidf", "linear_probe", "zero_shot", "majority"} == applying.keys()
    for name, control in applying.items():
        found = control(objective, rows)
        assert found.shape == (6, 2), name
        assert np.isfinite(found).all(), name
        np.testing.assert_allclose(control(objective, wrong(rows[:2])), found[:2], atol=1e-5, err_msg=name)


def test_features_of_labelled_rows_are_computed_once(make_spec: MakeSpec, tiny_models: dict[str, str]) -> None:
    """For every fold of every repeat, and each row has its own."""
    objective = Objective(make_spec(tiny_models["encoder"], "encoder"))
    runs = 0

    def count(*_: object) -> None:
        nonlocal runs
        runs += 1

    next(iter(objective.backbone.blocks.values())).register_forward_pre_hook(count)
    rows = objective.target.labelled
    whole = features(objective, rows)
    once = runs
    assert once > 0
    for repeat in (0, 1):
        objective.use_split(Split(repeat, 0))
        places = [rows.index(row) for row in objective.target.validation]
        np.testing.assert_array_equal(features(objective, objective.target.validation), whole[places])
        FITTED["linear_probe"](objective, objective.target.validation)
    assert runs == once
    others = features(objective, objective.target.test)
    assert runs > once
    assert others.shape == (len(objective.target.test), whole.shape[1])


def test_labels_without_a_training_row_are_never_predicted(make_spec: MakeSpec, tiny_models: dict[str, str]) -> None:
    task = Objective(make_spec(tiny_models["encoder"], "encoder")).target
    wider = replace(task, labels=(*task.labels, "unseen"))
    assert (tfidf(wider, task.test).argmax(1) < 2).all()


def test_a_repeat_ends_at_its_step(make_spec: MakeSpec, tiny_models: dict[str, str]) -> None:
    """With the state of that step, whatever came before was better."""
    objective = Objective(make_spec(tiny_models["encoder"], "encoder"))
    candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, frozen_layers=TINY_LAYERS - 1, steps=6, batch_size=4)
    values = {e.step: e.metrics for e in objective.run(candidate, 1)}
    for step, metrics in values.items():
        result = objective.evaluate(candidate, 1, at=step)
        assert (result.step, result.metrics) == (step, metrics)
        again = objective.score(candidate, result.delta, objective.target.validation, 1)
        np.testing.assert_allclose(again, result.logits, atol=1e-5)


def test_fewer_rows_are_a_part_of_the_same_split(make_spec: MakeSpec, tiny_models: dict[str, str]) -> None:
    objective = Objective(make_spec(tiny_models["encoder"], "encoder"))
    objective.use_split(Split(3))
    whole, sources = objective.target, objective.sources
    objective.use_split(Split(3), {"target": 4})
    assert (len(objective.target.train), objective.sources) == (4, sources)
    assert set(map(str, objective.target.train)) <= set(map(str, whole.train))
    assert {row.label for row in objective.target.train} == {0, 1}
    assert (objective.target.validation, objective.target.test) == (whole.validation, whole.test)
    objective.use_split(Split(3))
    assert objective.target == whole

"""Study files that name several backbones: what each can serve of the one space, and what is refused."""

from typing import Any

import pytest
from optuna.distributions import IntDistribution
from optuna.samplers import RandomSampler
from optuna.study import create_study

from promptgraft.search.sampling import baseline_candidates, start_points
from promptgraft.search.storage import distributions_of, present_parameters
from promptgraft.search.study import Study, load_study
from promptgraft.spaces import Candidate, InvalidInputError
from tests.support.models import TINY_LAYERS, TinyModels
from tests.support.studies import WriteStudy, prompts

SPACE: dict[str, Any] = {
    **prompts(),
    "templates": {**prompts()["templates"], "before": "{{ label }}: {{ text }}"},
    "head": ["probe", "label_words"],
    "demonstrations": {"count": [0, 2]},
    "contrastive_steps": [0, 4],
    "frozen_layers": {"low": 0, "high": 9},
    "adapter": {"method": {"choices": ["lora"], "when": {"parameter": "backbone", "choices": ["lm"]}}},
    "steps": [0, 4],
}


@pytest.fixture
def backbones(tiny_models: TinyModels) -> dict[str, dict[str, Any]]:
    return {
        "small": {"path": tiny_models["encoder"], "family": "encoder", "max_tokens": 48},
        "lm": {"path": tiny_models["causal_lm"], "family": "causal_lm", "max_tokens": 64},
    }


@pytest.fixture
def study(write_study: WriteStudy, backbones: dict[str, dict[str, Any]]) -> Study:
    return load_study(str(write_study(backbone=None, backbones=backbones, space=SPACE)))


def drawn(study: Study, count: int = 40) -> list[tuple[Candidate, dict[str, Any]]]:
    """Draw candidates at random, with the parameters that Optuna saw."""
    optuna_study = create_study(sampler=RandomSampler(0))
    trials = [optuna_study.ask() for _ in range(count)]
    return [(study.objective.space.suggest(trial), trial.params) for trial in trials]  # type: ignore[arg-type]


def test_each_backbone_has_what_it_can_serve(study: Study) -> None:
    found = drawn(study)
    assert {candidate.backbone for candidate, _ in found} == {"small", "lm"}
    for candidate, params in found:
        space = study.objective.space.on(candidate.backbone)
        assert candidate.template in {template.id for template in space.templates}
        assert f"template@{candidate.backbone}" in params
        if candidate.backbone == "lm":
            assert space.template(candidate.template).name != "before"
            assert {"head", "contrastive_steps"}.isdisjoint(params)
            assert candidate.head == "label_words"
        else:
            assert {"demonstrations.count", "adapter.method"}.isdisjoint(params)
            assert candidate.adapter.method == "none"
    adapted = {candidate.backbone for candidate, _ in found if candidate.adapter.method == "lora"}
    assert adapted == {"lm"}
    # Both have three layers, so that they share the parameter.
    assert distributions_of(study.objective.space)["frozen_layers"] == IntDistribution(0, TINY_LAYERS)


def test_a_candidate_is_drawn_again_from_what_was_recorded(study: Study) -> None:
    """As for trials of an earlier run: all that decides it is among its parameters."""
    present = distributions_of(study.objective.space)
    for candidate, params in drawn(study, 10):
        assert present_parameters(params, candidate.to_dict(), present) == params
        assert Candidate.from_values(candidate.to_dict()) == candidate  # type: ignore[arg-type]


def test_the_name_is_part_of_a_key_only_where_there_is_one() -> None:
    plain = Candidate("a", "b")
    assert "backbone" not in plain.to_dict()
    assert plain.key == Candidate.from_values({"template": "a", "verbalizer": "b"}).key
    keys = {Candidate("a", "b", backbone=name).key for name in ("", "small", "lm")}
    assert len(keys) == 3


def test_a_space_of_its_own_for_each_with_baselines_and_start_points(
    write_study: WriteStudy, backbones: dict[str, dict[str, Any]]
) -> None:
    sections: dict[str, Any] = {"backbone": None, "backbones": backbones, "space": "auto", "budget": {"trials": 24}}
    study = load_study(write_study(**sections, baselines=None))
    baselines, starts = baseline_candidates(study), start_points(study)
    assert list(baselines)[:3] == ["linear_probe@small", "words@lm", "characters@lm"]
    assert "words@small" not in baselines, "it is the same"
    assert {name for name in baselines if name.startswith("zero_shot")} == {"zero_shot@small", "zero_shot@lm"}
    assert len(baselines) <= 12
    assert all(name.endswith(f"@{own.backbone}") for name, own in baselines.items())
    assert {name.partition("@")[2] for name in starts} == {"small", "lm"}
    assert len(starts) <= 6
    for name, point in starts.items():
        assert point["backbone"] == name.partition("@")[2]
        assert point.keys() <= distributions_of(study.objective.space).keys()
    few = load_study(write_study(**sections | {"budget": {"trials": 8}}, baselines=None))
    assert len(baseline_candidates(few)) == 8  # As many as one backbone has.


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"backbone": {}}, "name one model as `backbone`, or several as `backbones`; both are given"),
        ({"backbones": None}, "name one model as `backbone`, or several as `backbones`; neither is given"),
        ({"backbones": {"odd": {"family": "encodr"}}}, "backbones.odd.family: unknown backbone family 'encodr'; did"),
        ({"backbones": {"odd": {"path": "nowhere/at/all"}}}, "backbones.odd.path: "),
        ({"backbones": {"odd": {"max_token": 8}}}, "unknown key 'max_token'; did you mean 'max_tokens'"),
        ({"space": {**SPACE, "frozen_layers": [0, 9]}}, "space.frozen_layers: frozen_layers must be in [0, 3]"),
        ({"space": {**SPACE, "templates": {"a": "{{ txt }} {{ label }}"}}}, "uses the unknown field 'txt'"),
        ({"space": {**SPACE, "templates": {"a": "{{ label }} {{ text }}"}}}, "on backbone 'lm': "),
        ({"space": {**SPACE, "grow": {}}}, "space.grow: needs a single `backbone`"),
        (
            {"space": {**SPACE, "steps": {"choices": [1], "when": {"parameter": "backbone", "choices": ["smallish"]}}}},
            "unknown backbone 'smallish'; did you mean 'small'",
        ),
    ],
)
def test_what_is_refused_with_one_message(
    write_study: WriteStudy, backbones: dict[str, dict[str, Any]], sections: dict[str, Any], message: str
) -> None:
    """`backbone: {}` stands for a good one; the odd one of several is else like the small one."""
    content = {"backbone": None, "backbones": backbones, "space": SPACE} | sections
    if content["backbone"] is not None:
        content["backbone"] = backbones["small"]
    if "odd" in (content["backbones"] or {}):
        content["backbones"] = backbones | {"odd": backbones["small"] | content["backbones"]["odd"]}
    with pytest.raises(InvalidInputError) as refused:
        load_study(write_study(**content))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)

"""What a backbone can't do is refused with the same words by `validate` and by a trial, for every family."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptgraft.objectives.backbones import BACKBONES, FAMILIES, Backbone
from promptgraft.objectives.backbones.base import BackboneSpec
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.search.study import load_study
from promptgraft.search.study.yaml_lines import StudyFileError
from promptgraft.spaces import Candidate, InvalidInputError
from tests.support.models import TEXT_FAMILIES, TINY_LAYERS
from tests.support.prompted_models import CPU, LABELS
from tests.support.specs import TEMPLATES, VERBALIZERS
from tests.support.studies import space

WriteStudy = Callable[..., Path]
VALUES: list[tuple[str, Any]] = [
    ("frozen_layers", 99),
    ("soft_prompt.place", "prefix"),
    ("soft_prompt.place", "layer 1"),
    ("soft_prompt.place", "layer 99"),
    ("soft_prompt.place", "deep"),
    ("head", "linear"),
    ("pooling", "mean"),
    ("pooling", "first"),
    ("adapter.method", "lora"),
    ("demonstrations.count", 2),
]


@pytest.fixture(scope="module", params=TEXT_FAMILIES)
def backbone(request: pytest.FixtureRequest, tiny_models: dict[str, str]) -> Backbone:
    return BACKBONES[request.param](BackboneSpec(tiny_models[request.param], request.param, 64), CPU)


def by_trial(backbone: Backbone, name: str, value: object) -> str | None:
    """Return why a trial refuses a candidate with this value; None if it takes it."""
    values = {"template": TEMPLATES[0].id, "verbalizer": VERBALIZERS[1].id, "soft_prompt.length": 2, name: value}
    backbone.restore()
    try:
        PromptedModel(backbone, Candidate.from_values(values), TEMPLATES[0], VERBALIZERS[1], LABELS, seed=0)  # type: ignore[arg-type]
    except InvalidInputError as error:
        return str(error)
    return None


def by_validate(path: Path) -> str | None:
    """Return what `validate` says of a study's file; None if that is valid."""
    try:
        load_study(path)
    except StudyFileError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("name", "value"), VALUES, ids=str)
def test_both_ends_refuse_the_same(backbone: Backbone, write_study: WriteStudy, name: str, value: object) -> None:
    group, _, own = name.partition(".")
    section: dict[str, Any] = {"soft_prompt": {"length": 2, "place": "prefix"}}
    section[group] = section.get(group, {}) | {own: value} if own else value
    served = {"path": backbone.spec.path, "family": backbone.family, "max_tokens": 48}
    said, refused = by_validate(write_study(backbone=served, space=space(**section))), by_trial(backbone, name, value)
    assert (said is None) == (refused is None), (said, refused)
    if said is not None and refused is not None:
        assert refused in " ".join(said.split())


def test_every_family_refuses_something_and_takes_something(backbone: Backbone) -> None:
    refused = {value for name, value in VALUES if by_trial(backbone, name, value)}
    assert {99, "layer 99"} <= refused
    assert "prefix" not in refused
    assert ("linear" in refused) == (not FAMILIES[backbone.family].has_head)
    assert backbone.n_layers >= TINY_LAYERS or backbone.family == "recurrent"

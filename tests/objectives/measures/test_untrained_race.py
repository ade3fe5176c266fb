"""First looks equal what the untrained model scores, and share and race without changing who wins."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from promptgraft.objectives.measures import race_untrained_prompts
from promptgraft.objectives.measures import untrained_race as first_looks
from promptgraft.objectives.measures.untrained_race import score_untrained_prompts, untrained_models
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Candidate, Template, Verbalizer
from tests.support.models import real_model
from tests.support.specs import TEMPLATES, VERBALIZERS


@pytest.fixture(name="spec")
def spec_with_more_templates(spec: ObjectiveSpec) -> ObjectiveSpec:
    """Add templates that begin with the text, one of which can go on from the other."""
    more = (
        Template("verdict", "{{ text }} It was {{ label }}"),
        Template("answer", "{{ text }}\nMy verdict: {{ label }}"),
    )
    return replace(spec, space=replace(spec.space, templates=(*spec.space.templates, *more)))


def test_a_look_equals_the_untrained_score(spec: ObjectiveSpec) -> None:
    objective = Objective(spec)
    rows = objective.target.train[:6]
    space = spec.space
    pairs = [(template.id, verbalizer.id) for template in space.templates for verbalizer in space.verbalizers]
    found = dict(score_untrained_prompts(objective, untrained_models(objective, pairs), rows))
    assert sorted(found) == sorted(pairs)
    for pair, logits in found.items():
        alone = objective.score(Candidate(*pair, steps=0), {}, rows)
        # A reader of single tokens leaves the sum over the vocabulary out, a joint one doesn't: compare differences.
        np.testing.assert_allclose(logits - logits[:, :1], alone - alone[:, :1], atol=1e-4)


def test_a_look_leaves_nothing_behind(spec: ObjectiveSpec) -> None:
    candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, frozen_layers=1, steps=2, batch_size=4)
    objective = Objective(spec)
    before = objective.evaluate(candidate, 0)
    race_untrained_prompts(objective, objective.target.train)
    after = objective.evaluate(candidate, 0)
    assert np.array_equal(before.logits, after.logits)


@pytest.mark.slow
def test_losers_drop_out_and_the_winner_stays(
    make_spec: Callable[..., ObjectiveSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With real weights: the same best pair as without racing, on fewer rows in all."""
    spec = make_spec(real_model("encoder"), "encoder", rows=64)
    more = (
        Template("weather", "{{ label }} is the weather in March: {{ text }}"),
        Template("bare", "{{ text }} {{ label }}"),
    )
    swapped = Verbalizer("swapped", {"negative": ("great",), "positive": ("terrible",)})
    space = replace(
        spec.space, templates=(*spec.space.templates, *more), verbalizers=(*spec.space.verbalizers, swapped)
    )
    objective = Objective(replace(spec, space=space))
    rows = objective.target.train
    raced = race_untrained_prompts(objective, rows)
    monkeypatch.setattr(first_looks, "LEVEL", 0.0)
    whole = race_untrained_prompts(objective, rows)
    assert {entry.rows for entry in whole} == {len(rows)}
    assert sum(entry.rows for entry in raced) < sum(entry.rows for entry in whole)
    assert (raced[0].template, raced[0].verbalizer) == (whole[0].template, whole[0].verbalizer)

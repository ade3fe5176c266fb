"""Content is what scikit-learn's AUC says of the untrained prompt; measuring changes no trial."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import roc_auc_score

from promptgraft.objectives.measures import PromptMeter
from promptgraft.objectives.measures.adaptability import content
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Candidate, Template, Verbalizer
from tests.support.models import real_model
from tests.support.specs import TEMPLATES, VERBALIZERS

LABELS = np.arange(24) % 3
# On a grid, so that sums and differences are exact and ties stay ties.
logits = arrays.arrays(np.float64, (24, 3), elements=st.integers(-64, 64).map(lambda n: n / 8))


@settings(deadline=None)
@given(logits)
def test_it_is_scikit_learn_s_auc_after_calibration(found: np.ndarray) -> None:
    centred = found - found.mean(0)
    scores = centred - np.logaddexp.reduce(centred, axis=1, keepdims=True)
    expected = np.mean([roc_auc_score(label == LABELS, scores[:, label]) for label in range(3)])
    assert content(found, LABELS) == pytest.approx(max(0.0, 2 * expected - 1), abs=1e-9)


@given(logits, st.lists(st.integers(-80, 80), min_size=3, max_size=3))
def test_a_bias_towards_a_label_does_not_count(found: np.ndarray, bias: list[int]) -> None:
    assert content(found + np.array(bias) / 8, LABELS) == pytest.approx(content(found, LABELS), abs=0.02)


@given(logits)
def test_a_better_right_label_is_never_worse(found: np.ndarray) -> None:
    """Two labels, where only their difference counts; and at last the order is perfect."""
    two, labels = found[:, :2], LABELS % 2
    towards = np.eye(2)[labels] - 0.5
    found_at = [content(two + step * towards, labels) for step in (0, 1, 4, 40)]
    assert found_at == sorted(found_at)
    assert found_at[-1] == 1.0


def test_limits() -> None:
    right = np.eye(3)[LABELS]
    assert content(right, LABELS) == 1.0
    assert content(-right, LABELS) == 0.0
    assert content(np.zeros((24, 3)), LABELS) == 0.0
    assert content(np.full((24, 3), np.nan), LABELS) == 0.0
    assert content(right, np.zeros(24, dtype=int)) == 0.0, "one label alone can't be told from others"


@pytest.mark.slow
def test_prompts_are_told_apart(make_spec: Callable[..., ObjectiveSpec]) -> None:
    """With real weights: words for the labels fit, the same words swapped don't, and a linear head takes the best."""
    spec = make_spec(real_model("encoder"), "encoder", rows=64)
    swapped = Verbalizer("swapped", {"negative": ("great",), "positive": ("terrible",)})
    rambling = Template("rambling", "Notwithstanding heretofore unmentioned idiosyncrasies: {{ text }} {{ label }}")
    space = replace(spec.space, templates=(*TEMPLATES, rambling), verbalizers=(*VERBALIZERS, swapped))
    meter = PromptMeter(Objective(replace(spec, space=space)))
    fits, swaps = (meter.measure(Candidate(TEMPLATES[0].id, v.id)) for v in (VERBALIZERS[1], swapped))
    assert fits.content > 0.2, "0.36 on these rows, 0.27 on twice as many"
    assert swaps.content == 0.0
    best = max(meter.measure(Candidate(TEMPLATES[0].id, v.id)).content for v in space.verbalizers)
    assert meter.measure(Candidate(TEMPLATES[0].id, "", head="linear")).content == best
    assert meter.measure(Candidate(rambling.id, VERBALIZERS[1].id)).form < fits.form / 2 == swaps.form / 2


def test_a_prompt_is_measured_once_by_all_workers(spec: ObjectiveSpec, tmp_path: Path) -> None:
    stored = replace(spec, files=str(tmp_path))
    candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id)
    first = PromptMeter(Objective(stored)).measure(candidate)
    other = Objective(stored)
    assert PromptMeter(other).measure(candidate) == first
    assert (other.stages.use.hits, other.stages.use.misses) == (1, 0)
    PromptMeter(other).measure(replace(candidate, verbalizer=VERBALIZERS[1].id))
    assert other.stages.use.misses == 1, "other label words are another prompt"


def test_measuring_leaves_nothing_behind_and_depends_on_nothing(spec: ObjectiveSpec) -> None:
    objective = Objective(spec)
    candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, frozen_layers=1, steps=2, batch_size=4)
    meter = PromptMeter(objective)
    first = meter.measure(candidate)
    before = objective.evaluate(candidate, 0)
    meter.measure(replace(candidate, verbalizer=VERBALIZERS[1].id))
    after = objective.evaluate(candidate, 0)
    assert np.array_equal(before.logits, after.logits)
    assert PromptMeter(objective).measure(candidate) == first == meter.measure(candidate)
    alone = Objective(spec).evaluate(candidate, 0)
    assert np.array_equal(before.logits, alone.logits)

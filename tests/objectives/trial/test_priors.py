"""Priors in trials: counts join the text's scores, whatever ran before."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import FixedTrial
from safetensors.torch import load_file, save_file

from promptgraft.objectives.data import PRIOR, PriorRows
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec, SourceTraining
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Candidate, Constant, InvalidInputError, SearchSpace, StudyFacts, Template
from tests.support.histories import spec_of_histories, write_histories
from tests.support.models import TinyModels

TEMPLATE = Template("last", "{{ history.split('\n')[:2] | join('; ') }} {{ label }}")
FACTS = StudyFacts(2, has_head=True, has_source=True)
TEXT = Candidate(TEMPLATE.id, "", head="linear", steps=4, learning_rate=3e-3)
BOTH = replace(TEXT, prior="ease", prior_recency=0.5, text_weight=0.3)
COUNTS = replace(BOTH, text_weight=0.0)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, tiny_models: TinyModels) -> ObjectiveSpec:
    target = spec_of_histories(*write_histories(tmp_path_factory.mktemp("shop")))
    source = spec_of_histories(*write_histories(tmp_path_factory.mktemp("other"), seed=1))
    table = Path(source.train)
    table.write_text(table.read_text().replace("\nu", "\nv"))  # Other users.
    space = SearchSpace((TEMPLATE,), (), (Constant("head", "linear"),), FACTS)
    backbone = BackboneSpec(tiny_models["encoder"], "encoder", max_tokens=32)
    training = SourceTraining(batch_size=8)
    return ObjectiveSpec(backbone, target, source, space, "ndcg_at_5", evaluate_every=2, source_training=training)


def test_a_trial_does_not_depend_on_those_before_it(spec: ObjectiveSpec, tmp_path: Path) -> None:
    candidates = [TEXT, BOTH, COUNTS, replace(BOTH, alpha=0.5, source_steps=2), replace(COUNTS, alpha=0.5)]
    objective = Objective(replace(spec, files=str(tmp_path)))
    first = [objective.evaluate(candidate, 1).logits for candidate in candidates]
    again = [objective.evaluate(candidate, 1).logits for candidate in reversed(candidates)]
    fresh = [Objective(spec).evaluate(candidate, 1).logits for candidate in candidates]
    for one, two, three in zip(first, reversed(again), fresh, strict=True):
        assert np.abs(one - two).max() == np.abs(one - three).max() == 0.0
    assert not np.array_equal(first[2], first[4]), "the source counts, too"


def test_scores_are_the_texts_and_the_counts(spec: ObjectiveSpec) -> None:
    """The text trains as it does without a prior."""
    objective = Objective(spec)
    text, both, counts = (
        objective.evaluate(candidate, 1, at=candidate.steps) for candidate in (TEXT, BOTH, replace(BOTH, steps=0))
    )
    task = objective.target
    fitted = task.fit_prior("ease", 0.5, PriorRows(task.train, (), (), 0.0, objective.labels))
    features = [task.prior_features("ease", row.fields, objective.labels) for row in task.validation]
    expected = task.prior_logits("ease", 0.5, fitted, features)[:, : len(task.labels)]
    assert both.logits == pytest.approx(0.3 * text.logits + expected, abs=1e-5)
    alone = objective.evaluate(COUNTS, 1)
    assert np.array_equal(alone.logits, expected)
    assert alone.step == 0
    assert not np.array_equal(counts.logits, expected), "an untrained text still counts"
    assert alone.metrics["loss"] < task.measure(task.constant(task.validation), task.validation)["loss"]


def test_what_is_saved_and_loaded_computes_the_same(spec: ObjectiveSpec, tmp_path: Path) -> None:
    objective = Objective(spec)
    found = objective.evaluate(BOTH, 1)
    assert {name for name in found.delta if name.startswith(PRIOR)} == {"prior.popularity", "prior.weights"}
    save_file({name: tensor.contiguous() for name, tensor in found.delta.items()}, tmp_path / "delta.safetensors")
    delta = load_file(tmp_path / "delta.safetensors")
    rows = objective.target.validation
    assert np.array_equal(objective.score(BOTH, delta, rows, seed=1), found.logits)
    (model,) = objective.untrained([BOTH])
    with pytest.raises(InvalidInputError, match=r"prior\.weights is missing"):
        model.load_all({name: value for name, value in delta.items() if name != "prior.weights"}, len(objective.labels))
    model.load_all(delta, len(objective.labels))


def test_candidates_with_the_same_outcome_are_equal() -> None:
    assert COUNTS.canonical(FACTS) == replace(COUNTS, steps=9, learning_rate=1e-4, source_steps=5).canonical(FACTS)
    assert COUNTS.canonical(FACTS) != replace(COUNTS, alpha=0.5).canonical(FACTS)
    without = replace(TEXT, prior_recency=0.5, text_weight=0.1).canonical(FACTS)
    assert without == TEXT.canonical(FACTS)
    assert not {"prior", "prior_recency", "text_weight"} & without.to_dict().keys(), "records stay as they were"
    assert Candidate.from_values(BOTH.to_dict()) == BOTH  # type: ignore[arg-type]
    popular = replace(BOTH, prior="popularity").canonical(FACTS)
    assert popular.prior_recency == 0


def test_a_prior_alone_is_one_candidate_whatever_the_template() -> None:
    other = Template("all", "{{ history }} {{ label }}")
    named = (Constant("head", "linear"), Constant("prior", "ease"), Constant("steps", 8))
    for weight, count in {0.0: 1, 0.3: 2}.items():
        space = SearchSpace((TEMPLATE, other), (), (*named, Constant("text_weight", weight)), FACTS)
        drawn = {space.suggest(FixedTrial({"template": own.id})).key for own in space.templates}  # type: ignore[arg-type]
        assert len(drawn) == count


def test_a_kind_without_the_prior_refuses_it(spec: ObjectiveSpec) -> None:
    """As where a bundle names one that its kind of task can't fit."""
    objective = Objective(spec)
    candidate = replace(BOTH, prior="words")
    with pytest.raises(InvalidInputError, match="prior 'words' doesn't apply to this kind of task, which has 'none'"):
        objective.evaluate(candidate, 1)

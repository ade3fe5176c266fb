"""Baselines that know items by their ids alone."""

import numpy as np
import pytest
import torch

from promptgraft.objectives.data import TaskSpec
from promptgraft.objectives.kinds.histories.recommendation import Recommendation
from promptgraft.objectives.kinds.text_classification import TextClassification
from promptgraft.objectives.measures import FITTED
from promptgraft.objectives.measures.sequence_models import SequenceModel, SequenceSettings, score, sequences_of, train
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Constant, InvalidInputError, SearchSpace, StudyFacts, Template
from tests.support.histories import spec_of_histories, write_histories
from tests.support.models import TinyModels

NAMES = ("popular_lately", "svd", "sasrec", "gru4rec")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> TaskSpec:
    return spec_of_histories(*write_histories(tmp_path_factory.mktemp("shop"), users=60))


@pytest.fixture(scope="module")
def objective(spec: TaskSpec, tiny_models: TinyModels) -> Objective:
    facts = StudyFacts(2, has_head=True, has_source=False)
    space = SearchSpace((Template("all", "{{ history }} {{ label }}"),), (), (Constant("head", "linear"),), facts)
    backbone = BackboneSpec(tiny_models["encoder"], "encoder", max_tokens=32)
    return Objective(ObjectiveSpec(backbone, spec, None, space, "ndcg_at_5"))


@pytest.mark.parametrize("name", NAMES)
def test_they_rank_all_items_and_see_training_rows_alone(objective: Objective, name: str) -> None:
    """What comes next follows from what came last here: models of sequences find that, counts of items don't."""
    task = objective.target
    assert isinstance(task, Recommendation)
    found = FITTED[name](objective, task.test)
    assert found.shape == (len(task.test), len(task.labels))
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert np.array_equal(FITTED[name](objective, task.test), found), "a repeat is the same"
    assert FITTED[name](objective, task.test[:3]) == pytest.approx(found[:3], abs=1e-5)
    score_of = task.measure(found, task.test)["ndcg_at_5"]
    popular = task.measure(task.constant(task.test), task.test)["ndcg_at_5"]
    if name in ("sasrec", "gru4rec"):
        assert score_of > popular + 0.2


def test_what_is_held_out_has_no_part(objective: Objective) -> None:
    task = objective.target
    places = {name: place for place, name in enumerate(task.labels)}
    sequences = sequences_of(task.train, places)
    held_out = {(row.group, row.label) for row in (*task.validation, *task.test)}
    users = list(dict.fromkeys(row.group for row in task.train))
    assert len(sequences) == len(users)
    for user, own in zip(users, sequences, strict=True):
        assert not {(user, item) for item in own} & held_out
        assert len(set(own)) == len(own)


def test_items_behind_a_history_do_not_change_its_scores() -> None:
    """Padding stands behind, and is never seen; a long history is cut at its oldest end."""
    settings = SequenceSettings(width=8, length=4, epochs=2)
    state = train([[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 0]], 5, settings)
    one = score(state, [[1]], 5, settings)
    together = score(state, [[1], [0, 2, 3, 4]], 5, settings)
    assert together[:1] == pytest.approx(one, abs=1e-6)
    assert score(state, [[4, 0, 2, 3, 1]], 5, settings) == pytest.approx(score(state, [[0, 2, 3, 1]], 5, settings))
    model = SequenceModel(5, settings).eval()
    states = model(torch.tensor([[0, 1, 2, 3], [0, 1, 4, 4]]))
    assert torch.allclose(states[0, :2], states[1, :2], atol=1e-6), "no position sees those behind it"


def test_too_many_items_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="at most 10,000 items, got 10,001"):
        train([[0, 1]], 10_001, SequenceSettings())


def test_they_apply_to_recommendation_alone() -> None:
    assert not any(map(Recommendation.refuses_baseline, NAMES))
    assert all(map(TextClassification.refuses_baseline, NAMES))

"""User profiles: one value of each attribute, by what a user had."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from promptgraft.objectives.data import SEPARATOR, PriorRows, Split, TaskSpec
from promptgraft.objectives.kinds.histories.user_profile import UserProfile
from promptgraft.objectives.measures.kind_checks import check_task_kind
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Candidate, Constant, InvalidInputError, SearchSpace, StudyFacts, Template
from tests.support.histories import spec_of_histories, write_histories, write_users
from tests.support.models import TinyModels


@pytest.fixture
def spec(tmp_path: Path) -> TaskSpec:
    usual = spec_of_histories(*write_histories(tmp_path, users=80), train_rows=48, test_rows=20)
    assert usual.histories is not None
    users = replace(usual.histories, users=str(write_users(tmp_path, 80)), attributes=("age", "job"))
    return replace(usual, kind="user_profile", histories=users)


def test_it_keeps_to_the_contract(spec: TaskSpec, tiny_models: TinyModels) -> None:
    check_task_kind(spec, BackboneSpec(tiny_models["encoder"], "encoder", max_tokens=64))


def test_each_user_has_one_value_of_each_attribute(spec: TaskSpec) -> None:
    task = UserProfile.load_target(spec, 0)
    assert task.labels == ("age: old", "age: young", "job: clerk", "job: cook", "job: nurse")
    assert all(len(task.labels_of(row.answer)) == 2 for row in (*task.labelled, *task.test))
    assert all(len(row.fields["history"].split(SEPARATOR)) == 8 for row in task.test)
    outputs = np.array([[-3, -5, -9, -1, -2], [2, 3, 9, 8, 7]], dtype=np.float32)
    texts = [row.fields for row in task.test[:2]]
    assert task.predict(task.expected(outputs), texts) == [("age: old", "job: cook"), ("age: young", "job: clerk")]


def test_an_attribute_with_a_single_value_is_refused_but_for_a_source(spec: TaskSpec) -> None:
    assert spec.histories is not None
    path = str(spec.histories.users)
    pd.read_csv(path).assign(age="same").to_csv(path, index=False)
    with pytest.raises(InvalidInputError, match=r"users.csv: all users who are kept have the value 'age: same'"):
        UserProfile.load_target(spec, 0)
    assert "age: same" in UserProfile.clean(spec.train, spec, None)[1]


def test_rare_values_are_preferred_as_far_as_f1_gains_by_it(spec: TaskSpec) -> None:
    """Scores that hardly leave the shares: the likeliest value is always the frequent one."""
    task = UserProfile.load_target(spec, 0)
    rows = [replace(row, answer=(0, 2)) for row in task.labelled[:40]] + [
        replace(row, answer=(1, 3)) for row in task.labelled[40:48]
    ]
    true = np.array([[label in row.answer for label in range(5)] for row in rows])  # type: ignore[operator]
    shares = (true.sum(axis=0) + 0.5) / (len(rows) + 1)
    outputs = (np.log(shares / (1 - shares)) + 0.5 * true).astype(np.float32)
    decided = task.decided(outputs, rows)
    assert task.measure(outputs, rows)["f1_macro"] < 0.5
    assert decided.measure(outputs, rows)["f1_macro"] == pytest.approx(0.8)
    assert decided.thresholds == pytest.approx(shares)
    surely = np.where(true, 5, -5).astype(np.float32)
    assert task.decided(surely, rows).thresholds == (0.5,) * 5
    assert task.decided(surely, rows).measure(surely, rows) == task.measure(surely, rows)


def test_words_of_the_whole_history_are_a_prior(
    spec: TaskSpec, tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As good as TF-IDF, the same whatever ran before, and the same from a file."""
    template = Template("newest", "{{ history.split('\n')[0] }} {{ label }}")
    facts = StudyFacts(2, has_head=True, has_source=False)
    space = SearchSpace((template,), (), (Constant("head", "linear"),), facts)
    backbone = BackboneSpec(tiny_models["encoder"], "encoder", max_tokens=32)
    objective = Objective(ObjectiveSpec(backbone, replace(spec, folds=2), None, space, "f1_macro", evaluate_every=2))
    objective.use_split(Split(0, 0))
    task = objective.target
    words = Candidate(template.id, "", head="linear", steps=0, prior="words", text_weight=0.0)
    both = replace(words, steps=2, text_weight=0.5)
    alone, joined = (objective.evaluate(candidate, 1) for candidate in (words, both))
    other, again = (objective.evaluate(candidate, 1) for candidate in (both, words))
    assert np.array_equal(alone.logits, again.logits)
    assert np.array_equal(joined.logits, other.logits)
    control = task.measure(task.fit_by_words(task.train, task.validation), task.validation)
    assert alone.metrics["loss"] == pytest.approx(control["loss"], abs=0.02)
    planted = replace(task, validation=tuple(replace(row, answer=(0, 2)) for row in task.validation))
    rows = PriorRows(planted.train, (), (), 0.0, task.labels)
    fitted = planted.fit_prior("words", 0.0, rows)
    features = [task.prior_features("words", row.fields, task.labels) for row in task.validation]
    assert np.array_equal(planted.prior_logits("words", 0.0, fitted, features), alone.logits), (
        "held-out rows take no part"
    )
    assert np.array_equal(objective.score(words, alone.delta, task.validation, seed=1), alone.logits)
    monkeypatch.setattr("promptgraft.objectives.priors.hashed_words.MOST_COMPACT", 0)
    direct = planted.prior_logits("words", 0.0, planted.fit_prior("words", 0.0, rows), features)
    assert direct == pytest.approx(alone.logits, abs=0.01)
    task.check_prior("words", fitted, 5)
    with pytest.raises(InvalidInputError, match=r"prior\.idf is missing"):
        task.check_prior("words", {name: own for name, own in fitted.items() if name != "prior.idf"}, 5)


def test_users_without_a_whole_profile_are_dropped(spec: TaskSpec, tmp_path: Path) -> None:
    users = tmp_path / "users.csv"
    lines = users.read_text().splitlines()
    users.write_text("\n".join([lines[0], "u0,young,", *lines[3:]]) + "\n")
    report = UserProfile.load_target(spec, 0).cleaning
    assert report.missing_label == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"users": None}, "needs `histories.users`"),
        ({"attributes": ("age", "wage")}, "no column 'wage'"),
        ({"attributes": ("age: now",)}, "attribute .age: now. holds .: ., which stands between"),
        ({"user": "who"}, "no column 'who'"),
    ],
)
def test_bad_profiles_are_refused(spec: TaskSpec, changes: dict[str, object], message: str) -> None:
    assert spec.histories is not None
    with pytest.raises(InvalidInputError, match=message):
        UserProfile.load_target(replace(spec, histories=replace(spec.histories, **changes)), 0)  # type: ignore[arg-type]

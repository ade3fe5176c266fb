"""User profiles: one value of each attribute, by what a user had."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from promptgraft.objectives.data import TaskSpec
from promptgraft.objectives.kinds.histories import SEPARATOR
from promptgraft.objectives.kinds.user_profile import UserProfile
from promptgraft.objectives.measures.kind_checks import check_task_kind
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.spaces import InvalidInputError
from tests.support.histories import spec_of_histories, write_histories
from tests.support.models import TinyModels


@pytest.fixture
def spec(tmp_path: Path) -> TaskSpec:
    usual = spec_of_histories(*write_histories(tmp_path, users=80), train_rows=48, test_rows=20)
    with (tmp_path / "users.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["user", "age", "job"])
        table.writerows(
            [f"u{user}", "old" if user % 2 else "young", ("cook", "clerk", "nurse")[user % 3]] for user in range(80)
        )
    assert usual.histories is not None
    users = replace(usual.histories, users=str(tmp_path / "users.csv"), attributes=("age", "job"))
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
    assert task.decided(outputs, task.test[:2]) == task


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
        ({"user": "who"}, "no column 'who'"),
    ],
)
def test_bad_profiles_are_refused(spec: TaskSpec, changes: dict[str, object], message: str) -> None:
    assert spec.histories is not None
    with pytest.raises(InvalidInputError, match=message):
        UserProfile.load_target(replace(spec, histories=replace(spec.histories, **changes)), 0)  # type: ignore[arg-type]

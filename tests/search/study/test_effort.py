"""Effort sets what a study file leaves out, and nothing else."""

from typing import Any

import pytest

from promptgraft.search.study.effort import EFFORTS, with_effort
from promptgraft.search.study.schema.study_file import StudyFile

TABLE = {"train": "a.csv", "text": "text", "label": "label"}


def parsed(**sections: Any) -> StudyFile:
    content = {"study": "s", "backbone": {"path": "x", "family": "encoder"}, "target": TABLE}
    return StudyFile.model_validate(content | sections)


def test_balanced_is_what_the_schema_says() -> None:
    file = parsed(space={"templates": {"t": "{{ text }} {{ label }}"}})
    assert file.effort == "balanced"
    assert with_effort(file).model_dump() == file.model_dump()


@pytest.mark.parametrize("name", list(EFFORTS))
def test_each_effort_sets_all_of_its_defaults(name: str) -> None:
    file, effort = with_effort(parsed(effort=name)), EFFORTS[name]  # type: ignore[index]
    assert file.budget.trials == effort.trials
    assert file.target.folds == effort.folds
    assert {key: getattr(file.judging, key) for key in effort.judging} == effort.judging
    assert file.baselines == effort.baselines


def test_more_effort_costs_more() -> None:
    costs = [(effort.trials, effort.judging["finalists"], effort.most_updates) for effort in EFFORTS.values()]
    assert costs == sorted(costs)
    assert len(set(costs)) == len(EFFORTS)


def test_what_is_stated_stays() -> None:
    stated: dict[str, Any] = {
        "budget": {"trials": 24},
        "target": TABLE | {"folds": 2},
        "judging": {"finalists": 0},
        "baselines": [],
    }
    file = with_effort(parsed(effort="best", **stated))
    assert (file.budget.trials, file.target.folds, file.judging.finalists, file.baselines) == (24, 2, 0, ())
    assert file.judging.repeats == EFFORTS["best"].judging["repeats"]


@pytest.mark.parametrize(
    ("sections", "models"),
    [
        ({}, 3),
        ({"effort": "quick"}, 3),
        ({"effort": "best"}, 5),
        ({"judging": {"ensemble": 1}}, 1),
        ({"space": {"templates": {"t": "{{ text }} {{ label }}"}}}, 1),
        ({"target": TABLE | {"validation_rows": 8}}, 1),
        ({"target": TABLE | {"kind": "translation"}}, 1),
    ],
)
def test_models_ship_together_where_the_space_is_the_default_one(sections: dict[str, Any], models: int) -> None:
    assert with_effort(parsed(**sections)).judging.ensemble == models


def test_rows_to_choose_by_need_no_folds() -> None:
    assert with_effort(parsed(effort="best", target=TABLE | {"validation_rows": 8})).target.folds is None

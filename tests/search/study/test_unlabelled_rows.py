"""Study files that name a table of unlabelled rows."""

import csv
from pathlib import Path
from typing import Any

import optuna
import pytest
from typer.testing import CliRunner

from promptgraft.search.cli import app
from promptgraft.search.running.compatibility import record_study
from promptgraft.search.storage import RunFolder, open_storage
from promptgraft.search.study import load_study, row_hashes
from promptgraft.search.study.yaml_lines import StudyFileError
from promptgraft.spaces import InvalidInputError
from tests.support.kinds import COLUMNS, write_kinds
from tests.support.models import TinyModels
from tests.support.studies import WriteStudy, space, write_study_file


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "unlabelled.csv", [f"text number {number}" for number in range(20)])


def write_rows(path: Path, texts: list[str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])
    return path


def target(data: Path, unlabelled: Path) -> dict[str, Any]:
    rows = {"train": str(data / "amazon.csv"), "text": "text", "label": "label", "unlabelled": unlabelled.name}
    return rows | {"train_rows": 16, "test_rows": 40}


def test_the_dimension_is_there_where_the_file_names_it(write_study: WriteStudy, data: Path, unlabelled: Path) -> None:
    study = load_study(write_study(target=target(data, unlabelled), space=space(self_training=[0, 0.9])))
    assert len(study.target.unlabelled) == 20
    assert not [caution for caution in study.cautions if "unlabelled" in caution]
    names = [parameter.name for parameter in study.objective.space.parameters]
    assert names[-1] == "self_training"
    without = load_study(write_study(target=target(data, unlabelled), space="auto"))
    assert "self_training" not in [parameter.name for parameter in without.objective.space.parameters]
    (caution,) = [caution for caution in without.cautions if "unlabelled" in caution]
    assert caution == "target.unlabelled has no effect, since the space has no self_training, such as [0, 0.9]"


def test_validate_says_how_many_rows_are_kept(write_study: WriteStudy, data: Path, unlabelled: Path) -> None:
    path = write_study(target=target(data, unlabelled), space=space(self_training=[0, 0.9]))
    result = CliRunner().invoke(app, ["validate", str(path)])
    assert result.exit_code == 0, result.output
    assert "unlabelled: 20 rows are kept; 20 rows read; dropped: none" in result.output.splitlines()


def test_the_dimension_needs_a_table(write_study: WriteStudy) -> None:
    with pytest.raises(StudyFileError) as caught:
        load_study(write_study(space=space(self_training=[0, 0.9])))
    (problem,) = caught.value.problems
    assert (problem.where, problem.message) == (
        "space.self_training",
        "self_training needs unlabelled rows; name their table as target.unlabelled",
    )
    assert load_study(write_study(space=space(self_training=0)))


def test_a_table_may_join_a_study_but_not_change(
    write_study: WriteStudy, data: Path, unlabelled: Path, tmp_path: Path
) -> None:
    storage = open_storage(RunFolder(tmp_path / "run").storage_url())
    stored = optuna.create_study(storage=storage, study_name="tiny", direction="maximize")
    plain = target(data, unlabelled)
    del plain["unlabelled"]
    before = load_study(write_study(target=plain))
    assert "unlabelled rows" not in row_hashes(before)
    record_study(stored, before, 4)
    written = write_study(target=target(data, unlabelled), space=space(self_training=[0, 0.9]))
    record_study(stored, load_study(written), 4)
    moved = unlabelled.rename(tmp_path / "moved.csv")
    record_study(stored, load_study(write_study(target=target(data, moved), space=space(self_training=[0, 0.9]))), 4)
    write_rows(moved, ["another text"])
    for sections in ({"target": target(data, moved)}, {"target": plain}):
        with pytest.raises(InvalidInputError, match="unlabelled rows are others"):
            record_study(stored, load_study(write_study(**sections)), 4)


def test_other_kinds_of_task_have_no_unlabelled_rows(tiny_models: TinyModels, unlabelled: Path, tmp_path: Path) -> None:
    table = write_kinds(tmp_path / "rows.csv")
    task = {"kind": "multi_label", "train": str(table), "text": "text", "label": COLUMNS["multi_label"]}
    backbone = {"path": tiny_models["encoder"], "family": "encoder", "max_tokens": 48}
    path = write_study_file(
        tmp_path / "study.yaml",
        backbone,
        target=task | {"train_rows": 40, "test_rows": 40, "unlabelled": str(unlabelled)},
        source=None,
        space="auto",
    )
    with pytest.raises(StudyFileError) as caught:
        load_study(path)
    (problem,) = caught.value.problems
    assert problem.where == "target.unlabelled"
    assert problem.message == "needs rows with one label each, unlike kind 'multi_label'; leave it out"

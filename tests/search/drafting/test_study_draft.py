"""`promptgraft init`: from a table to a study file that runs."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from promptgraft.objectives.backbones import guess_family
from promptgraft.search.cli.studies import app
from promptgraft.search.study import load_study
from tests.support.models import TinyModels


def init(*arguments: object) -> "tuple[int, str]":
    found = CliRunner().invoke(app, ["init", *map(str, arguments)])
    return found.exit_code, found.output


def test_what_it_writes_is_a_study_that_runs(tmp_path: Path, data: Path, tiny_models: TinyModels) -> None:
    file = tmp_path / "first.yaml"
    model = tiny_models["encoder"]
    code, output = init(
        data / "amazon.csv", "--source", data / "movie.csv", "--backbone", model, "--output", file, "--effort", "quick"
    )
    assert code == 0, output
    assert "label: label" in output
    assert f"next: promptgraft run {file}" in output
    study = load_study(file)
    assert study.drafted == "space"
    assert study.file.backbone.family == "encoder"
    assert set(study.target.labels) == {"negative", "positive"}
    assert study.file.budget.trials == 12


def test_a_file_that_exists_stays(tmp_path: Path, data: Path, tiny_models: TinyModels) -> None:
    file = tmp_path / "first.yaml"
    file.write_text("study: mine\n")
    code, output = init(data / "amazon.csv", "--backbone", tiny_models["encoder"], "--output", file)
    assert code == 2
    assert "exists" in output
    assert file.read_text() == "study: mine\n"


def test_paths_below_the_file_are_relative_and_the_folder_can_move(
    tmp_path: Path, data: Path, tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old" / "data").mkdir(parents=True)
    (tmp_path / "old" / "data" / "mine.csv").write_bytes((data / "amazon.csv").read_bytes())
    monkeypatch.chdir(tmp_path / "old")
    code, output = init("data/mine.csv", "--backbone", tiny_models["encoder"])
    assert code == 0, output
    (tmp_path / "old").rename(tmp_path / "new")
    study = load_study(tmp_path / "new" / "mine.yaml")
    assert study.file.target.train == "data/mine.csv"


@pytest.mark.parametrize("family", ["encoder", "masked_lm", "causal_lm", "seq2seq", "recurrent"])
def test_the_family_is_what_the_config_says(tiny_models: TinyModels, family: str) -> None:
    assert guess_family(str(tiny_models[family])) == family


def test_a_model_that_is_not_there(tmp_path: Path, data: Path) -> None:
    code, output = init(data / "amazon.csv", "--backbone", tmp_path / "nowhere", "--output", tmp_path / "first.yaml")
    assert code == 2
    assert "no such folder" in output
    assert not (tmp_path / "first.yaml").exists()

"""The Python API, over real workers and a tiny model."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from optuna.trial import TrialState
from typer.testing import CliRunner

import promptgraft
from promptgraft.bundles import Predictor
from promptgraft.search.cli.studies import app
from promptgraft.search.python_api import Winner, as_file, fit, winner_of
from promptgraft.spaces import InvalidInputError
from tests.support.models import TinyModels

Fitted = tuple[Winner, Path]


@pytest.fixture(scope="module")
def frame(data: Path) -> pd.DataFrame:
    """Labelled rows in memory, with a column that is neither text nor label."""
    table = pd.read_csv(data / "amazon.csv", keep_default_na=False).head(60)
    return table.assign(id=[f"row-{n}" for n in range(len(table))])


@pytest.fixture(scope="module")
def fitted(frame: pd.DataFrame, tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """A small search, and the folder of its study file."""
    folder = tmp_path_factory.mktemp("runs")
    options = {"effort": "quick", "trials": 2, "name": "mine", "folder": folder}
    return fit(frame, text="text", backbone=tiny_models["encoder"], **options), folder


def test_it_says_what_to_ship_predicts_and_reports(fitted: Fitted, frame: pd.DataFrame) -> None:
    winner, folder = fitted
    assert "accuracy" in winner.verdict
    assert "<html" in winner.report(folder / "page.html").read_text(encoding="utf-8")
    bundle = winner.export(anyway=True)
    predictor = winner.predictor()
    assert predictor.folder == bundle
    texts = frame.text.head(3).tolist()
    assert winner.predict(texts) == winner.predict(frame.head(3)) == predictor.predict(texts)


def test_predicting_prints_nothing(fitted: Fitted, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    logging.enable_progress_bar()
    try:
        fitted[0].predict(["A film about nothing."])
        assert logging.is_progress_bar_enabled()
    finally:
        logging.disable_progress_bar()
    assert capfd.readouterr() == ("", "")


def test_commands_know_the_same_study(fitted: Fitted) -> None:
    winner, folder = fitted
    found = CliRunner().invoke(app, ["best", "mine", "--workdir", str(folder / "mine")])
    assert found.exit_code == 0
    assert found.output.splitlines()[0] == winner.verdict
    assert winner_of("mine", folder=folder / "mine").verdict == winner.verdict


@pytest.mark.slow
def test_a_search_over_two_backbones(frame: pd.DataFrame, tiny_models: TinyModels, tmp_path: Path) -> None:
    """From the call to the page, by real workers that run trials on both."""
    backbones = {"small": tiny_models["encoder"], "lm": tiny_models["causal_lm"]}
    winner = fit(frame, backbone=backbones, effort="quick", trials=5, name="two", folder=tmp_path)
    trials = winner.reference.load().get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    assert len(trials) == 5
    drawn = {trial.number: trial.user_attrs["candidate"]["backbone"] for trial in trials}
    assert set(drawn.values()) == {"small", "lm"}
    assert all(trial.params.get("backbone", drawn[trial.number]) == drawn[trial.number] for trial in trials)
    manifest = winner.predictor().manifest
    assert manifest.backbone.path == backbones[drawn[manifest.trial]]
    assert len(winner.predict(frame.text.head(3).tolist())) == 3
    page = winner.report().read_text(encoding="utf-8")
    assert "backbone" in page


@pytest.mark.parametrize(
    ("backbone", "family"),
    [(["a/model", "b/model"], None), ({"a": "a/model", "b": "b/model"}, "encoder")],
    ids=["one name for two", "one family for two"],
)
def test_several_backbones_that_are_not_clear(
    frame: pd.DataFrame, backbone: list[str] | dict[str, str], family: str | None, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match="backbone names several models, but"):
        fit(frame, backbone=backbone, family=family, folder=tmp_path)


def test_what_init_would_caution_of_is_logged(
    frame: pd.DataFrame, tiny_models: TinyModels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd = pd.concat([frame.assign(comment=frame.text + " really"), frame.head(1).assign(label="odd", text="quite odd")])
    fit(odd, text="text", backbone=tiny_models["encoder"], effort="quick", trials=1, folder=tmp_path, label="label")
    said = [record.getMessage() for record in caplog.records]
    assert any("labels with fewer than 5 different texts are left out of `labels`: odd (1)" in line for line in said)


def test_another_table_under_the_same_name_is_refused(
    fitted: Fitted, frame: pd.DataFrame, tiny_models: TinyModels
) -> None:
    _, folder = fitted
    with pytest.raises(InvalidInputError, match="another `name`"):
        fit(frame.tail(50), backbone=tiny_models["encoder"], name="mine", folder=folder)
    with pytest.raises(InvalidInputError, match="is another study"):
        fit(frame, backbone=tiny_models["encoder"], effort="best", name="mine", folder=folder)


def test_what_is_no_table_and_no_study(tmp_path: Path, tiny_models: TinyModels) -> None:
    with pytest.raises(InvalidInputError, match="got dict"):
        fit({"text": ["a"]}, backbone=tiny_models["encoder"], folder=tmp_path)
    with pytest.raises(InvalidInputError):
        winner_of("nothing", folder=tmp_path / "nothing")
    with pytest.raises(InvalidInputError, match="expected the path of a folder for the study, got None"):
        fit("table.csv", backbone=tiny_models["encoder"], folder=None)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="expected the path of a bundle, got None"):
        Predictor(None)  # type: ignore[arg-type]


def test_columns_may_be_named_by_numbers(frame: pd.DataFrame, tiny_models: TinyModels, tmp_path: Path) -> None:
    numbered = frame[["text", "label"]].set_axis([0, 1], axis=1)
    with pytest.raises(InvalidInputError, match="no column '2'; expected one of: 0, 1"):
        fit(numbered, text=0, label=2, backbone=tiny_models["encoder"], folder=tmp_path)
    with pytest.raises(InvalidInputError, match="effort"):  # The columns are found.
        fit(numbered, text=0, label=1, effort="turbo", backbone=tiny_models["encoder"], folder=tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials must be a positive integer, got 0"),
        ({"concurrent": -1}, "concurrent must be a positive integer, got -1"),
        ({"time": "soon"}, "time: expected a time such as 90s"),
        ({"name": "a/b"}, "the study's name may hold letters"),
        ({"name": None}, "the study's name must be a text, got None"),
        ({"effort": "turbo"}, "unknown effort 'turbo'; expected one of: quick, balanced, best"),
        ({"text": "txt"}, "no column 'txt'; did you mean 'text'"),
        ({"backbone": []}, "backbone must be a folder or a hub id, or several of them, got"),
    ],
)
def test_a_call_that_is_refused_leaves_no_study_behind(
    frame: pd.DataFrame, tiny_models: TinyModels, options: dict[str, object], message: str, tmp_path: Path
) -> None:
    """Else the mended call would be refused, too, since another study is there."""
    with pytest.raises(InvalidInputError, match=message):
        fit(frame, **{"backbone": tiny_models["encoder"], "folder": tmp_path, **options})  # type: ignore[arg-type]
    assert list(tmp_path.glob("*.yaml")) == []


def test_a_frame_is_written_as_it_is(tmp_path: Path) -> None:
    number = 0.1234567890123456
    texts = pd.Series(["half \ud83d", None], dtype=object)
    frame = pd.DataFrame({"text": texts, "n": [2**53 + 1, 1], "x": [number, 1e-12]})
    frame = frame.assign(label=pd.Categorical(["a", None]), day=pd.Timestamp("2026-01-02"))
    rows = [json.loads(line) for line in Path(as_file(frame, tmp_path / "t.jsonl")).read_text().splitlines()]
    common = {"day": "2026-01-02 00:00:00"}
    assert rows == [
        {"text": "half \ud83d", "n": 2**53 + 1, "x": number, "label": "a", **common},
        {"text": None, "n": 1, "x": 1e-12, "label": None, **common},
    ]
    refused = {
        "columns have one name each": pd.concat([frame, frame.text], axis=1),
        "the table holds bytes, such as b'good'; decode": pd.DataFrame({"text": [b"good"]}),
    }
    for message, other in refused.items():
        with pytest.raises(InvalidInputError, match=message):
            as_file(other, tmp_path / "other.jsonl")


def test_classes_of_a_dataset_are_written_by_their_names(tmp_path: Path) -> None:
    """A `datasets.Dataset` as far as it is used: its frame, and its features."""
    features = {"text": SimpleNamespace(dtype="string"), "label": SimpleNamespace(names=["neg", "pos"])}
    frame = pd.DataFrame({"text": ["a", "b"], "label": [1, 0]})
    path = as_file(SimpleNamespace(features=features, to_pandas=lambda: frame), tmp_path / "t.jsonl")
    assert pd.read_json(path, lines=True).to_dict("list") == {"text": ["a", "b"], "label": ["pos", "neg"]}


def test_importing_it_loads_neither_torch_nor_an_engine() -> None:
    heavy = "[name for name in ('torch', 'ray', 'optuna', 'pandas', 'transformers') if name in sys.modules]"
    code = f"import sys, promptgraft; print({heavy})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    assert promptgraft.fit is fit

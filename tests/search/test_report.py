"""The report: everything in it is in its JSON, texts are data, and test rows stay as they are."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import torch
from markupsafe import escape
from optuna.trial import TrialState, create_trial

from promptgraft.objectives.metrics import classification_metrics
from promptgraft.search.cli import app
from promptgraft.search.comparison import FRESH, control_attr
from promptgraft.search.identity import record_study
from promptgraft.search.importances import importances
from promptgraft.search.judging import REPEAT
from promptgraft.search.learning_curves import curve_attr
from promptgraft.search.report import report, study_with_rows, tables
from promptgraft.search.report_page import figure, page
from promptgraft.search.reports import LOGITS_FILE, trial_file
from promptgraft.search.sealed import HELD_OUT, prediction_file
from promptgraft.search.status import NothingToExportError
from promptgraft.search.storage import RunFolder, open_storage
from promptgraft.search.studies import Study, load_study
from promptgraft.spaces import Candidate
from tests.conftest import VERBALIZERS

HOSTILE = "<script>alert(1)</script> & <b>bold</b> $_{x"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resample trials a few times only, but where the intervals are tested."""
    if "importances" not in request.node.name:
        monkeypatch.setattr("promptgraft.search.importances.RESAMPLES", 3)


@pytest.fixture
def study(write_study: Callable[..., Path]) -> Study:
    space = {
        "templates": {"plain": "{{ text }} {{ label }}", "ho$tile$_{x": HOSTILE + " {{ text }} {{ label }}"},
        "verbalizers": {v.name: {label: list(words) for label, words in v.words.items()} for v in VERBALIZERS},
    }
    return load_study(write_study(space=space, judging={"finalists": 2, "repeats": 2}))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture
def stored(study: Study, folder: RunFolder) -> optuna.Study:
    """A study of 14 trials that were told what they found; nothing was trained."""
    folder.path.mkdir()
    stored = optuna.create_study(storage=open_storage(folder.storage_url()), study_name="tiny", direction="maximize")
    record_study(stored, study, 14)
    space = study.objective.space
    for number in range(12):
        template = space.templates[number % 2]
        candidate = Candidate(template.id, space.verbalizers[0].id, steps=8, batch_size=4 + 4 * (number % 3))
        attrs: dict[str, Any] = {"candidate": candidate.to_dict(), "prompt_tokens": 5 + number % 2, "best_step": 8}
        attrs |= {"seconds": 2.0 + number, "trainable_parameters": 1000, "max_rss_bytes": 2**30}
        value = 0.6 + 0.02 * (number % 2) + 0.001 * number
        stored.add_trial(create_trial(value=value, user_attrs=attrs, intermediate_values={0: 0.5, 8: value}))
    stored.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values={0: 0.4}))
    stored.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"cause": HOSTILE}))
    task = study.target
    logits = torch.randn(len(task.validation), 2, generator=torch.Generator().manual_seed(0))
    folder.files().write_tensors(trial_file(11, LOGITS_FILE), {"logits": logits})
    return stored


def judged(stored: optuna.Study) -> None:
    for repeat in (1, 2):
        for number, value in ((11, 0.7), (9, 0.5)):
            stored.set_user_attr(f"{REPEAT}{number}_{repeat}", {"value": value + repeat / 100})
    for repeat in (FRESH, FRESH + 1):
        for control, value in (("winner", 0.7), ("target_only", 0.6), ("majority", 0.5)):
            stored.set_user_attr(control_attr(11, control, repeat), {"value": value + (repeat - FRESH) / 90})
        stored.set_user_attr(curve_attr(11, "target", 8, repeat), {"value": 0.65 + (repeat - FRESH) / 70})


def collected(stored: optuna.Study, study: Study | None, folder: RunFolder) -> dict[str, Any]:
    facts = report(stored, study, folder.files())
    return dict(json.loads(json.dumps(facts)))  # As `--json` gives it.


def test_the_answer_comes_first_and_rows_stay_sealed(stored: optuna.Study, study: Study, folder: RunFolder) -> None:
    judged(stored)
    before = dict(stored.user_attrs)
    facts = collected(stored, study, folder)
    html = page(facts)
    assert stored.user_attrs == before
    assert facts["answer"]["trial"] == 11
    assert facts["answer"]["fresh"]["mean"] == pytest.approx(0.7 + 0.5 / 90)
    assert facts["predictions"]["rows"] == "validation"
    assert html.index("Winner") < html.index("History") < html.index("Where the numbers come from")
    assert "<b>sealed</b>" in html
    assert str(escape(facts["summary"]["transfer"]["sentence"])) in html
    for section in ("Tie set", "Which knobs mattered", "More data, or more search?", "Is it as sure as it should be?"):
        assert section in html


def test_a_winner_without_controls_is_reported(stored: optuna.Study, study: Study, folder: RunFolder) -> None:
    for repeat in (1, 2):
        for number in (11, 9):
            stored.set_user_attr(f"{REPEAT}{number}_{repeat}", {"value": 0.6 + number / 100})
    facts = collected(stored, study, folder)
    assert facts["history"][-1]["failure"] == HOSTILE
    assert "2 repeats of the race that chose it" in page(facts)


def test_opened_rows_are_reported(stored: optuna.Study, study: Study, folder: RunFolder) -> None:
    task = study.target
    logits = torch.randn(len(task.test), 2, generator=torch.Generator().manual_seed(1))
    folder.files().write_tensors(prediction_file(11), {"logits": logits})
    metrics = task.measure(logits.numpy(), task.test)
    record = {"rows": "0123", "opened": "2026-01-01T00:00:00+00:00", "who": "someone@here", "interval": [0.3, 0.7]}
    stored.set_user_attr(f"{HELD_OUT}11", record | {"table": [["winner", metrics]], "transfer": None})
    facts = collected(stored, study, folder)
    assert facts["predictions"]["metrics"] == metrics
    assert facts["answer"]["test"] == {"value": metrics["accuracy"], "low": 0.3, "high": 0.7}
    assert facts["answer"]["gap"] == pytest.approx(facts["answer"]["in_search"] - metrics["accuracy"])
    wrong = sum(entry["wrong"] for entry in facts["predictions"]["classes"])
    assert wrong == round((1 - metrics["accuracy"]) * len(task.test))
    html = page(facts)
    assert "95 % interval 0.3000 to 0.7000" in html
    assert "opened 2026-01-01T00:00:00+00:00 by someone@here for trial 11" in html


def test_texts_are_data(stored: optuna.Study, study: Study, folder: RunFolder) -> None:
    facts = collected(stored, study, folder)
    facts["predictions"]["classes"][0]["examples"] = [{"text": {"text": HOSTILE}, "predicted": HOSTILE, "chance": 1.0}]
    html = page(facts)
    assert facts["answer"]["candidate"]["template"] == "ho$tile$_{x"
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<script" not in html
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", html.replace("http://www.w3.org", ""))


def test_a_study_without_its_rows(
    stored: optuna.Study, study: Study, folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    judged(stored)
    study.path.write_text(study.path.read_text().replace("amazon.csv", "moved.csv"))
    moved = study_with_rows(study.path, "tiny", stored)
    assert moved is None
    assert "the report leaves out what needs the rows" in caplog.text
    facts = collected(stored, moved, folder)
    assert (facts["data"], facts["predictions"]) == (None, None)
    html = page(facts)
    assert "so errors and calibration are missing" in html
    assert "so what was cleaned is missing" in html
    assert "Tie set" in html


def test_rows_that_have_changed_are_not_matched_with_old_outputs(
    stored: optuna.Study, study: Study, folder: RunFolder, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    assert study_with_rows(study.path, "tiny", stored) is not None
    table = pd.read_csv(study.objective.target.train)
    table.sample(frac=0.9, random_state=1).to_csv(tmp_path / "other.csv", index=False)
    study.path.write_text(study.path.read_text().replace(study.objective.target.train, str(tmp_path / "other.csv")))
    assert study_with_rows(study.path, "tiny", stored) is None
    assert "target rows and test rows have changed" in caplog.text


def test_damaged_outputs_are_left_out(
    stored: optuna.Study, study: Study, folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    (folder.path / trial_file(11, LOGITS_FILE)).write_bytes(b"damaged")
    facts = collected(stored, study, folder)
    assert facts["predictions"] is None
    assert f"leaves out {trial_file(11, LOGITS_FILE)}" in caplog.text
    assert "so errors and calibration are missing" in page(facts)


def test_a_search_for_the_lowest_loss_was_optimistic_if_it_says_less(
    write_study: Callable[..., Path], folder: RunFolder
) -> None:
    study = load_study(write_study(metric="loss", judging={"finalists": 1, "repeats": 2}))
    stored = optuna.create_study(direction="minimize")
    record_study(stored, study, 1)
    candidate = Candidate(study.objective.space.templates[0].id, study.objective.space.verbalizers[0].id)
    for number, value in enumerate((0.5, 0.4, 0.6)):
        attrs = {"candidate": candidate.to_dict(), "prompt_tokens": 5, "best_step": 0}
        stored.add_trial(create_trial(value=value, user_attrs=attrs))
        stored.set_user_attr(f"{REPEAT}1_{number + 1}", {"value": 0.45})
    facts = collected(stored, study, folder)
    assert facts["answer"]["gap"] == pytest.approx(0.05)
    assert [entry["best"] for entry in facts["history"]] == [0.5, 0.4, 0.4]


def test_an_empty_study_is_an_error(study: Study, folder: RunFolder) -> None:
    empty = optuna.create_study(direction="maximize")
    record_study(empty, study, 3)
    with pytest.raises(NothingToExportError, match="no COMPLETE trial yet, so there is nothing to report"):
        report(empty, study, folder.files())


def test_several_objectives(write_study: Callable[..., Path], folder: RunFolder) -> None:
    study = load_study(write_study(minimize=["prompt_tokens"]))
    stored = optuna.create_study(directions=["maximize", "minimize"])
    record_study(stored, study, 3)
    space = study.objective.space
    for number, values in enumerate(((0.8, 10.0), (0.7, 5.0), (0.6, 7.0))):
        candidate = Candidate(space.templates[0].id, space.verbalizers[0].id, steps=number)
        attrs = {"candidate": candidate.to_dict(), "prompt_tokens": values[1], "best_step": 0}
        stored.add_trial(create_trial(values=values, user_attrs=attrs))
    facts = collected(stored, study, folder)
    html = page(facts)
    assert [entry["number"] for entry in facts["summary"]["front"]] == [0, 1]
    assert "Pareto front" in html
    assert "Too few COMPLETE trials (3) to tell." in html


def test_tables_and_the_command(
    stored: optuna.Study, study: Study, folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged(stored)
    where = ["--workdir", str(folder.path)]
    app(["report", str(study.path), *where, "--csv", str(tmp_path / "csv")], standalone_mode=False)
    assert (folder.path / "report.html").read_text().startswith("<!doctype html>")
    found = {path.stem: pd.read_csv(path) for path in (tmp_path / "csv").iterdir()}
    assert {name: len(table) for name, table in found.items()} == {
        "trials": 14,
        "curves": 25,
        "finalists": 2,
        "controls": 3,
        "importances": 2,
    }
    assert set(found["trials"]["state"]) == {"COMPLETE", "PRUNED", "FAIL"}
    capsys.readouterr()
    app(["report", str(study.path), *where, "--json"], standalone_mode=False)
    shown = json.loads(capsys.readouterr().out)
    again = collected(stored, study, folder)
    assert {**shown, "made": ""} == {**again, "made": ""}
    assert tables(again, stored)["controls"]["name"].iloc[0] == "winner"


def test_importances_find_the_knob_that_matters() -> None:
    candidates = [
        {"template": "ab"[n % 2], "rate": 10.0 ** -(n % 5), "same": 1, "batch_size": (8, 16, 32)[n % 3]}
        for n in range(30)
    ]
    values = [0.5 + 0.3 * (n % 2) + 0.001 * (n % 3) for n in range(30)]
    first, *others = importances(candidates, values)
    assert first["name"] == "template"
    assert first["low"] <= first["importance"] <= first["high"]
    assert first["low"] > 0.8
    assert {entry["name"] for entry in others} == {"rate", "batch_size"}
    assert importances(candidates, values) == [first, *others]
    assert importances(candidates[:5], values[:5]) == []
    assert importances(candidates, [0.5] * 30) == []


def test_the_calibration_of_a_model_that_knows_how_sure_to_be(
    stored: optuna.Study, study: Study, folder: RunFolder
) -> None:
    """All rows at one certainty: the error is its distance from the accuracy."""
    task = study.target
    logits = torch.tensor([[2.0, 0.0]]).repeat(len(task.validation), 1)
    folder.files().write_tensors(trial_file(11, LOGITS_FILE), {"logits": logits})
    found = collected(stored, study, folder)["predictions"]
    accuracy = classification_metrics(logits.numpy(), pd.Series([row.label for row in task.validation]).to_numpy())
    sure = float(torch.softmax(logits[0], 0)[0])
    assert found["calibration"]["expected_calibration_error"] == pytest.approx(abs(sure - accuracy["accuracy"]))
    (only,) = found["calibration"]["bins"]
    assert only["rows"] == len(task.validation)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.87654, "0.8765"), (12345, "12,345"), (None, "–"), (1.2e-5, "1.2e-05"), ("x", "x"), (30.0, "30")],
)
def test_numbers_are_written_for_people(value: object, shown: str) -> None:
    assert figure(value) == shown


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_phone_needs_no_sideways_scrolling(
    stored: optuna.Study, study: Study, folder: RunFolder, tmp_path: Path
) -> None:
    judged(stored)
    html = page(collected(stored, study, folder))
    (tmp_path / "report.html").write_text(html.replace("default-src 'none'", "default-src 'unsafe-inline'"))
    frame = (
        "<iframe id=f src=report.html style='width:390px;height:800px'></iframe><script>"
        "f.onload=()=>{let d=f.contentDocument.documentElement;document.title=d.scrollWidth+' '+d.clientWidth}</script>"
    )
    (tmp_path / "frame.html").write_text(frame)
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    command = [CHROMIUM, *options, "--virtual-time-budget=5000", f"file://{tmp_path}/frame.html"]
    dom = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    found = re.search(r"<title>(\d+) (\d+)</title>", dom)
    assert found is not None, dom[:2000]
    assert int(found.group(1)) <= int(found.group(2))

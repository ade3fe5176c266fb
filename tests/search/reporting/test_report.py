"""The report: everything in it is in its JSON, texts are data, and test rows stay as they are."""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import torch
from markupsafe import escape
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from promptgraft.objectives.data import rows_hash
from promptgraft.objectives.kinds.images.image_classification import ImageClassification
from promptgraft.objectives.kinds.text_classification import classification_metrics
from promptgraft.search.cli.studies import app
from promptgraft.search.judging import FRESH, logits_of_test_set
from promptgraft.search.reporting import (
    ReportedStudy,
    collect_facts,
    fact_tables,
    render_page,
    side_by_side,
    study_with_rows,
    write_page,
)
from promptgraft.search.reporting.error_analysis import WrongExample, analyze_errors
from promptgraft.search.reporting.facts import Facts
from promptgraft.search.reporting.page import different_metrics, figure, mistakes, moment
from promptgraft.search.reporting.provenance import data_of
from promptgraft.search.running.compatibility import record_study
from promptgraft.search.storage import (
    LOGITS_FILE,
    REPEAT,
    TEMPLATE_POOL,
    TEST_SET,
    NothingToExportError,
    RunFolder,
    StudyReference,
    control_attr,
    curve_attr,
    open_storage,
    to_json,
    trial_file,
)
from promptgraft.search.study import Study, load_study
from promptgraft.spaces import Candidate, Template
from tests.support.disks import largest_file
from tests.support.images import spec_of_images, write_images
from tests.support.outputs import printed
from tests.support.specs import VERBALIZERS

HOSTILE = "<script>alert(1)</script> & <b>bold</b>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


OWNER = {"driver": "d1", "host": "somewhere", "pid": 1, "started": 1.0}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resample trials a few times only; the intervals have tests of their own."""
    monkeypatch.setattr("promptgraft.search.reporting.importances.RESAMPLES", 3)
    monkeypatch.setattr("promptgraft.search.reporting.importances.SHUFFLES", 3)


@pytest.fixture
def study(write_study: Callable[..., Path]) -> Study:
    space = {
        "templates": {"plain": "{{ text }} {{ label }}", "$hostile_$": HOSTILE + " {{ text }} {{ label }}"},
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
    choices = {
        "template": CategoricalDistribution([template.id for template in space.templates]),
        "batch_size": CategoricalDistribution([4, 8, 12]),
        "learning_rate": FloatDistribution(1e-5, 1e-1, log=True),
    }
    for number in range(13):
        template = space.templates[number % 2]
        candidate = Candidate(template.id, space.verbalizers[0].id, steps=8, batch_size=4 + 4 * (number % 3))
        candidate = replace(candidate, learning_rate=10.0 ** -(1 + number % 5))
        attrs: dict[str, Any] = {"candidate": candidate.to_dict(), "prompt_tokens": 5 + number % 2, "best_step": 8}
        attrs |= {"seconds": 2.0 + number, "trainable_parameters": 1000, "max_rss_bytes": 2**30, "owner": OWNER}
        value = 0.6 + 0.02 * (number % 2) + 0.001 * number
        # A pool that grew is stored under a name of its own.
        names = {name: "template~2" if name == "template" and number > 6 else name for name in choices}
        params = {stored: attrs["candidate"][name] for name, stored in names.items()}
        given = {"params": params, "distributions": {stored: choices[name] for name, stored in names.items()}}
        pruned = number == 12
        stored.add_trial(
            create_trial(
                state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
                value=0.5 if pruned else value,
                user_attrs=attrs,
                intermediate_values={0: 0.5} if pruned else {0: 0.5, 8: value},
                **given,
            )
        )
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


def collected(stored: optuna.Study, study: Study | None, folder: RunFolder) -> Facts:
    return collect_facts(stored, study, folder.files(), None if study else "they were moved")


def said(facts: Facts) -> dict[str, Any]:
    """What `--json` prints."""
    return dict(json.loads(json.dumps(to_json(facts), allow_nan=False)))


def test_the_answer_comes_first_and_rows_stay_sealed(stored: optuna.Study, study: Study, folder: RunFolder) -> None:
    judged(stored)
    before = dict(stored.user_attrs)
    facts = collected(stored, study, folder)
    told = said(facts)
    html = render_page(facts)
    assert stored.user_attrs == before
    assert told["answer"]["trial"] == 11
    assert told["answer"]["fresh"]["mean"] == pytest.approx(0.7 + 0.5 / 90)
    assert [found["rows"] for found in told["predictions"]] == ["validation"]
    assert [gap["to"] for gap in told["answer"]["gaps"]] == [
        "the reruns that chose it",
        "fresh reruns on validation rows",
    ]
    assert told["answer"]["gaps"][0]["value"] == pytest.approx(0.631 - 0.715)
    assert html.index("Winner") < html.index("History") < html.index("Where the numbers come from")
    assert "<b>sealed</b>" in html
    assert str(escape(told["summary"]["transfer"]["sentence"])) in html
    for section in (
        "Tie set",
        "hyperparameters mattered",
        "More data, or more search?",
        "Is it as sure as it should be?",
    ):
        assert section in html


def test_opened_rows_are_reported(stored: optuna.Study, study: Study, folder: RunFolder) -> None:
    task = study.target
    logits = torch.randn(len(task.test), 2, generator=torch.Generator().manual_seed(1))
    folder.files().write_tensors(logits_of_test_set(11), {"logits": logits})
    metrics = task.measure(logits.numpy(), task.test)
    record = {
        "rows": rows_hash(task.test),
        "opened": "2026-01-01T00:00:00+00:00",
        "who": "someone@here",
        "interval": [0.3, 0.7],
    }
    stored.set_user_attr(f"{TEST_SET}11", record | {"table": [["winner", metrics]], "transfer": None})
    facts = collected(stored, study, folder)
    told = said(facts)
    opened, chosen_by = told["predictions"]
    assert (opened["rows"], opened["metrics"], chosen_by["rows"]) == ("test", metrics, "validation")
    test = told["answer"]["test"]
    assert (test["value"], test["low"], test["high"]) == (metrics["accuracy"], 0.3, 0.7)
    (gap,) = told["answer"]["gaps"]
    assert gap == {"to": "the test rows", "value": told["answer"]["in_search"] - metrics["accuracy"]}
    assert sum(entry["wrong"] for entry in opened["classes"]) == round((1 - metrics["accuracy"]) * len(task.test))
    html = render_page(facts)
    assert "95 % interval 0.300 to 0.700" in html
    assert "opened 2026-01-01 00:00 UTC by someone@here for trial 11" in html


def test_texts_are_data(stored: optuna.Study, study: Study, folder: RunFolder) -> None:
    facts = collected(stored, study, folder)
    assert facts.data is not None
    (found,) = facts.predictions
    example = WrongExample({"text": HOSTILE, HOSTILE: HOSTILE}, HOSTILE, 1.0)
    classes = (replace(found.classes[0], examples=(example,)), *found.classes[1:])
    data = {**facts.data, "target": replace(facts.data["target"], labels=(HOSTILE,))}
    html = render_page(replace(facts, predictions=(replace(found, classes=classes),), data=data))
    assert facts.answer.candidate["template"] == "$hostile_$"
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert not re.search(r"<(script|b>bold)", html)
    assert "Trials that failed" in html
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", html.replace("http://www.w3.org", ""))


def test_a_study_without_its_rows(stored: optuna.Study, study: Study, folder: RunFolder) -> None:
    judged(stored)
    study.path.write_text(study.path.read_text().replace("amazon.csv", "moved.csv"))
    moved, reason = study_with_rows(StudyReference("tiny", study.path, folder, folder.storage_url()), stored)
    assert moved is None
    facts = collect_facts(stored, moved, folder.files(), reason)
    told = said(facts)
    assert (told["data"], told["predictions"], told["answer"]["example"]) == (None, [], None)
    (missing,) = told["missing"]
    assert missing.startswith("data, errors, calibration and the example of a prompt: ")
    assert "moved.csv" in missing
    html = render_page(facts)
    assert f"Left out: {escape(missing)}" in html
    assert "so what was cleaned is missing" in html
    assert "Tie set" in html


def test_templates_that_joined_are_shown_by_name(stored: optuna.Study, study: Study, folder: RunFolder) -> None:
    """Candidates hold their ids; names and texts are read from the record, with or without the study's rows."""
    grown = Template("grown", "Well: {{ text }} {{ label }}", "mutation", ("plain-1",))
    content = {"rounds": 1, "templates": [asdict(grown)], "verbalizers": []}
    stored.set_user_attr(TEMPLATE_POOL, content)
    candidate = Candidate(grown.id, study.objective.space.verbalizers[0].id, steps=8)
    attrs = {"candidate": candidate.to_dict(), "prompt_tokens": 4, "best_step": 8}
    given = {"params": {"template~3": grown.id}, "distributions": {"template~3": CategoricalDistribution([grown.id])}}
    stored.add_trial(create_trial(value=0.9, user_attrs=attrs, **given))
    for facts in (collected(stored, study, folder), collected(stored, None, folder)):
        told = said(facts)
        (entry,) = [entry for entry in told["templates"] if entry["name"] == "grown"]
        assert (entry["text"], entry["source"], entry["trials"], entry["mean"]) == (grown.text, "mutation", 1, 0.9)
        assert told["answer"]["candidate"]["template"] == "grown"
        assert told["history"][-1]["knobs"]["template"] == "grown"
        assert "mutation of plain-1" in render_page(facts)


def test_a_record_that_names_no_study_file(stored: optuna.Study, folder: RunFolder) -> None:
    bare = optuna.create_study()
    found, reason = study_with_rows(StudyReference("tiny", None, folder, folder.storage_url()), bare)
    assert (found, reason) == (None, "the study's record names no study file; name it in place of the study")


def test_other_rows_are_not_taken_for_the_study_s(stored: optuna.Study, study: Study, folder: RunFolder) -> None:
    """Its outputs belong to the rows that it had: beside others, every error would be made up."""
    rows = study.target.labelled
    other = replace(study, target=replace(study.target, labelled=tuple(reversed(rows))))
    facts = collected(stored, other, folder)
    told = said(facts)
    assert told["predictions"] == []
    assert "the rows have changed since the study was started" in told["missing"][0]
    assert told["data"]["target"]["changed"]
    assert "The target rows are others than those" in render_page(facts)


def test_with_folds_all_labelled_rows_are_trained_on_and_held_out(write_study: Callable[..., Path], data: Path) -> None:
    target = {"train": str(data / "amazon.csv"), "text": "text", "label": "label", "train_rows": 30, "test_rows": 40}
    study = load_study(write_study(target=target | {"folds": 3}))
    stored = optuna.create_study(direction="maximize")
    record_study(stored, study, 1)
    assert data_of(stored, study)["target"].rows == {"train": 30, "validation": 30, "test": 40}


def test_each_source_is_described_by_its_name(write_study: Callable[..., Path], data: Path, folder: RunFolder) -> None:
    movie = {"train": str(data / "movie.csv"), "text": "text", "label": "label", "train_rows": 40}
    study = load_study(write_study(source=None, sources={"movie": movie, "fewer": movie | {"train_rows": 20}}))
    stored = optuna.create_study(direction="maximize")
    record_study(stored, study, 1)
    space = study.objective.space
    candidate = Candidate(space.templates[0].id, space.verbalizers[0].id, alpha=0.5, source="fewer")
    attrs = {"candidate": candidate.to_dict(), "prompt_tokens": 5, "best_step": 8}
    stored.add_trial(create_trial(value=0.6, user_attrs=attrs))
    for repeat in (FRESH, FRESH + 1):
        stored.set_user_attr(curve_attr(0, "source", 8, repeat), {"value": 0.65 + (repeat - FRESH) / 70})
    facts = collected(stored, study, folder)
    told = said(facts)
    rows = {name: (task["rows"]["train"], task["changed"]) for name, task in told["data"].items() if name != "target"}
    assert rows == {"source movie": (40, False), "source fewer": (20, False)}
    assert told["answer"]["candidate"]["source"] == "fewer"
    assert "source fewer rows: train" in render_page(facts)
    fewer = {**study.sources, "fewer": replace(study.sources["fewer"], train=study.sources["fewer"].train[1:])}
    facts = collected(stored, replace(study, sources=fewer), folder)
    told = said(facts)
    assert [name for name, task in told["data"].items() if task["changed"]] == ["source fewer"]


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"torn")])
def test_outputs_that_can_t_be_read_are_told(
    stored: optuna.Study, study: Study, folder: RunFolder, damage: Callable[[Path], None]
) -> None:
    damage(folder.path / trial_file(11, LOGITS_FILE))
    facts = collected(stored, study, folder)
    told = said(facts)
    assert told["predictions"] == []
    assert "the outputs of trial 11 for them aren't there" in told["missing"][0]
    assert escape(told["missing"][0]) in render_page(facts)


def test_an_empty_study_is_an_error(study: Study, folder: RunFolder) -> None:
    empty = optuna.create_study(direction="maximize")
    record_study(empty, study, 3)
    with pytest.raises(NothingToExportError, match="no COMPLETE trial yet, so nothing to report"):
        collect_facts(empty, study, folder.files())


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
    told = said(facts)
    html = render_page(facts)
    assert [entry["number"] for entry in told["summary"]["front"]] == [0, 1]
    assert "Pareto front" in html
    assert "COMPLETE trials with hyperparameters, and there are 3" in html
    assert told["history"][2]["values"] == {"accuracy": 0.6, "prompt_tokens": 7.0}


def test_a_loss_that_looked_too_good_is_optimistic(write_study: Callable[..., Path], folder: RunFolder) -> None:
    study = load_study(write_study(metric="loss", judging={"finalists": 1, "repeats": 2}))
    stored = optuna.create_study(direction="minimize")
    record_study(stored, study, 1)
    space = study.objective.space
    attrs = {"candidate": Candidate(space.templates[0].id, space.verbalizers[0].id).to_dict(), "best_step": 0}
    stored.add_trial(create_trial(value=0.4, user_attrs=attrs | {"prompt_tokens": 3}))
    for repeat in (1, 2):
        stored.set_user_attr(f"{REPEAT}0_{repeat}", {"value": 0.5 + repeat / 100})
    facts = collected(stored, study, folder)
    told = said(facts)
    assert told["answer"]["gaps"] == [{"to": "the reruns that chose it", "value": pytest.approx(0.115)}]
    assert "<b>+0.115</b>" in render_page(facts)


def test_a_winner_without_controls(stored: optuna.Study, study: Study, folder: RunFolder) -> None:
    """As while its controls are still to come, and with `judging.controls: []`."""
    for repeat in (1, 2):
        for number, value in ((11, 0.7), (9, 0.5)):
            stored.set_user_attr(f"{REPEAT}{number}_{repeat}", {"value": value + repeat / 100})
    html = render_page(collected(stored, study, folder))
    assert "mean of the 2 reruns that chose it" in html
    assert "<b>trial 11</b>, the best mean of 2 reruns." in html
    assert "Whether the source helps is not known" in html


def test_every_number_is_in_the_json_and_the_same_facts_make_the_same_page(
    stored: optuna.Study, study: Study, folder: RunFolder
) -> None:
    judged(stored)
    facts = collected(stored, study, folder)
    told = said(facts)
    html = render_page(facts)
    assert html == render_page(facts)
    write_page(folder.path / "page.html", facts)
    with largest_file(1000), pytest.raises(OSError, match="File too large"):
        write_page(folder.path / "page.html", facts)
    with pytest.raises(OSError, match=r"'/proc/page\.html'"):
        write_page(Path("/proc/page.html"), facts)
    assert (folder.path / "page.html").read_text() == html, "an earlier page stays until the new one is whole"
    assert not list(folder.path.glob(".page*"))
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    text = re.sub(r"<(style|svg).*?</\1>|<[^>]+>", " ", html, flags=re.DOTALL)
    floats: list[float] = []
    json.loads(json.dumps(told), parse_float=lambda written: floats.append(float(written)))
    known = {written for number in floats for written in (figure(abs(number)), f"{abs(number):.3f}")}
    shown = set(re.findall(r"(?<![\w.-])\d+\.\d{3,4}(?![\w.])", text))
    assert len(shown) > 20
    assert shown <= known


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
        "importances": 3,
    }
    assert found["trials"]["params.template"].dropna().isin(["plain", "$hostile_$"]).all()
    assert found["finalists"][["repeat_1", "repeat_2"]].notna().all(axis=None)
    assert set(found["trials"]["state"]) == {"COMPLETE", "PRUNED", "FAIL"}
    capsys.readouterr()
    app(["report", str(study.path), *where, "--json"], standalone_mode=False)
    shown = printed("report", capsys.readouterr().out)
    again = collected(stored, study, folder)
    assert {**shown, "made": ""} == {**said(again), "made": ""}
    assert fact_tables(again)["controls"]["name"].iloc[0] == "winner"


def opened(stored: optuna.Study, study: Study, folder: RunFolder, right: int, rows: str | None = None) -> None:
    """Open the test rows for trial 11, whose model gets the first `right` rows right."""
    task = study.target
    signs = [1.0 if place < right else -1.0 for place in range(len(task.test))]
    logits = torch.tensor(
        [[sign * (row.label == k) for k in (0, 1)] for sign, row in zip(signs, task.test, strict=True)]
    )
    folder.files().write_tensors(logits_of_test_set(11), {"logits": logits})
    record = {"rows": rows or rows_hash(task.test), "opened": "2026-01-01T00:00:00+00:00", "interval": [0.3, 0.7]}
    metrics = task.measure(logits.numpy(), task.test)
    stored.set_user_attr(f"{TEST_SET}11", record | {"table": [["winner", metrics]], "transfer": None})


def test_beside_another_study_of_the_same_test_rows(
    stored: optuna.Study, study: Study, folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_folder = RunFolder(tmp_path / "runs" / "tiny")
    shutil.copytree(folder.path, other_folder.path)
    other = optuna.load_study(study_name="tiny", storage=open_storage(other_folder.storage_url()))
    other.set_user_attr("definition", {**other.user_attrs["definition"], "seed": 7})
    facts = collected(stored, study, folder)
    sides = [ReportedStudy(stored, study, folder.files()), ReportedStudy(other, study, other_folder.files())]
    assert (sealed := side_by_side(*sides)).paired is None
    assert "test rows of tiny and tiny are sealed" in str(sealed.reason)

    count = len(study.target.test)
    opened(stored, study, folder, count)
    opened(other, study, other_folder, count // 2)
    found = side_by_side(*sides)
    assert found.paired is not None
    assert (found.paired.rows, found.paired.value) == (count, pytest.approx(1 - count // 2 / count))
    assert 0 < found.paired.low < found.paired.value < found.paired.high
    assert found.differences == {"seed": (stored.user_attrs["definition"].get("seed"), 7)}
    html = render_page(replace(facts, compared=found))
    assert "Beside tiny" in html
    assert f"On the same {count} test rows" in html
    monkeypatch.chdir(tmp_path)
    app(["report", str(study.path), "--workdir", str(folder.path), "--compare", "tiny"], standalone_mode=False)
    assert f"On the same {count} test rows" in (folder.path / "report.html").read_text()

    opened(other, study, other_folder, count // 2, rows="other")
    differing = side_by_side(*sides)
    assert differing.paired is None
    assert "the test rows differ" in str(differing.reason)
    assert "The difference isn't known: the test rows differ" in render_page(replace(facts, compared=differing))


def test_the_calibration_of_a_model_that_knows_how_sure_to_be(
    stored: optuna.Study, study: Study, folder: RunFolder
) -> None:
    """All rows at one certainty: the error is its distance from the accuracy."""
    task = study.target
    logits = torch.tensor([[2.0, 0.0]]).repeat(len(task.validation), 1)
    folder.files().write_tensors(trial_file(11, LOGITS_FILE), {"logits": logits})
    (found,) = said(collected(stored, study, folder))["predictions"]
    accuracy = classification_metrics(logits.numpy(), pd.Series([row.label for row in task.validation]).to_numpy())
    sure = float(torch.softmax(logits[0], 0)[0])
    assert found["calibration"]["expected_calibration_error"] == pytest.approx(abs(sure - accuracy["accuracy"]))
    (only,) = found["calibration"]["bins"]
    assert only["rows"] == len(task.validation)


def test_mistakes_on_images_are_pictures(stored: optuna.Study, study: Study, folder: RunFolder, tmp_path: Path) -> None:
    task = ImageClassification.load_target(spec_of_images(write_images(tmp_path / "a & b"), validation_rows=30), 0)
    labels = torch.tensor([row.label for row in task.validation])
    logits = torch.nn.functional.one_hot((labels + 1) % 3, 3) * torch.linspace(1, 3, len(labels))[:, None]
    folder.files().write_tensors(trial_file(3, LOGITS_FILE), {"logits": logits})
    found, missing = analyze_errors(optuna.create_study(), task, folder.files(), 3)
    assert missing == ()
    surest, first = task.validation[-1], mistakes(found[0])[0]
    assert first == (task.labels[surest.label], found[0].classes[surest.label].examples[0])
    assert first[1].fields == surest.fields
    Path(surest.fields["image"]).unlink()
    page = render_page(replace(collected(stored, study, folder), predictions=found))
    pictures = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" alt="([^"]+)">', page)
    shown = [entry for _, entry in mistakes(found[0])[1:]]
    assert [name for _, name in pictures] == [Path(entry.fields["image"]).name for entry in shown]
    assert all(base64.b64decode(content).startswith(b"\xff\xd8\xff") for content, _ in pictures)
    assert page.count("can't be read any more") == 1
    assert str(tmp_path / "a & b") not in page, "the page is for others, who have other folders"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.87654, "0.877"),
        (0.0067, "0.0067"),
        (12345, "12,345"),
        (None, "–"),
        (1.2e-5, "1.2e-05"),
        ("x", "x"),
        (30.0, "30"),
        (-12e8, "-1.2e+09"),
        (3.25e36, "3.25e+36"),
    ],
)
def test_numbers_are_written_for_people(value: object, shown: str) -> None:
    assert figure(value) == shown


def test_the_page_is_usable_by_keyboard_and_screen_reader(
    stored: optuna.Study, study: Study, folder: RunFolder
) -> None:
    """What axe-core found once: no main landmark, headers without text, and tables that only a mouse could scroll."""
    judged(stored)
    html = render_page(collected(stored, study, folder))
    assert html.count("<main>") == html.count("</main>") == 1
    assert 'class="wide"' in html
    assert html.count('class="wide"') == html.count('class="wide" tabindex="0"')
    assert "<th></th>" not in html
    assert html.count("<svg") == html.count('<svg role="img" aria-label="') > 0


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_phone_needs_no_sideways_scrolling(
    stored: optuna.Study, study: Study, folder: RunFolder, tmp_path: Path
) -> None:
    judged(stored)
    html = render_page(collected(stored, study, folder))
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


def test_what_every_system_has_twice_is_shown_once() -> None:
    table = [
        ("winner", {"accuracy": 0.8, "f1_micro": 0.8, "loss": 0.5}),
        ("tfidf", {"accuracy": 0.7, "f1_micro": 0.7, "loss": 0.7}),
    ]
    assert different_metrics(table) == ["accuracy", "loss"]


def test_times_are_written_to_the_minute_in_utc() -> None:
    assert moment("2026-01-01T02:30:59+02:00") == "2026-01-01 00:30 UTC"
    assert moment(None) == "–"

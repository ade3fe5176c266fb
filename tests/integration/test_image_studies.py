"""A study of images through a whole search, with real workers, over files in every form that images come in."""

import csv
import re
from pathlib import Path

import pytest
from optuna.trial import TrialState

from promptgraft.bundles import verify
from promptgraft.search.cli.studies import app
from promptgraft.search.storage import RunFolder, load_existing
from tests.support.images import CLASSES, LABELS, add_other_forms, write_images, write_masked
from tests.support.models import TinyModels
from tests.support.studies import write_study_file


def mislabel(table: Path) -> None:
    """Give every fifth row the next label, so that there are mistakes to look at, however well a model does."""
    header, *lines = table.read_text().splitlines()
    following = {LABELS[place - 1]: label for place, label in enumerate(LABELS)}
    for place in range(0, len(lines), 5):
        image, label = lines[place].split(",")
        lines[place] = f"{image},{following[label]}"
    table.write_text("\n".join([header, *lines]) + "\n")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["vit", "convolutional", "clip"])
def test_a_search_over_images_in_every_form(
    family: str, tmp_path: Path, tiny_models: TinyModels, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_images(tmp_path / "data", 90)
    mislabel(table)
    add_other_forms(table)
    texts = {"head": "label_words", "soft_prompt": {"length": [0, 2], "place": "suffix"}, "frozen_layers": 3}
    file = write_study_file(
        tmp_path / "study.yaml",
        {"path": tiny_models[family], "family": family},
        source=None,
        target={
            "kind": "image_classification",
            "train": str(table),
            "text": {"image": "image"},
            "label": "colour",
            "test_rows": 30,
            "folds": 2,
        },
        space={
            "head": ["linear", "probe"],
            "frozen_layers": [0, 1],
            "steps": [0, 2],
            "learning_rate": {"low": 1e-6, "high": 1e-5, "log": True},
            "probe_c": [1e-6],
            **(texts if family == "clip" else {}),
        },
        baselines=["zero_shot" if family == "clip" else "linear_probe"],
        budget={"trials": 4},
        judging={"finalists": 1, "repeats": 2},
    )
    folder = RunFolder(tmp_path / "run")
    where = [str(file), "--workdir", str(folder.path)]
    app(["validate", str(file)], standalone_mode=False)
    assert "96 rows read; dropped: 3 unreadable image" in " ".join(capsys.readouterr().out.split())
    app(["run", *where], standalone_mode=False)
    study = load_existing("tiny", folder.storage_url())
    assert {trial.state for trial in study.get_trials()} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert any(
        path.name.endswith("mistakes.jpg") or path.read_bytes()[:3] == b"\xff\xd8\xff"
        for path in folder.dashboard.iterdir()
    )
    app(["export", "--anyway", *where], standalone_mode=False)  # Raw pixels may tell these colours as well.
    assert ("zero-shot, template photo" in capsys.readouterr().out) == (family == "clip")
    assert verify(folder.bundle).passed
    app(["report", *where], standalone_mode=False)
    page = (folder.path / "report.html").read_text()
    assert "The surest mistakes" in page
    assert len(re.findall(r'<img src="data:image/jpeg;base64,[A-Za-z0-9+/=]+" alt="[^"/]+"', page)) >= 3
    assert len(page) < 1_500_000
    predictions = tmp_path / "predictions.csv"
    app(["predict", str(folder.bundle), "--input", str(table), "--output", str(predictions)], standalone_mode=False)
    with predictions.open(newline="") as rows:
        assert len(list(csv.DictReader(rows))) >= 90


@pytest.mark.slow
def test_a_search_over_masks(tmp_path: Path, tiny_models: TinyModels) -> None:
    task = {"kind": "semantic_segmentation", "text": {"image": "image"}, "label": "mask", "labels": list(CLASSES)}
    tables = write_masked(tmp_path / "data", 40), write_masked(tmp_path / "source", 16, seed=1)
    file = write_study_file(
        tmp_path / "study.yaml",
        {"path": tiny_models["segmentation"], "family": "segmentation"},
        source=task | {"train": str(tables[1])},
        target=task | {"train": str(tables[0]), "test_rows": 10, "folds": 2},
        space={"frozen_layers": [0, 4], "source_steps": [0, 4], "alpha": [0.0, 0.3], "steps": [2, 4]},
        baselines=["full_fine_tuning"],
        budget={"trials": 4},
        judging={"finalists": 1, "repeats": 2, "ensemble": 2},
    )
    folder = RunFolder(tmp_path / "run")
    where = [str(file), "--workdir", str(folder.path)]
    app(["run", *where], standalone_mode=False)
    app(["export", "--anyway", *where], standalone_mode=False)
    found = verify(folder.bundle)
    assert (found.passed, found.difference) == (True, 0.0)
    app(["report", *where], standalone_mode=False)
    page = (folder.path / "report.html").read_text()
    assert len(re.findall(r'<img src="data:image/jpeg;base64,[A-Za-z0-9+/=]+" alt="right and predicted"', page)) >= 8
    output = tmp_path / "found.csv"
    app(["predict", str(folder.bundle), "--input", str(tables[0]), "--output", str(output)], standalone_mode=False)
    with output.open(newline="") as rows:
        assert all((tmp_path / row["mask"]).is_file() for row in csv.DictReader(rows))

"""A bundle that finds the classes of pixels: masks as files, within answers, and the same as in the trial."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

from promptgraft.bundles import Predictor, verify
from promptgraft.bundles.formats import convert
from promptgraft.bundles.serving import ServingLimits, create_app
from promptgraft.objectives.data import Row, as_data, mask_in
from promptgraft.search.cli import app
from promptgraft.search.judging import compare_by_metric
from promptgraft.spaces import Candidate, InvalidInputError
from tests.support.bundles import write_result
from tests.support.image_objectives import TEMPLATE, objective_over_images
from tests.support.images import CLASSES, spec_of_masks, write_masked
from tests.support.models import write_tiny_segmenter


class Exported:
    """A bundle of a small MobileViT, the rows that it was scored by, and their logits."""

    def __init__(self, folder: Path, model: str) -> None:
        self.images, self.bundle = write_masked(folder / "data", count=24).parent, folder / "bundle"
        target = spec_of_masks(self.images / "table.csv", folds=2, test_rows=6)
        objective = objective_over_images(model, "segmentation", target, metric="mean_iou", evaluate_every=2)
        candidate = Candidate(TEMPLATE.id, "", "linear", steps=4, learning_rate=1e-3, frozen_layers=1)
        result = objective.evaluate(candidate, 0, at=4)
        write_result(self.bundle, objective.spec, objective, candidate, result)
        self.rows: tuple[Row, ...] = objective.target.validation
        self.logits = result.logits


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("masks")
    return Exported(folder, write_tiny_segmenter(folder / "model", "mobilevit"))


def test_it_predicts_what_the_trial_did_and_is_verified(exported: Exported) -> None:
    predictor = Predictor(exported.bundle)
    paths = [row.fields["image"] for row in exported.rows]
    assert np.array_equal(predictor.logits([{"image": as_data(path)} for path in paths]), exported.logits)
    found = verify(exported.bundle)
    assert found.passed
    assert (found.rows, found.agreeing, found.difference) == (len(exported.rows), len(exported.rows), 0.0)


def test_masks_are_written_beside_the_table_of_predictions(exported: Exported, tmp_path: Path) -> None:
    table = pd.read_csv(exported.images / "table.csv")[["image"]].head(3)
    table.loc[1, "image"] = "pictures/none.png"
    table.to_csv(exported.images / "few.csv", index=False)
    output = tmp_path / "found.csv"
    command = ["predict", str(exported.bundle), "--input", str(exported.images / "few.csv"), "--output"]
    done = CliRunner().invoke(app, [*command, str(output)])
    assert done.exit_code == 0, done.output
    assert "1 rows have no prediction" in done.output
    found = pd.read_csv(output)
    assert found["mask"].isna().tolist() == [False, True, False]
    said = Predictor(exported.bundle).predict([str(exported.images / "pictures" / "2.png")])
    assert np.array_equal(np.asarray(Image.open(tmp_path / found["mask"][2])), mask_in(str(said[0])))
    assert np.asarray(Image.open(tmp_path / found["mask"][0])).shape == (40, 36)
    (tmp_path / "taken").write_text("")
    refused = CliRunner().invoke(app, [*command, str(tmp_path / "taken.csv")])
    assert refused.exit_code == 2
    assert "the folder of its pictures, can't be made" in refused.output
    assert CliRunner().invoke(app, [*command, str(output)]).exit_code == 0


def test_masks_are_never_written_over_what_is_read(exported: Exported, tmp_path: Path) -> None:
    shots = tmp_path / "shots"
    shots.mkdir()
    for number in range(2):
        shutil.copyfile(exported.images / "pictures" / f"{number}.png", shots / f"{number:05d}.png")
    before = {own.name: own.read_bytes() for own in shots.iterdir()}

    def refused(output: str, read: Path = shots) -> str:
        command = ["predict", str(exported.bundle), "--input", str(read), "--output", str(tmp_path / output)]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 2
        assert {own.name: own.read_bytes() for own in shots.iterdir()} == before
        return " ".join(done.output.split())

    assert "which holds other files; name another CSV file" in refused("shots.csv")
    (tmp_path / "shots.csv").write_text("image\nshots/00000.png\n")
    assert "which holds other files" in refused("shots.csv")
    assert "is an image, and would be lost" in refused("shots/00000.png")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "own.txt").write_text("")
    assert "which holds other files" in refused("notes.csv")


def test_masks_never_replace_what_no_prediction_wrote(exported: Exported, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for place in range(3):
        shutil.copy(exported.images / "pictures" / f"{place}.png", photos / f"{place:05d}.png")
    before = {path.name: path.read_bytes() for path in photos.iterdir()}

    def said(table: Path, output: Path) -> str:
        command = ["predict", str(exported.bundle), "--input", str(table), "--output", str(output)]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == (0 if output.name == "p.csv" else 2), done.output
        assert {name: (photos / name).read_bytes() for name in before} == before
        return " ".join(done.output.split())

    assert "from which" in said(photos, photos / "found.csv")
    table, others = tmp_path / "table.csv", exported.images / "pictures" / "0.png"
    table.write_text(f"image\n{others}\n{others}\n")
    assert "which holds other files" in said(table, tmp_path / "photos.csv")
    (tmp_path / "photos.csv").write_text("image,label\nphotos/00000.png,red\n")
    assert "which holds other files" in said(table, tmp_path / "photos.csv")
    said(photos, tmp_path / "p.csv")
    assert len(list((tmp_path / "p").iterdir())) == 3
    (tmp_path / "p" / ".DS_Store").write_text("")
    said(table, tmp_path / "p.csv")
    assert sorted(path.name for path in (tmp_path / "p").glob("*.png")) == ["00000.png", "00001.png"]
    (tmp_path / "p.csv").rename(tmp_path / "q.csv")
    (tmp_path / "p").rename(tmp_path / "q")
    assert "which holds other files" in said(table, tmp_path / "q.csv")
    found = tmp_path / "r.csv"
    found.write_text((tmp_path / "q.csv").read_text().replace("p/", "r/"))
    (tmp_path / "q").rename(tmp_path / "r")
    assert "from which" in said(tmp_path / "r", found)
    (tmp_path / "r" / "mine.txt").write_text("")
    assert "which holds other files" in said(table, found)


def test_masks_are_served_within_answers(exported: Exported) -> None:
    predictor = Predictor(exported.bundle)
    path = exported.rows[0].fields["image"]
    with TestClient(
        create_app([predictor], ["image"], dict.fromkeys(("study", "digest"), "0") | {"trial": 0}, LIMITS)
    ) as client:
        answer = client.post("/predict", json={"image": as_data(path)}).json()
        metrics = client.get("/metrics").text
    assert answer["mask"] == predictor.predict([path])[0]
    assert answer["shares"].keys() == set(CLASSES)
    assert sum(answer["shares"].values()) == pytest.approx(1)
    assert "ground" in metrics


LIMITS = ServingLimits()


def test_a_bundle_is_compared_with_itself(exported: Exported) -> None:
    predictor = Predictor(exported.bundle)
    found = compare_by_metric(predictor, predictor, exported.rows, 0.05)
    assert (found.metric, found.low, found.high, found.disagreements) == ("mean_iou", 0.0, 0.0, ())


def test_other_formats_are_refused(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="'semantic_segmentation', which of other formats only mlflow holds"):
        convert(exported.bundle, tmp_path / "onnx", "onnx")
    assert convert(exported.bundle, tmp_path / "mlflow", "mlflow") == 0.0

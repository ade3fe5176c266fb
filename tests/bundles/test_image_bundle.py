"""A bundle that reads images: from paths, from within requests, and from nothing but its own examples."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient

from promptgraft.bundles import Manifest, Predictor, ServingLimits, create_app, verify
from promptgraft.bundles.formats import convert
from promptgraft.objectives.data import Row, UnreadableImageError, as_data
from promptgraft.spaces import Candidate, InvalidInputError, SoftPrompt
from tests.support.bundles import write_result
from tests.support.image_objectives import TEMPLATE, objective_over_images
from tests.support.images import spec_of_images, write_images
from tests.support.models import TinyModels


class Exported:
    """A bundle of a vision transformer, the rows that it was scored by, and their logits."""

    def __init__(self, folder: Path, model: str) -> None:
        self.images, self.bundle = write_images(folder / "data").parent, folder / "bundle"
        target = spec_of_images(self.images / "table.csv", folds=2)
        objective = objective_over_images(model, "vit", target, evaluate_every=2)
        candidate = Candidate(TEMPLATE.id, "", "linear", soft_prompt=SoftPrompt(2), steps=4, learning_rate=1e-3)
        result = objective.evaluate(candidate, 0, at=4)
        write_result(self.bundle, objective.spec, objective, candidate, result)
        self.rows: tuple[Row, ...] = objective.target.validation
        self.logits = result.logits


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_models: TinyModels) -> Exported:
    return Exported(tmp_path_factory.mktemp("images"), tiny_models["vit"])


def test_it_predicts_what_the_trial_did(exported: Exported) -> None:
    predictor = Predictor(exported.bundle)
    paths = [row.fields["image"] for row in exported.rows]
    assert np.array_equal(predictor.logits(paths), exported.logits)
    assert np.array_equal(predictor.logits([{"image": as_data(path)} for path in paths]), exported.logits)
    assert predictor.manifest.task.reads == "images"
    with pytest.raises(UnreadableImageError, match=r"none\.png"):
        predictor.predict(["none.png"])


def test_it_predicts_tables_and_folders(exported: Exported, tmp_path: Path) -> None:
    predictor, folder = Predictor(exported.bundle), exported.images
    frame = predictor.predict_table(str(folder / "table.csv"))
    listed = predictor.predict_table(str(folder / "pictures"))
    assert list(frame.columns[:3]) == ["image", "colour", "label"]
    by_name = dict(zip(listed["image"], listed["label"], strict=True))
    assert [by_name[Path(name).name] for name in frame["image"]] == frame["label"].tolist()
    shutil.copyfile(folder / "pictures" / "0.png", tmp_path / "one.png")
    (tmp_path / "two.png").write_text("no image")
    pd.DataFrame({"image": ["one.png", "two.png", "none.png", ""]}).to_csv(tmp_path / "few.csv", index=False)
    few = predictor.predict_table(str(tmp_path / "few.csv"))
    assert few["label"].isna().tolist() == [False, True, True, True]
    assert few["label"][0] == by_name["0.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInputError, match="holds no image"):
        predictor.predict_table(str(tmp_path / "empty"))


def test_it_is_verified_without_the_data(exported: Exported, tmp_path: Path) -> None:
    away = tmp_path / "away"
    exported.images.rename(away)
    try:
        found = verify(exported.bundle)
    finally:
        away.rename(exported.images)
    assert found.passed
    assert (found.rows, found.agreeing, found.difference) == (len(exported.rows), len(exported.rows), 0.0)
    manifest = Manifest.model_validate_json((exported.bundle / "manifest.json").read_text())
    assert "pillow" in manifest.versions
    assert "pillow==" in (exported.bundle / "requirements.txt").read_text()


def test_it_is_served_with_images_within_requests_alone(exported: Exported) -> None:
    predictor = Predictor(exported.bundle)
    about = {"study": "test", "trial": 0, "digest": "0"}
    path = exported.rows[0].fields["image"]
    with TestClient(create_app([predictor], ["image"], about, ServingLimits())) as client:
        answer = client.post("/predict", json={"image": as_data(path)})
        assert answer.status_code == 200
        assert answer.json()["label"] == predictor.predict([path])[0]
        refused = ["/etc/hostname", path, "", "data:image/png;base64,", "data:text/html,x", "data:;base64,ab cd"]
        for value in refused:
            assert client.post("/predict", json={"image": value}).status_code == 422, value
        damaged = client.post("/predict", json={"image": "data:image/png;base64,bm8gaW1hZ2U="})
        assert damaged.status_code == 422
        assert "not an image" in damaged.json()["error"]
        both = client.post("/predict/batch", json={"rows": [{"image": as_data(path)}, {"image": as_data(path)}]})
        assert [own["label"] for own in both.json()["predictions"]] == [answer.json()["label"]] * 2


def test_other_formats_are_refused(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="'image_classification', which of other formats only mlflow holds"):
        convert(exported.bundle, tmp_path / "onnx", "onnx")

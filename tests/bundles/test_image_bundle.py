"""A bundle that reads images: from paths, from within requests, and from nothing but its own examples."""

import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from promptgraft.bundles import Manifest, Predictor, verify
from promptgraft.bundles.formats import convert
from promptgraft.bundles.serving import ServingLimits, create_app
from promptgraft.objectives.backbones import FAMILIES, guess_family
from promptgraft.objectives.data import Row, UnreadableImageError, as_data, load_image
from promptgraft.spaces import Candidate, InvalidInputError, SoftPrompt
from tests.support.bundles import write_result
from tests.support.commands import typed
from tests.support.image_objectives import COLOURS, PHOTO, TEMPLATE, objective_over_images
from tests.support.images import add_other_forms, draw, spec_of_images, write_images
from tests.support.models import IMAGE_SIDE, TinyModels, write_tiny_image_model

EDGE = {"shortest_edge": IMAGE_SIDE}
SQUARE = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
PROCESSORS = {
    "convnext": ConvNextImageProcessorPil(size=EDGE, crop_pct=0.875),
    "efficientnet": EfficientNetImageProcessorPil(size=SQUARE, include_top=True),
    "resnet": ViTImageProcessorPil(size={"shortest_edge": IMAGE_SIDE + 8}, do_center_crop=True, crop_size=SQUARE),
}
# Of the others, `make test-slow` tries each.
GRAPHS = [
    pytest.param(own, marks=() if own in PROCESSORS else pytest.mark.slow)
    for name in ("vit", "convolutional")
    for own in FAMILIES[name].model_types
    if own not in ("vit", "dinov2_with_registers")
]


class Exported:
    """A bundle of a model of images, the rows that it was scored by, and their logits."""

    def __init__(self, folder: Path, model: str, family: str = "vit", **changes: Any) -> None:
        self.images, self.bundle = write_images(folder / "data").parent, folder / "bundle"
        target = spec_of_images(self.images / "table.csv", folds=2)
        objective = objective_over_images(model, family, target, evaluate_every=2)
        place = "prefix" if family in {"vit", "clip"} else "frame"
        changes = {"soft_prompt": SoftPrompt(2, place=place)} | changes
        candidate = Candidate(TEMPLATE.id, "", "linear", steps=4, learning_rate=1e-3, **changes)
        if family == "clip":  # Label words, around which context is learnt.
            candidate = replace(candidate, template=PHOTO.id, verbalizer=COLOURS.id, head="label_words")
        result = objective.evaluate(candidate, 0, at=4)
        write_result(self.bundle, objective.spec, objective, candidate, result)
        self.rows: tuple[Row, ...] = objective.target.validation
        self.logits = result.logits


@pytest.fixture(scope="module", params=["vit", "clip"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_models: TinyModels
) -> Exported:
    return Exported(tmp_path_factory.mktemp("images"), tiny_models[request.param], request.param)


def test_it_predicts_what_the_trial_did(exported: Exported) -> None:
    predictor = Predictor(exported.bundle)
    paths = [row.fields["image"] for row in exported.rows]
    assert np.array_equal(predictor.logits(paths), exported.logits)
    assert np.array_equal(predictor.logits([{"image": as_data(path)} for path in paths]), exported.logits)
    assert predictor.manifest.task.reads == "images"
    with pytest.raises(UnreadableImageError, match=r"none\.png: there is no such file \(row 2\)"):
        predictor.predict([*paths[:2], "none.png", paths[2]])
    cut = as_data(paths[0])[:-400]
    with pytest.raises(UnreadableImageError, match=rf"image of {len(cut)} characters: .* \(row 1\)"):
        predictor.predict([{"image": as_data(paths[0])}, {"image": cut}])


def test_it_predicts_tables_and_folders(exported: Exported, tmp_path: Path) -> None:
    predictor, folder = Predictor(exported.bundle), exported.images
    frame = predictor.predict_table(str(folder / "table.csv"))
    listed = predictor.predict_table(str(folder / "pictures"))
    assert list(frame.columns[:3]) == ["image", "colour", "label"]
    by_name = dict(zip(listed["image"], listed["label"], strict=True))
    assert [by_name[Path(name).name] for name in frame["image"]] == frame["label"].tolist()
    alone = predictor.predict_table(str(folder / "pictures" / "0.png"))
    assert (alone["image"].tolist(), alone["label"].tolist()) == (["0.png"], [by_name["0.png"]])
    shutil.copyfile(folder / "pictures" / "0.png", tmp_path / "one.png")
    (tmp_path / "two.png").write_text("no image")
    pd.DataFrame({"image": ["one.png", "two.png", "none.png", ""]}).to_csv(tmp_path / "few.csv", index=False)
    few = predictor.predict_table(str(tmp_path / "few.csv"))
    assert few["label"].isna().tolist() == [False, True, True, True]
    assert few["label"][0] == by_name["0.png"]
    said = typed(
        "predict", str(exported.bundle), "--input", str(tmp_path / "few.csv"), "--output", str(tmp_path / "p.csv")
    )
    assert (
        "3 rows have no prediction, since an image is missing or can't be read, the first in row 2: two.png"
        in said.output
    )
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


def scripts(folder: Path) -> dict[str, Any]:
    return runpy.run_path(str(folder / "classify.py"))


def check_graph(exported: Exported, folder: Path) -> None:
    """Check that a converted bundle computes the same, rows alone and together."""
    difference = convert(exported.bundle, folder, "onnx")
    assert difference is not None
    assert difference <= 1e-5
    names = scripts(folder)
    pixels = np.stack([names["prepared"](names["opened"](row.fields["image"])) for row in exported.rows])
    (found,) = onnxruntime.InferenceSession(folder / "model.onnx").run(None, {"pixels": pixels})
    assert np.abs(found - exported.logits).max() <= 1e-5 * np.abs(exported.logits).max()


def test_a_vision_transformer_is_one_onnx_graph(exported: Exported, tmp_path: Path) -> None:
    check_graph(exported, tmp_path / "onnx")
    path = exported.rows[0].fields["image"]
    command = [sys.executable, str(tmp_path / "onnx" / "classify.py"), path]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (label,) = Predictor(exported.bundle).predict([path])
    assert said.startswith(f"{label} 0.")
    assert said.endswith(f"{path}\n")


@pytest.mark.parametrize("model_type", GRAPHS)
def test_other_models_of_images_are_onnx_graphs(model_type: str, tmp_path: Path) -> None:
    """Some with an image processor that does other things than a vision transformer's."""
    path = Path(write_tiny_image_model(tmp_path / "model", model_type))
    if model_type in PROCESSORS:
        PROCESSORS[model_type].save_pretrained(path)
    check_graph(Exported(tmp_path, str(path), guess_family(str(path)) or ""), tmp_path / "onnx")


def test_the_script_reads_what_the_bundle_reads(exported: Exported, tmp_path: Path) -> None:
    convert(exported.bundle, tmp_path / "onnx", "onnx")
    table = write_images(tmp_path / "forms", 12)
    add_other_forms(table)
    pictures, turned, opened = table.parent / "pictures", Image.Exif(), scripts(tmp_path / "onnx")["opened"]
    turned[0x0112] = 6
    Image.fromarray(draw(1)).save(pictures / "turned.jpg", exif=turned)
    Image.fromarray(draw(2)[..., 0].astype(np.float32) / 255).save(pictures / "floats.tiff")
    Image.fromarray(draw(2)[..., 0].astype(np.int32) * 999).save(pictures / "wide.tiff")
    Image.fromarray(draw(3)).quantize(8).save(pictures / "palette.gif", transparency=0)
    names = ["print.jpg", "scan.png", "logo.webp", "turned.jpg", "floats.tiff", "wide.tiff", "palette.gif"]
    for path in [str(pictures / name) for name in names]:
        assert np.array_equal(np.asarray(opened(path)), np.asarray(load_image(path))), path
        assert np.array_equal(np.asarray(opened(as_data(path))), np.asarray(load_image(path))), path


def test_what_a_graph_or_its_script_cannot_hold_is_refused(exported: Exported, tmp_path: Path) -> None:
    for name in ("plain", "peft"):
        with pytest.raises(InvalidInputError, match="which of other formats mlflow and onnx alone hold"):
            convert(exported.bundle, tmp_path / name, name)
    path = Path(write_tiny_image_model(tmp_path / "model", "resnet"))
    size = {"shortest_edge": 40, "longest_edge": 64}
    ViTImageProcessorPil(size=size, do_center_crop=True, crop_size=SQUARE).save_pretrained(path)
    other = Exported(tmp_path, str(path), "convolutional")
    with pytest.raises(InvalidInputError, match="ViTImageProcessorPil does more than resize images and crop them"):
        convert(other.bundle, tmp_path / "onnx", "onnx")
    assert not (tmp_path / "onnx").exists()
    shutil.rmtree(path)
    unknown = Exported(tmp_path / "unknown", write_tiny_image_model(path, "dinov2_with_registers"))
    with pytest.raises(InvalidInputError, match=r"torch can't write 'dinov2_with_registers' .*upsample"):
        convert(unknown.bundle, tmp_path / "onnx", "onnx")
    assert not (tmp_path / "onnx").exists()

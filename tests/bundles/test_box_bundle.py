"""A bundle that finds boxes: in tables, within answers, and the same as in the trial."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient

from promptgraft.bundles import Predictor, verify
from promptgraft.bundles.serving import ServingLimits, create_app
from promptgraft.objectives.backbones import NANODET
from promptgraft.objectives.data import Box, as_data
from promptgraft.search.judging import compare_by_metric
from promptgraft.spaces import Candidate
from tests.support.bundles import write_result
from tests.support.image_objectives import TEMPLATE, objective_over_images
from tests.support.images import spec_of_boxes, write_boxed
from tests.support.models import write_tiny_detector

ABOUT = {"study": "test", "trial": 0, "digest": "0"}


@pytest.mark.parametrize(("labels", "model_type"), [(1, "yolos"), (2, "detr"), (2, "rt_detr"), (2, NANODET)])
def test_a_bundle_finds_what_its_trial_did(labels: int, model_type: str, tmp_path: Path) -> None:
    model, bundle = write_tiny_detector(tmp_path / "model", model_type), tmp_path / "bundle"
    table = write_boxed(tmp_path / "data", count=24, labels=labels)
    target = spec_of_boxes(table, folds=2, test_rows=6)
    objective = objective_over_images(model, "detection", target, metric="map", evaluate_every=30)
    candidate = Candidate(TEMPLATE.id, "", "linear", steps=30, learning_rate=2e-3, frozen_layers=1)
    result = objective.evaluate(candidate, 0, at=30)
    write_result(bundle, objective.spec, objective, candidate, result)
    rows = objective.target.validation
    predictor = Predictor(bundle)
    paths = [row.fields["image"] for row in rows]
    assert np.array_equal(predictor.logits([{"image": as_data(path)} for path in paths]), result.logits)
    found = verify(bundle)
    assert (found.passed, found.agreeing, found.difference) == (True, len(rows), 0.0)
    said = predictor.predict(paths)
    assert any(said)
    assert all(isinstance(own, Box) for boxes in said for own in boxes)  # type: ignore[union-attr]
    frame = predictor.predict_table(str(table))
    assert list(frame.columns) == ["image", "input_boxes", "boxes"]
    assert [len(json.loads(cell)) for cell in frame["boxes"][:2]] == [
        len(own)
        for own in predictor.predict([str(table.parent / name) for name in frame["image"][:2]])  # type: ignore[arg-type]
    ]
    with TestClient(create_app([predictor], ["image"], ABOUT, ServingLimits())) as client:
        answer = client.post("/predict", json={"image": as_data(paths[0])}).json()
    first = said[0]
    assert isinstance(first, tuple)
    assert [own["label"] for own in answer["boxes"]] == [own.label for own in first]  # type: ignore[union-attr]
    compared = compare_by_metric(predictor, predictor, rows, 0.05)
    assert (compared.metric, compared.low, compared.high, compared.disagreements) == ("map", 0.0, 0.0, ())
    table_of_one = tmp_path / "one.csv"
    pd.DataFrame({"image": ["none.png"]}).to_csv(table_of_one, index=False)
    assert predictor.predict_table(str(table_of_one))["boxes"].isna().all()

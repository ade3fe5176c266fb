"""Prompts of images, in every family at every place: trained around frozen layers, and shipped as they were trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from promptgraft.bundles import Predictor, verify
from promptgraft.objectives.backbones import FAMILIES
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Candidate, InvalidInputError, SoftPrompt
from tests.support.bundles import write_result
from tests.support.image_objectives import COLOURS, PHOTO, TEMPLATE, objective_over_images
from tests.support.images import (
    spec_of_boxes,
    spec_of_images,
    spec_of_masks,
    write_boxed,
    write_images,
    write_masked,
)
from tests.support.models import IMAGE_SIDE, TinyModels

LINEAR = Candidate(TEMPLATE.id, "", "linear", steps=3, batch_size=8, learning_rate=1e-3)
WORDS = replace(LINEAR, template=PHOTO.id, verbalizer=COLOURS.id, head="label_words")
PLACES = [
    (name, place.replace("K", "1"))
    for name in FAMILIES
    if FAMILIES[name].reads == "images"
    for place in FAMILIES[name].prompt_places
]


def objective_of(family: str, model: str, folder: Path, *, source: bool = False) -> Objective:
    """Load an objective of a kind of task that the family serves, over drawn images, on the first of two folds."""
    made = {"masks": (write_masked, spec_of_masks, "mean_iou"), "boxes": (write_boxed, spec_of_boxes, "map")}
    write, describe, metric = made.get(FAMILIES[family].answers, (write_images, spec_of_images, "accuracy"))
    target = describe(write(folder / "target", count=24), folds=2, test_rows=6)
    other = describe(write(folder / "source", count=24, seed=1), test_rows=None) if source else None
    return objective_over_images(model, family, target, other, metric=metric, evaluate_every=1)


@pytest.mark.parametrize(("family", "place"), PLACES)
def test_what_is_trained_around_frozen_layers_ships(
    family: str, place: str, tmp_path: Path, tiny_models: TinyModels
) -> None:
    objective = objective_of(family, tiny_models[family], tmp_path)
    candidate = replace(WORDS if family == "clip" else LINEAR, soft_prompt=SoftPrompt(3, place=place), frozen_layers=1)
    assert candidate.canonical(objective.spec.space.facts).soft_prompt == candidate.soft_prompt
    before = {name: own.clone() for name, own in objective.backbone.model.state_dict().items()}
    result = objective.evaluate(candidate, seed=0, at=3)
    after = objective.backbone.model.state_dict()
    kept = set(objective.backbone.names_below(1)) | {name for name in before if "running_" in name}
    assert kept
    for name in kept:
        assert torch.equal(before[name], after[name]), name
    (first,) = objective.untrained([candidate])
    prompt = {name: own for name, own in first.attached().items() if name.startswith("soft_prompt.")}
    assert prompt
    for name, own in prompt.items():
        assert not torch.equal(own.detach(), result.delta[name])
    again = objective.score(candidate, result.delta, objective.target.validation, seed=0)
    np.testing.assert_allclose(again, result.logits, atol=2e-5)
    write_result(tmp_path / "bundle", objective.spec, objective, candidate, result)
    predictor = Predictor(tmp_path / "bundle")
    paths = [row.fields["image"] for row in objective.target.validation]
    assert np.array_equal(predictor.logits(paths), result.logits)
    assert verify(tmp_path / "bundle").difference == 0.0


@pytest.mark.parametrize("family", ["clip", "convolutional", "segmentation"])
def test_a_frame_is_added_to_what_the_model_reads(family: str, tmp_path: Path, tiny_models: TinyModels) -> None:
    """Nothing is added before training; then what the model computes is what it makes of framed pixels."""
    objective = objective_of(family, tiny_models[family], tmp_path)
    linear = replace(LINEAR, template=objective.spec.space.templates[0].id)
    framed = replace(linear, soft_prompt=SoftPrompt(4, place="frame"), frozen_layers=objective.backbone.n_layers)
    bare, model = objective.untrained([replace(framed, soft_prompt=SoftPrompt()), framed])
    rows, labels = objective.target.validation, objective.labels
    assert torch.equal(model.score(model.encode(rows), labels, 8), bare.score(bare.encode(rows), labels, 8))
    assert model.reuse() is None
    assert model.prompt_tokens() == bare.prompt_tokens() == 0
    assert model.trainable_parameters - bare.trainable_parameters == 3 * 4 * 4 * (IMAGE_SIDE - 4)
    within = torch.zeros(3, IMAGE_SIDE - 8, IMAGE_SIDE - 8)
    drawn = torch.rand(3, IMAGE_SIDE, IMAGE_SIDE, generator=torch.Generator().manual_seed(0))
    drawn *= functional.pad(within, [4] * 4, value=1.0)
    sides = {"top": drawn[:, :4], "bottom": drawn[:, -4:], "left": drawn[:, 4:-4, :4], "right": drawn[:, 4:-4, -4:]}
    model.load({f"soft_prompt.{side}": own for side, own in sides.items()})
    batch = model.batch(model.encode(rows))
    layers: Any = objective.backbone.layers
    with torch.no_grad():
        found = model.stack(batch.input_ids, batch.lengths, batch.lengths)
        expected = layers.run(0, None, layers.embed_pixels(layers.pixels(batch.input_ids) + drawn))
        assert torch.equal(found, expected)
        assert not torch.equal(found, layers.run(input_ids=batch.input_ids))


def test_a_frame_goes_with_the_heads_of_models_of_images_and_texts(tmp_path: Path, tiny_models: TinyModels) -> None:
    """Label words are read beside it, and a source may train it first."""
    objective = objective_of("clip", tiny_models["clip"], tmp_path, source=True)
    soft = SoftPrompt(2, "source", "frame")
    for candidate in (WORDS, replace(WORDS, head="probe", verbalizer="", steps=0)):
        chosen = replace(candidate, soft_prompt=soft, source_steps=2, frozen_layers=3)
        assert chosen.canonical(objective.spec.space.facts).soft_prompt == soft
        result = objective.evaluate(chosen, seed=0)
        assert "soft_prompt.top" in result.load_report.loaded
        assert ("reader.weight" in result.delta) == bool(result.delta)
        assert np.isfinite(result.logits).all()


def test_a_frame_as_wide_as_the_image_is_refused(tmp_path: Path, tiny_models: TinyModels) -> None:
    objective = objective_of("convolutional", tiny_models["convolutional"], tmp_path)
    half = IMAGE_SIDE // 2
    objective.untrained([replace(LINEAR, soft_prompt=SoftPrompt(half - 1, place="frame"))])
    with pytest.raises(InvalidInputError, match=rf"images of {IMAGE_SIDE} x {IMAGE_SIDE} .* use at most {half - 1}"):
        objective.untrained([replace(LINEAR, soft_prompt=SoftPrompt(half, place="frame"))])

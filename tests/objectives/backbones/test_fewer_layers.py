"""Backbones of which only the lowest layers are used, or that read images of another size than they were made for."""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from transformers import AutoModel
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from promptgraft.bundles import Predictor, verify
from promptgraft.bundles.formats import convert
from promptgraft.bundles.manifest import BackboneReference
from promptgraft.objectives.backbones import BACKBONES, FAMILIES, check_image_size
from promptgraft.objectives.data import Split
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Candidate, InvalidInputError
from tests.support.bundles import write_result
from tests.support.image_objectives import TEMPLATE, objective_over_images
from tests.support.images import draw, spec_of_images, write_images
from tests.support.models import TinyModels, write_tiny_image_model

CPU = torch.device("cpu")
TOLERANCE = 1e-4
PROCESSORS: dict[str, Any] = {
    "convnext": ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.875),
    "efficientnet": EfficientNetImageProcessorPil(size={"height": 32, "width": 32}, include_top=True),
    "resnet": ViTImageProcessorPil(
        size={"shortest_edge": 40}, do_center_crop=True, crop_size={"height": 32, "width": 32}
    ),
}
LINEAR = Candidate(TEMPLATE.id, "", head="linear", steps=3, batch_size=8, learning_rate=1e-3)


def shortened(path: str, family: str, layers: int | None) -> Any:
    return BACKBONES[family](BackboneSpec(path, family, 48, layers=layers), CPU)


def changed(objective: Objective, files: Path | None, **options: int) -> Objective:
    """Load the same objective with other options of its backbone."""
    spec = objective.spec
    facts = replace(spec.space.facts, n_layers=options.get("layers", spec.space.facts.n_layers))
    spec = replace(spec, backbone=replace(spec.backbone, **options), files=str(files) if files else None)  # type: ignore[arg-type]
    again = Objective(replace(spec, space=replace(spec.space, facts=facts)), CPU)
    again.use_split(Split(0, 0))
    return again


@pytest.mark.parametrize("family", ["encoder", "vit"])
def test_transformers_are_as_with_fewer_layers_configured(family: str, tiny_models: TinyModels) -> None:
    path = tiny_models[family]
    backbone, reference = shortened(path, family, 1), AutoModel.from_pretrained(path, num_hidden_layers=1).eval()
    assert (backbone.n_layers, len(backbone.layers), backbone.model.config.num_hidden_layers) == (1, 1, 1)
    with torch.no_grad():
        if family == "vit":
            pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
            found = backbone.layers.run(hidden=backbone.layers.embed_pixels(pixels))
            expected = reference(pixels).last_hidden_state
        else:
            ids = torch.tensor([[5, 6, 7, 8]])
            found = backbone.layers.run(input_ids=ids, attention_mask=backbone.layers.mask(torch.tensor([4]), 4))
            expected = reference(ids).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("model_type", ["resnet", "efficientnet", "convnext", "mobilenet_v2", "mobilevit"])
def test_stages_are_those_of_the_whole_model(model_type: str, tmp_path: Path) -> None:
    path = write_tiny_image_model(tmp_path / "model", model_type)
    whole, low = shortened(path, "convolutional", None), shortened(path, "convolutional", 1)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = whole.layers.run(0, 1, whole.layers.embed_pixels(pixels))
        found = low.layers.run(hidden=low.layers.embed_pixels(pixels))
    shape = whole.layers._shapes[1]
    assert torch.equal(found[:, 0], maps.reshape(-1, *shape).mean((2, 3)))
    assert low.hidden_size == shape[0]
    assert set(low.pretrained) == set(whole.names_below(1))
    assert sum(own.numel() for own in low.model.parameters()) < sum(own.numel() for own in whole.model.parameters())


OPTIONS: dict[str, list[dict[str, int]]] = {
    "vit": [{}, {"layers": 1}],
    "convolutional": [{}, {"layers": 1}, {"image_size": 48}, {"layers": 1, "image_size": 48}],
}


@pytest.mark.parametrize("family", sorted(OPTIONS))
def test_one_store_serves_all_and_what_ships_computes_the_same(
    family: str, tmp_path: Path, tiny_models: TinyModels
) -> None:
    target = spec_of_images(write_images(tmp_path / "target"), folds=2)
    objective = objective_over_images(tiny_models[family], family, target, evaluate_every=1)
    candidates = [LINEAR, replace(LINEAR, frozen_layers=1), replace(LINEAR, head="probe", steps=0)]
    outputs: dict[tuple[int, int], Any] = {}
    for files in (None, tmp_path / "files"):
        for place, options in enumerate(OPTIONS[family]):
            for number, own in enumerate(candidates):
                fresh = changed(objective, files, **options)
                logits = fresh.evaluate(own.canonical(fresh.spec.space.facts), seed=3).logits
                assert np.array_equal(outputs.setdefault((place, number), logits), logits)
    for number in range(len(candidates)):
        different = {outputs[place, number].tobytes() for place in range(len(OPTIONS[family]))}
        assert len(different) == len(OPTIONS[family])
    shipped = changed(objective, None, **OPTIONS[family][-1])
    write_result(tmp_path / "bundle", shipped.spec, shipped, LINEAR, shipped.evaluate(LINEAR, 0))
    checked = verify(tmp_path / "bundle")
    assert (checked.passed, checked.difference) == (True, 0.0)
    difference = convert(tmp_path / "bundle", tmp_path / "graph", "onnx")
    assert difference is not None
    assert difference < TOLERANCE
    names, paths = (
        runpy.run_path(str(tmp_path / "graph" / "classify.py")),
        [row.fields["image"] for row in shipped.target.validation],
    )
    pixels = np.stack([names["prepared"](names["opened"](path)) for path in paths])
    (found,) = onnxruntime.InferenceSession(tmp_path / "graph" / "model.onnx").run(None, {"pixels": pixels})
    np.testing.assert_allclose(found, Predictor(tmp_path / "bundle").logits(paths), atol=TOLERANCE)


@pytest.mark.parametrize("model_type", ["convnext", "resnet", "efficientnet"])
def test_images_are_resized_as_the_processor_does_it(model_type: str, tmp_path: Path) -> None:
    """What is cropped keeps its share."""
    path = write_tiny_image_model(tmp_path / "model", model_type)
    PROCESSORS[model_type].save_pretrained(path)
    backbone: Any = BACKBONES["convolutional"](BackboneSpec(path, "convolutional", image_size=48), CPU)
    assert backbone.pixels.shape == (3, 48, 48)
    image = Image.fromarray(draw(0))
    sizes = {
        "convnext": {"size": {"shortest_edge": 48}},
        "resnet": {"size": {"shortest_edge": 60}, "crop_size": {"height": 48, "width": 48}},
        "efficientnet": {"size": {"height": 48, "width": 48}},
    }
    bare = dict.fromkeys(
        ("do_rescale", "do_normalize", *(["include_top"] if model_type == "efficientnet" else [])), False
    )
    expected = PROCESSORS[model_type](image, return_tensors="np", **bare, **sizes[model_type])
    assert np.array_equal(backbone.pixels.prepare(image), np.clip(np.round(expected["pixel_values"][0]), 0, 255))


def test_what_cannot_be_left_out_is_refused(tiny_models: TinyModels) -> None:
    for layers in (0, 9):
        with pytest.raises(InvalidInputError, match=rf"backbone\.layers must be in \[1, \d\].* got {layers}"):
            shortened(tiny_models["encoder"], "encoder", layers)
    for family in FAMILIES:
        if not FAMILIES[family].shortens:
            with pytest.raises(InvalidInputError, match=r"backbone\.layers is 1.*families of which.*encoder"):
                shortened(tiny_models[family], family, 1)
    with pytest.raises(InvalidInputError, match=r"backbone\.image_size is 48.*32 x 32 pixels only"):
        BACKBONES["vit"](BackboneSpec(tiny_models["vit"], "vit", image_size=48), CPU)
    with pytest.raises(InvalidInputError, match=r"backbone\.image_size is 48.*read texts"):
        check_image_size("encoder", 48)
    for odd in ({"image_size": 10**6}, {"image_size": 0}, {"layers": 0}):
        with pytest.raises(ValidationError, match=next(iter(odd))):
            BackboneReference(path="model", family="vit", max_tokens=8, files={}, **odd)  # type: ignore[arg-type]

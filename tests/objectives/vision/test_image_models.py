"""Models of images run in part, frozen from below, with vectors among patches; what is saved computes the same."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel
from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil

from promptgraft.objectives.backbones import BACKBONES, FAMILIES, count_layers, guess_family
from promptgraft.objectives.measures import FITTED, rank_sources
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import (
    Adapter,
    Candidate,
    InvalidInputError,
    SoftPrompt,
)
from tests.support.image_objectives import BARE, COLOURS, PHOTO, TEMPLATE, objective_over_images
from tests.support.images import LABELS, draw, spec_of_images, write_images
from tests.support.models import TinyModels, write_tiny_image_model

CPU = torch.device("cpu")
LINEAR = Candidate(TEMPLATE.id, "", head="linear", steps=3, batch_size=8, learning_rate=1e-3)
WORDS = replace(LINEAR, template=PHOTO.id, verbalizer=COLOURS.id, head="label_words", prompt_learning_rate=3e-3)
# Of the others, `make test-slow` tries each.
IN_THE_GATE = ("vit", "dinov2", "resnet", "efficientnet")
MODEL_TYPES = [
    pytest.param(name, own, marks=() if own in IN_THE_GATE else pytest.mark.slow)
    for name in ("vit", "convolutional")
    for own in FAMILIES[name].model_types
]


def objective_over(
    family: str, model: str, folder: Path, *, files: Path | None = None, source: bool = False
) -> Objective:
    """Load an objective over drawn images, with two folds, on the first."""
    table = folder / "target" / "table.csv"
    target = spec_of_images(table if table.exists() else write_images(folder / "target"), folds=2)
    other = None
    if source:
        own = folder / "source" / "table.csv"
        other = spec_of_images(own if own.exists() else write_images(folder / "source", seed=1), test_rows=None)
    store = str(files) if files else None
    return objective_over_images(model, family, target, other, evaluate_every=1, files=store)


@pytest.mark.parametrize(("family", "model_type"), MODEL_TYPES)
def test_each_architecture_computes_what_transformers_does(family: str, model_type: str, tmp_path: Path) -> None:
    path = write_tiny_image_model(tmp_path / "model", model_type)
    Image.fromarray(draw(0)).save(tmp_path / "image.png")
    backbone: Any = BACKBONES[family](BackboneSpec(path, family), CPU)
    assert guess_family(path) == family
    assert count_layers(path, family) == backbone.n_layers == len(backbone.layers) > 1
    pixels = AutoImageProcessor.from_pretrained(path, backend="pil")(Image.fromarray(draw(0)), return_tensors="pt")
    reference = AutoModel.from_pretrained(path).eval()
    ids = torch.tensor([backbone.image_ids(str(tmp_path / "image.png"))])
    with torch.no_grad():
        torch.testing.assert_close(backbone.layers.pixels(ids), pixels["pixel_values"], atol=1e-6, rtol=0)
        hidden = backbone.layers.run(input_ids=ids)
        found = reference(backbone.layers.pixels(ids))
        expected = found.last_hidden_state if family == "vit" else found.pooler_output.flatten(1)[:, None]
        if model_type == "efficientnet":  # Its pooler has a fixed size, larger than these maps.
            expected = found.last_hidden_state.mean((2, 3))[:, None]
        torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-4)
        assert float(hidden.abs().max()) > 0
        for depth in range(1, backbone.n_layers):
            below = backbone.layers.run(0, depth, input_ids=ids)
            assert torch.equal(backbone.layers.run(depth, None, below), hidden)
    frozen = [sum(own.requires_grad for own in backbone.pretrained.values())]
    for depth in range(1, backbone.n_layers + 1):
        backbone.freeze(depth)
        frozen.append(sum(own.requires_grad for own in backbone.pretrained.values()))
    assert frozen == sorted(set(frozen), reverse=True)
    assert frozen[-1] == 0
    shapes = BACKBONES[family](BackboneSpec(path, family), torch.device("meta"))
    assert shapes.hidden_size == backbone.hidden_size == hidden.shape[2]


@pytest.mark.parametrize("family", ["vit", "convolutional", "clip"])
def test_frozen_weights_and_running_statistics_stay_bit_for_bit(
    family: str, tmp_path: Path, tiny_models: TinyModels
) -> None:
    objective = objective_over(family, tiny_models[family], tmp_path)
    backbone = objective.backbone
    before = {name: own.clone() for name, own in backbone.model.state_dict().items()}
    candidate = replace(WORDS if family == "clip" else LINEAR, frozen_layers=1)
    result = objective.evaluate(candidate, seed=0)
    after = backbone.model.state_dict()
    below = set(backbone.names_below(1))
    statistics = {name for name in before if "running_" in name or "num_batches" in name}
    assert bool(statistics) == (family == "convolutional")
    for name in below | statistics:
        assert torch.equal(before[name], after[name]), name
    changed = [name for name in backbone.pretrained if name not in below and not torch.equal(before[name], after[name])]
    assert changed
    assert {name.removeprefix("backbone.") for name in result.delta if name.startswith("backbone.")}.isdisjoint(below)


FORMS = {
    "vit": [
        LINEAR,
        replace(LINEAR, frozen_layers=2, pooling="first"),
        replace(LINEAR, soft_prompt=SoftPrompt(3), frozen_layers=3),
        replace(LINEAR, soft_prompt=SoftPrompt(2, place="layer 2"), frozen_layers=2),
        replace(LINEAR, adapter=Adapter("lora", 2), frozen_layers=1),
        replace(LINEAR, head="probe", steps=0, source_steps=2, alpha=0.5),
        replace(LINEAR, head="probe", contrastive_steps=2, steps=2, frozen_layers=1, adapter=Adapter("ia3")),
        replace(LINEAR, soft_prompt=SoftPrompt(3, place="frame"), frozen_layers=2),
    ],
    "convolutional": [
        replace(LINEAR, frozen_layers=1),
        replace(LINEAR, head="probe", steps=0),
        replace(LINEAR, source_steps=2, alpha=0.3, frozen_layers=1),
        replace(LINEAR, soft_prompt=SoftPrompt(3, "source", "frame"), source_steps=2, frozen_layers=1),
        replace(LINEAR, head="probe", soft_prompt=SoftPrompt(2, place="frame"), frozen_layers=2, contrastive_steps=2),
    ],
    "clip": [
        replace(WORDS, source_steps=2, alpha=0.3, frozen_layers=2, adapter=Adapter("ia3")),
        replace(WORDS, frozen_layers=3, calibration="batch"),
        replace(WORDS, template=BARE.id, soft_prompt=SoftPrompt(3), frozen_layers=3),
        replace(WORDS, soft_prompt=SoftPrompt(2, "source", "suffix"), source_steps=2, alpha=0.4, frozen_layers=1),
        replace(WORDS, soft_prompt=SoftPrompt(2, "template"), contrastive_steps=2, adapter=Adapter("lora", 2), steps=2),
        replace(WORDS, soft_prompt=SoftPrompt(3, place="frame"), frozen_layers=3, calibration="batch"),
        replace(LINEAR, template=PHOTO.id, head="probe", contrastive_steps=2, frozen_layers=1),
    ],
}


@pytest.mark.parametrize("family", sorted(FORMS))
def test_no_trial_depends_on_those_before_it(family: str, tmp_path: Path, tiny_models: TinyModels) -> None:
    """Whatever is in the store, and in whatever order trials come, logits are the same bit for bit."""
    model, stored = (
        tiny_models[family],
        objective_over(family, tiny_models[family], tmp_path, files=tmp_path / "f", source=True),
    )
    candidates = FORMS[family]
    first = [stored.evaluate(candidate, seed=3).logits for candidate in candidates]
    again = [stored.evaluate(candidate, seed=3).logits for candidate in reversed(candidates)][::-1]
    fresh = objective_over(family, model, tmp_path, files=tmp_path / "f", source=True)
    read = [fresh.evaluate(candidate, seed=3).logits for candidate in reversed(candidates)][::-1]
    for place, logits in enumerate(first):
        assert np.array_equal(logits, again[place])
        assert np.array_equal(logits, read[place])
    alone = objective_over(family, model, tmp_path, source=True).evaluate(candidates[-1], seed=3).logits
    assert np.array_equal(first[-1], alone)
    assert not np.array_equal(first[0], first[1])


def test_sources_of_images_are_ranked(tmp_path: Path, tiny_models: TinyModels) -> None:
    objective = objective_over("convolutional", tiny_models["convolutional"], tmp_path, source=True)
    (score,) = rank_sources(objective)
    assert (score.rows, score.labels) == (60, LABELS)
    assert np.isfinite(score.transfer)


@pytest.mark.parametrize("family", sorted(FORMS))
def test_fitted_controls_read_images(family: str, tmp_path: Path, tiny_models: TinyModels) -> None:
    objective = objective_over(family, tiny_models[family], tmp_path)
    task = objective.target
    for name in ("linear_probe", "tfidf", "majority"):
        logits = FITTED[name](objective, task.test)
        assert logits.shape == (len(task.test), 3)
    probe = task.measure(FITTED["linear_probe"](objective, task.test), task.test)["accuracy"]
    assert probe > task.measure(task.constant(task.test), task.test)["accuracy"]


@pytest.mark.parametrize("family", sorted(FORMS))
def test_what_is_saved_computes_the_same(family: str, tmp_path: Path, tiny_models: TinyModels) -> None:
    objective = objective_over(family, tiny_models[family], tmp_path, source=True)
    for candidate in FORMS[family]:
        canonical = candidate.canonical(objective.spec.space.facts)
        result = objective.evaluate(canonical, seed=1)
        again = objective.score(canonical, result.delta, objective.target.validation, seed=1)
        np.testing.assert_allclose(again, result.logits, atol=2e-5)
        template = objective.spec.space.template(canonical.template)
        own = objective.backbone.own_tokens(canonical, template)  # type: ignore[attr-defined]
        assert bool(own) == (canonical.head == "label_words")
        assert result.prompt_tokens == own + candidate.soft_prompt.tokens


def test_a_soft_prompt_changes_what_is_behind_it_alone(tmp_path: Path, tiny_models: TinyModels) -> None:
    objective = objective_over("vit", tiny_models["vit"], tmp_path)
    candidate = replace(LINEAR, soft_prompt=SoftPrompt(4, place="layer 1"), frozen_layers=3, steps=4)
    result = objective.evaluate(candidate, seed=0)
    assert result.trainable_parameters == 4 * 32 + 3 * 33
    assert set(result.delta) == {"soft_prompt.weight", "reader.weight", "reader.bias"}
    (model,) = objective.untrained([candidate])
    assert not torch.equal(model.attached()["soft_prompt.weight"].detach(), result.delta["soft_prompt.weight"])
    bound = (6 / (3 * 8 * 8 + 32)) ** 0.5
    assert float(model.attached()["soft_prompt.weight"].detach().abs().max()) <= bound


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("convolutional", {"soft_prompt": SoftPrompt(2)}, "no tokens that vectors could stand among; use frame"),
        ("convolutional", {"adapter": Adapter("lora", 2)}, "adapter.method 'lora' is not supported"),
        ("convolutional", {"pooling": "first"}, "pooling 'first' does not apply .*; use mean"),
        ("vit", {"soft_prompt": SoftPrompt(2, place="suffix")}, "use prefix or layer K or frame"),
        ("vit", {"soft_prompt": SoftPrompt(2, place="deep")}, "use prefix or layer K"),
        ("vit", {"soft_prompt": SoftPrompt(2, place="layer 3")}, r"needs a layer in \[0, 2\]"),
        ("vit", {"soft_prompt": SoftPrompt(2, parametrization="mlp")}, "use direct"),
        ("vit", {"pooling": "last"}, "use mean or first"),
        ("vit", {"head": "label_words"}, "needs words"),
        (
            "clip",
            {"soft_prompt": SoftPrompt(2, place="layer 1")},
            "among the words of a label's text; use prefix or suffix or frame",
        ),
        ("clip", {"soft_prompt": SoftPrompt(2, place="deep")}, "use prefix or suffix"),
        ("clip", {"soft_prompt": SoftPrompt(2, parametrization="lstm")}, "use direct"),
        ("clip", {"pooling": "first"}, "pooling 'first' does not apply .*; use mean"),
        ("clip", {"head": "label_words", "verbalizer": ""}, "needs a verbalizer"),
        ("clip", {"calibration": "contextual"}, "needs texts"),
    ],
)
def test_what_a_family_does_not_have_is_refused(
    family: str, changes: dict[str, object], message: str, tmp_path: Path, tiny_models: TinyModels
) -> None:
    objective = objective_over(family, tiny_models[family], tmp_path)
    with pytest.raises(InvalidInputError, match=message):
        objective.untrained([replace(WORDS if family == "clip" else LINEAR, **changes)])  # type: ignore[arg-type]


def test_efficientnet_processors_that_scale_twice_make_what_they_make(tmp_path: Path) -> None:
    path = write_tiny_image_model(tmp_path / "model", "efficientnet")
    size = {"height": 32, "width": 32}
    processor = EfficientNetImageProcessorPil(
        size=size, include_top=True, rescale_offset=True, rescale_factor=1 / 127.5
    )
    processor.save_pretrained(path)
    Image.fromarray(draw(0)).save(tmp_path / "image.png")
    backbone: Any = BACKBONES["convolutional"](BackboneSpec(path, "convolutional"), CPU)
    found = backbone.pixels.of([backbone.pixels.number(str(tmp_path / "image.png"))], CPU)
    expected = processor(Image.fromarray(draw(0)), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_models_and_processors_that_cannot_serve_are_refused(tmp_path: Path) -> None:
    path = Path(write_tiny_image_model(tmp_path / "model", "vit"))
    with pytest.raises(InvalidInputError, match="write family: vit"):
        BACKBONES["encoder"](BackboneSpec(str(path), "encoder"), CPU)
    with pytest.raises(InvalidInputError, match="write family: vit"):
        BACKBONES["convolutional"](BackboneSpec(str(path), "convolutional"), CPU)
    other = Path(shutil.copytree(path, tmp_path / "swin"))
    AutoConfig.for_model("swin").save_pretrained(other)
    with pytest.raises(
        InvalidInputError, match=r"'swin' model, which reads images .*family segmentation: segformer, mo"
    ):
        BACKBONES[guess_family(str(other))](BackboneSpec(str(other), guess_family(str(other))), CPU)
    with pytest.raises(InvalidInputError, match="'swin' model, not of the family 'vit'; expected one of deit, dinov2"):
        BACKBONES["vit"](BackboneSpec(str(other), "vit"), CPU)
    processor = path / "preprocessor_config.json"
    whole = processor.read_text()
    processor.write_text(whole.replace("32", "64"))
    with pytest.raises(
        InvalidInputError, match=r"makes images of 64 x 64 pixels, but the model in config\.json reads 32 x 32"
    ):
        BACKBONES["vit"](BackboneSpec(str(path), "vit"), CPU)
    processor.write_text(whole.replace('"do_resize": true', '"do_resize": false'))
    with pytest.raises(InvalidInputError, match=r"shapes .* from images of different sizes"):
        BACKBONES["vit"](BackboneSpec(str(path), "vit"), CPU)
    processor.unlink()
    with pytest.raises(InvalidInputError, match=r"holds no preprocessor_config\.json"):
        BACKBONES["vit"](BackboneSpec(str(path), "vit"), CPU)

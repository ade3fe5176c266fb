"""Models of masks run in part and frozen from below: logits and loss of transformers, the same trial in any order."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from promptgraft.objectives.backbones import BACKBONES, count_layers, guess_family
from promptgraft.objectives.backbones.families import SEGMENTATION
from promptgraft.objectives.data import mask_as_data
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.objectives.trial import Objective
from promptgraft.objectives.trial.losses import LOSSES, targets_of
from promptgraft.spaces import (
    Adapter,
    Candidate,
    InvalidInputError,
    SoftPrompt,
)
from tests.support.image_objectives import TEMPLATE, objective_over_images
from tests.support.images import CLASSES, draw_masked, spec_of_masks, write_masked
from tests.support.models import TinyModels, write_tiny_segmenter

CPU = torch.device("cpu")
LINEAR = Candidate(TEMPLATE.id, "", head="linear", steps=3, batch_size=8, learning_rate=1e-3)
FORMS = [
    LINEAR,
    replace(LINEAR, frozen_layers=2, steps=2),
    replace(LINEAR, source_steps=2, alpha=0.3, frozen_layers=4),
    replace(LINEAR, soft_prompt=SoftPrompt(3, place="frame"), frozen_layers=5),
]


# Of the others, `make test-slow` tries each; a bundle of MobileViT is in the gate.
@pytest.fixture(
    scope="module",
    params=[pytest.param(own, marks=() if own == "segformer" else pytest.mark.slow) for own in SEGMENTATION],
)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small random model of each architecture; returns its folder."""
    return write_tiny_segmenter(tmp_path_factory.mktemp("model"), request.param)


def objective_over(model: str, folder: Path, *, files: Path | None = None) -> Objective:
    """Load an objective over drawn masks, with a source and two folds, on the first."""
    tables = [folder / name / "table.csv" for name in ("target", "source")]
    for seed, table in enumerate(tables):
        if not table.exists():
            write_masked(table.parent, count=24, seed=seed)
    target, source = spec_of_masks(tables[0], folds=2, test_rows=6), spec_of_masks(tables[1], test_rows=None)
    store = str(files) if files else None
    return objective_over_images(
        model, "segmentation", target, source, metric="mean_iou", evaluate_every=2, files=store
    )


def test_logits_and_loss_are_those_of_transformers(model: str, tmp_path: Path) -> None:
    """The model's own convolution is put in the place of the head: what it computes must come out."""
    path = model
    backbone: Any = BACKBONES["segmentation"](BackboneSpec(path, "segmentation"), CPU)
    assert guess_family(path) == "segmentation"
    assert count_layers(path, "segmentation") == backbone.n_layers == len(backbone.layers) >= 5
    labels = [f"label {number}" for number in range(5)]
    prompted = PromptedModel(backbone, LINEAR, TEMPLATE, None, labels, seed=0)
    reference = AutoModelForSemanticSegmentation.from_pretrained(path).eval()
    own = getattr(reference, "decode_head", None) or reference.segmentation_head
    classifier = getattr(own.classifier, "convolution", own.classifier)
    prompted.load_head(classifier.weight.detach()[:, :, 0, 0], classifier.bias.detach())
    processor = AutoImageProcessor.from_pretrained(path, backend="pil")
    fields, answers, images, masks = [], [], [], []
    for number in range(3):
        image, mask = draw_masked(number)
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        fields.append({"image": str(tmp_path / f"{number}.png")})
        answers.append(prompted.scorer.encode_answer(mask_as_data(mask)))
        images.append(image)
        masks.append(mask)
    inputs = processor(images, segmentation_maps=masks, return_tensors="pt")
    with torch.no_grad():
        own_pixels = backbone.layers.pixels(torch.tensor([backbone.image_ids(row["image"]) for row in fields]))
        torch.testing.assert_close(own_pixels, inputs["pixel_values"], atol=1e-6, rtol=0)
        expected = reference(own_pixels, labels=inputs["labels"])
        backbone.model.eval()
        logits = prompted.logits(prompted.batch(prompted.encode_fields(fields)), labels)
        loss = LOSSES["pixel_cross_entropy"](logits, targets_of("pixel_cross_entropy", answers, 5))
    torch.testing.assert_close(logits, expected.logits.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)
    assert float(loss) == pytest.approx(float(expected.loss), abs=1e-5)
    assert float(loss) > 0.1


def test_any_part_of_the_way_computes_the_same(model: str, tmp_path: Path) -> None:
    backbone = BACKBONES["segmentation"](BackboneSpec(model, "segmentation"), CPU)
    Image.fromarray(draw_masked(0)[0]).save(tmp_path / "image.png")
    ids = torch.tensor([backbone.image_ids(str(tmp_path / "image.png"))])
    frozen = [sum(own.requires_grad for own in backbone.pretrained.values())]
    with torch.no_grad():
        hidden = backbone.layers.run(input_ids=ids)
        assert float(hidden.abs().max()) > 0
        for depth in range(1, backbone.n_layers):
            below = backbone.layers.run(0, depth, input_ids=ids)
            assert torch.equal(backbone.layers.run(depth, None, below), hidden)
    for depth in range(1, backbone.n_layers + 1):
        backbone.freeze(depth)
        frozen.append(sum(own.requires_grad for own in backbone.pretrained.values()))
    assert frozen == sorted(set(frozen), reverse=True)
    assert frozen[-1] == 0


def test_no_trial_depends_on_those_before_it_and_what_is_saved_computes_the_same(model: str, tmp_path: Path) -> None:
    """Whatever is in the store, and in whatever order trials come, logits are the same bit for bit."""
    stored = objective_over(model, tmp_path, files=tmp_path / "files")
    facts, forms = stored.spec.space.facts, [*FORMS, replace(LINEAR, frozen_layers=stored.backbone.n_layers)]
    first = [stored.evaluate(candidate, seed=3) for candidate in forms]
    again = [stored.evaluate(candidate, seed=3).logits for candidate in reversed(forms)][::-1]
    fresh = objective_over(model, tmp_path, files=tmp_path / "files")
    read = [fresh.evaluate(candidate, seed=3).logits for candidate in reversed(forms)][::-1]
    for candidate, result, *others in zip(forms, first, again, read, strict=True):
        assert all(np.array_equal(result.logits, other) for other in others)
        scored = stored.score(candidate.canonical(facts), result.delta, stored.target.validation, seed=3)
        np.testing.assert_allclose(scored, result.logits, atol=2e-5)
    alone = objective_over(model, tmp_path).evaluate(FORMS[2], seed=3).logits
    assert np.array_equal(first[2].logits, alone)
    assert not np.array_equal(first[0].logits, first[1].logits)
    assert first[-1].trainable_parameters == len(CLASSES) * (16 + 1)


def test_frozen_weights_and_running_statistics_stay_bit_for_bit(model: str, tmp_path: Path) -> None:
    objective = objective_over(model, tmp_path)
    backbone = objective.backbone
    before = {name: own.clone() for name, own in backbone.model.state_dict().items()}
    objective.evaluate(replace(LINEAR, frozen_layers=2), seed=0)
    after, below = backbone.model.state_dict(), set(backbone.names_below(2))
    statistics = {name for name in before if "running_" in name or "num_batches" in name}
    assert statistics
    assert all(torch.equal(before[name], after[name]) for name in below | statistics)
    changed = {name for name in backbone.pretrained if not torch.equal(before[name], after[name])}
    assert changed
    assert any("_head." in name for name in changed)
    untrained = objective.evaluate(replace(LINEAR, steps=0), seed=0)
    assert objective.evaluate(replace(LINEAR, steps=8), seed=0).metrics["loss"] < 0.9 * untrained.metrics["loss"]


def test_masks_can_be_learnt(tmp_path: Path, tiny_models: TinyModels) -> None:
    objective = objective_over(tiny_models["segmentation"], tmp_path)
    task = objective.target
    result = objective.evaluate(replace(LINEAR, steps=60, learning_rate=5e-3, prompt_learning_rate=2e-2), seed=0)
    constant = task.measure(task.constant(task.validation), task.validation)
    assert result.metrics["mean_iou"] > constant["mean_iou"]
    assert result.metrics["loss"] < constant["loss"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"soft_prompt": SoftPrompt(2)}, "no tokens that vectors could stand among"),
        ({"adapter": Adapter("lora", 2)}, "adapter.method 'lora' is not supported"),
        ({"pooling": "first"}, "pooling 'first' does not apply"),
        ({"head": "probe"}, "reads an image as a whole"),
    ],
)
def test_what_the_family_does_not_have_is_refused(
    changes: dict[str, object], message: str, tmp_path: Path, tiny_models: TinyModels
) -> None:
    objective = objective_over(tiny_models["segmentation"], tmp_path)
    with pytest.raises(InvalidInputError, match=message):
        objective.untrained([replace(LINEAR, **changes)])  # type: ignore[arg-type]


def test_a_head_that_does_not_score_cells_is_refused_in_bundles_too(tiny_models: TinyModels) -> None:
    backbone = BACKBONES["segmentation"](BackboneSpec(tiny_models["segmentation"], "segmentation"), CPU)
    with pytest.raises(InvalidInputError, match="head 'probe' doesn't score cells"):
        PromptedModel(backbone, replace(LINEAR, head="probe"), TEMPLATE, None, CLASSES, seed=0)


def test_processors_must_make_square_images(tmp_path: Path) -> None:
    path = Path(write_tiny_segmenter(tmp_path / "model"))
    processor = path / "preprocessor_config.json"
    processor.write_text(processor.read_text().replace('"width": 32', '"width": 64'))
    with pytest.raises(InvalidInputError, match="makes images of 32 x 64 pixels, but square ones are needed"):
        BACKBONES["segmentation"](BackboneSpec(str(path), "segmentation"), CPU)

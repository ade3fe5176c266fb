"""Models of boxes run in part and frozen from below: outputs of transformers, and the same trial in any order."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForObjectDetection

from promptgraft.objectives.backbones import BACKBONES, NANODET, RT_DETR, count_layers, guess_family
from promptgraft.objectives.backbones.families import DETECTION
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Candidate, InvalidInputError, SoftPrompt
from tests.support.image_objectives import LABELS_OF_BOXES, TEMPLATE, found_beside, objective_over_images
from tests.support.images import spec_of_boxes, write_boxed
from tests.support.models import TinyModels, write_tiny_detector

CPU = torch.device("cpu")
LINEAR = Candidate(TEMPLATE.id, "", head="linear", steps=3, batch_size=8, learning_rate=1e-3)
FORMS = [
    LINEAR,
    replace(LINEAR, frozen_layers=2, steps=2),
    replace(LINEAR, source_steps=2, alpha=0.3, frozen_layers=1),
    replace(LINEAR, soft_prompt=SoftPrompt(3, place="frame"), frozen_layers=2),
]


IN_THE_GATE = [pytest.param(own, marks=() if own != "rt_detr_v2" else pytest.mark.slow) for own in DETECTION]


@pytest.fixture(scope="module", params=IN_THE_GATE)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small random model of each architecture; returns its folder."""
    return write_tiny_detector(tmp_path_factory.mktemp("model"), request.param)


def objective_over(model: str, folder: Path, *, files: Path | None = None) -> Objective:
    """Load an objective over drawn boxes, with a source and two folds, on the first."""
    tables = [folder / name / "table.jsonl" for name in ("target", "source")]
    for seed, table in enumerate(tables):
        if not table.exists():
            write_boxed(table.parent, count=24, seed=seed)
    target, source = spec_of_boxes(tables[0], folds=2, test_rows=6), spec_of_boxes(tables[1], test_rows=None)
    store = str(files) if files else None
    return objective_over_images(model, "detection", target, source, metric="map", evaluate_every=2, files=store)


def last_layer_of(model: Any) -> nn.Linear:
    """Return what scores a model's labels and, unless it scores each label alone, that there is no object."""
    if model.config.model_type in RT_DETR:
        return cast("nn.Linear", model.model.decoder.class_embed[-1])
    head = model.class_labels_classifier
    return cast("nn.Linear", head.layers[-1] if hasattr(head, "layers") else head)


@pytest.mark.parametrize("model", sorted({*DETECTION} - {NANODET}), indirect=True)
def test_outputs_are_those_of_transformers_in_whatever_parts(model: str, tmp_path: Path) -> None:
    path = model
    backbone = BACKBONES["detection"](BackboneSpec(path, "detection"), CPU)
    assert guess_family(path) == "detection"
    assert count_layers(path, "detection") == backbone.n_layers == len(backbone.layers) >= 3
    prompted = PromptedModel(backbone, LINEAR, TEMPLATE, None, LABELS_OF_BOXES, seed=0)
    reference = AutoModelForObjectDetection.from_pretrained(path).eval()
    last = last_layer_of(reference)
    weight = nn.functional.pad(last.weight, (0, 0, 0, 3 - len(last.weight)))
    bias = nn.functional.pad(last.bias, (0, 3 - len(last.bias)))
    own = {"weight": weight[:2], "bias": bias[:2], "nothing": weight[2:], "nothing_bias": bias[2:]}
    prompted.load({f"reader.{name}": value.detach() for name, value in own.items()})
    expected, outputs = found_beside(reference, prompted, tmp_path)
    logits = nn.functional.pad(expected.logits, (0, 3 - expected.logits.shape[-1]))
    both = torch.cat([logits, expected.pred_boxes], dim=-1)
    torch.testing.assert_close(outputs, both, atol=1e-5, rtol=1e-5)
    frozen = [sum(own.requires_grad for own in backbone.pretrained.values())]
    for depth in range(1, backbone.n_layers + 1):
        backbone.freeze(depth)
        frozen.append(sum(own.requires_grad for own in backbone.pretrained.values()))
    assert frozen == sorted(set(frozen), reverse=True)
    assert frozen[-1] == 0


def test_no_trial_depends_on_those_before_it_and_what_is_saved_computes_the_same(model: str, tmp_path: Path) -> None:
    """Whatever is in the store, and in whatever order trials come, outputs are the same bit for bit."""
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
    assert first[-1].trainable_parameters == 3 * (32 + 1)


def test_frozen_weights_stay_and_boxes_are_learnt(model: str, tmp_path: Path) -> None:
    objective = objective_over(model, tmp_path)
    backbone = objective.backbone
    before = {name: own.clone() for name, own in backbone.model.state_dict().items()}
    short = objective.evaluate(replace(LINEAR, frozen_layers=1, steps=0), seed=0)
    long = objective.evaluate(replace(LINEAR, frozen_layers=1, steps=80, learning_rate=2e-3), seed=0)
    after = backbone.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in backbone.names_below(1))
    boxes = [name for name in before if name.startswith("bbox_predictor.") or ".bbox_embed." in name]
    assert not all(torch.equal(before[name], after[name]) for name in boxes)
    assert long.metrics["loss"] < 0.9 * short.metrics["loss"]


def test_models_that_cannot_serve_are_refused(tmp_path: Path, tiny_models: TinyModels) -> None:
    backbone = BACKBONES["detection"](BackboneSpec(tiny_models["detection"], "detection"), CPU)
    with pytest.raises(InvalidInputError, match="head 'probe' doesn't score boxes"):
        PromptedModel(backbone, replace(LINEAR, head="probe"), TEMPLATE, None, LABELS_OF_BOXES, seed=0)
    model = AutoModelForObjectDetection.from_pretrained(tiny_models["detection"])
    model.config.use_mid_position_embeddings = True
    type(model)(model.config).save_pretrained(tmp_path)
    processor = Path(tiny_models["detection"]) / "preprocessor_config.json"
    (tmp_path / "preprocessor_config.json").write_text(processor.read_text())
    with pytest.raises(InvalidInputError, match="adds positions in every layer"):
        BACKBONES["detection"](BackboneSpec(str(tmp_path), "detection"), CPU)


def test_an_rt_detr_with_transformers_default_resnet_has_six_blocks(tmp_path: Path) -> None:
    """Whose configuration needn't state how many stages it has."""
    AutoConfig.for_model("rt_detr").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["backbone_config"].pop("depths", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert (
        count_layers(str(tmp_path), "detection") == len(AutoConfig.from_pretrained(tmp_path).backbone_config.depths) + 2
    )


def test_an_rt_detr_with_other_convolutions_is_refused(tmp_path: Path) -> None:
    path = write_tiny_detector(tmp_path / "right", "rt_detr")
    config = AutoConfig.from_pretrained(path)
    own = {name: getattr(config.backbone_config, name) for name in ("hidden_sizes", "depths", "out_features")}
    config.backbone_config = AutoConfig.for_model("convnext", **own)
    AutoModelForObjectDetection.from_config(config).save_pretrained(tmp_path / "other")
    processor = Path(path) / "preprocessor_config.json"
    (tmp_path / "other" / "preprocessor_config.json").write_text(processor.read_text())
    with pytest.raises(InvalidInputError, match=r"the convolutions are a ConvNextBackbone.*rt_detr_resnet"):
        BACKBONES["detection"](BackboneSpec(str(tmp_path / "other"), "detection"), CPU)

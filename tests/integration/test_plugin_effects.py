"""What the documented backbone and parameter do, against the same by hand."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from promptgraft.objectives.measures import Sizes
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.objectives.trial.training import TrainingSettings
from promptgraft.spaces import CUSTOM_PARAMETERS, Candidate, InvalidInputError, SoftPrompt
from promptgraft.spaces.custom_parameters import custom_parameter
from tests.support.models import TINY_LAYERS
from tests.support.plugins import loaded
from tests.support.specs import TEMPLATES, VERBALIZERS

MakeSpec = Callable[..., ObjectiveSpec]
BASE = Candidate(TEMPLATES[0].id, VERBALIZERS[1].id, steps=3, batch_size=4, learning_rate=1e-3)


@pytest.fixture
def first_token(tiny_models: dict[str, str], make_spec: MakeSpec) -> Iterator[ObjectiveSpec]:
    with loaded("my_backbone"):
        yield make_spec(tiny_models["encoder"], "first_token")


@pytest.fixture
def smoothing() -> Iterator[None]:
    with loaded("my_parameter"):
        yield


def test_the_readme_s_backbone_reads_the_first_token(first_token: ObjectiveSpec) -> None:
    """Before any training: the cosine of the text's first hidden state to those of the label words."""
    objective = Objective(first_token)
    tokenizer = AutoTokenizer.from_pretrained(first_token.backbone.path)
    model = AutoModel.from_pretrained(first_token.backbone.path).eval()

    def embed(text: str) -> torch.Tensor:
        with torch.no_grad():
            return functional.normalize(model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0], dim=0)

    rows = [row for row in objective.target.validation if len(row.fields["text"]) < 100][:3]
    empty, labels = TEMPLATES[0].render({"text": ""}), objective.target.labels
    words = [[empty.with_label(word).strip() for word in VERBALIZERS[1].words[label]] for label in labels]
    weight = functional.normalize(torch.stack([torch.stack(list(map(embed, own))).mean(0) for own in words]), dim=1)
    texts = [TEMPLATES[0].render(row.fields).without_label() for row in rows]
    expected = 20.0 * torch.stack(list(map(embed, texts))) @ weight.T
    assert len(rows) == 3
    assert np.abs(objective.score(BASE, {}, rows) - expected.numpy()).max() < 1e-3


@pytest.mark.parametrize("place", ["prefix", "suffix", "layer 1"])
def test_a_plugin_s_backbone_keeps_the_contract(first_token: ObjectiveSpec, place: str, tmp_path: Path) -> None:
    candidate = replace(
        BASE, soft_prompt=SoftPrompt(2, "label_words", place), frozen_layers=2, source_steps=2, alpha=0.5
    )
    spec = replace(first_token, files=str(tmp_path))
    result = Objective(spec).evaluate(candidate, 0)
    again = Objective(first_token).evaluate(candidate, 0)
    assert np.array_equal(result.logits, again.logits), "the same with a store or without"
    assert Objective(spec).evaluate(candidate, 0).stages.misses == 0
    objective = Objective(first_token)
    sizes = Sizes(spec.backbone, spec.space, objective.labels)
    assert sizes.trainable_parameters(candidate) == result.trainable_parameters
    encoder = Objective(replace(first_token, backbone=replace(first_token.backbone, family="encoder")))
    assert not np.array_equal(encoder.evaluate(candidate, 0).logits, result.logits)


@pytest.mark.usefixtures("smoothing")
def test_the_readme_s_parameter_smooths_the_labels(
    tiny_models: dict[str, str], make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = make_spec(tiny_models["encoder"], "encoder", files=str(tmp_path))
    objective = Objective(spec)
    # All rows in one batch, and no dropout: the first update's loss is that of the untrained model.
    candidate = replace(BASE, steps=1, batch_size=16, frozen_layers=TINY_LAYERS, custom=(("label_smoothing", 0.2),))
    *_, last = objective.run(candidate, 0)
    rows = objective.target.train
    log_p = torch.from_numpy(objective.score(candidate, {}, rows)).log_softmax(1)
    nll = -log_p[torch.arange(len(rows)), torch.tensor([row.label for row in rows])].mean()
    assert last.target_loss == pytest.approx(float(0.8 * nll - 0.2 * log_p.mean()), abs=1e-5)
    assert last.target_loss != pytest.approx(float(nll), abs=1e-4)
    trained = replace(BASE, source_steps=2, alpha=0.5)
    plain = objective.evaluate(trained, 0, at=3)
    smoothed = objective.evaluate(replace(trained, custom=(("label_smoothing", 0.2),)), 0, at=3)
    assert not np.array_equal(plain.logits, smoothed.logits)
    assert smoothed.stages.misses == 0, "the source stage is the same"
    neutral = objective.evaluate(replace(trained, custom=(("label_smoothing", 0.0),)), 0, at=3)
    assert np.array_equal(plain.logits, neutral.logits)


def test_a_parameter_may_change_any_setting_of_the_training(tiny_models: dict[str, str], make_spec: MakeSpec) -> None:
    changes = {"max_gradient_norm": 0.01, "warmup": 1.0, "weight_decay": 10.0}
    with CUSTOM_PARAMETERS.temporarily():
        for name in changes:
            custom_parameter(name, neutral=-1.0)(lambda settings, value, name=name: replace(settings, **{name: value}))
        candidates = [replace(BASE, custom=((name, value),)) for name, value in changes.items()]
        settings = TrainingSettings.of(replace(BASE, custom=tuple(changes.items())), None)
        objective = Objective(make_spec(tiny_models["encoder"], "encoder"))
        losses = [list(objective.run(candidate, 0))[-1].metrics["loss"] for candidate in (BASE, *candidates)]
    assert {name: getattr(settings, name) for name in changes} == changes
    assert len(set(losses)) == 4
    with pytest.raises(InvalidInputError, match="unknown custom parameter 'warmup'; no installed package provides any"):
        objective.evaluate(candidates[1], 0)

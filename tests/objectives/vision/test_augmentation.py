"""Training images that change at random: by their seed alone, with their answers, and never where rows are scored."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from promptgraft.objectives.data import boxes_of, mask_in
from promptgraft.objectives.file_store import FileStore
from promptgraft.objectives.prompting import EncodedRow
from promptgraft.objectives.trial import Checkpoint, Objective, checkpoints
from promptgraft.objectives.trial.trial_data import TrainingData, balanced_batches, batches
from promptgraft.objectives.vision.augmentation import View
from promptgraft.spaces import DIMENSIONS, Candidate, SoftPrompt
from tests.support.image_objectives import TEMPLATE, objective_over_images
from tests.support.images import (
    draw,
    spec_of_boxes,
    spec_of_images,
    spec_of_masks,
    write_boxed,
    write_images,
    write_masked,
)
from tests.support.models import TinyModels

CHANGES = [name for name in DIMENSIONS["augmentation"].options if name != "none"]
LINEAR = Candidate(TEMPLATE.id, "", head="linear", steps=3, batch_size=16, learning_rate=1e-3, frozen_layers=1)
FLIPPED = replace(LINEAR, augmentation="flip")
# 15 training rows: the last of the 3 batches is of the third pass.
KINDS = {
    "vit": (write_images, spec_of_images, {}),
    "convolutional": (write_images, spec_of_images, {}),
    "segmentation": (write_masked, spec_of_masks, {"metric": "mean_iou"}),
    "detection": (write_boxed, spec_of_boxes, {"metric": "map"}),
}


def objective_over(family: str, model: str, folder: Path, *, files: Path | None = None) -> Objective:
    """Load an objective over drawn images with the family's answers, and a source."""
    write, spec_of, settings = KINDS[family]
    folders = [folder / "target", folder / "source"]
    tables = [next(own.glob("table.*"), None) or write(own, 40, seed) for seed, own in enumerate(folders)]
    specs = spec_of(tables[0], folds=2, test_rows=10), spec_of(tables[1], test_rows=None)
    own: dict[str, Any] = {"evaluate_every": 1, "files": str(files) if files else None}
    return objective_over_images(model, family, *specs, **own, **settings)


def drawn(objective: Objective, candidate: Candidate, steps: int, *, balanced: bool = False) -> list[EncodedRow]:
    """Return the rows that so many updates train on."""
    (model,) = objective.untrained([candidate])
    data = TrainingData.of(objective.target, model.encode(objective.target.train), model)
    batch = balanced_batches(data, 8, seed=5) if balanced else batches(data, 8, seed=5)
    return [row for _ in range(steps) for row in next(batch)]


def pixels_of(objective: Objective, rows: list[EncodedRow]) -> torch.Tensor:
    layers: Any = objective.backbone.layers
    found: torch.Tensor = layers._pixels([row.ids[0] for row in rows], torch.device("cpu"))
    return found


@pytest.mark.parametrize("name", CHANGES)
def test_a_view_is_that_of_its_seed(name: str) -> None:
    pixels = torch.from_numpy(draw(1)).permute(2, 0, 1)
    views = [View(7, name, f"{seed} 0") for seed in range(20)]
    found = [view.of(pixels) for view in views]
    assert all(torch.equal(View(7, name, view.seed).of(pixels), own) for view, own in zip(views, found, strict=True))
    assert all(own.shape == pixels.shape and own.dtype == torch.uint8 for own in found)
    different = {own.numpy().tobytes() for own in found}
    assert len(different) == 2 if name == "flip" else len(different) > 10
    assert len({view.own_number for view in views} | {View(8, name, "0 0").own_number}) == 21
    for view, own in zip(views, found, strict=True):
        assert torch.equal(own, pixels.flip(2)) == view.mirrored


@pytest.mark.parametrize("family", ["vit", "convolutional"])
def test_no_trial_depends_on_those_before_it(family: str, tmp_path: Path, tiny_models: TinyModels) -> None:
    """With or without a store, in whatever order: logits are the same bit for bit."""
    if family == "vit":
        candidates = [LINEAR, FLIPPED, replace(FLIPPED, soft_prompt=SoftPrompt(2, place="layer 1"), frozen_layers=3)]
    else:
        candidates = [replace(LINEAR, augmentation=name) for name in CHANGES]
        candidates += [replace(FLIPPED, alpha=0.5, source_steps=2), replace(FLIPPED, head="probe", frozen_layers=2)]
        candidates += [LINEAR, replace(FLIPPED, head="probe", contrastive_steps=2)]
    stored = objective_over(family, tiny_models[family], tmp_path, files=tmp_path / "files")
    first = [stored.evaluate(candidate, seed=3).logits for candidate in candidates]
    again = [stored.evaluate(candidate, seed=3).logits for candidate in reversed(candidates)][::-1]
    bare = objective_over(family, tiny_models[family], tmp_path)
    alone = [bare.evaluate(candidate, seed=3).logits for candidate in reversed(candidates)][::-1]
    for logits, *others in zip(first, again, alone, strict=True):
        assert all(np.array_equal(logits, other) for other in others)
    assert len({logits.tobytes() for logits in first}) == len(candidates)
    assert not np.array_equal(first[0], stored.evaluate(candidates[0], seed=4).logits)


def test_what_is_scored_and_what_stands_below_are_shared(tmp_path: Path, tiny_models: TinyModels) -> None:
    objective = objective_over("convolutional", tiny_models["convolutional"], tmp_path, files=tmp_path / "files")
    plain = objective.run(LINEAR, 0)
    before = next(plain)
    *_, last = plain
    changed = objective.run(FLIPPED, 0)
    assert next(changed) == before
    *_, other = changed
    assert last.result is not None
    assert other.result is not None
    assert last.result.stages.misses > 0
    assert other.result.stages.misses == 0, "neither pixels nor activations of validation rows are computed again"
    assert last.target_loss != other.target_loss
    scored = objective.score(FLIPPED, other.result.delta, objective.target.validation, seed=0)
    np.testing.assert_allclose(scored, other.result.logits, atol=2e-5)


@pytest.mark.parametrize("family", ["convolutional", "detection"])
def test_a_cycle_goes_on_behind_a_kill(
    family: str, tmp_path: Path, tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_SPARING", 0)
    candidate, model = replace(FLIPPED, alpha=0.5), tiny_models[family]
    whole = objective_over(family, model, tmp_path).evaluate(candidate, 0)
    saved = Checkpoint(FileStore(str(tmp_path)), "cycle.safetensors", every_s=0.0)
    stopped = objective_over(family, model, tmp_path).run(candidate, 0, saved)
    assert [next(stopped).step for _ in range(3)] == [0, 1, 2]
    *_, last = objective_over(family, model, tmp_path).run(candidate, 0, saved)
    assert last.result is not None
    assert last.result.resumed_at == 1
    assert np.array_equal(last.result.logits, whole.logits)


@pytest.mark.parametrize("balanced", [False, True])
def test_every_pass_shows_other_views(balanced: bool, tmp_path: Path, tiny_models: TinyModels) -> None:
    objective = objective_over("convolutional", tiny_models["convolutional"], tmp_path)
    plain, views = (
        drawn(objective, own, 8, balanced=balanced) for own in (LINEAR, replace(LINEAR, augmentation="color"))
    )
    assert [row.answer for row in plain] == [row.answer for row in views]
    assert len({row.ids for row in plain}) < len({row.ids for row in views}) == len(views)
    assert not any(row.is_view for row in plain)
    assert all(row.is_view for row in views)
    both = [pixels_of(objective, rows) for rows in (plain, views)]
    assert both[0].shape == both[1].shape
    assert not torch.equal(*both)


@pytest.mark.parametrize("family", ["segmentation", "detection"])
def test_answers_about_places_are_mirrored_with_their_image(
    family: str, tmp_path: Path, tiny_models: TinyModels
) -> None:
    objective = objective_over(family, tiny_models[family], tmp_path)
    plain, views = (drawn(objective, own, 2) for own in (LINEAR, FLIPPED))
    mirrored = [not torch.equal(*pixels_of(objective, [row, view])) for row, view in zip(plain, views, strict=True)]
    assert 2 < sum(mirrored) < len(mirrored) - 2
    for row, view, is_mirrored in zip(plain, views, mirrored, strict=True):
        own, other = str(row.answer), str(view.answer)
        if not is_mirrored:
            assert own == other
        elif family == "segmentation":
            assert np.array_equal(mask_in(own)[:, ::-1], mask_in(other))
        else:
            (left, top, width, height), found = boxes_of(own).corners.T, boxes_of(other)
            np.testing.assert_allclose(found.corners.T, [1 - left - width, top, width, height], atol=1e-12)
            assert np.array_equal(found.labels, boxes_of(own).labels)


@pytest.mark.parametrize("family", ["segmentation", "detection"])
def test_no_trial_over_places_depends_on_those_before_it(family: str, tmp_path: Path, tiny_models: TinyModels) -> None:
    candidates = [LINEAR, FLIPPED, replace(LINEAR, augmentation="color"), replace(FLIPPED, alpha=0.5)]
    stored = objective_over(family, tiny_models[family], tmp_path, files=tmp_path / "files")
    first = [stored.evaluate(candidate, seed=3).logits for candidate in candidates]
    bare = objective_over(family, tiny_models[family], tmp_path)
    alone = [bare.evaluate(candidate, seed=3).logits for candidate in reversed(candidates)][::-1]
    assert all(np.array_equal(*both) for both in zip(first, alone, strict=True))
    assert len({logits.tobytes() for logits in first}) == len(candidates)

"""A study of masks: what it searches by default, which models fit, and what it refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptgraft.objectives.trial import Objective
from promptgraft.search.sampling import baseline_candidates, start_points
from promptgraft.search.study import load_study
from promptgraft.search.study.yaml_lines import StudyFileError
from promptgraft.spaces import Candidate
from tests.support.images import CLASSES, write_masked
from tests.support.models import TinyModels
from tests.support.studies import write_study_file


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("masks")
    return write_masked(folder / "target", count=24), write_masked(folder / "source", count=12, seed=1)


def write(folder: Path, tables: tuple[Path, Path], model: str, family: str = "segmentation", **sections: Any) -> Path:
    task = {"kind": "semantic_segmentation", "text": {"image": "image"}, "label": "mask", "labels": list(CLASSES)}
    content: dict[str, Any] = {
        "source": task | {"train": str(tables[1])},
        "target": task | {"train": str(tables[0]), "test_rows": 6, "folds": 2},
        "space": "auto",
        "baselines": None,
        "judging": None,
    }
    return write_study_file(folder / "study.yaml", {"path": model, "family": family}, **content | sections)


def problems(path: Path) -> dict[str, str]:
    with pytest.raises(StudyFileError) as caught:
        load_study(path, rehearsed=False)
    return {problem.where: problem.message for problem in caught.value.problems}


def test_a_default_space_can_be_run(tables: tuple[Path, Path], tmp_path: Path, tiny_models: TinyModels) -> None:
    study = load_study(write(tmp_path, tables, tiny_models["segmentation"]), rehearsed=True)
    names = {parameter.name for parameter in study.objective.space.parameters}
    assert {"steps", "frozen_layers", "source_steps", "alpha"} <= names
    assert names.isdisjoint({"contrastive_steps", "probe_c", "pooling"})
    assert set(baseline_candidates(study)) == {"full_fine_tuning"}
    points = start_points(study)
    assert points
    assert study.cautions == ()


def test_models_and_kinds_must_fit(tables: tuple[Path, Path], tmp_path: Path, tiny_models: TinyModels) -> None:
    found = problems(write(tmp_path, tables, tiny_models["convolutional"], "convolutional"))
    assert found["backbone.family"] == (
        "'convolutional' answers with labels, and answers of kind 'semantic_segmentation' are masks; use segmentation"
    )
    task = {"kind": "image_classification", "train": str(tables[0]), "text": {"image": "image"}, "label": "mask"}
    found = problems(write(tmp_path, tables, tiny_models["segmentation"], target=task, source=None))
    assert "are labels; use clip or convolutional or vit" in found["backbone.family"]
    found = problems(write(tmp_path, tables, tiny_models["vit"]))
    assert "write family: vit" in found["backbone.family"]


def test_what_does_not_apply_is_refused(tables: tuple[Path, Path], tmp_path: Path, tiny_models: TinyModels) -> None:
    space = {
        "head": ["linear", "probe"],
        "soft_prompt": {"length": [0, 2], "place": "suffix"},
        "adapter": {"method": ["none", "lora"]},
        "frozen_layers": [0, 6],
    }
    baselines = ["linear_probe", "full_fine_tuning"]
    found = problems(write(tmp_path, tables, tiny_models["segmentation"], space=space, baselines=baselines))
    assert "reads an image as a whole" in found["space.head"]
    assert "no tokens that vectors could stand among" in found["space.soft_prompt.place"]
    assert "'lora' is not supported" in found["space.adapter.method"]
    assert "must be in [0, 5]" in found["space.frozen_layers"]
    assert "linear_probe does not apply" in found["baselines"]
    target = {"kind": "semantic_segmentation", "train": str(tables[0]), "text": {"image": "image"}, "label": "mask"}
    found = problems(write(tmp_path, tables, tiny_models["segmentation"], target=target, source=None))
    assert "`labels` must name 2 to 254 of them" in found["target"]


def test_parts_of_a_batch_count_by_their_pixels(
    tables: tuple[Path, Path], tmp_path: Path, tiny_models: TinyModels
) -> None:
    """Half of the masks are ignored but for a few lines: their rows must not count as much as the others'."""
    from PIL import Image

    own = tmp_path / "own"
    table = write_masked(own, count=24)
    for number in range(0, 24, 2):
        path = own / "masks" / f"{number}.png"
        mask = np.array(Image.open(path))
        mask[:34] = np.where(mask[:34] == 0, 255, mask[:34])
        Image.fromarray(mask).save(path)
    study = load_study(write(tmp_path, (table, tables[1]), tiny_models["segmentation"], source=None), rehearsed=False)
    candidate = Candidate(study.objective.space.templates[0].id, "", "linear", steps=2, batch_size=8, frozen_layers=5)
    spec = replace(study.objective, files=None)
    whole = Objective(spec).evaluate(candidate, 0, at=2)
    for rows in (3, 1):
        parts = replace(spec, backbone=replace(spec.backbone, micro_batch_size=rows))
        found = Objective(parts).evaluate(candidate, 0, at=2)
        np.testing.assert_allclose(found.logits, whole.logits, atol=1e-5)

"""A study of images: what it needs, what it searches by default, and what of texts it refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from promptgraft.objectives.backbones import FAMILIES
from promptgraft.objectives.data import TASK_KINDS
from promptgraft.search.sampling import baseline_candidates, start_points
from promptgraft.search.study import load_study, space_text
from promptgraft.search.study.yaml_lines import StudyFileError
from promptgraft.spaces import Candidate, SoftPrompt, extremes
from tests.support.images import write_images
from tests.support.models import TinyModels
from tests.support.studies import write_study_file

CHANGES = ("none", "flip", "crop", "color", "rand_augment")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("images")
    return write_images(folder / "target"), write_images(folder / "source", seed=1)


def write(folder: Path, tables: tuple[Path, Path], model: str, family: str = "vit", **sections: Any) -> Path:
    task = {"kind": "image_classification", "text": {"image": "image"}, "label": "colour"}
    content: dict[str, Any] = {
        "source": task | {"train": str(tables[1])},
        "target": task | {"train": str(tables[0]), "test_rows": 12},
        "space": "auto",
        "baselines": None,
        "judging": None,
    }
    backbone = None if "backbones" in sections else {"path": model, "family": family}
    return write_study_file(folder / "study.yaml", backbone, **content | sections)


def problems(path: Path, *, rehearsed: bool = False) -> dict[str, str]:
    with pytest.raises(StudyFileError) as caught:
        load_study(path, rehearsed=rehearsed)
    return {problem.where: problem.message for problem in caught.value.problems}


@pytest.mark.parametrize("family", ["vit", "convolutional"])
def test_a_default_space_can_be_run(
    family: str, tables: tuple[Path, Path], tmp_path: Path, tiny_models: TinyModels
) -> None:
    study = load_study(write(tmp_path, tables, tiny_models[family], family), rehearsed=True)
    names = {parameter.name for parameter in study.objective.space.parameters}
    assert {"head", "steps", "frozen_layers", "contrastive_steps", "source_steps", "alpha"} <= names
    assert ("pooling" in names) == (family == "vit")
    assert study.objective.space.verbalizers == ()
    assert "templates" not in space_text(study.file)
    assert "zero_shot" not in study.file.judging.controls
    assert study.cautions == ()
    tried = baseline_candidates(study)
    assert {"linear_probe", "linear_probe_with_source", "contrastive", "full_fine_tuning"} <= set(tried)
    assert "zero_shot" not in tried
    assert start_points(study)


@pytest.mark.parametrize("family", ["vit", "convolutional"])
def test_a_probe_of_images_has_a_weak_penalty_unless_a_study_says_otherwise(
    family: str, tables: tuple[Path, Path], tmp_path: Path, tiny_models: TinyModels
) -> None:
    """With scikit-learn's default it hardly learns: 0.30 in place of 0.58 on `studies/digits.yaml`."""

    def found(space: Any) -> dict[str, Any]:
        study = load_study(write(tmp_path, tables, tiny_models[family], family, space=space))
        assert baseline_candidates(study)["linear_probe"].probe_c == FAMILIES[family].probe_c == 30
        return {own.name: extremes(own) for own in study.objective.space.all_parameters()}

    low, high = found("auto")["probe_c"]
    assert low <= 10 < 900 <= high
    assert found({"head": ["probe", "linear"]})["probe_c"] == (30.0,)
    assert found({"head": "probe", "probe_c": 1.0})["probe_c"] == (1.0,)
    assert "probe_c" not in found({"head": "linear"})


def test_what_is_searched_of_texts_is_refused(
    tables: tuple[Path, Path], tmp_path: Path, tiny_models: TinyModels
) -> None:
    space = {
        "templates": {"own": "{{ image }} {{ label }}"},
        "verbalizers": {"own": {"red": "red", "green": "green", "blue": "blue"}},
        "grow": {"sources": ["mutation"]},
        "head": ["linear", "label_words"],
        "demonstrations": {"count": 2},
        "soft_prompt": {"length": [0, 2], "init": "template", "place": "suffix"},
        "calibration": ["none", "batch"],
    }
    judging = {"controls": ["zero_shot"]}
    found = problems(write(tmp_path, tables, tiny_models["vit"], space=space, judging=judging))
    for name in ("templates", "verbalizers", "grow"):
        assert "rows of this kind of task are images; leave it out" in found[f"space.{name}"]
    for name in ("head", "soft_prompt.init", "calibration"):
        assert "needs words" in found[f"space.{name}"]
    assert "needs texts" in found["space.demonstrations.count"]
    assert "use prefix or layer K" in found["space.soft_prompt.place"]
    assert "zero_shot does not apply to models that read no label words" in found["judging.controls"]


@pytest.mark.parametrize("effort", ["quick", "best"])
def test_models_that_read_texts_of_labels_search_them(
    effort: str, tables: tuple[Path, Path], tmp_path: Path, tiny_models: TinyModels
) -> None:
    study = load_study(write(tmp_path, tables, tiny_models["clip"], "clip", effort=effort), rehearsed=True)
    space = study.objective.space
    assert [template.text for template in space.templates] == ["a photo of {{ label }}", "{{ label }}"]
    assert space.verbalizers[0].words["red"] == ("red",)
    names = {parameter.name for parameter in space.parameters}
    assert {"head", "soft_prompt.length", "frozen_layers", "probe_c", "prompt_learning_rate"} <= names
    assert "a photo of {{ label }}" in space_text(study.file)
    first = baseline_candidates(study)["zero_shot"]
    assert (first.head, first.template, first.verbalizer) == (
        "label_words",
        space.templates[0].id,
        space.verbalizers[0].id,
    )
    assert ("zero_shot" in study.file.judging.controls) == (effort == "best")
    assert start_points(study)
    assert study.cautions == ()


def test_what_texts_of_labels_can_not_hold_is_refused(
    tables: tuple[Path, Path], tmp_path: Path, tiny_models: TinyModels
) -> None:
    space = {
        "templates": {"own": "{{ image }} of {{ label }}"},
        "verbalizers": {"own": {"red": "red", "green": "green", "blue": "blue"}},
        "grow": {"sources": ["mutation"], "verbalizers": 1},
        "soft_prompt": {"length": [0, 2], "place": ["prefix", "layer 1"]},
        "calibration": ["none", "contextual"],
    }
    found = problems(write(tmp_path, tables, tiny_models["clip"], "clip", space=space))
    assert "has the field 'image', but the model compares the image with the text" in found["space.templates.own"]
    assert (
        "whose vectors stand among the words of a label's text; use prefix or suffix"
        in found["space.soft_prompt.place"]
    )
    assert "'contextual' needs texts" in found["space.calibration"]
    assert "can't be searched with a clip model" in found["space.grow.verbalizers"]
    long = {"templates": {"long": "a photo of the very, very, very last {{ label }}"}, "soft_prompt": {"length": 4}}
    found = problems(write(tmp_path, tables, tiny_models["clip"], "clip", space=long), rehearsed=True)
    assert "has 24 positions; shorten the template" in found["space.templates.long"]
    short = {"templates": {"short": "{{ label }}"}, "soft_prompt": {"length": [0, 40]}}
    found = problems(write(tmp_path, tables, tiny_models["clip"], "clip", space=short), rehearsed=True)
    assert "and 40 context vectors" in found["space.soft_prompt.length"]


def test_templates_are_of_those_backbones_that_read_them(
    tables: tuple[Path, Path], tmp_path: Path, tiny_models: TinyModels
) -> None:
    backbones = {name: {"path": tiny_models[name], "family": name} for name in ("vit", "clip")}
    space = {"templates": {"own": "one {{ label }}", "other": "{{ label }}"}, "head": ["label_words", "linear"]}
    path = write(tmp_path, tables, "", backbones=backbones, space=space)
    study = load_study(path, rehearsed=True)
    spaces = study.objective.space.backbones
    assert [template.name for template in spaces["clip"].templates] == ["own", "other"]
    assert [template.text for template in spaces["vit"].templates] == ["{{ image }} {{ label }}"]
    assert (len(spaces["clip"].verbalizers), len(spaces["vit"].verbalizers)) == (1, 0)
    assert "zero_shot" not in study.file.judging.controls


def test_images_may_change_at_random_and_texts_may_not(
    tables: tuple[Path, Path], tmp_path: Path, tiny_models: TinyModels
) -> None:
    space = {"head": "linear", "augmentation": CHANGES}
    study = load_study(write(tmp_path, tables, tiny_models["vit"], space=space), rehearsed=True)
    (own,) = (own for own in study.objective.space.parameters if own.name == "augmentation")
    assert extremes(own) == CHANGES
    found = problems(write(tmp_path, tables, tiny_models["vit"], space={"head": "linear", "augmentation": "flipp"}))
    assert found["space.augmentation"] == "augmentation cannot be 'flipp'; did you mean 'flip'?"
    assert TASK_KINDS["text_classification"].refuses("augmentation", "none") is None
    for kind in ("text_classification", "multi_label", "regression", "text_generation", "recommendation"):
        assert TASK_KINDS[kind].refuses("augmentation", "flip") == (
            "augmentation 'flip' changes images, and rows of this kind of task are texts; leave it out"
        )
    assert TASK_KINDS["object_detection"].refuses("augmentation", "crop") == (
        "augmentation 'crop' moves what an image shows, but this kind of task finds boxes; use 'none' or 'flip' or "
        "'color'"
    )


def test_models_and_tasks_must_fit(tables: tuple[Path, Path], tmp_path: Path, tiny_models: TinyModels) -> None:
    found = problems(write(tmp_path, tables, tiny_models["encoder"], "encoder"))
    assert found["backbone.family"] == (
        "'encoder' reads text, and rows of kind 'image_classification' are images; use clip or convolutional or vit"
    )
    texts = {"kind": "text_classification", "train": str(tables[0]), "text": "image", "label": "colour"}
    found = problems(write(tmp_path, tables, tiny_models["vit"], target=texts, source=None))
    assert "'vit' reads images, and rows of kind 'text_classification' are texts" in found["backbone.family"]
    found = problems(write(tmp_path, tables, tiny_models["vit"], "convolutional"))
    assert "write family: vit" in found["backbone.family"]


def test_candidates_are_counted_for_constraints(
    tables: tuple[Path, Path], tmp_path: Path, tiny_models: TinyModels
) -> None:
    space = {"head": "linear", "soft_prompt": {"length": [0, 4], "place": ["prefix", "layer 1"]}, "frozen_layers": 3}
    limits = {"trainable_parameters": 99 + 4 * 32, "prompt_tokens": 4}
    study = load_study(write(tmp_path, tables, tiny_models["vit"], space={**space, "steps": 4}, constraints=limits))
    bounds = study.constraints
    assert bounds is not None
    first = Candidate(study.objective.space.templates[0].id, "", "linear", frozen_layers=3, steps=4)
    for length, place, allowed in (
        (0, "prefix", True),
        (4, "prefix", True),
        (4, "layer 1", True),
        (5, "prefix", False),
    ):
        candidate = replace(first, soft_prompt=SoftPrompt(length, place=place))
        assert (not bounds.broken_by(candidate)) == allowed


def test_one_column_of_images_is_needed(tables: tuple[Path, Path], tmp_path: Path, tiny_models: TinyModels) -> None:
    target = {"kind": "image_classification", "train": str(tables[0]), "label": "colour"}
    two = target | {"text": {"image": "image", "other": "image"}}
    assert "must name one column" in problems(write(tmp_path, tables, tiny_models["vit"], target=two))["target.text"]
    absent = target | {"text": {"image": "picture"}}
    found = problems(write(tmp_path, tables, tiny_models["vit"], target=absent, source=None))
    assert "no column 'picture'" in found["target"]


@pytest.mark.parametrize("name", ["dtype", "attn_implementation"])
def test_numerics_are_those_of_the_model(
    name: str, tables: tuple[Path, Path], tmp_path: Path, tiny_models: TinyModels
) -> None:
    path = write(tmp_path, tables, tiny_models["vit"])
    value = "bfloat16" if name == "dtype" else "eager"
    path.write_text(path.read_text().replace("backbone:", f"backbone:\n  {name}: {value}", 1))
    assert "is not supported by the backbone family 'vit'" in problems(path)[f"backbone.{name}"]


@pytest.mark.parametrize(
    ("prompt", "where", "message"),
    [
        ({"length": [0, 2]}, "place", "no tokens that vectors could stand among; use frame"),
        ({"length": [2, 16], "place": "frame"}, "length", "reads images of 32 x 32 pixels"),
    ],
)
def test_what_no_candidate_can_have_is_said_once(
    prompt: dict[str, Any],
    where: str,
    message: str,
    tables: tuple[Path, Path],
    tmp_path: Path,
    tiny_models: TinyModels,
) -> None:
    space = {"head": ["linear", "probe"], "steps": [2, 4], "frozen_layers": [0, 1], "soft_prompt": prompt}
    file = write(tmp_path, tables, tiny_models["convolutional"], "convolutional", space=space, source=None)
    found = problems(file, rehearsed=True)
    assert list(found) == [f"space.soft_prompt.{where}"]
    assert message in found[f"space.soft_prompt.{where}"]


def test_images_that_cannot_be_read_are_a_caution_that_names_the_first(
    tables: tuple[Path, Path], tmp_path: Path, tiny_models: TinyModels
) -> None:
    table = write_images(tmp_path / "own")
    lines = table.read_text().splitlines()
    cut, none = tmp_path / "own" / "pictures" / "cut.png", tmp_path / "own" / "pictures" / "none.png"
    cut.write_bytes((tmp_path / "own" / "pictures" / "0.png").read_bytes()[:60])
    lines[3:3] = [f"pictures/{cut.name},red", f"pictures/{none.name},red"]
    table.write_text("\n".join(lines))
    (said,) = load_study(write(tmp_path, (table, tables[1]), tiny_models["vit"])).cautions
    assert said.startswith(
        f"target: 2 rows are left out since their file can't be read; the first is in {table}: row 3: {cut}: truncated"
    )

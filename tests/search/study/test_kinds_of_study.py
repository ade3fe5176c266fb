"""A study says of which kind its task is; what doesn't apply to the kind is refused, or left out by default."""

from pathlib import Path
from typing import Any

import pytest

from promptgraft.objectives.data import TASK_KINDS
from promptgraft.search.sampling import baseline_candidates
from promptgraft.search.study import load_study
from promptgraft.search.study.yaml_lines import StudyFileError
from tests.support.kinds import COLUMNS, write_kinds
from tests.support.models import TinyModels
from tests.support.studies import write_study_file

TEMPLATES = {"plain": "{{ text }} {{ label }}"}
OTHERS = ["multi_label", "regression", "token_classification"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kinds(tmp_path_factory.mktemp("kinds") / "rows.csv")


def write(
    folder: Path, table: Path, tiny_models: TinyModels, kind: str, family: str = "encoder", **sections: Any
) -> Path:
    task = {"kind": kind, "train": str(table), "text": "text", "label": COLUMNS[kind], "train_rows": 40}
    content: dict[str, Any] = {"source": None, "target": task | {"test_rows": 40}, "baselines": None, "judging": None}
    backbone = {"path": tiny_models[family], "family": family, "max_tokens": 48}
    content |= {name: task | own if name == "source" and own is not None else own for name, own in sections.items()}
    return write_study_file(folder / "study.yaml", backbone, **content)


def problems(path: Path) -> dict[str, str]:
    with pytest.raises(StudyFileError) as caught:
        load_study(path)
    return {problem.where: problem.message for problem in caught.value.problems}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("source", [None, {}], ids=["target alone", "with a source"])
def test_a_default_space_holds_what_applies(
    kind: str, source: Any, table: Path, tmp_path: Path, tiny_models: TinyModels
) -> None:
    study = load_study(write(tmp_path, table, tiny_models, kind, space="auto", source=source), rehearsed=True)
    assert study.file.metric == TASK_KINDS[kind].default_metric
    assert study.objective.space.verbalizers == ()
    names = {parameter.name for parameter in study.objective.space.parameters}
    assert {"head", "steps", "learning_rate", "probe_c"} <= names
    assert not names & {"contrastive_steps", "source_objective", "calibration"}
    assert ("alpha" in names) == (source is not None)
    assert "zero_shot" not in study.file.judging.controls
    tried = baseline_candidates(study)
    priors = TASK_KINDS[kind].priors
    assert ("prior" in names) == ("characters" in priors)
    sourced = ["linear_probe_with_source"] if source == {} else []
    assert set(tried) == {"linear_probe", "full_fine_tuning", *sourced, *priors}
    assert all(candidate.verbalizer == "" for candidate in tried.values())


@pytest.mark.parametrize("kind", OTHERS)
def test_a_head_is_linear_unless_the_space_says_otherwise(
    kind: str, table: Path, tmp_path: Path, tiny_models: TinyModels
) -> None:
    study = load_study(write(tmp_path, table, tiny_models, kind, space={"templates": TEMPLATES, "steps": 4}))
    assert [p.value for p in study.objective.space.parameters if p.name == "head"] == ["linear"]  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("head", ["linear", "label_words"]),
        ("soft_prompt.init", "label_words"),
        ("calibration", "batch"),
        ("contrastive_steps", [0, 4]),
        ("label_smoothing", {"low": 0.0, "high": 0.2}),
        ("class_weights", ["none", "balanced"]),
        ("self_training", [0, 0.9]),
    ],
)
def test_dimensions_that_need_one_label_are_refused(
    kind: str, where: str, value: Any, table: Path, tmp_path: Path, tiny_models: TinyModels
) -> None:
    group, _, own = where.rpartition(".")
    space = {"templates": TEMPLATES, "steps": 4} | ({group: {own: value, "length": 2}} if group else {own: value})
    found = problems(write(tmp_path, table, tiny_models, kind, space=space))
    assert list(found) == [f"space.{where}"]
    assert "needs rows with exactly one label each" in found[f"space.{where}"]


@pytest.mark.parametrize("kind", OTHERS)
def test_label_words_and_growth_are_refused(kind: str, table: Path, tmp_path: Path, tiny_models: TinyModels) -> None:
    space = {"templates": TEMPLATES, "verbalizers": {"v": {"food": ["food"]}}, "grow": {"every": 4}, "steps": 4}
    found = problems(write(tmp_path, table, tiny_models, kind, space=space))
    assert {"space.verbalizers", "space.grow"} <= set(found)


def test_what_does_not_read_each_word_is_refused(table: Path, tmp_path: Path, tiny_models: TinyModels) -> None:
    space = {"templates": {"loud": "{{ text|upper }} {{ label }}"}, "pooling": ["mean", "first"], "steps": 4}
    found = problems(write(tmp_path, table, tiny_models, "token_classification", space=space))
    assert set(found) == {"space.templates.loud", "space.pooling"}
    assert "must have the text in it once, as it is" in found["space.templates.loud"]
    assert "makes one embedding of a text" in found["space.pooling"]


def test_baselines_metrics_families_and_kinds_that_do_not_fit_are_refused(
    table: Path, tmp_path: Path, tiny_models: TinyModels
) -> None:
    space = {"templates": TEMPLATES, "steps": 4}
    judging = {"controls": ["zero_shot"]}
    path = write(tmp_path, table, tiny_models, "regression", space=space, baselines=["contrastive"], judging=judging)
    found = problems(path)
    assert found["baselines"] == "contrastive does not apply to tasks of kind 'regression'; leave it out"
    assert found["judging.controls"] == "zero_shot does not apply to tasks of kind 'regression'; leave it out"
    assert "unknown metric" in problems(write(tmp_path, table, tiny_models, "regression", metric="accuracy"))["metric"]
    found = problems(write(tmp_path, table, tiny_models, "multi_label", family="causal_lm", space=space))
    assert "use encoder or recurrent" in found["backbone.family"]
    other = {"kind": "regression", "label": "score"}
    found = problems(write(tmp_path, table, tiny_models, "multi_label", space=space, source=other))
    assert "use tables of one kind" in found["source"]
    path = write(tmp_path, table, tiny_models, "regression", space=space)
    path.write_text(path.read_text().replace("kind: regression", "kind: regress"))
    assert problems(path)["target.kind"] == "unknown task kind 'regress'; did you mean 'regression'?"


@pytest.mark.parametrize(
    ("kind", "cells", "said"),
    [
        (
            "text_classification",
            ["a|b", "a", "b"],
            "'a|b' looks like several labels of one row; if it is, set kind: mu",
        ),
        ("multi_label", ["a|b", "NaN", "c"], "target: some labels look like missing values: 'NaN' (10 rows); if"),
        (
            "text_classification",
            ["a", "b", "NaN", "None"],
            "look like missing values: 'NaN' (10 rows), 'None' (10 rows); if they are, leave these cells empty",
        ),
        ("multi_label", ["a, b", "a", "b"], "'a, b' looks like several labels of one row; if it is, write | between"),
        (
            "text_classification",
            [f"{n / 4}" for n in range(1, 17)],
            "labels are numbers (0.25, 0.5, 0.75, ...); if they",
        ),
        (
            "regression",
            ["1", "2", "1,5"],
            "answers that can't be read are left out: are they written as this",
        ),
    ],
)
def test_answers_that_look_like_those_of_another_kind_are_a_caution(
    kind: str, cells: list[str], said: str, tmp_path: Path, tiny_models: TinyModels
) -> None:
    table = tmp_path / "rows.csv"
    lines = [f'word{n} and {n * 7} other{n % 5}{n},"{cells[n % len(cells)]}"' for n in range(10 * len(cells))]
    table.write_text("\n".join(["text,label", *lines]))
    task = {"kind": kind, "train": str(table), "text": "text", "label": "label"}
    backbone = {"path": tiny_models["encoder"], "family": "encoder", "max_tokens": 48}
    sections: dict[str, Any] = {
        "source": None,
        "target": task,
        "space": {"steps": 4},
        "baselines": None,
        "judging": None,
    }
    study = load_study(write_study_file(tmp_path / "study.yaml", backbone, **sections))
    assert any(said in caution for caution in study.cautions), study.cautions

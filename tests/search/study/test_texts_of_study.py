"""Studies whose answers are texts: what applies is in their default space, what doesn't is refused with the reason."""

from pathlib import Path
from typing import Any

import pytest

from promptgraft.search.sampling import baseline_candidates
from promptgraft.search.study import load_study
from promptgraft.search.study.yaml_lines import StudyFileError
from tests.support.answers import write_pairs
from tests.support.models import TinyModels
from tests.support.studies import write_study_file

SPACE = {"templates": {"plain": "{{ text }} = {{ label }}"}, "steps": 4}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.csv")


def write(folder: Path, table: Path, tiny_models: TinyModels, family: str = "seq2seq", **sections: Any) -> Path:
    task = {"kind": "text_generation", "train": str(table), "text": "en", "label": "es", "train_rows": 40}
    content: dict[str, Any] = {"source": None, "baselines": None, "judging": None, "evaluation": None}
    content["target"] = {**task, "test_rows": 20, **sections.pop("target", {})}
    backbone = {"path": tiny_models[family], "family": family, "max_tokens": 48}
    return write_study_file(folder / "study.yaml", backbone, **(content | sections))


def problems(path: Path) -> dict[str, str]:
    with pytest.raises(StudyFileError) as caught:
        load_study(path, rehearsed=True)
    return {problem.where: problem.message for problem in caught.value.problems}


@pytest.mark.parametrize("family", ["seq2seq", "causal_lm"])
def test_a_default_space_holds_what_applies(family: str, table: Path, tmp_path: Path, tiny_models: TinyModels) -> None:
    study = load_study(write(tmp_path, table, tiny_models, family, space="auto"), rehearsed=True)
    assert (study.file.metric, study.objective.direction) == ("chrf", "maximize")
    names = {parameter.name for parameter in study.objective.space.parameters}
    assert {"head", "steps", "learning_rate"} <= names
    assert "calibration" not in names
    assert study.objective.space.verbalizers == ()
    tried = baseline_candidates(study)
    assert set(tried) == {"zero_shot", "full_fine_tuning"}
    assert all(candidate.head == "answer" for candidate in tried.values())
    assert set(study.file.judging.controls) == {
        *("target_only", "source_only", "full_fine_tuning", "tfidf", "zero_shot", "majority")
    }


def test_a_translation_says_its_languages(table: Path, tmp_path: Path, tiny_models: TinyModels) -> None:
    languages = {"source_language": "English", "target_language": "Spanish"}
    path = write(tmp_path, table, tiny_models, "causal_lm", space="auto", target={"kind": "translation", **languages})
    study = load_study(path, rehearsed=True)
    assert study.objective.space.templates[0].text == "English: {{ text }}\nSpanish: {{ label }}"
    assert study.objective.backbone.languages == ("English", "Spanish")
    found = problems(write(tmp_path, table, tiny_models, space=SPACE, target={"kind": "translation"}))
    assert found["target.source_language"] == "is required for tasks of kind 'translation'"
    found = problems(write(tmp_path, table, tiny_models, space=SPACE, target=languages))
    assert found["target.target_language"] == "does not apply for tasks of kind 'text_generation'"


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("head", ["linear"], "reads labels"),
        ("calibration", "batch", "exactly one label"),
        ("verbalizers", {"v": {"a": ["b"]}}, "label words"),
        ("grow", {"every": 4}, "label words"),
        ("decoding.beams", 0, "must be in"),
        ("decoding.max_new_tokens", 1000, "must be in"),
        ("label_smoothing", 0.1, "exactly one label"),
    ],
)
def test_what_does_not_apply_is_refused(
    where: str, value: Any, message: str, table: Path, tmp_path: Path, tiny_models: TinyModels
) -> None:
    group, _, own = where.rpartition(".")
    found = problems(
        write(
            tmp_path, table, tiny_models, "causal_lm", space=SPACE | ({group: {own: value}} if group else {own: value})
        )
    )
    assert message in found[f"space.{where}"]


def test_templates_families_and_ensembles_that_do_not_fit_are_refused(
    table: Path, tmp_path: Path, tiny_models: TinyModels
) -> None:
    early = SPACE | {"templates": {"early": "{{ label }} is {{ text }}"}}
    assert (
        "must come last"
        in problems(write(tmp_path, table, tiny_models, "causal_lm", space=early))["space.templates.early"]
    )
    none = SPACE | {"templates": {"none": "{{ text }}"}}
    assert "exactly once" in problems(write(tmp_path, table, tiny_models, space=none))["space.templates.none"]
    beams = SPACE | {"decoding": {"beams": 4}}
    for family in ("recurrent", "encoder"):
        found = problems(write(tmp_path, table, tiny_models, family, space=beams))
        assert "can't write answers; use causal_lm or seq2seq" in found["backbone.family"]
    found = problems(write(tmp_path, table, tiny_models, space=SPACE, judging={"ensemble": 3}))
    assert "have no mean" in found["judging.ensemble"]
    other = {"kind": "text_classification", "label": "es"}
    found = problems(write(tmp_path, table, tiny_models, "encoder", space=SPACE | {"head": "answer"}, target=other))
    assert any("not texts that are written" in message for message in found.values())


def test_a_message_is_put_into_the_chat_template(table: Path, tmp_path: Path, tiny_models: TinyModels) -> None:
    chats = {"chat_templates": {"chat": "In Spanish: {{ text }}"}, "steps": 4}
    (template,) = load_study(
        write(tmp_path, table, tiny_models, "causal_lm", space=chats), rehearsed=True
    ).objective.space.templates
    assert template.name == "chat"
    assert "In Spanish: {{ text }}<|im_end|>" in template.text
    assert template.text.endswith("assistant\n{{ label }}")
    found = problems(write(tmp_path, table, tiny_models, "seq2seq", space=chats))
    assert "models don't chat" in found["space.chat_templates.chat"]

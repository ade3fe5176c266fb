"""The space of a study whose file leaves it out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from promptgraft.objectives.backbones import FAMILIES
from promptgraft.search.study import load_study, space_text, study_identity
from promptgraft.search.study.default_space import (
    SpaceFacts,
    default_source_training,
    default_space,
    draft_templates,
    draft_verbalizers,
    update_numbers,
)
from promptgraft.search.study.effort import EFFORTS
from promptgraft.search.study.schema.study_file import EffortName, StudyFile
from promptgraft.search.study.yaml_lines import StudyFileError
from promptgraft.spaces import Categorical, Constant, InvalidInputError, Template, Verbalizer, extremes
from tests.support.models import TEXT_FAMILIES, TINY_LAYERS, TinyModels
from tests.support.studies import WriteStudy, prompts

FACTS = SpaceFacts(
    family="encoder",
    n_layers=6,
    fields=("text",),
    label_column="sentiment",
    labels=("negative", "positive"),
    has_source=True,
    shares_labels=True,
    rows=128,
)
BALANCED = EFFORTS["balanced"]


def values(content: dict[str, Any]) -> dict[str, Any]:
    """Parameter -> its choices, or its range."""
    return {name: own["choices"] if own.get("choices") else [own["low"], own["high"]] for name, own in content.items()}


def dimensions(facts: SpaceFacts, effort: EffortName = "balanced") -> dict[str, Any]:
    described = default_space(facts, EFFORTS[effort]).described()
    return values({".".join(path): own.model_dump() for path, own in described.items()})


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_templates_suit_the_family(family: str) -> None:
    drafted = draft_templates(replace(FACTS, family=family, fields=("premise", "other_text")))
    assert len(drafted) == 2
    for name, text in drafted.items():
        template = Template(name, text)
        assert template.fields == ("other_text", "premise")
        if FAMILIES[family].label_last:
            template.check_label_last()
            assert template.render({"premise": "a", "other_text": "b"}).after == ""
    if not FAMILIES[family].has_head:
        assert drafted["named"] == ("Premise: {{ premise }}\nOther text: {{ other_text }}\nSentiment: {{ label }}")


@pytest.mark.parametrize("fields", [(), ("Review text",), ("label",)], ids=["none", "no identifier", "the label"])
def test_fields_that_no_template_can_name(fields: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInputError, match="under `text`"):
        draft_templates(replace(FACTS, fields=fields))


def test_label_words_are_the_names_in_words() -> None:
    labels = ("very_good", "not-so-good", "1", "-1", "covid-19", "Bad", "a_b", "a-b", "__")
    drafted = draft_verbalizers(labels)["names"]
    words = [word for label in labels for word in drafted[label]]
    assert words == ["very good", "not so good", "1", "-1", "covid-19", "Bad", "a_b", "a-b", "__"]
    Verbalizer("names", drafted).check_labels(labels)


def test_the_updates_grow_with_the_rows() -> None:
    assert update_numbers(128, 256) == [0, 32, 64, 128]
    assert update_numbers(4, 256) == [0, 8, 16, 32]
    assert update_numbers(100_000, 256) == [0, 64, 128, 256]


def test_an_encoder_with_a_source_gets_the_measured_recipes() -> None:
    assert dimensions(FACTS) == {
        "head": ("probe",),
        "frozen_layers": (0, 1, 3, 4),
        "source_steps": (0, 80),
        "source_objective": ("contrastive",),
        "alpha": (0.0, 0.2, 0.5),
        "contrastive_steps": (0, 40, 100),
        "steps": (0, 32, 64, 128),
        "learning_rate": [2e-5, 2e-4],
        "probe_c": [0.1, 30.0],
    }
    training = default_source_training(FACTS)
    assert (training.batch_size, training.learning_rate, training.frozen_layers) == (16, 4e-4, 4)


def test_the_space_depends_on_the_task() -> None:
    assert dimensions(replace(FACTS, shares_labels=False))["alpha"] == (0.0,)
    alone = dimensions(replace(FACTS, has_source=False, shares_labels=False))
    assert not alone.keys() & {"alpha", "source_steps", "source_objective"}
    assert dimensions(FACTS, "best").keys() - dimensions(FACTS).keys() == {"prompt_learning_rate", "layer_decay"}
    assert dimensions(FACTS, "best")["head"] == ("probe", "label_words")
    assert dimensions(replace(FACTS, labels=("0", "1")), "best")["head"] == ("probe", "linear")
    one = replace(FACTS, family="recurrent", n_layers=1)
    assert dimensions(one)["frozen_layers"] == (0,)
    assert default_source_training(one).frozen_layers == 0


@pytest.mark.parametrize("effort", list(EFFORTS))
@pytest.mark.parametrize("with_source", [True, False], ids=["source", "no source"])
@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_the_space_of_each_family_is_valid(
    write_study: WriteStudy, tiny_models: TinyModels, family: str, with_source: bool, effort: str
) -> None:
    backbone = {"path": tiny_models[family], "family": family, "max_tokens": 48}
    sections: dict[str, Any] = {"backbone": backbone, "space": "auto", "effort": effort}
    study = load_study(write_study(**sections, **({} if with_source else {"source": None})))
    searched = {parameter.name: parameter for parameter in study.objective.space.parameters}
    assert study.drafted == "space"
    assert len(study.objective.space.templates) == 2
    assert max(extremes(searched["frozen_layers"]), key=float) < TINY_LAYERS
    assert isinstance(searched["steps"], Categorical)
    assert ("source_steps" in searched) == with_source
    assert isinstance(searched["head"], Constant | Categorical) if FAMILIES[family].has_head else "head" not in searched


def test_a_space_that_is_left_out_is_the_same_as_auto(write_study: WriteStudy) -> None:
    left_out, named = load_study(write_study(space=None)), load_study(write_study(space="auto"))
    assert left_out.file == named.file
    assert left_out.objective.source_training.frozen_layers == 2 * TINY_LAYERS // 3


@pytest.mark.parametrize("family", ["encoder", "causal_lm"])
def test_what_is_printed_can_stand_in_the_file(write_study: WriteStudy, tiny_models: TinyModels, family: str) -> None:
    """It means the same there, so that a study may go on with it."""
    backbone = {"path": tiny_models[family], "family": family, "max_tokens": 48}
    chosen = load_study(write_study(backbone=backbone, space="auto"))
    printed = YAML(typ="safe").load(space_text(chosen.file))
    content = YAML(typ="safe").load(chosen.path)
    content["source"] |= printed["source"]
    copied = load_study(write_study(backbone=backbone, source=content["source"], space=printed["space"]))
    assert copied.drafted == "nothing"
    assert copied.objective == chosen.objective
    identities = [study_identity(study, study.file.model_dump(mode="json")) for study in (chosen, copied)]
    assert identities[0] == identities[1]


def test_labels_that_look_like_other_types_are_printed_as_text(write_study: WriteStudy) -> None:
    study = load_study(write_study())
    space = default_space(replace(FACTS, labels=("no", "1", "null", "a: b", "2e5")), BALANCED)
    printed = YAML(typ="safe").load(space_text(study.file.model_copy(update={"space": space})))
    assert StudyFile.model_validate(study.file.model_dump() | {"space": printed["space"]}).space == space


def test_several_sources_are_trained_alike_but_for_what_is_stated(write_study: WriteStudy, data: Path) -> None:
    movie = {"train": str(data / "movie.csv"), "text": "text", "label": "label", "train_rows": 40}
    sources = {"first": movie, "second": movie | {"training": {"batch_size": 4}}}
    study = load_study(write_study(source=None, sources=sources, space="auto"))
    assert [study.objective.training_on(name).batch_size for name in sources] == [16, 4]
    assert study.objective.training_on("second").learning_rate == 5e-5
    printed = YAML(typ="safe").load(space_text(study.file))
    assert printed["sources"]["second"]["training"]["batch_size"] == 4


def test_wording_alone_is_drafted_where_a_space_has_none(write_study: WriteStudy) -> None:
    """All else keeps its defaults, as in any space."""
    study = load_study(write_study(space={"head": "probe", "steps": 0}))
    assert study.drafted == "wording"
    assert [template.name for template in study.objective.space.templates] == ["plain", "statement"]
    assert [parameter.name for parameter in study.objective.space.parameters] == ["head", "steps"]
    assert study.objective.source_training.batch_size == 16
    own = load_study(write_study(space={"templates": prompts()["templates"]}))
    assert [verbalizer.name for verbalizer in own.objective.space.verbalizers] == ["names"]
    assert {template.name for template in own.objective.space.templates} == set(prompts()["templates"])


@pytest.mark.parametrize(
    ("sections", "where", "message"),
    [
        ({"space": "automatic"}, "space", "must be auto, or a section, got 'automatic'"),
        ({"effort": "turbo"}, "effort", "'quick', 'balanced' or 'best', got 'turbo'"),
    ],
)
def test_a_name_that_is_none(write_study: WriteStudy, sections: dict[str, Any], where: str, message: str) -> None:
    with pytest.raises(StudyFileError) as caught:
        load_study(write_study(**sections))
    assert [problem.where for problem in caught.value.problems] == [where]
    assert message in caught.value.problems[0].message


def test_fields_that_sources_lack_are_reported_once(write_study: WriteStudy, data: Path) -> None:
    source = {"train": str(data / "movie.csv"), "text": {"story": "text"}, "label": "label"}
    with pytest.raises(StudyFileError) as caught:
        load_study(write_study(source=source, space="auto"))
    assert [problem.where for problem in caught.value.problems] == ["target.text"]
    assert "no field in common" in caught.value.problems[0].message

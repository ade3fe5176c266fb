"""Every mistake in a study file gets one clear message with its line, and all come at once."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from promptgraft.search.study import load_study, parse_seconds
from promptgraft.search.study.yaml_lines import StudyFileError
from promptgraft.spaces import InvalidInputError
from tests.support.models import TinyModels
from tests.support.paths import STUDIES

WriteStudy = Callable[..., Path]


def problems(path: Path) -> dict[str, str]:
    with pytest.raises(StudyFileError) as caught:
        load_study(path)
    return {problem.where: problem.message for problem in caught.value.problems}


@pytest.mark.parametrize("name", ["demo", "smollm2"])
def test_the_studies_that_we_ship_are_valid(name: str) -> None:
    study = load_study(STUDIES / f"{name}.yaml")
    assert study.name == name
    assert len(study.target.labelled) == 128


def space(**changes: Any) -> dict[str, Any]:
    content = {
        "templates": {"a": "{{ text }} {{ label }}"},
        "verbalizers": {"v": {"negative": ["bad"], "positive": ["good"]}},
    }
    return {"space": content | changes}


IA3 = {"parameter": "adapter.method", "choices": ["ia3"]}


@pytest.mark.parametrize(
    ("sections", "where", "message"),
    [
        (space(alhpa=0.5), "space.alhpa", "unknown key 'alhpa'; did you mean 'alpha'?"),
        (
            {"pruner": {"name": "median", "n_startup": 3}},
            "pruner",
            "no option 'n_startup'; did you mean 'n_startup_trials'?",
        ),
        ({"baselines": "none"}, "baselines", "write [] for none; otherwise input should be 'contrastive_source'"),
        ({"baselines": ["svm"]}, "baselines.0", "'ease' or 'items', got 'svm'"),
        ({"sampler": "tpee"}, "sampler", "unknown sampler 'tpee'; did you mean 'tpe'?"),
        (
            {"sampler": {"name": "tpe", "n_startup_trials": "many", "multivariate": True}},
            "sampler",
            "sampler 'tpe' fails with n_startup_trials: 'many': '<' not supported",
        ),
        ({"sampler": {"name": "tpe", "n_ei_candidates": 0}}, "sampler", "fails with n_ei_candidates: 0: "),
        ({"pruner": {"name": "median", "n_min_trials": "4"}}, "pruner", "fails with n_min_trials: '4': "),
        (
            {"pruner": {"name": "hyperband", "min_resource": 1, "max_resource": 0}},
            "pruner",
            "pruner 'hyperband' fails with max_resource: 0: math domain error",
        ),
        (
            {"pruner": {"name": "hyperband", "min_resource": 10, "max_resource": 1}},
            "pruner",
            "max_resource is less than min_resource, 10, so that nothing would be pruned",
        ),
        ({"metric": "f1"}, "metric", "unknown metric 'f1'"),
        ({"constraints": 5}, "constraints", "expected keys with values, got 5 (keys: prompt_tokens, trainable_param"),
        ({"sources": ["movie"]}, "sources", "expected keys with values, got ['movie']"),
        ({"metric": "loss", "direction": "maximize"}, "direction", "write minimize"),
        (space(templates={"a": "{{ texxt }} {{ label }}"}), "space.templates.a", "did you mean 'text'?"),
        (space(templates={"a": "{{ text }}"}), "space.templates.a", "exactly once"),
        (space(verbalizers={"v": {"negative": [], "positive": ["good"]}}), "space.verbalizers.v", "no words for label"),
        (space(verbalizers={"v": {"positive": ["good"]}}), "space.verbalizers.v", "no words for label 'negative'"),
        (
            space(frozen_layers=[0, 9]),
            "space.frozen_layers",
            "must be in [0, 3], the backbone's number of layers, got 9",
        ),
        (space(alpha={"low": 0, "high": 1.5}), "space.alpha", "must be in [0, 1], got 1.5"),
        (space(calibration=["none", "bach"]), "space.calibration", "did you mean 'batch'?"),
        (space(steps="many"), "space.steps", "must be a number, got 'many'"),
        (space(learning_rate=[1e-3, math.nan]), "space.learning_rate", "must be a finite number in (0, ∞), got nan"),
        (space(steps=math.inf), "space.steps", "must be a finite number in [0, ∞), got inf"),
        (space(weight_decay={"low": 0, "high": math.inf}), "space.weight_decay", "finite number in [0, ∞), got inf"),
        (space(alpha={"low": 0, "high": 1, "step": math.nan}), "space.alpha", "step must be positive and finite"),
        ({"budget": {"reserve": math.nan}}, "budget.reserve", "finite number"),
        (
            space(adapter={"method": ["none", "lora"]}, steps={"choices": [8], "when": IA3}),
            "space.steps",
            "`when` never holds: it asks for adapter.method 'ia3', which is 'none' or 'lora'",
        ),
        (
            space(steps={"low": 8, "high": 16}, warmup={"choices": [0.1], "when": {"parameter": "steps", "above": 16}}),
            "space.warmup",
            "`when` never holds: it asks for steps above 16, which is between 8 and 16",
        ),
        ({"backbone": {"path": "./nowhere", "family": "encoder"}}, "backbone.path", "no such folder"),
        ({"backbone": {"path": "x", "family": "enc"}}, "backbone.family", "did you mean 'encoder'?"),
        (
            {"backbone": {"path": "x", "family": "encoder", "dtype": "bf16"}},
            "backbone.dtype",
            "'float32', 'bfloat16' or 'float16'",
        ),
        (
            {"backbone": {"path": "x", "family": "encoder", "dtype": "bfloat16", "autocast": "float16"}},
            "backbone.autocast",
            "must be bfloat16 or left out, because dtype is bfloat16",
        ),
        (
            {"backbone": {"path": "x", "family": "encoder", "attn_implementation": "flash_attention_2"}},
            "backbone.attn_implementation",
            "does not support float32; add dtype: bfloat16",
        ),
        (space(soft_prompt={"length": 2, "place": "layer 7"}), "space.soft_prompt.place", "the backbone has 3 layers"),
        ({"budget": {"disk": 5}}, "budget.disk", "must be at least 1MB"),
        ({"budget": {"trials": 0}}, "budget.trials", "greater than or equal to 1"),
        ({"target": None}, "target", "is required but missing"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
    ],
)
def test_one_mistake_one_message(write_study: WriteStudy, sections: dict[str, Any], where: str, message: str) -> None:
    found = problems(write_study(**sections))
    assert list(found) == [where]
    assert message in found[where]


def test_late_prompts_want_attention_that_takes_masks(write_study: WriteStudy, tiny_models: dict[str, str]) -> None:
    backbone = {"path": tiny_models["encoder"], "family": "encoder", "dtype": "bfloat16", "max_tokens": 48}
    backbone["attn_implementation"] = "flash_attention_2"
    found = problems(write_study(backbone=backbone, **space(soft_prompt={"length": 2, "place": ["prefix", "layer 1"]})))
    assert "'layer 1' needs masks that backbone.attn_implementation" in found["space.soft_prompt.place"]


def test_demonstrations_want_a_causal_lm_and_enough_rows(write_study: WriteStudy, tiny_models: dict[str, str]) -> None:
    found = problems(write_study(**space(demonstrations={"count": [0, 4], "choice": "nearest"})))
    assert found.keys() == {"space.demonstrations.count"}
    message = "demonstrations.count is 4, but only causal LMs take demonstrations and backbone.family is 'encoder'"
    assert message in found["space.demonstrations.count"]
    backbone = {"path": tiny_models["causal_lm"], "family": "causal_lm"}
    found = problems(write_study(backbone=backbone, **space(demonstrations={"count": {"low": 0, "high": 16}})))
    assert "must be in [0, 15] (a task has 16 training rows" in found["space.demonstrations.count"]
    demonstrations = {"count": [0, 15], "choice": ["balanced", "nearest"], "order": "nearest_last"}
    study = load_study(write_study(backbone=backbone, **space(demonstrations=demonstrations)))
    names = [parameter.name for parameter in study.objective.space.parameters]
    assert names == ["demonstrations.count", "demonstrations.choice", "demonstrations.order"]
    assert load_study(write_study(**space(demonstrations={"count": 0}))).objective.space.parameters
    assert (
        "did you mean 'count'"
        in problems(write_study(**space(demonstrations={"cuont": 2})))["space.demonstrations.cuont"]
    )


def test_deep_prefixes_want_layers_that_take_keys_and_values(
    write_study: WriteStudy, tiny_models: dict[str, str], tmp_path: Path
) -> None:
    prompt = {"length": [0, 2], "place": ["suffix", "deep"], "parametrization": ["direct", "mlp"]}
    for family in ("encoder", "causal_lm", "masked_lm", "seq2seq"):
        backbone = {"path": tiny_models[family], "family": family, "max_tokens": 48}
        assert load_study(write_study(backbone=backbone, **space(soft_prompt=prompt)))
    found = problems(write_study(backbone=backbone | {"gradient_checkpointing": True}, **space(soft_prompt=prompt)))
    assert "'deep' is not supported together with backbone.gradient_checkpointing" in found["space.soft_prompt.place"]
    for family, kind in (("encoder", "modernbert"), ("masked_lm", "distilbert"), ("causal_lm", "mamba")):
        (tmp_path / "config.json").write_text(f'{{"model_type": "{kind}", "num_hidden_layers": 3}}')
        found = problems(write_study(backbone={"path": str(tmp_path), "family": family}, **space(soft_prompt=prompt)))
        assert f"'deep' is not supported by '{kind}' models" in found["space.soft_prompt.place"]
    found = problems(write_study(**space(soft_prompt=prompt | {"parametrization": ["mlp", "lstm"]})))
    assert "'lstm' is not supported at soft_prompt.place 'deep'" in found["space"]


def test_what_a_family_lacks_is_refused_before_any_trial(write_study: WriteStudy, tiny_models: dict[str, str]) -> None:
    recurrent = {"path": tiny_models["recurrent"], "family": "recurrent", "max_tokens": 48}
    prompt = {"length": [0, 2], "place": ["prefix", "suffix", "layer 1"]}
    assert load_study(write_study(backbone=recurrent, **space(soft_prompt=prompt, head="linear")))
    found = problems(write_study(backbone=recurrent, **space(soft_prompt=prompt | {"place": "deep"})))
    assert "no attention for keys and values; use prefix" in found["space.soft_prompt.place"]
    found = problems(
        write_study(backbone=recurrent | {"dtype": "bfloat16"}, **space(adapter={"method": ["none", "lora"]}))
    )
    assert set(found) == {"backbone.dtype", "space.adapter.method"}
    assert "computes in float32" in found["backbone.dtype"]
    assert "adapter.method 'lora' is not supported by the backbone family" in found["space.adapter.method"]
    seq2seq = {"path": tiny_models["seq2seq"], "family": "seq2seq", "max_tokens": 48}
    assert load_study(
        write_study(backbone=seq2seq, **space(frozen_layers=[0, 3], adapter={"method": ["none", "lora"]}))
    )
    found = problems(write_study(backbone=seq2seq, **space(soft_prompt=prompt, frozen_layers=4)))
    assert set(found) == {"space.soft_prompt.place", "space.frozen_layers"}
    assert "runs only as a whole; use prefix or suffix" in found["space.soft_prompt.place"]
    found = problems(write_study(backbone=seq2seq | {"layers": 1, "image_size": 64}))
    assert set(found) == {"backbone.layers", "backbone.image_size"}
    assert "families of which upper layers can be left out: encoder, vit, convolutional" in found["backbone.layers"]
    encoder = {"path": tiny_models["encoder"], "family": "encoder", "max_tokens": 48, "layers": 1}
    assert load_study(write_study(backbone=encoder, **space(frozen_layers=[0, 1])))
    assert set(problems(write_study(backbone=encoder, **space(frozen_layers=[0, 2])))) == {"space.frozen_layers"}
    found = problems(write_study(backbone=encoder | {"layers": 99}))
    assert "must be in [1, 3]" in found["backbone.layers"]
    found = problems(write_study(backbone=seq2seq | {"path": tiny_models["encoder"]}))
    assert "states no number of layers" in found["backbone.path"]
    for family, path in (("recurrent", tiny_models["encoder"]), ("encoder", tiny_models["recurrent"])):
        found = problems(write_study(backbone={"path": path, "family": family}))
        assert f"not of the family '{family}'" in found["backbone.family"]


def test_all_mistakes_come_at_once_with_their_lines(write_study: WriteStudy) -> None:
    path = write_study(metric="acuracy", sampler="tpee", bugdet={}, **space(alpha=2, frozen_layers=7))
    found = problems(path)
    assert set(found) == {"metric", "sampler", "bugdet", "space.alpha", "space.frozen_layers"}
    lines = path.read_text().splitlines()
    with pytest.raises(StudyFileError) as caught:
        load_study(path)
    for problem in caught.value.problems:
        assert lines[problem.line - 1].strip().startswith(problem.where.split(".")[-1])
        assert f"{path}:{problem.line}: {problem.where}: " in str(caught.value)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({"txt": ["a"], "label": ["x"]}), "no column 'text'; did you mean 'txt'?"),
        (pd.DataFrame({"text": [f"r{i}" for i in range(9)], "label": ["one"] * 9}), "at least two labels"),
        (pd.DataFrame({"text": [], "label": []}), "has no rows"),
    ],
)
def test_data_that_cannot_serve(write_study: WriteStudy, tmp_path: Path, frame: pd.DataFrame, message: str) -> None:
    frame.to_csv(tmp_path / "data.csv", index=False)
    found = problems(write_study(target={"train": "data.csv", "text": "text", "label": "label"}))
    assert message in found["target"]


def test_yaml_that_cannot_be_parsed(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("study: x\nspace: [1, 2\n")
    assert "not valid YAML" in problems(path)[""]
    path.write_text("study: a\nstudy: b\n")
    assert "duplicate key" in problems(path)[""]
    with pytest.raises(InvalidInputError, match="no such study file"):
        load_study(tmp_path / "gone.yaml")


def test_yes_and_no_stay_words_and_exponents_stay_numbers(write_study: WriteStudy) -> None:
    path = write_study(**space(verbalizers={"v": {"negative": ["x"], "positive": ["y"]}}))
    path.write_text(path.read_text().replace("- x", "- no").replace("- y", "- yes") + "  learning_rate: [2e-5, 1e-4]\n")
    text = path.read_text().replace("  learning_rate: [2e-5, 1e-4]\n", "")
    path.write_text(text.replace("space:\n", "space:\n  learning_rate: [2e-5, 1e-4]\n"))
    study = load_study(path)
    assert study.objective.space.verbalizers[0].words == {"negative": ("no",), "positive": ("yes",)}
    assert study.objective.space.parameters[0].choices == (2e-5, 1e-4)  # type: ignore[union-attr]


def test_relative_paths_are_relative_to_the_study_file(write_study: WriteStudy, tmp_path: Path, data: Path) -> None:
    (tmp_path / "inner.csv").write_text((data / "amazon.csv").read_text())
    target = {"train": "inner.csv", "text": "text", "label": "label", "train_rows": 8, "test_rows": 8}
    study = load_study(write_study(target=target))
    assert study.objective.target.train == str(tmp_path / "inner.csv")


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("1.5h", 5400)])
def test_times(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


def movie(data: Path, **changes: Any) -> dict[str, Any]:
    return {"train": str(data / "movie.csv"), "text": "text", "label": "label", "train_rows": 40} | changes


def test_several_sources_are_a_dimension(write_study: WriteStudy, data: Path, tmp_path: Path) -> None:
    """All of them unless the space says otherwise; their labels are the head's, and each trains in its own way."""
    rows = "\n".join(f"story {number},{('sport', 'trade')[number % 2]}" for number in range(20))
    (tmp_path / "topics.csv").write_text(f"text,label\n{rows}\n")
    topics = {"train": "topics.csv", "text": "text", "label": "label", "training": {"frozen_layers": 2}}
    words = {label: [label] for label in ("negative", "positive", "sport", "trade")}
    sections = space(alpha=[0.0, 0.5], verbalizers={"v": words})
    several = {"source": None, "sources": {"movie": movie(data), "topics": topics}}
    study = load_study(write_study(**several, **sections))
    assert {p.name: getattr(p, "choices", None) for p in study.objective.space.parameters}["source"] == tuple(
        several["sources"]
    )
    assert [study.objective.training_on(name).frozen_layers for name in study.sources] == [0, 2]
    narrowed = sections["space"] | {"source": "topics"}
    study = load_study(write_study(**several, space=narrowed))
    assert [p.value for p in study.objective.space.parameters if p.name == "source"] == ["topics"]
    without = space(alpha=0.5, verbalizers={"v": {label: [label] for label in ("negative", "positive", "trade")}})
    found = problems(write_study(**several, **without))
    assert "no words for label 'sport'" in found["space.verbalizers.v"]


def test_fields_that_source_and_target_do_not_share(write_study: WriteStudy, data: Path) -> None:
    found = problems(write_study(source=movie(data, text={"review": "text"}), **space()))
    assert found == {
        "target.text": "target and sources have no field in common, which templates could show (target: text; source: "
        "review); give fields the same names, as in `text: {text: COLUMN}`"
    }


def test_mistakes_in_sources_have_their_lines(write_study: WriteStudy, data: Path) -> None:
    bad = movie(data, training={"frozen_layers": 9})
    found = problems(write_study(sources={"movie": movie(data, label="labl"), "bad": bad}, **space(source="moive")))
    assert found["sources"] == "can't be given beside `source`; give that one a name among them"
    assert "labl" in found["sources.movie"]
    assert "must be in [0, 3]" in found["sources.bad.training.frozen_layers"]
    assert "did you mean 'movie'?" in found["space.source"]
    assert "name several under `sources`" in problems(write_study(**space(source="movie")))["space.source"]
    misspelt = problems(write_study(source=None, sources={"movie": movie(data, trian_rows=5)}))
    assert misspelt == {"sources.movie.trian_rows": "unknown key 'trian_rows'; did you mean 'train_rows'?"}


def test_an_ensemble_without_folds_is_said_to_have_no_effect(write_study: WriteStudy) -> None:
    held_out = load_study(write_study(judging={"finalists": 0, "ensemble": 3}))
    assert any("judging.ensemble has no effect" in caution for caution in held_out.cautions)
    alone = load_study(write_study(judging={"finalists": 0}))
    assert not any("ensemble" in caution for caution in alone.cautions)


def test_a_label_word_that_begins_with_another_is_doubtful_where_words_are_written(
    write_study: WriteStudy, tiny_models: TinyModels
) -> None:
    words = {"verbalizers": {"v": {"negative": ["good grief"], "positive": ["good"]}}}
    backbone = {"path": tiny_models["causal_lm"], "family": "causal_lm", "max_tokens": 48}
    templates = {"templates": {"t": "{{ text }} It was {{ label }}"}}
    written = load_study(write_study(backbone=backbone, **space(**words, **templates)))
    (caution,) = [own for own in written.cautions if "begins with" in own]
    assert caution.startswith("verbalizer 'v': 'good grief' begins with 'good', the word of another label")
    assert not any("begins with" in own for own in load_study(write_study(**space(**words))).cautions)
    words["verbalizers"]["v"]["positive"].append("goo")
    words["verbalizers"]["v"]["negative"] = ["gruesome", "goods"]
    other = load_study(write_study(backbone=backbone, **space(**words, **templates)))
    assert not any("begins with" in own for own in other.cautions)


def test_a_budget_of_few_seconds_without_a_unit_is_doubted(write_study: WriteStudy) -> None:
    bare = load_study(write_study(budget={"trials": 4, "timeout": 24, "trial_timeout": "20s", "compute": 3600}))
    assert bare.cautions == ("budget.timeout: 24 means 24 seconds; for hours, write 24h",)
    assert load_study(write_study(budget={"trials": 4, "timeout": "24h"})).cautions == ()


def test_what_is_no_path_is_no_study() -> None:
    for given in ({}, None, 3):
        with pytest.raises(InvalidInputError, match="expected the path of a study file, got"):
            load_study(given)  # type: ignore[arg-type]

"""Studies of kinds that read histories: what a file may leave out, and what is refused."""

import csv
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FixedTrial

from promptgraft.search.sampling import baseline_candidates, start_points
from promptgraft.search.study import load_study
from promptgraft.search.study.yaml_lines import StudyFileError
from promptgraft.spaces import Candidate, Categorical, Constant
from tests.support.histories import write_histories
from tests.support.models import TinyModels
from tests.support.studies import write_study_file

LEFT_OUT = {"space": None, "baselines": None, "judging": None}


def sections(folder: Path, kind: str, *, source: bool) -> dict[str, Any]:
    """Write tables, and return the sections of a file that names nothing else than these and the backbone."""
    interactions, items = write_histories(folder, users=60)
    histories: dict[str, Any] = {"user": "user", "time": "when", "items": str(items), "text": "title"}
    if kind == "user_profile":
        with (folder / "users.csv").open("w", newline="") as file:
            rows = [(f"u{user}", "old" if user % 2 else "young") for user in range(60)]
            csv.writer(file).writerows([("user", "age"), *rows])
        histories |= {"users": str(folder / "users.csv"), "attributes": ["age"]}
    task = {"kind": kind, "train": str(interactions), "text": {"history": "history"}, "label": "item"}
    task["histories"] = histories  # type: ignore[assignment]
    (folder / "other").mkdir()
    theirs, _ = write_histories(folder / "other", users=20, seed=1)
    theirs.write_text(theirs.read_text().replace("\nu", "\nv"))  # Other users.
    return {"target": task, "source": {**task, "train": str(theirs)} if source else None, **LEFT_OUT}


def choices(study: Any, name: str) -> tuple[Any, ...]:
    (found,) = (own for own in study.objective.space.parameters if own.name == name)
    return found.choices if isinstance(found, Categorical) else (found.value,) if isinstance(found, Constant) else ()


@pytest.mark.parametrize("effort", ["quick", "best"])
@pytest.mark.parametrize("source", [True, False], ids=["source", "no source"])
def test_a_recommendation_gets_a_space_with_counts(
    tmp_path: Path, tiny_models: TinyModels, source: bool, effort: str
) -> None:
    """Nothing in it is refused by the kind of task, and it begins with what was measured to be best."""
    own = sections(tmp_path, "recommendation", source=source)
    backbone = {"path": tiny_models["encoder"], "family": "encoder", "max_tokens": 32}
    study = load_study(
        write_study_file(tmp_path / "study.yaml", backbone, **own, effort=effort, budget={"trials": 24}), rehearsed=True
    )
    assert choices(study, "prior") == ("none", "neighbours", "ease")
    assert choices(study, "head") == ("label_words", "linear")
    assert [template.name for template in study.objective.space.templates] == ["last", "three", "six"]
    space, points = study.objective.space, start_points(study)
    candidates = [space.suggest(FixedTrial(point)) for point in points.values()]  # type: ignore[arg-type]
    assert list(points)[: 1 + source] == ["counts, the source's too", "counts"][1 - source :]
    first = candidates[0]
    assert (first.prior, first.prior_recency, first.ignores_text) == ("ease", 1.0, True)
    assert first.alpha == (0.3 if source else 0.0)
    both = dict(zip(points, candidates, strict=True))["counts and text"]
    assert both.text_weight > 0
    assert both.is_trained
    for candidate in (*candidates, *baseline_candidates(study).values()):
        refusals = [study.target.refuses(name, value) for name, value in candidate.to_dict().items()]
        assert not any(refusals)
    assert {"neighbours", "ease", "zero_shot"} <= set(study.file.baselines)
    if effort == "best":
        assert {"svd", "sasrec", "gru4rec", "popular_lately"} <= set(study.file.judging.controls)


def test_titles_are_scored_by_a_causal_model(tmp_path: Path, tiny_models: TinyModels) -> None:
    """Of the items that counts rank first; nothing of the space needs words of labels, or scores all items by them."""
    own = sections(tmp_path, "recommendation", source=True)
    backbone = {"path": tiny_models["causal_lm"], "family": "causal_lm", "max_tokens": 64}
    study = load_study(write_study_file(tmp_path / "study.yaml", backbone, **own, budget={"trials": 24}))
    space = study.objective.space
    assert (choices(study, "head"), choices(study, "prior")) == (("titles",), ("neighbours", "ease"))
    assert not space.verbalizers
    rendered = space.templates[1].render({"history": "third\nsecond\nfirst\nzeroth"})
    assert rendered.before == "first; second; third; "
    assert "zero_shot" not in {*study.file.baselines, *study.file.judging.controls}
    found = [*(space.suggest(FixedTrial(own)) for own in start_points(study).values())]  # type: ignore[arg-type]
    found += baseline_candidates(study).values()
    assert {"neighbours", "full_fine_tuning"} <= baseline_candidates(study).keys()
    assert all(candidate.head == "titles" and candidate.prior != "none" for candidate in found)


def test_heads_of_a_causal_model_are_checked(tmp_path: Path, tiny_models: TinyModels) -> None:
    own = sections(tmp_path, "recommendation", source=False)
    template = {"templates": {"last": "{{ history }} {{ label }}"}}
    backbones = {family: {"path": tiny_models[family], "family": family} for family in ("causal_lm", "encoder")}
    for family, space, message in (
        ("causal_lm", {"prior": ["none", "ease"]}, "prior may be 'none'; give priors alone"),
        ("encoder", {"head": ["titles"], "prior": "ease"}, "head 'titles' continues a prompt by titles"),
    ):
        file = write_study_file(tmp_path / "study.yaml", backbones[family], **{**own, "space": {**template, **space}})
        with pytest.raises(StudyFileError, match=message):
            load_study(file, rehearsed=True)


def test_a_profile_gets_a_space_with_words_of_the_whole_history(tmp_path: Path, tiny_models: TinyModels) -> None:
    own = sections(tmp_path, "user_profile", source=False)
    backbone = {"path": tiny_models["encoder"], "family": "encoder", "max_tokens": 64}
    study = load_study(write_study_file(tmp_path / "study.yaml", backbone, **own), rehearsed=True)
    assert choices(study, "prior") == ("none", "words", "items")
    assert choices(study, "head") == ("probe", "linear")
    assert [template.name for template in study.objective.space.templates] == ["newest", "oldest"]
    assert not {"sasrec", "svd"} & set(study.file.judging.controls)
    names = start_points(study)
    assert "words and text" in names
    candidate: Candidate = study.objective.space.suggest(FixedTrial(names["words and text"]))  # type: ignore[arg-type]
    assert (candidate.prior, candidate.text_weight) == ("words", 0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rating": "stars"}, "histories.least_rating: goes with `rating`"),
        ({"rating": "when", "least_rating": 1e9}, "no rating in column 'when' reaches"),
        ({"rating": "stars", "least_rating": 4}, "no column 'stars'"),
        ({"least": 1}, "histories.least: input should be greater than or equal to 2"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(
    tmp_path: Path, tiny_models: TinyModels, changes: dict[str, Any], message: str
) -> None:
    own = sections(tmp_path, "recommendation", source=False)
    own["target"]["histories"] |= changes
    backbone = {"path": tiny_models["encoder"], "family": "encoder", "max_tokens": 32}
    with pytest.raises(StudyFileError, match=message):
        load_study(write_study_file(tmp_path / "study.yaml", backbone, **own), rehearsed=True)


@pytest.mark.parametrize(
    ("kind", "negatives", "message"),
    [
        ("recommendation", None, "metric: sampled_ndcg_at_10 needs target.histories.negatives"),
        ("user_profile", 20, "histories.negatives: does not apply to tasks of kind 'user_profile'"),
    ],
)
def test_sampled_metrics_and_how_many_are_drawn_go_together(
    tmp_path: Path, tiny_models: TinyModels, kind: str, negatives: int | None, message: str
) -> None:
    own = sections(tmp_path, kind, source=False)
    own["target"]["histories"] |= {"negatives": negatives} if negatives else {}
    own |= {} if negatives else {"metric": "sampled_ndcg_at_10"}
    backbone = {"path": tiny_models["encoder"], "family": "encoder", "max_tokens": 64}
    with pytest.raises(StudyFileError, match=message):
        load_study(write_study_file(tmp_path / "study.yaml", backbone, **own), rehearsed=True)


def test_controls_of_items_are_refused_where_there_are_none(tmp_path: Path, tiny_models: TinyModels) -> None:
    own = sections(tmp_path, "user_profile", source=False)
    backbone = {"path": tiny_models["encoder"], "family": "encoder", "max_tokens": 64}
    file = write_study_file(tmp_path / "study.yaml", backbone, **{**own, "judging": {"controls": ["sasrec"]}})
    with pytest.raises(StudyFileError, match="sasrec does not apply to tasks of kind 'user_profile'"):
        load_study(file, rehearsed=True)


@pytest.mark.parametrize("kind", ["recommendation", "user_profile"])
def test_items_that_the_table_lacks_are_a_caution(tmp_path: Path, tiny_models: TinyModels, kind: str) -> None:
    own = sections(tmp_path, kind, source=False)
    table = Path(own["target"]["train"])
    backbone = {"path": tiny_models["encoder"], "family": "encoder", "max_tokens": 32}
    study = load_study(write_study_file(tmp_path / "study.yaml", backbone, **own))
    assert not any("table of items" in caution for caution in study.cautions)
    first, *lines = table.read_text().splitlines()
    lost = [line.replace(",", ",00", 1) if number % 10 == 0 else line for number, line in enumerate(lines)]
    table.write_text("\n".join([first, *lost]) + "\n")
    study = load_study(write_study_file(tmp_path / "study.yaml", backbone, **own))
    (said,) = [caution for caution in study.cautions if "table of items" in caution]
    assert "are the ids of both tables written alike?" in said
    count, item = len(lines[::10]), lost[0].split(",")[1]
    assert f"target: {count} of {len(lines)} interactions are left out, since their items, such as '{item}'" in said
    assert "as 'bread0' has" in said


def test_times_that_are_all_the_same_are_a_caution(tmp_path: Path, tiny_models: TinyModels) -> None:
    own = sections(tmp_path, "recommendation", source=False)
    table = Path(own["target"]["train"])
    backbone = {"path": tiny_models["encoder"], "family": "encoder", "max_tokens": 32}
    file = write_study_file(tmp_path / "study.yaml", backbone, **own)
    assert not any("the same time" in caution for caution in load_study(file, rehearsed=True).cautions)
    head, *lines = table.read_text().splitlines()
    table.write_text("\n".join([head, *(f"{line.rpartition(',')[0]},1" for line in lines)]) + "\n")
    said = "target: all interactions have the same time in column 'when', so histories are in the order of the table"
    assert said in load_study(file, rehearsed=True).cautions

"""Editing a study file between two runs: what goes on, what is refused, and what is learnt from before."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from promptgraft.search.running import RunOptions, run_study
from promptgraft.search.running.compatibility import record_study
from promptgraft.search.storage import RunFolder, distributions_of, load_existing, open_storage, present_parameters
from promptgraft.search.study import Study, load_study
from promptgraft.spaces import Categorical, InvalidInputError, SearchSpace
from tests.support.models import TinyModels
from tests.support.studies import SMALL_SPACE, open_ledger, space

WriteStudy = Callable[..., Path]
ADDED = {"plain": "{{ text }} {{ label }}"}


def wider(**changes: Any) -> dict[str, Any]:
    old = space()
    verbalizers = old["verbalizers"] | {"mood": {"negative": ["sad"], "positive": ["happy"]}}
    return old | {"templates": old["templates"] | ADDED, "verbalizers": verbalizers} | changes


def test_the_sources_are_part_of_what_results_mean(write_study: WriteStudy, data: Path, tmp_path: Path) -> None:
    """Their tables may move; another one beside them, or other rows, may not join."""
    movie = {"train": str(data / "movie.csv"), "text": "text", "label": "label", "train_rows": 40}
    moved = tmp_path / "moved.csv"
    moved.write_bytes((data / "movie.csv").read_bytes())
    storage = open_storage(RunFolder(tmp_path / "run").storage_url())
    stored = optuna.create_study(storage=storage, study_name="tiny", direction="maximize")
    several = {"source": None, "sources": {"movie": movie, "fewer": movie | {"train_rows": 20}}}
    record_study(stored, load_study(write_study(**several)), 4)
    several["sources"]["movie"]["train"] = str(moved)
    record_study(stored, load_study(write_study(**several)), 4)
    assert [edit.split()[0] for edit in stored.user_attrs["edits"][0]["edits"]] == ["sources.movie.train"]
    for edit in ({"movie": movie}, several["sources"] | {"more": movie}):
        with pytest.raises(InvalidInputError, match="source rows are others"):
            record_study(stored, load_study(write_study(source=None, sources=edit)), 4)


@pytest.mark.slow
def test_a_study_goes_on_with_more_templates_and_another_pruner(write_study: WriteStudy, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    narrow = space(learning_rate={"low": 1e-4, "high": 1e-3}, steps=[4, 6])
    first = write_study(space=narrow, pruner="median", sampler={"name": "tpe", "n_startup_trials": 2})
    run_study(load_study(first), RunOptions(folder, trials=4, concurrent=2))
    # More templates and words, another scale, a wider range, other choices, another pruner.
    edited = write_study(
        space=wider(learning_rate={"low": 1e-5, "high": 1e-2, "log": True}, steps=[6, 8]),
        pruner="none",
        sampler={"name": "tpe", "n_startup_trials": 2},
        cache={"memory": "1GB"},
    )
    run_study(load_study(edited), RunOptions(folder, trials=10, concurrent=2))
    study = load_existing("tiny", folder.storage_url())
    trials = study.get_trials()
    assert [trial.state for trial in trials].count(TrialState.COMPLETE) >= 6
    assert {"template", "verbalizer", "learning_rate", "steps"} <= trials[0].params.keys()
    assert {"template~2", "verbalizer~2", "learning_rate~2", "steps~2"} <= trials[-1].params.keys()
    assert "frozen_layers" in trials[-1].params
    (record,) = study.user_attrs["edits"]
    assert "templates.plain added" in record["edits"]
    assert any(edit.startswith("pruner.name 'median' -> 'none'") for edit in record["edits"])
    optuna.importance.get_param_importances(study)
    # The first file again: the old names hold its values, and trials with the new template are left out of it.
    run_study(load_study(write_study(space=wider())), RunOptions(folder, trials=11, concurrent=1))


def test_old_trials_are_read_in_terms_of_the_present_space(write_study: WriteStudy) -> None:
    present = distributions_of(load_study(write_study(space=wider(steps=[8]))).objective.space)
    template, verbalizer = present["template"].choices[0], present["verbalizer"].choices[0]  # type: ignore[attr-defined]
    candidate = {"template": template, "verbalizer": verbalizer}
    params = {"template": template, "alpha~3": 0.5, "steps": 12, "soft_prompt.length": 9}
    assert present_parameters(params, candidate, present) == {
        "template": template,
        "verbalizer": verbalizer,
        "alpha": 0.5,
    }


def changed_template() -> dict[str, Any]:
    content = space()
    return content | {"templates": content["templates"] | {"review": "Text: {{ text }} Mood: {{ label }}"}}


def fewer_templates() -> dict[str, Any]:
    content = space()
    return content | {"templates": {"review": content["templates"]["review"]}}


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"seed": 7}, "seed: 0 -> 7"),
        ({"metric": "f1_macro"}, "metric: 'accuracy' -> 'f1_macro'"),
        ({"evaluation": {"every": 4, "batch_size": 8}}, "evaluation.every: 2 -> 4"),
        ({"space": changed_template()}, "template 'review' was changed; give the new one another name"),
        ({"space": fewer_templates()}, "template 'all_in_all' was removed"),
        ({"source": None, "space": space(source_steps=0, alpha=0.0)}, "source.label: 'label' -> None"),
    ],
    ids=["seed", "metric", "evaluation", "template changed", "template removed", "source"],
)
def test_an_edit_that_changes_what_results_mean_is_refused(
    write_study: WriteStudy, tmp_path: Path, sections: dict[str, Any], named: str
) -> None:
    storage = open_storage(RunFolder(tmp_path / "run").storage_url())
    stored = optuna.create_study(storage=storage, study_name="tiny", direction="maximize")
    record_study(stored, load_study(write_study(space=space())), 4)
    with pytest.raises(InvalidInputError, match="--new-study NAME") as caught:
        record_study(stored, load_study(write_study(**({"space": space()} | sections))), 4)
    assert named in str(caught.value)
    assert "edits" not in stored.user_attrs


def test_a_backbone_may_join_and_none_may_change_or_leave(
    write_study: WriteStudy, tiny_models: TinyModels, tmp_path: Path
) -> None:
    def load(**backbones: dict[str, Any]) -> Study:
        return load_study(write_study(backbone=None, backbones=backbones, space=space()))

    def section(family: str, **options: Any) -> dict[str, Any]:
        return {"path": tiny_models[family], "family": family, "max_tokens": 48, **options}

    first, lm, other = section("encoder"), section("causal_lm"), section("masked_lm")
    storage = open_storage(RunFolder(tmp_path / "run").storage_url())
    stored = optuna.create_study(storage=storage, study_name="tiny", direction="maximize")
    record_study(stored, load(first=first, lm=lm), 4)
    record_study(stored, load(first=first, lm=lm, third=other), 4)
    assert stored.user_attrs["edits"][0]["edits"] == ["backbones.third added"]
    for study, message in (
        (load(first=first, third=other), "backbone 'lm' was removed, but trials were run with it"),
        (load(first=section("encoder", max_tokens=32), lm=lm, third=other), "backbones.first.max_tokens: 48 -> 32"),
        (load(first=other, lm=lm, third=other), "weights of backbone 'first' are others"),
        (load_study(write_study(space=space())), "backbone.family: None -> 'encoder'"),
    ):
        with pytest.raises(InvalidInputError, match="--new-study NAME") as caught:
            record_study(stored, study, 4)
        assert message in str(caught.value)


def test_what_is_known_of_a_backbone_is_learnt_when_another_joins(tmp_path: Path) -> None:
    """Trials keep their parameters, though some have other names from then on; new ones are on either."""
    shallow = replace(SMALL_SPACE, parameters=(Categorical("frozen_layers", (0, 1)), *SMALL_SPACE.parameters[1:]))
    book = open_ledger(tmp_path, SearchSpace.over({"deep": SMALL_SPACE}), n_startup_trials=2)
    for value in (0.5, 0.6):
        asked = book.ask()
        assert asked is not None
        book.complete(asked.number, value)
    both = SearchSpace.over({"deep": SMALL_SPACE, "shallow": shallow})
    book = open_ledger(tmp_path, both, n_startup_trials=2)
    found = [asked.candidate for asked in (book.ask() for _ in range(8)) if asked is not None]
    assert {candidate.backbone for candidate in found} == {"deep", "shallow"}
    present = distributions_of(both)
    for trial in book.study.get_trials()[:2]:
        known = present_parameters(trial.params, trial.user_attrs["candidate"], present)
        assert known["backbone"] == "deep"
        assert known["frozen_layers@deep"] == trial.params["frozen_layers"]
        assert len(known) == len(trial.params) + 1


@pytest.mark.slow
def test_new_study_runs_the_edited_file_beside_the_old_study(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def promptgraft(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from promptgraft.search.cli.studies import app; app()", *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=200)

    path = str(write_study(space=space(), budget={"trials": 1}))
    assert promptgraft("run", path).returncode == 0
    path = str(write_study(space=space(), budget={"trials": 1}, seed=5))
    refused = promptgraft("run", path)
    assert refused.returncode == 2
    assert "seed: 0 -> 5" in refused.stderr
    for _ in range(2):
        other = promptgraft("run", path, "--new-study", "tiny-seed-5")
        assert other.returncode == 0, other.stderr
    assert "tiny-seed-5: 1/1 finished" in promptgraft("status").stdout
    assert promptgraft("export", "tiny-seed-5").returncode == 0
    assert (tmp_path / "runs" / "tiny-seed-5" / "bundle" / "manifest.json").is_file()

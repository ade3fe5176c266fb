"""Whole searches over real Ray Tune workers and a real SQLite study, with a small random model."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import FrozenTrial, TrialState
from optuna_dashboard._note import get_note_from_system_attrs
from safetensors.numpy import load_file

from promptgraft.objectives.trial import Objective, StudyTasks
from promptgraft.search.reporting import artifact_store
from promptgraft.search.running import RunOptions, RunOutcome, run_study
from promptgraft.search.storage import LOGITS_FILE, RunFolder, load_existing, open_storage, to_json, trial_file
from promptgraft.search.study import load_study
from promptgraft.spaces import Candidate, InvalidInputError
from tests.support.studies import HOPELESS, WriteStudy, space, write_study_file


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, str]) -> Path:
    return write_study_file(
        tmp_path_factory.mktemp("study") / "study.yaml",
        {"path": tiny_models["encoder"], "family": "encoder", "max_tokens": 48},
        space=space(),
        pruner={"name": "median", "n_startup_trials": 3, "n_warmup_steps": 2},
        sampler={"name": "random"},
        budget={"trials": 24, "max_failure_rate": 0.9},
        track=["tensorboard"],
    )


@pytest.fixture(scope="module")
def ran(study_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, RunOutcome]:
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    return folder, run_study(load_study(study_file), RunOptions(folder, concurrent=2))


@pytest.fixture(scope="module")
def folder(ran: tuple[RunFolder, RunOutcome]) -> RunFolder:
    """The folder of a finished search, for tests that only read it."""
    return ran[0]


def test_workers_get_the_rows_that_they_would_read(study_file: Path) -> None:
    study = load_study(study_file)
    sent, read = (
        StudyTasks(*pickle.loads(pickle.dumps((study.target, study.sources)))),
        StudyTasks.load(study.objective),
    )
    assert (sent.target, sent.sources, sent.labels) == (read.target, read.sources, read.labels)
    assert len(sent.target.train) == 16


def expected_state(trial: FrozenTrial, folder: RunFolder) -> str:
    """Say what happened, from the candidate, the curve and the files that the worker wrote."""
    candidate = Candidate.from_values(trial.user_attrs["candidate"])
    if candidate.learning_rate == HOPELESS:
        return "FAIL"
    wrote = (folder.path / trial_file(trial.number, LOGITS_FILE)).is_file()
    last = max(trial.intermediate_values)
    if last == candidate.steps and wrote:
        return "COMPLETE"
    return "PRUNED" if last < candidate.steps and not wrote else "inconsistent"


def test_every_trial_and_the_end_are_tracked(folder: RunFolder) -> None:
    trials = load_existing("tiny", folder.storage_url()).get_trials()
    tracked = {path.name for path in (folder.path / "tensorboard").iterdir()}
    assert tracked == {f"trial-{trial.number}" for trial in trials} | {"study"}


def test_recorded_states_are_what_happened(ran: tuple[RunFolder, RunOutcome]) -> None:
    folder, outcome = ran
    study = load_existing("tiny", folder.storage_url())
    trials = study.get_trials()
    table = [(trial.number, expected_state(trial, folder), trial.state.name) for trial in trials]
    assert [(n, expected) for n, expected, _ in table] == [(n, recorded) for n, _, recorded in table]
    counts = {state: sum(recorded == state for _, _, recorded in table) for state in ("COMPLETE", "PRUNED", "FAIL")}
    assert outcome.states == counts
    assert all(counts.values()), counts
    assert outcome.finished == counts["COMPLETE"] + counts["PRUNED"] == 24
    assert len({trial.user_attrs["candidate_key"] for trial in trials}) == len(trials)
    storage = open_storage(folder.storage_url())
    notes = storage.get_study_system_attrs(storage.get_study_id_from_name("tiny"))
    assert notes["dashboard:note_str:0"].startswith("## tiny")
    for trial in trials:
        if trial.state == TrialState.FAIL:
            assert "loss became" in trial.user_attrs["cause"] or "not finite" in trial.user_attrs["cause"]
        else:
            assert {"validation_accuracy", "validation_loss", "confusion"} <= trial.user_attrs.keys()
            assert 0 <= trial.user_attrs["adaptability_content"] <= 1
            assert 0 < trial.user_attrs["adaptability_form"] <= 1
            assert notes[f"dashboard:{trial._trial_id}:note_str:0"].startswith("### Prompt")
            tables = {meta.filename: meta for meta in get_all_artifact_meta(trial, storage=storage)}
            expected = {"curve.csv", "confusion.csv"}
            assert tables.keys() == expected | ({"predictions.csv"} if trial.state == TrialState.COMPLETE else set())
            with artifact_store(folder).open_reader(tables["curve.csv"].artifact_id) as stream:
                curve = pd.read_csv(stream)
            assert dict(zip(curve.step, curve.value, strict=True)) == trial.intermediate_values
            assert {"L_s", "L_t"} <= set(curve.columns)
        if trial.state == TrialState.COMPLETE:
            with artifact_store(folder).open_reader(tables["predictions.csv"].artifact_id) as stream:
                predicted = pd.read_csv(stream)
            assert (predicted.label == predicted.predicted).mean() == pytest.approx(trial.value)


def test_no_more_trials_are_running_than_asked_for(folder: RunFolder) -> None:
    trials = load_existing("tiny", folder.storage_url()).get_trials()
    for trial in trials:
        assert trial.datetime_start is not None
        others = [t for t in trials if t.datetime_start and t.datetime_complete]
        at_once = sum(t.datetime_start <= trial.datetime_start < t.datetime_complete for t in others)  # type: ignore[operator]
        assert at_once <= 2


def test_trials_equal_the_objective_run_alone(study_file: Path, folder: RunFolder, tmp_path: Path) -> None:
    """What reused workers computed is what a fresh process computes for the same candidate: 0.0 apart."""

    torch.set_num_threads(1)
    objective = Objective(replace(load_study(study_file).objective, files=str(tmp_path / "other")))
    study = load_existing("tiny", folder.storage_url())
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    for trial in complete[-3:]:
        stored = load_file(folder.path / trial_file(trial.number, LOGITS_FILE))["logits"]
        alone = objective.evaluate(Candidate.from_values(trial.user_attrs["candidate"]), 0)
        assert np.abs(stored - alone.logits).max() == 0.0
        assert alone.value == trial.value


def test_more_trials_continue(
    study_file: Path, folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a copy: the others read what 24 trials left."""
    monkeypatch.setattr("promptgraft.search.reporting.dashboard_tables.NOTES", 0)
    folder = RunFolder(shutil.copytree(folder.path, tmp_path / "copy"))
    study = load_study(study_file)
    before = load_existing("tiny", folder.storage_url()).get_trials()
    outcome = run_study(study, RunOptions(folder, trials=26, concurrent=2))
    continued = load_existing("tiny", folder.storage_url())
    after, notes = continued.get_trials(), continued._storage.get_study_system_attrs(continued._study_id)
    told = [trial for trial in after[len(before) :] if trial.value is not None]
    assert told
    for trial in told:  # They have no notes in the study any more, but among their files.
        assert "note.md" in {meta.filename for meta in get_all_artifact_meta(trial, storage=continued._storage)}
        assert not get_note_from_system_attrs(notes, trial._trial_id)["body"]
    assert outcome.finished == 26
    assert [t.params for t in after[: len(before)]] == [t.params for t in before]
    assert run_study(study, RunOptions(folder, trials=26)).ended_because == "all 26 trials are finished"


def test_only_the_best_weights_stay_on_disk(folder: RunFolder) -> None:
    assert 1 <= len(list((folder.path / "artifacts").glob("trial-*/delta.safetensors"))) <= 3


@pytest.mark.slow
def test_a_search_of_failures_stops(write_study: WriteStudy, tmp_path: Path) -> None:
    path = write_study(space=space(learning_rate=HOPELESS), budget={"trials": 50, "max_failure_rate": 0.5})
    outcome = run_study(load_study(path), RunOptions(RunFolder(tmp_path / "run"), concurrent=2))
    assert outcome.finished == 0
    assert "100% of the trials failed" in str(outcome.ended_because)
    assert outcome.states["FAIL"] < 12


def test_a_trial_that_wants_more_than_ray_has_is_refused(write_study: WriteStudy, tmp_path: Path) -> None:
    path = write_study(resources={"cpu": 1, "gpu": 64})
    with pytest.raises(InvalidInputError, match="wants 64 GPU, but Ray has"):
        run_study(load_study(path), RunOptions(RunFolder(tmp_path / "run"), concurrent=1))


def test_the_best_trial_is_what_status_says(folder: RunFolder) -> None:
    from promptgraft.search.reporting import summarize

    study = load_existing("tiny", folder.storage_url())
    summary = summarize(study)
    json.dumps(to_json(summary))
    assert summary.best.value == max(t.value for t in study.get_trials(states=(TrialState.COMPLETE,)))
    assert summary.finished == 24
    assert optuna.load_study(study_name="tiny", storage=folder.storage_url()).metric_names == ["accuracy"]

"""Trackers get every trial, the end of a run and the bundle; their failures stop nothing."""

import logging
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from promptgraft.search.storage import RunFolder
from promptgraft.search.storage.attributes import CANDIDATE, CAUSE, TOKEN
from promptgraft.search.study import Study, engines, load_study
from promptgraft.search.study.yaml_lines import StudyFileError
from promptgraft.search.tracking import Tracking
from promptgraft.spaces import Candidate

WriteStudy = Callable[..., Path]
CANDIDATES = [Candidate("plain-1", "words-1", steps=steps) for steps in (4, 6)]


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow writes artifacts to the present folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def stored() -> optuna.Study:
    """A study of a completed and a failed trial."""
    study = optuna.create_study(study_name="tiny", direction="maximize")
    study.set_user_attr(TOKEN, "a1b2c3d4")
    attrs = [{CANDIDATE: candidate.to_dict(), "seconds": 1.5} for candidate in CANDIDATES]
    curve = {2: 0.5, 4: 0.75}
    study.add_trial(
        create_trial(value=0.75, intermediate_values=curve, user_attrs={**attrs[0], "validation_accuracy": 0.75})
    )
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={**attrs[1], CAUSE: "the loss became nan"}))
    return study


def study_with(write_study: WriteStudy, *trackers: str) -> Study:
    return load_study(write_study(track=list(trackers)))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["as they come", "one is from an earlier run"])
def test_mlflow_has_a_run_for_the_study_and_one_for_each_trial(
    write_study: WriteStudy, stored: optuna.Study, tmp_path: Path, order: tuple[int, int]
) -> None:
    import mlflow

    study, folder = study_with(write_study, "mlflow"), RunFolder(tmp_path / "run")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    for number in order:
        tracking = Tracking(study, stored, folder)
        tracking.add_trial(number)
        tracking.end("stopped", "it was stopped")
    client = mlflow.MlflowClient()

    def status() -> str:
        experiment = client.get_experiment_by_name("tiny")
        (parent,) = client.search_runs([experiment.experiment_id], "attributes.run_name = 'tiny'")
        return str(parent.info.status)

    assert status() == "KILLED"
    Tracking(study, stored, folder).end("failed", "the disk is full")
    assert status() == "FAILED"
    tracking = Tracking(study, stored, folder)
    tracking.add_earlier()
    tracking.end("ended", "all trials are finished", ["Ship trial 0."])
    Tracking(study, stored, folder).add_bundle(bundle, {"accuracy": 0.7})
    assert status() == "FINISHED"
    experiment = client.get_experiment_by_name("tiny")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    parent, done, failed = runs["tiny"], runs["trial 0"], runs["trial 1"]
    assert len(runs) == 3
    assert parent.data.tags["promptgraft.verdict"] == "Ship trial 0."
    assert parent.data.metrics == {"test_accuracy": 0.7}
    assert client.list_artifacts(parent.info.run_id, "bundle")[0].path == "bundle/manifest.json"
    assert {run.data.tags["mlflow.parentRunId"] for run in (done, failed)} == {parent.info.run_id}
    assert (done.info.status, failed.info.status) == ("FINISHED", "FAILED")
    assert failed.data.tags["promptgraft.cause"] == "the loss became nan"
    assert done.data.params["steps"] == "4"
    assert done.data.metrics["accuracy"] == 0.75
    curve = client.get_metric_history(done.info.run_id, "curve_accuracy")
    assert [(point.step, point.value) for point in curve] == [(2, 0.5), (4, 0.75)]


def test_tensorboard_reads_curves_and_hyperparameters(
    write_study: WriteStudy, stored: optuna.Study, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracking = Tracking(study_with(write_study, "tensorboard"), stored, RunFolder(tmp_path / "run"))
    tracking.add_earlier()
    tracking.end("ended", "all trials are finished", ["Ship trial 0."])
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "trial-0")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("curve/accuracy")] == [(2, 0.5), (4, 0.75)]
    assert events.Scalars("final/accuracy")[0].value == 0.75
    assert "_hparams_/session_start_info" in events.summary_metadata
    verdict = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "study")).Reload()
    assert b"Ship trial 0." in verdict.Tensors("verdict/text_summary")[0].tensor_proto.string_val[0]


def test_a_tracker_that_fails_is_warned_of_once_and_the_others_go_on(
    write_study: WriteStudy,
    stored: optuna.Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    study = study_with(write_study, "mlflow", "tensorboard")
    with caplog.at_level(logging.WARNING, "promptgraft"):
        tracking = Tracking(study, stored, RunFolder(tmp_path / "run"))
        tracking.add_earlier()
        tracking.end("ended", "all trials are finished")
    (warning,) = caplog.messages
    assert warning.startswith("mlflow gets nothing more of this run, which goes on: ")
    assert "secret" not in warning
    assert (tmp_path / "run" / "tensorboard" / "trial-1").is_dir()


def test_validate_refuses_a_tracker_that_is_not_installed(
    write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(engines._TRACKER_MODULES, "wandb", "no_such_module")  # type: ignore[index]
    with pytest.raises(StudyFileError, match=r"track: wandb is not installed: pip install 'promptgraft\[track\]'"):
        study_with(write_study, "tensorboard", "wandb")
    with pytest.raises(StudyFileError, match=r"track.*'mlflow', 'tensorboard' or 'wandb', got 'tensorbord'"):
        study_with(write_study, "tensorbord")


def test_a_study_that_is_not_tracked_starts_no_thread(
    write_study: WriteStudy, stored: optuna.Study, tmp_path: Path
) -> None:
    import threading

    before = threading.active_count()
    tracking = Tracking(study_with(write_study), stored, RunFolder(tmp_path / "run"))
    tracking.add_trial(0)
    assert threading.active_count() == before
    tracking.end("ended", "all trials are finished")
    assert not (tmp_path / "run").exists()

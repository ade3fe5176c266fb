"""Whole searches that are stopped, killed or lost, over real Ray workers: the same command goes on."""

import contextlib
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from optuna.trial import FrozenTrial, TrialState
from safetensors.numpy import load_file

from promptgraft.objectives.trial import Objective
from promptgraft.search.running import RunOptions, run_study
from promptgraft.search.storage import LOGITS_FILE, RunFolder, load_existing, trial_file
from promptgraft.search.study import load_study
from promptgraft.spaces import Candidate, InvalidInputError
from tests.support.commands import PROMPTGRAFT
from tests.support.faults import heed_ctrl_c, is_worker, processes_of
from tests.support.studies import WriteStudy, space
from tests.support.waiting import wait_until

LONG = space(learning_rate=[1e-4, 1e-3], steps=[60, 80])


def _wait_for(folder: RunFolder, process: subprocess.Popen[str], seen: Callable[[list[FrozenTrial]], bool]) -> None:
    """Wait until the study shows something."""

    def shown() -> bool:
        assert process.poll() is None, process.communicate()
        if folder.database.is_file():
            with contextlib.suppress(InvalidInputError):
                return seen(load_existing("tiny", folder.storage_url()).get_trials(deepcopy=False))
        return False

    wait_until(shown, 120)


def _wait_for_trials(folder: RunFolder, finished: int, process: subprocess.Popen[str]) -> None:
    def enough(trials: list[FrozenTrial]) -> bool:
        running = any(trial.state == TrialState.RUNNING for trial in trials)
        return running and sum(trial.state == TrialState.COMPLETE for trial in trials) >= finished

    _wait_for(folder, process, enough)


def _start(path: Path, tmp_path: Path, *, trials: int) -> tuple[subprocess.Popen[str], RunFolder]:
    folder = RunFolder(tmp_path / "run")
    command = [*PROMPTGRAFT, "run", str(path), "--trials", str(trials), "--concurrent", "2"]
    command += ["--workdir", str(folder.path)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, preexec_fn=heed_ctrl_c), folder


def _a_worker_of(process: subprocess.Popen[str]) -> psutil.Process:
    """Return a Ray worker that has an actor, by the title that Ray gives its process a moment after its start."""
    found: list[psutil.Process] = []

    def seen() -> bool:
        found.extend(processes_of(process, is_worker))
        return bool(found)

    wait_until(seen)
    return found[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "stop",
    [signal.SIGINT, signal.SIGTERM, signal.SIGKILL],
    ids=["ctrl-c", "SIGTERM", "kill -9"],
)
def test_a_stopped_run_goes_on(write_study: WriteStudy, tmp_path: Path, stop: signal.Signals) -> None:
    """Nothing finished is lost, nothing is left RUNNING, and what was cut off is run again."""
    path = write_study(space=space(learning_rate=[1e-4, 1e-3], steps=[60, 80]), pruner="none")
    folder = RunFolder(tmp_path / "run")
    command = [*PROMPTGRAFT, "run", str(path), "--trials", "6", "--concurrent", "2", "--workdir", str(folder.path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _wait_for_trials(folder, 2, process)
    process.send_signal(stop)
    output, errors = process.communicate(timeout=120)
    if stop != signal.SIGKILL:
        assert process.returncode == 130, errors
        assert "the same command goes on" in output
        states = {t.state for t in load_existing("tiny", folder.storage_url()).get_trials()}
        assert TrialState.RUNNING not in states
        assert "Traceback" not in errors
    before = {
        t.number: (t.value, t.intermediate_values)
        for t in load_existing("tiny", folder.storage_url()).get_trials(states=(TrialState.COMPLETE,))
    }
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    study = load_existing("tiny", folder.storage_url())
    after = study.get_trials()
    assert sum(trial.state == TrialState.COMPLETE for trial in after) == 6
    assert {n: (after[n].value, after[n].intermediate_values) for n in before} == before
    assert not [trial for trial in after if trial.state in (TrialState.RUNNING, TrialState.WAITING)]
    lost = [trial for trial in after if trial.state == TrialState.FAIL]
    assert lost
    retried = {trial.user_attrs.get("retry_of") for trial in after}
    assert {trial.number for trial in lost} <= retried
    keys = [t.user_attrs["candidate_key"] for t in after if t.state == TrialState.COMPLETE]
    assert len(set(keys)) == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sign", "cause", "counted"),
    [
        (signal.SIGKILL, "the worker died", True),
        (signal.SIGTERM, "the worker was asked to go (SIGTERM)", False),
    ],
    ids=["killed", "pre-empted"],
)
def test_a_lost_worker_s_trial_is_run_again(
    write_study: WriteStudy, tmp_path: Path, sign: signal.Signals, cause: str, counted: bool
) -> None:
    process, folder = _start(write_study(space=LONG, pruner="none"), tmp_path, trials=4)
    _wait_for_trials(folder, 1, process)
    _a_worker_of(process).send_signal(sign)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    if not counted and "the worker died" in output:
        pytest.skip("Ray saw the worker's connection end before its SIGTERM, and calls that a crash")
    assert cause in output
    trials = load_existing("tiny", folder.storage_url()).get_trials()
    assert [trial.state for trial in trials].count(TrialState.COMPLETE) == 4
    (failed,) = (trial for trial in trials if trial.state == TrialState.FAIL)
    assert cause in failed.user_attrs["cause"]
    assert ("interrupted" not in failed.user_attrs) is counted
    (again,) = (trial for trial in trials if trial.user_attrs.get("retry_of") == failed.number)
    assert again.state == TrialState.COMPLETE
    assert again.user_attrs["times_lost"] == int(counted)


@pytest.mark.slow
def test_a_killed_long_trial_goes_on_from_its_checkpoint(write_study: WriteStudy, tmp_path: Path) -> None:
    """And ends, bit for bit, as the objective alone does."""
    path = write_study(
        space=space(learning_rate=1e-3, steps=400, source_steps=2), pruner="none", checkpoint={"every": 0.001}
    )
    process, folder = _start(path, tmp_path, trials=1)
    _wait_for(folder, process, lambda trials: any(len(trial.intermediate_values) > 40 for trial in trials))
    process.kill()
    process.communicate()
    assert len(list((folder.path / "checkpoints").glob("*.safetensors"))) >= 1
    again, _ = _start(path, tmp_path, trials=1)
    output, errors = again.communicate(timeout=240)
    assert again.returncode == 0, output + errors
    (trial,) = load_existing("tiny", folder.storage_url()).get_trials(states=(TrialState.COMPLETE,))
    assert trial.user_attrs["resumed_at"] > 0
    assert sorted(trial.intermediate_values) == list(range(0, 401, 2))
    torch.set_num_threads(1)
    spec = replace(load_study(path).objective, files=str(tmp_path / "other"))
    alone = Objective(spec).evaluate(Candidate.from_values(trial.user_attrs["candidate"]), 0)
    stored = load_file(folder.path / trial_file(trial.number, LOGITS_FILE))["logits"]
    assert np.abs(stored - alone.logits).max() == 0.0
    assert alone.value == trial.value


@pytest.mark.slow
def test_a_trial_that_hangs_is_killed_at_its_deadline(write_study: WriteStudy, tmp_path: Path) -> None:
    """A stopped process is as hung as can be: it doesn't even answer Ray."""
    path = write_study(space=LONG, pruner="none", budget={"trials": 3, "trial_timeout": "20s"})
    process, folder = _start(path, tmp_path, trials=3)

    def both_work(trials: list[FrozenTrial]) -> bool:
        return sum(trial.state == TrialState.RUNNING and bool(trial.intermediate_values) for trial in trials) == 2

    _wait_for(folder, process, both_work)
    worker = _a_worker_of(process)
    worker.suspend()
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, output + errors
    trials = load_existing("tiny", folder.storage_url()).get_trials()
    assert [trial.state for trial in trials].count(TrialState.COMPLETE) == 3
    (failed,) = (trial for trial in trials if trial.state == TrialState.FAIL)
    assert "longer than budget.trial_timeout (20 s)" in failed.user_attrs["cause"]
    assert not worker.is_running()


@pytest.mark.slow
def test_a_source_stage_reports_and_has_a_deadline(write_study: WriteStudy, tmp_path: Path) -> None:
    """A trial that takes too long is ended there, too; its successor goes on with the stage where it was."""
    from promptgraft.search.reporting import status_lines, summarize

    endless = space(learning_rate=[1e-4, 1e-3], source_steps=10**6, steps=8, alpha=0.0)
    path = write_study(
        space=endless, pruner="none", checkpoint={"every": 0.001}, budget={"trials": 9, "trial_timeout": "45s"}
    )
    process, folder = _start(path, tmp_path, trials=9)
    _wait_for(folder, process, lambda trials: any("stage" in trial.user_attrs for trial in trials))
    study = load_existing("tiny", folder.storage_url())
    (shown, *_) = summarize(study).stages.values()
    assert shown.startswith("source stage, update ")
    assert f"{shown}\n" in "\n".join(status_lines(summarize(study))) + "\n"
    _wait_for(folder, process, lambda trials: any(trial.state == TrialState.FAIL for trial in trials))
    assert list((folder.path / "stages").glob("*.checkpoint.safetensors"))
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    causes = [trial.user_attrs.get("cause", "") for trial in study.get_trials()]
    assert any("(45 s); killed in its source stage, update " in cause for cause in causes), causes
    assert "source stage, update " in output


@pytest.mark.slow
def test_what_runs_at_the_end_of_the_time_is_stopped_and_queued_again(write_study: WriteStudy, tmp_path: Path) -> None:
    endless = space(learning_rate=[1e-4, 1e-3], steps=10**6)
    path = write_study(space=endless, pruner="none", budget={"trials": 9, "timeout": "40s", "reserve": 0})
    outcome = run_study(load_study(path), RunOptions(RunFolder(tmp_path / "run"), concurrent=2))
    assert outcome.ended_because is not None
    assert outcome.ended_because.startswith("the time is up: 40s, but no trial is complete; run it again")
    assert outcome.states == {"FAIL": 2, "WAITING": 2}
    trials = load_existing("tiny", RunFolder(tmp_path / "run").storage_url()).get_trials()
    assert [trial.user_attrs["cause"] for trial in trials[:2]] == ["the time is up: 40s"] * 2
    assert all(trial.user_attrs["interrupted"] and trial.intermediate_values for trial in trials[:2])


def test_status_tells_what_a_killed_driver_left(write_study: WriteStudy, tmp_path: Path) -> None:
    from promptgraft.search.reporting import status_lines, summarize

    endless = space(learning_rate=[1e-4, 1e-3], steps=10**6)
    process, folder = _start(write_study(space=endless, pruner="none"), tmp_path, trials=3)
    _wait_for_trials(folder, 0, process)
    study = load_existing("tiny", folder.storage_url())
    assert summarize(study).drivers == 1
    process.kill()
    process.communicate(timeout=60)
    summary = summarize(study)
    left = summary.orphans
    assert left in (1, 2)
    assert (summary.drivers, summary.states, summary.seconds) == (0, {"RUNNING": left}, 0)
    assert f"none at work; {left} RUNNING left by one that died" in "\n".join(status_lines(summary))

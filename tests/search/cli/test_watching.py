"""`promptgraft watch`, and the bars of long commands."""

import contextlib
import os
import pty
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from promptgraft.objectives.progress import report_progress
from promptgraft.search.cli.bars import bar
from promptgraft.search.running import Progress
from promptgraft.search.running.compatibility import record_end, record_run
from promptgraft.search.storage import StudyRecord, new_owner
from promptgraft.search.trials import Limits
from tests.support.commands import PROMPTGRAFT, typed
from tests.support.studies import sqlite_url
from tests.support.waiting import wait_until


@pytest.fixture
def started(tmp_path: Path) -> optuna.Study:
    """A study of which this process has finished a trial, and whose winner it judges now."""
    study = optuna.create_study(storage=sqlite_url(tmp_path), study_name="s", direction="maximize")
    study.add_trial(optuna.trial.create_trial(value=0.8125, user_attrs={"candidate": {"template": "plain"}}))
    record_run(study, Limits(1), 1, str(tmp_path), new_owner())
    return study


def test_it_follows_a_run_until_that_ends(started: optuna.Study, tmp_path: Path) -> None:
    command = [*PROMPTGRAFT, "watch", "s", "--storage", sqlite_url(tmp_path), "--every", "0.1s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == "s: 1/1 finished; 1 COMPLETE; best value 0.8125 (trial 0)\n"
        run = StudyRecord.of(started).run
        assert run is not None
        assert run.driver is not None
        record_end(started, run.driver, "all 1 trials are finished")
        rest, errors = watching.communicate(timeout=30)
    assert (watching.returncode, errors) == (0, "")
    assert rest.splitlines()[0] == "no run goes on; the last one ended: all 1 trials are finished"
    assert rest.splitlines()[1].startswith("Ship trial 0: value 0.812")


def test_once_shows_how_it_stands(started: optuna.Study, tmp_path: Path) -> None:
    shown = typed("watch", "s", "--once", "--storage", sqlite_url(tmp_path))
    assert shown.stdout == "s: 1/1 finished; 1 COMPLETE; best value 0.8125 (trial 0)\n"
    assert "judging the winner" in typed("status", "s", "--storage", sqlite_url(tmp_path)).stdout


def test_a_driver_that_died_runs_nothing(started: optuna.Study, tmp_path: Path) -> None:
    run = StudyRecord.of(started).run
    assert run is not None
    assert run.driver is not None
    record_run(started, Limits(1), 1, str(tmp_path), replace(run.driver, ticks=1))
    assert "no run goes on\n" in typed("watch", "s", "--storage", sqlite_url(tmp_path)).stdout


def test_a_pause_that_is_none(tmp_path: Path) -> None:
    refused = typed("watch", "s", "--every", "often", "--storage", sqlite_url(tmp_path))
    assert (refused.exit_code, "--every" in refused.stderr) == (2, True)


def test_judging_says_how_much_is_left() -> None:
    progress = Progress("s", "accuracy", 1)
    progress.judging(0, 8)
    progress.judging(6, 2)
    with progress.console.capture() as captured:
        progress.console.print(progress)
    assert f"{'━' * 18}{'─' * 6}  6 reruns done, 2 left, about 0s" in captured.get()


def test_before_there_is_a_forecast_the_time_limit_is_said() -> None:
    progress = Progress("s", "accuracy", 1, ends_at=time.time() + 7200.5)
    with progress.console.capture() as captured:
        progress.console.print(progress)
    assert "≤ 2h 00m" in captured.get()
    assert "starting the workers" in captured.get()
    progress.update({"RUNNING": 1}, 0)
    with progress.console.capture() as captured:
        progress.console.print(progress)
    assert "starting" not in captured.get()
    progress.update({"COMPLETE": 1}, 1)
    assert progress.left() == "0s"
    assert Progress("s", "accuracy", 1).left() == "?"


def test_a_bar_is_drawn_in_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    with bar("waiting", patience_s=0):
        report_progress("scoring rows", 5, 10)
    assert capfd.readouterr() == ("", "")
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    shown = b""

    def seen(what: bytes = b"scoring rows") -> bool:
        nonlocal shown
        with contextlib.suppress(BlockingIOError):
            shown += os.read(master, 65536)
        return what in shown

    with os.fdopen(slave, "w") as terminal, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", terminal)
        with bar("waiting", quiet=True, patience_s=0):
            report_progress("scoring rows", 5, 10)
        assert not seen(), "quiet"
        with bar("waiting", patience_s=0) as say:
            report_progress("scoring rows", 5, 10)
            wait_until(seen, 10)
            say("now this")
            wait_until(lambda: seen(b"now this\r\n"), 10)
            assert b"\x1b[2Know this" in shown, "on a line of its own"
            shown = b""
            report_progress("scoring rows", 10, 10)  # What comes next isn't known.
            wait_until(lambda: seen(b"waiting"), 10)
    os.close(master)

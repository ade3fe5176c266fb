"""Judging that goes wrong, over real Ray workers: one repeat that kills its worker, all of them, a Ray that dies."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from promptgraft.search.judging import reach_verdict, verdict_lines
from promptgraft.search.running.repeat_workers import MAX_LOST
from promptgraft.search.storage import RunFolder, StudyRecord, load_existing
from tests.support.commands import PROMPTGRAFT
from tests.support.faults import heed_ctrl_c, processes_of

# Minutes on two busy cores; in the gate, tests/search/running/test_repeat_workers.py has workers that die.
pytestmark = pytest.mark.slow

WriteStudy = Callable[..., Path]
# Installed as a package would be: it kills the process of a repeat, but not that of a trial.
DEADLY = """
import dataclasses, os, psutil, signal
from promptgraft.plugins import custom_parameter

@custom_parameter("deadly", neutral=0, low=0, high=99)
def deadly(settings, value):
    if str(value) in os.environ["DEADLY"].split(",") and "RepeatRunner" in psutil.Process().cmdline()[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return dataclasses.replace(settings, weight_decay=value / 100)
"""


@pytest.fixture
def study(write_study: WriteStudy, tmp_path: Path) -> Path:
    """A study of three trials that differ in `deadly`, and an environment with the plugin."""
    info = tmp_path / "site" / "deadly-1.0.dist-info"
    info.mkdir(parents=True)
    (tmp_path / "site" / "deadly.py").write_text(DEADLY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[promptgraft.plugins]\ndeadly = deadly\n")
    return write_study(
        space={
            "templates": {"a": "{{ text }} {{ label }}"},
            "verbalizers": {"v": {"negative": "bad", "positive": "good"}},
            "steps": 4,
            "batch_size": 4,
            "custom": {"deadly": [1, 2, 3]},
        },
        source=None,
        pruner="none",
        budget={"trials": 3, "reserve": 0},
        judging={"finalists": 2, "repeats": 2, "controls": ["majority"]},
    )


def command(study: Path, folder: RunFolder) -> list[str]:
    return [*PROMPTGRAFT, "run", str(study), "--workdir", str(folder.path), "--concurrent", "1"]


def environment(tmp_path: Path, deadly: str = "") -> dict[str, str]:
    paths = [str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "DEADLY": deadly}


def run(study: Path, folder: RunFolder, tmp_path: Path, deadly: str = "") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(study, folder), env=environment(tmp_path, deadly), capture_output=True, text=True, timeout=300
    )
    assert "Traceback (most recent call last)" not in done.stderr, done.stderr
    return done


def failures(stored: optuna.Study) -> dict[int, list[str]]:
    """Failed repeats: value of `deadly` -> what they failed of."""
    deadly = {trial.number: trial.params["custom.deadly"] for trial in stored.get_trials()}
    return {
        deadly[number]: [outcome.failure for outcome in own.values() if outcome.failure]
        for number, own in StudyRecord.of(stored).repeats.items()
    }


def test_a_finalist_that_kills_its_worker_is_out_and_the_others_are_judged(study: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    done = run(study, folder, tmp_path, deadly="2")
    assert done.returncode == 0, done.stdout + done.stderr
    stored = load_existing("tiny", folder.storage_url())
    found, judged = failures(stored), reach_verdict(stored)
    (failure,) = found.pop(2)
    assert failure == f"the worker died: killed, out of memory, or crashed, {MAX_LOST} times"
    assert found == {1: [], 3: []}
    assert done.stderr.count("it is run again") == MAX_LOST - 1
    assert judged.winner is not None
    assert judged.winner.params["custom.deadly"] in (1, 3)
    assert [len(entry.values) for entry in judged.finalists] == [2, 2]
    assert "is out: rerun 1 failed: the worker died" in "".join(verdict_lines(judged.table(), "accuracy"))
    assert any(name.startswith("control_") for name in stored.user_attrs), "its controls were run, too"


def test_a_ray_that_dies_while_the_finalists_are_judged_is_a_failure_with_its_reason(
    study: Path, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    with subprocess.Popen(
        command(study, folder),
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    ) as process:
        deadline = time.monotonic() + 240
        while not list(processes_of(process, lambda _, title: title.startswith("ray::RepeatRunner"))):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "no repeat was seen"
            time.sleep(0.02)
        for raylet in processes_of(process, lambda name, _: name == "raylet"):
            raylet.kill()
        output, errors = process.communicate(timeout=240)
    assert process.returncode == 1, output + errors
    assert "Traceback (most recent call last)" not in errors
    assert "all 3 trials are finished, but the finalists could not be judged: " in output
    assert "The same command goes on" in output
    done = run(study, folder, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert reach_verdict(load_existing("tiny", folder.storage_url())).winner is not None

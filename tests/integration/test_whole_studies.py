"""The two studies that we ship, run as a user runs them. Slow: `make test-slow`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from promptgraft.search.storage import RunFolder, load_existing
from tests.support.paths import STUDIES

PROMPTGRAFT = [sys.executable, "-c", "from promptgraft.search.cli.studies import app; app()"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("name", "trials", "lead"), [("demo", 24, 0.0), ("smollm2", 6, 0.15)])
def test_a_shipped_study_beats_its_controls(name: str, trials: int, lead: float, tmp_path: Path) -> None:
    """The winner is ahead of majority class and TF-IDF, and of the worst zero-shot template by `lead`.

    Whether one of six trials falls behind enough to be pruned depends on which of two workers is ahead.
    """
    where = ["--workdir", str(tmp_path / name)]
    study_file = str(STUDIES / f"{name}.yaml")
    subprocess.run([*PROMPTGRAFT, "run", study_file, "--trials", str(trials), "--timeout", "1h", *where], check=True)
    subprocess.run([*PROMPTGRAFT, "export", study_file, *where], check=True)
    folder = RunFolder(tmp_path / name)
    study = load_existing(name, folder.storage_url())
    states = [trial.state.name for trial in study.get_trials()]
    assert states.count("COMPLETE") + states.count("PRUNED") == trials
    assert name == "smollm2" or "PRUNED" in states
    (record,) = (value for key, value in study.user_attrs.items() if key.startswith("held_out_trial_"))
    scores = {system: metrics["accuracy"] for system, metrics in record["table"]}
    winner = next(iter(scores.values()))
    zero_shot = [score for system, score in scores.items() if system.startswith("zero-shot")]
    assert winner > scores["majority class"]
    assert all(winner > score for system, score in scores.items() if system.startswith("TF-IDF"))
    assert winner >= min(zero_shot) + lead
    assert json.loads((folder.bundle / "manifest.json").read_text())["metrics"]["test"]["accuracy"] == winner

"""Other kinds of task through a whole search, with real workers: run, judged, exported, reported."""

from pathlib import Path

import pytest
from optuna.trial import TrialState

from promptgraft.bundles import verify
from promptgraft.objectives.data import TASK_KINDS
from promptgraft.search.cli.studies import app
from promptgraft.search.judging import headline_of, transfer
from promptgraft.search.judging.verdict import winning_trial
from promptgraft.search.storage import CONFUSION, RunFolder, TrialRecord, load_existing
from tests.support.kinds import COLUMNS, write_kinds
from tests.support.models import TinyModels
from tests.support.studies import write_study_file


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multi_label", "regression", "token_classification"])
def test_a_search_from_its_file_to_the_bundle(kind: str, tmp_path: Path, tiny_models: TinyModels) -> None:
    columns = {"kind": kind, "text": "text", "label": COLUMNS[kind]}
    file = write_study_file(
        tmp_path / "study.yaml",
        {"path": tiny_models["encoder"], "family": "encoder", "max_tokens": 48},
        source={"train": str(write_kinds(tmp_path / "source.csv", seed=1)), **columns},
        target={"train": str(write_kinds(tmp_path / "target.csv")), "train_rows": 48, "folds": 2, **columns},
        space={
            "templates": {"plain": "{{ text }} {{ label }}", "named": "Text: {{ text }} {{ label }}"},
            "head": ["linear", "probe"],
            "frozen_layers": [0, 1, 3],
            "source_steps": [0, 4],
            "alpha": [0.0, 0.5],
            "soft_prompt": {"length": [0, 2]},
            "adapter": {"method": ["none", "lora"]},
            "steps": [4, 8],
            "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        },
        baselines=["linear_probe", "full_fine_tuning"],
        pruner={"name": "median", "n_startup_trials": 2, "n_warmup_steps": 0},
        budget={"trials": 10},
        judging={"finalists": 1, "repeats": 2, "ensemble": 2, "curves": True},
    )
    folder = RunFolder(tmp_path / "run")
    where = [str(file), "--workdir", str(folder.path)]
    app(["run", *where, "--concurrent", "2"], standalone_mode=False)
    study = load_existing("tiny", folder.storage_url())
    trials = study.get_trials()
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert len(trials) >= 10
    assert {TrialRecord.of(trial).baseline for trial in trials} >= {"linear_probe", "full_fine_tuning"}
    assert not any(CONFUSION in trial.user_attrs for trial in trials)
    assert headline_of(study)
    judged = transfer(study, winning_trial(study))
    assert judged is not None
    controls = {entry.name: entry for entry in judged.controls}
    assert controls[TASK_KINDS[kind].baseline_names["majority"]].behind is not None
    assert all(entry.failed == 0 for entry in judged.controls)
    app(["export", *where], standalone_mode=False)
    assert verify(folder.bundle).passed
    app(["report", *where], standalone_mode=False)
    assert "The worst rows" in (folder.path / "report.html").read_text()

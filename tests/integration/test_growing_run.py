"""A whole search over real Ray workers whose templates grow."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState

from promptgraft.search.running import RunOptions, run_study
from promptgraft.search.sampling import with_pool
from promptgraft.search.storage import DELTA_FILE, RunFolder, StudyRecord, load_existing, trial_file
from promptgraft.search.study import load_study
from promptgraft.spaces import Candidate
from tests.support.commands import PROMPTGRAFT
from tests.support.specs import TEMPLATES, VERBALIZERS

SPACE = {
    "templates": {TEMPLATES[0].name: TEMPLATES[0].text},
    "verbalizers": {v.name: {label: list(ws) for label, ws in v.words.items()} for v in VERBALIZERS},
    "steps": [2, 4, 6],
    "batch_size": 4,
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "grow": {"sources": ["mutation", "crossover"], "every": 3, "size": 2, "limit": 5, "verbalizers": 1},
}


@pytest.mark.slow
def test_a_study_goes_on_while_templates_join(write_study: Callable[..., Path], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs")
    path = write_study(space=SPACE, budget={"trials": 12}, pruner="none")
    assert run_study(load_study(path), RunOptions(folder, concurrent=2)).finished == 12
    pool = StudyRecord.of(load_existing("tiny", folder.storage_url())).pool
    assert pool.rounds == 2
    assert len(pool.templates) == 4
    assert len(pool.verbalizers) == 2
    known = {template.id for template in (TEMPLATES[0], *pool.templates)}
    assert all(set(template.parents) <= known for template in pool.templates)
    shown = subprocess.run(
        [*PROMPTGRAFT, "status", "tiny", "--workdir", str(folder.path)], capture_output=True, text=True
    )
    assert "pool      4 templates and 2 verbalizers joined in 2 rounds" in shown.stdout
    # The next run reads them from the study, and so do all who want to know what a trial was.
    outcome = run_study(load_study(path), RunOptions(folder, concurrent=2, trials=18))
    assert outcome.finished == 18
    study = load_existing("tiny", folder.storage_url())
    trials = study.get_trials()
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    used = [Candidate.from_values(trial.user_attrs["candidate"]).template for trial in trials]
    joined = {template.id for template in pool.templates} & set(used)
    assert joined, "no trial had a template that joined"
    assert len({trial.user_attrs["candidate_key"] for trial in trials}) == 18
    space = with_pool(load_study(path), study).objective.space
    assert {space.template(template).id for template in used} == set(used)
    kept = [trial.number for trial in trials if (folder.path / trial_file(trial.number, DELTA_FILE)).is_file()]
    number = next(number for number in kept if used[number] in joined)
    export = [*PROMPTGRAFT, "export", str(path), "--trial", str(number), "--workdir", str(folder.path)]
    shown = subprocess.run(export, check=True, capture_output=True, text=True).stdout
    assert "zero-shot, template review" in shown
    assert "zero-shot, template mutation" not in shown
    predict = [*PROMPTGRAFT, "predict", str(folder.bundle), "--input", str(load_study(path).objective.target.train)]
    subprocess.run([*predict, "--output", str(tmp_path / "out.csv")], check=True, capture_output=True)

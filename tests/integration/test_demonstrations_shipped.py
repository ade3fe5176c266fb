"""What a study says and ships of demonstrations: notes, exports, costs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import create_trial

from promptgraft.bundles import Predictor
from promptgraft.objectives.trial import Objective
from promptgraft.search.exporting import export_winner
from promptgraft.search.reporting.dashboard_notes import study_note, trial_note
from promptgraft.search.storage import DELTA_FILE, RunFolder, trial_file
from promptgraft.search.study import Study, load_study
from promptgraft.search.trials import Evaluated, TrialSummary
from promptgraft.spaces import Candidate, Demonstrations, SoftPrompt
from tests.support.specs import TEMPLATES, VERBALIZERS
from tests.support.studies import prompts

SEED = 3


@pytest.fixture
def study(write_study: Callable[..., Path], tiny_models: dict[str, str]) -> Study:
    shown = {"count": [0, 2], "choice": ["balanced", "nearest"], "order": ["random", "nearest_last"]}
    backbone = {"path": tiny_models["causal_lm"], "family": "causal_lm", "max_tokens": 160}
    return load_study(write_study(seed=SEED, backbone=backbone, space={**prompts(), "demonstrations": shown}))


@pytest.mark.parametrize("choice", ["balanced", "nearest"])
def test_an_exported_winner_predicts_what_its_trial_did(study: Study, tmp_path: Path, choice: str) -> None:
    folder = RunFolder(tmp_path / "run")
    objective = Objective(study.objective)
    soft = SoftPrompt(2, "label_words", "suffix")
    candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[1].id, steps=2, batch_size=4, soft_prompt=soft)
    candidate = replace(candidate, demonstrations=Demonstrations(2, choice), frozen_layers=2)
    result = objective.evaluate(candidate, SEED)
    folder.files().write_tensors(trial_file(0, DELTA_FILE), result.delta)
    stored = optuna.create_study(direction="maximize")
    stored.set_metric_names(["accuracy"])
    attrs = {"candidate": candidate.to_dict()} | {f"validation_{name}": value for name, value in result.metrics.items()}
    stored.add_trial(create_trial(value=result.value, user_attrs=attrs))
    export = export_winner(study, stored, folder)
    predictor = Predictor(export.folder)
    logits = predictor.logits([row.fields for row in study.target.validation])
    assert np.abs(logits - result.logits).max() <= 5e-6 * np.abs(result.logits).max()
    count = len(predictor.manifest.demonstrations)
    assert count == (len(study.target.train) if choice == "nearest" else 4)
    assert f"`manifest.json` holds {count} training rows in clear text" in (export.folder / "README.md").read_text()


def test_notes_show_the_whole_prompt_and_what_fits(study: Study) -> None:
    objective = Objective(study.objective)
    candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[1].id, demonstrations=Demonstrations(2, "nearest"), steps=0)
    cycle = objective.run(candidate, SEED)
    *_, last = cycle
    result, text = last.result, cycle.example()
    assert result is not None
    assert text.count("Review: ") == 3
    summary = TrialSummary(result.value, best_step=0, load_report="-", demonstrations=1.5)
    shown = {"metrics": dict(result.metrics), "confusion": result.confusion, "example": text}
    note = trial_note(candidate, [Evaluated(0, 0.5, summary=summary, **shown)], study)  # type: ignore[arg-type]
    assert "2 demonstrations (nearest, order random, of which 1.5 fit on average)" in note
    assert all(line[:60] in note for line in text.splitlines())
    early = trial_note(candidate, [Evaluated(0, 0.5, **shown)], study)  # type: ignore[arg-type]
    assert "2 demonstrations (nearest, order random)" in early
    zero_shot = replace(candidate, demonstrations=Demonstrations())
    assert "demonstrations" not in trial_note(zero_shot, [Evaluated(0, 0.5, **shown)], study)  # type: ignore[arg-type]
    assert "| `demonstrations.choice` | balanced, nearest |" in study_note(study)

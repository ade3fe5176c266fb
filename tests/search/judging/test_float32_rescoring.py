"""A search in bfloat16 ends with its finalists scored in float32, and ships what was scored."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial
from safetensors.numpy import load_file

from promptgraft.bundles import Predictor, read_manifest
from promptgraft.search.exporting import export_winner
from promptgraft.search.judging import record_float32_scores, trials_to_keep
from promptgraft.search.reporting import status_lines, summarize
from promptgraft.search.running import RunOptions, run_study
from promptgraft.search.running import finals as confirmation
from promptgraft.search.storage import FLOAT32_LOGITS_FILE, Float32Score, RunFolder, load_existing, trial_file
from promptgraft.search.study import load_study
from promptgraft.search.trials import KEPT_DELTAS, float32_scores, ranked_trials, top_trials
from promptgraft.spaces import InvalidInputError
from tests.support.studies import space

WriteStudy = Callable[..., Path]


def low(tiny_models: dict[str, str], **changes: Any) -> dict[str, Any]:
    return {"path": tiny_models["encoder"], "family": "encoder", "max_tokens": 48, "dtype": "bfloat16"} | changes


@contextmanager
def stopped(*_: object) -> Iterator[None]:
    """Stand for a Ray that the user stops with Ctrl-C before anything was scored."""
    raise KeyboardInterrupt
    yield


@pytest.mark.slow
def test_finalists_are_scored_in_float32_and_exported_as_scored(
    write_study: WriteStudy, tmp_path: Path, tiny_models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_study(backbone=low(tiny_models), space=space(learning_rate=[1e-3, 1e-2], steps=[4, 6]), pruner="none")
    study, folder = load_study(path), RunFolder(tmp_path / "run")
    assert run_study(study, RunOptions(folder, trials=5, concurrent=2)).finished == 5
    stored = load_existing("tiny", folder.storage_url())
    scores = float32_scores(stored)
    assert set(scores) == {trial.number for trial in top_trials(stored, KEPT_DELTAS)}
    for score in scores.values():
        assert 0 < (score.max_probability_difference or 0) < 0.5
        assert score.value == score.metrics["accuracy"]
    winner = ranked_trials(stored)[0]
    assert scores[winner.number].value == max(score.value for score in scores.values())
    summary = summarize(stored)
    assert summary.best.value == winner.value, "what the search measured stays"
    assert summary.best.float32 == scores[winner.number]
    assert any("finalists scored again" in line for line in status_lines(summary))
    notes = stored._storage.get_study_system_attrs(stored._study_id)
    assert any("scored again in float32" in str(value) for value in notes.values())

    # Another finished search is scored by the next run, if this one is stopped before.
    with monkeypatch.context() as patch:
        patch.setattr(confirmation, "trials_to_rescore", lambda *_: [])
        run_study(study, RunOptions(folder, trials=9, concurrent=2))
    missing = {t.number for t in top_trials(load_existing("tiny", folder.storage_url()), KEPT_DELTAS)} - set(scores)
    if missing:
        with monkeypatch.context() as patch:
            patch.setattr(confirmation, "ray_session", stopped)
            assert run_study(study, RunOptions(folder, trials=9)).ended_because is None
        run_study(study, RunOptions(folder, trials=9))
    stored = load_existing("tiny", folder.storage_url())
    assert set(float32_scores(stored)) == set(scores) | missing

    exported = export_winner(study, stored, folder)
    assert exported.validation == float32_scores(stored)[exported.trial].value
    manifest = read_manifest(exported.folder)
    assert manifest.backbone.dtype == "float32"
    assert manifest.metrics["validation"] == float32_scores(stored)[exported.trial].metrics
    predicted = Predictor(exported.folder).logits([row.fields for row in study.target.validation])
    expected = load_file(folder.path / trial_file(exported.trial, FLOAT32_LOGITS_FILE))["logits"]
    assert np.abs(predicted - expected).max() == 0.0


def test_the_scored_come_first_and_new_finalists_keep_their_weights() -> None:
    study = optuna.create_study(direction="maximize")
    for value in (0.5, 0.9, 0.8, 0.7, 0.95):
        study.add_trial(create_trial(state=TrialState.COMPLETE, value=value, user_attrs={"validation_loss": 1.0}))
    for number, value in ((1, 0.6), (2, 0.85), (3, 0.7)):
        record_float32_scores(study, {number: Float32Score(value, {"loss": 1.0})})
    ranked = ranked_trials(study)
    assert [trial.number for trial in ranked] == [2, 3, 1, 4, 0]
    assert trials_to_keep(study, ranked) == {1, 2, 3, 4}


def test_an_edited_dtype_is_another_study(write_study: WriteStudy, tmp_path: Path, tiny_models: dict[str, str]) -> None:
    from promptgraft.search.running.compatibility import record_study

    stored = optuna.create_study(storage=f"sqlite:///{tmp_path}/s.db", study_name="tiny", direction="maximize")
    plain = low(tiny_models)
    del plain["dtype"]
    record_study(stored, load_study(write_study(backbone=plain)), 4)
    for change in ({"dtype": "bfloat16"}, {"autocast": "float16"}, {"attn_implementation": "eager"}):
        with pytest.raises(InvalidInputError, match=rf"backbone\.{next(iter(change))}: "):
            record_study(stored, load_study(write_study(backbone=plain | change)), 4)

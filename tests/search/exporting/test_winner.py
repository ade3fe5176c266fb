"""The winner's bundle: written once, with its score on the test rows in it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import create_trial

from promptgraft.bundles import Predictor, read_manifest, write_bundle
from promptgraft.objectives.trial import Objective
from promptgraft.search.exporting import export_winner, winner
from promptgraft.search.judging import logits_of_test_set, openings
from promptgraft.search.running.compatibility import record_study
from promptgraft.search.storage import RunFolder, keep_result
from promptgraft.search.study import load_study
from promptgraft.spaces import Candidate
from tests.support.specs import TEMPLATES, VERBALIZERS


@pytest.mark.parametrize("calibration", ["none", "contextual"])
def test_the_bundle_is_written_once_and_predicts_what_was_scored(
    write_study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calibration: str
) -> None:
    study, folder = load_study(write_study()), RunFolder(tmp_path / "run")
    stored = optuna.create_study(direction="maximize")
    record_study(stored, study, 1)
    candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, steps=4, batch_size=4, calibration=calibration)
    result = Objective(study.objective).evaluate(candidate, study.file.seed)
    keep_result(folder.files(), 0, result)
    attrs = {f"validation_{name}": value for name, value in result.metrics.items()}
    stored.add_trial(create_trial(value=result.value, user_attrs={"candidate": candidate.to_dict(), **attrs}))
    opened: list[Any] = []

    def write(*arguments: Any) -> Any:
        opened.extend(record.table for record in openings(stored))
        return write_bundle(*arguments)

    monkeypatch.setattr(winner, "write_bundle", write)
    exported = export_winner(study, stored, folder)
    (table,) = opened
    assert table[0][1] == read_manifest(exported.folder).metrics["test"] == exported.held_out[0].metrics
    scored = folder.files().read_tensors(logits_of_test_set(0))["logits"].numpy()
    predicted = Predictor(exported.folder).logits([row.fields for row in study.target.test])
    assert np.abs(predicted - scored).max() <= 5e-6 * np.abs(scored).max()

"""The winner's bundle: written once, with its score on the test rows in it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from optuna.trial import create_trial
from ruamel.yaml import YAML

from promptgraft.bundles import Predictor, read_manifest, verify
from promptgraft.objectives.trial import Objective, Result
from promptgraft.search.exporting import ExportOptions, export_winner
from promptgraft.search.judging import logits_of_test_set, openings
from promptgraft.search.running.compatibility import record_study
from promptgraft.search.storage import DELTA_FILE, RunFolder, keep_result, trial_file
from promptgraft.search.study import Study, load_study
from promptgraft.spaces import Candidate, InvalidInputError
from tests.support.specs import TEMPLATES, VERBALIZERS


def searched(study: Study, folder: RunFolder, calibration: str = "none") -> tuple[optuna.Study, Result]:
    """Return a stored study of one finished trial."""
    stored = optuna.create_study(direction="maximize")
    record_study(stored, study, 1)
    candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, steps=4, batch_size=4, calibration=calibration)
    result = Objective(study.objective).evaluate(candidate, study.file.seed)
    keep_result(folder.files(), 0, result)
    attrs = {f"validation_{name}": value for name, value in result.metrics.items()}
    stored.add_trial(create_trial(value=result.value, user_attrs={"candidate": candidate.to_dict(), **attrs}))
    return stored, result


@pytest.mark.parametrize("calibration", ["none", "contextual"])
def test_the_bundle_is_written_once_and_predicts_what_was_scored(
    write_study: Callable[..., Path], tmp_path: Path, calibration: str
) -> None:
    study, folder = load_study(write_study()), RunFolder(tmp_path / "run")
    stored, _ = searched(study, folder, calibration)
    seen: list[bool] = []

    def say(line: str) -> None:
        if line.startswith("opening the test rows"):
            (staged,) = folder.path.glob(".*.partial")
            seen.append(verify(staged).passed and not folder.bundle.exists())

    exported = export_winner(study, stored, folder, say=say)
    assert seen == [True], "whole and checked before the test rows are opened, and in its place only then"
    assert verify(exported.folder).passed
    (record,) = openings(stored)
    assert record.table is not None
    assert record.table[0][1] == read_manifest(exported.folder).metrics["test"] == exported.held_out[0].metrics
    scored = folder.files().read_tensors(logits_of_test_set(0))["logits"].numpy()
    predicted = Predictor(exported.folder).logits([row.fields for row in study.target.test])
    assert np.abs(predicted - scored).max() <= 5e-6 * np.abs(scored).max()


def test_damaged_weights_open_no_test_rows_and_leave_the_earlier_bundle(
    write_study: Callable[..., Path], tmp_path: Path
) -> None:
    study, folder = load_study(write_study()), RunFolder(tmp_path / "run")
    stored, result = searched(study, folder)
    folder.bundle.mkdir(parents=True)
    weights = Path(folder.files().path(trial_file(0, DELTA_FILE)))
    name = max(result.delta, key=lambda own: result.delta[own].numel())

    def refused(why: str, **options: bool | int) -> None:
        with pytest.raises(InvalidInputError, match=why):
            export_winner(study, stored, folder, ExportOptions(**options))  # type: ignore[arg-type]
        assert openings(stored) == []
        assert not any(folder.bundle.iterdir())

    other = {own: tensor + 0.5 * torch.randn_like(tensor) for own, tensor in result.delta.items()}
    folder.files().write_tensors(trial_file(0, DELTA_FILE), other)
    refused("weights of trial 0 don't give the scores that were recorded")
    refused("weights of trial 0 don't give the scores that were recorded", examples=0)
    broken = result.delta[name].clone()
    broken.view(-1)[0] = float("nan")
    folder.files().write_tensors(trial_file(0, DELTA_FILE), {**result.delta, name: broken})
    refused("weights of trial 0 are damaged: .* aren't finite; delete that file")
    weights.write_bytes(weights.read_bytes()[:-100])
    refused("weights of trial 0 are damaged: ")
    weights.unlink()  # What the message advises.
    assert verify(export_winner(study, stored, folder).folder).passed
    assert [record.trial for record in openings(stored)] == [0]


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        ("train rows", "target rows are others"),
        ("source rows", "source rows are others"),
        ("metric", "metric: 'accuracy' -> 'f1_macro'"),
        ("tokens", "backbone.max_tokens: 48 -> 12"),
        ("template", "template 'plain' was changed"),
    ],
)
def test_what_trials_were_not_run_with_is_not_exported(
    write_study: Callable[..., Path], tmp_path: Path, edit: str, why: str
) -> None:
    path = write_study()
    study, folder = load_study(path), RunFolder(tmp_path / "run")
    stored, _ = searched(study, folder)
    content = YAML(typ="safe").load(path)
    if edit == "metric":
        content["metric"] = "f1_macro"
    elif edit == "tokens":
        content["backbone"]["max_tokens"] = 12
    elif edit == "template":
        name = next(iter(content["space"]["templates"]))
        content["space"]["templates"][name] += " "
        why = why.replace("plain", name)
    elif edit == "train rows":
        content["target"]["train_rows"] = 12
    else:
        table = pd.read_csv(content["source"]["train"])
        content["source"]["train"] = str(tmp_path / "edited.csv")
        table.iloc[1:].to_csv(tmp_path / "edited.csv", index=False)
    with path.open("w") as stream:
        YAML().dump(content, stream)
    with pytest.raises(InvalidInputError, match=why):
        export_winner(load_study(path), stored, folder)
    assert openings(stored) == []
    assert not folder.bundle.exists()


def test_a_folder_that_holds_something_else_is_refused_before_anything_is_opened(
    write_study: Callable[..., Path], tmp_path: Path
) -> None:
    study, folder = load_study(write_study()), RunFolder(tmp_path / "run")
    stored, _ = searched(study, folder)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "README.md").write_text("mine")
    for output in (mine, mine / "README.md", mine / "README.md" / "inner"):
        with pytest.raises(InvalidInputError, match=str(output)):
            export_winner(study, stored, folder, ExportOptions(output=output))
    assert (mine / "README.md").read_text() == "mine"
    assert openings(stored) == []

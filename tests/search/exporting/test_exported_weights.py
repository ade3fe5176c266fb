"""What ships are the weights that the trial has trained, or nothing."""

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import torch
from optuna.trial import create_trial

from promptgraft.bundles import read_manifest
from promptgraft.objectives.trial import Objective
from promptgraft.search.exporting import ExportOptions, export_winner
from promptgraft.search.running.compatibility import record_study
from promptgraft.search.storage import DELTA_FILE, LOGITS_FILE, RunFolder, keep_result, trial_file
from promptgraft.search.study import Study, load_study
from promptgraft.spaces import Candidate, InvalidInputError
from tests.support.specs import TEMPLATES, VERBALIZERS


def ran(write_study: Callable[..., Path], folder: RunFolder, *, hashed: bool) -> tuple[Study, optuna.Study]:
    """Run one trial, as a worker does."""
    study = load_study(write_study())
    stored = optuna.create_study(direction="maximize")
    record_study(stored, study, 1)
    candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, steps=4, batch_size=4)
    result = Objective(study.objective).evaluate(candidate, study.file.seed)
    weights_hash = keep_result(folder.files(), 0, result)
    attrs = {f"validation_{name}": value for name, value in result.metrics.items()}
    attrs |= {"candidate": candidate.to_dict(), "best_step": result.step}
    attrs |= {"weights_hash": weights_hash} if hashed else {}
    stored.add_trial(create_trial(value=result.value, user_attrs=attrs))
    return study, stored


def test_weights_that_are_not_the_trials_are_refused_before_the_test_rows_are_opened(
    write_study: Callable[..., Path], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    study, stored = ran(write_study, folder, hashed=True)
    files, name = folder.files(), trial_file(0, DELTA_FILE)
    kept = files.read_tensors(name)
    changed = dict(kept)
    first = sorted(changed)[0]
    changed[first] = changed[first].clone()
    changed[first].view(-1)[0] += 1e-3  # One weight of all.
    path = folder.path / name
    for damage in (
        lambda: files.write_tensors(name, changed),
        lambda: files.write_tensors(name, {key: value for key, value in kept.items() if key != first}),
        lambda: path.write_bytes(path.read_bytes()[:-8]),
        lambda: path.write_bytes(b""),
    ):
        files.write_tensors(name, kept)
        damage()
        with pytest.raises(InvalidInputError, match=r"trial 0 (trained .*delete the file|are damaged: .*delete that)"):
            export_winner(study, stored, folder)
        assert not folder.bundle.exists()
        assert not [attr for attr in stored.user_attrs if attr.startswith("held_out")]
    path.unlink()
    found = export_winner(study, stored, folder)  # As the message says.
    assert read_manifest(found.folder).trial == 0
    assert all(torch.equal(value, kept[key]) for key, value in files.read_tensors(name).items())
    again = export_winner(study, stored, folder, ExportOptions(output=tmp_path / "again"))
    assert again.held_out == found.held_out


def test_files_that_another_study_wrote_over_an_older_ones_are_noticed(
    write_study: Callable[..., Path], tmp_path: Path
) -> None:
    """No hash is recorded of an older study's weights, but they came with logits that give the trial's score."""
    folder = RunFolder(tmp_path / "run")
    study, stored = ran(write_study, folder, hashed=False)
    assert export_winner(study, stored, folder).trial == 0
    files, name = folder.files(), trial_file(0, LOGITS_FILE)
    logits = files.read_tensors(name)["logits"]
    for others in (-logits, logits[:-1]):
        files.write_tensors(name, {"logits": others.contiguous()})
        with pytest.raises(InvalidInputError, match="are another study's, or damaged"):
            export_winner(study, stored, folder, ExportOptions(output=tmp_path / "other"))
    (folder.path / name).write_bytes(b"torn")
    with pytest.raises(InvalidInputError, match="are another study's, or damaged"):
        export_winner(study, stored, folder, ExportOptions(output=tmp_path / "other"))
    assert not (tmp_path / "other").exists()

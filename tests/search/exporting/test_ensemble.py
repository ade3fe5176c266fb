"""An ensemble: chosen by the rows out of their folds, and shipped as one bundle."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import create_trial
from scipy.special import softmax

from promptgraft.bundles import Predictor, read_manifest, verify
from promptgraft.bundles.formats import convert
from promptgraft.bundles.predictor import LoadedModel
from promptgraft.objectives.trial import Objective
from promptgraft.search.exporting import Export, ExportOptions, export_winner
from promptgraft.search.judging import choose_ensemble, ensemble_line, headline_of
from promptgraft.search.running.compatibility import record_study
from promptgraft.search.storage import (
    ENSEMBLE,
    LOGITS_FILE,
    Ensemble,
    RunFolder,
    StudyRecord,
    keep_result,
    trial_file,
    write_study,
)
from promptgraft.search.study import Study, load_study
from promptgraft.spaces import Candidate, InvalidInputError
from tests.support.specs import TEMPLATES, VERBALIZERS
from tests.support.studies import small_tables

WriteStudy = Callable[..., Path]
MEMBERS = (0, 2)


@pytest.fixture
def study(write_study: WriteStudy) -> Study:
    """Of 24 labelled rows in three folds, with ensembles of up to three picks."""
    target = {"train": str(small_tables() / "amazon.csv"), "text": "text", "label": "label"}
    target |= {"train_rows": 24, "test_rows": 30, "folds": 3}
    return load_study(write_study(target=target, judging={"finalists": 0, "ensemble": 3}))


def candidates() -> list[Candidate]:
    first = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, steps=4, batch_size=4, learning_rate=1e-3, frozen_layers=1)
    other = replace(first, template=TEMPLATES[1].id, learning_rate=3e-3)
    return [first, replace(first, steps=0), other]


@pytest.fixture
def searched(study: Study, tmp_path: Path) -> tuple[optuna.Study, RunFolder]:
    """Three trials that were run, the first with the best value."""
    stored, folder = optuna.create_study(study_name="tiny", direction="maximize"), RunFolder(tmp_path / "run")
    stored.set_metric_names(["accuracy"])
    record_study(stored, study, 1)
    objective = Objective(study.objective)
    for number, candidate in enumerate(candidates()):
        result = objective.evaluate(candidate, study.file.seed)
        keep_result(folder.files(), number, result)
        attrs = {f"validation_{name}": value for name, value in result.metrics.items()}
        attrs |= {"candidate": candidate.to_dict(), "best_step": result.step, "fold_values": [1.0 - number / 10] * 3}
        stored.add_trial(create_trial(value=1.0 - number / 10, user_attrs=attrs))
    return stored, folder


def plant(folder: RunFolder, logits: Mapping[int, np.ndarray]) -> None:  # type: ignore[type-arg]
    for number, own in logits.items():
        content = {"logits": torch.from_numpy(own.astype(np.float32))}
        folder.files().write_tensors(trial_file(number, LOGITS_FILE), content)


def test_models_that_err_on_other_rows_are_better_together(
    study: Study, searched: tuple[optuna.Study, RunFolder]
) -> None:
    stored, folder = searched
    labels = np.array([row.label for row in study.target.scored()])
    right = 2.0 * (2 * np.eye(2)[labels] - 1)
    wrong_at = np.arange(len(labels))[:, None] % 4
    plant(
        folder,
        {0: np.where(wrong_at == 0, -right / 2, right), 1: -right, 2: np.where(wrong_at == 1, -right / 2, right)},
    )
    found = choose_ensemble(study, stored, folder.files())
    assert found is not None
    assert found.members == MEMBERS
    assert sum(found.weights) == pytest.approx(1.0)
    assert found.chosen
    assert found.value > found.alone
    assert found.loss < found.loss_alone
    write_study(stored, ENSEMBLE, found)
    assert StudyRecord.of(stored).ensemble == found
    assert "2 times the work" in ensemble_line(found, "accuracy")
    assert "Ship the ensemble of trials 0, 2" in str(headline_of(stored))


def test_copies_of_the_winner_and_worse_trials_are_no_ensemble(
    study: Study, searched: tuple[optuna.Study, RunFolder]
) -> None:
    stored, folder = searched
    labels = np.array([row.label for row in study.target.scored()])
    right = 2.0 * (2 * np.eye(2)[labels] - 1)
    plant(folder, {0: right, 1: -right, 2: right})
    found = choose_ensemble(study, stored, folder.files())
    assert found is not None
    assert not found.chosen
    write_study(stored, ENSEMBLE, found)
    assert StudyRecord.of(stored).shipped_ensemble(0) is None


def test_members_that_only_look_good_on_their_own_rows_are_not_chosen(
    study: Study, searched: tuple[optuna.Study, RunFolder]
) -> None:
    """What a fold is scored by is chosen by the others: one that is right on one fold alone misleads them there."""
    stored, folder = searched
    labels, folds = np.array([row.label for row in study.target.scored()]), np.arange(24) // 8
    right = 2.0 * (2 * np.eye(2)[labels] - 1)
    flat = np.zeros_like(right)
    plant(folder, {0: 0.05 * right, 1: flat, 2: np.where((folds == 0)[:, None], 3 * right, -0.2 * right)})
    found = choose_ensemble(study, stored, folder.files())
    assert found is not None
    assert 2 in found.members
    assert found.loss > found.loss_alone
    assert found.value < found.alone - found.error
    assert not found.chosen


@pytest.mark.parametrize(
    ("using", "members"), [((), (0, 2)), ((0,), (0,)), ((0, 2), (0, 2)), ((2,), (0, 2)), ((1,), (0, 2))]
)
def test_only_who_uses_the_source_joins_a_winner_that_does(
    study: Study, searched: tuple[optuna.Study, RunFolder], using: tuple[int, ...], members: tuple[int, ...]
) -> None:
    """The first trial wins, as it is ahead on each fold."""
    stored, folder = searched
    other = optuna.create_study(direction="maximize")
    other.set_metric_names(["accuracy"])
    for trial in stored.trials:
        candidate = trial.user_attrs["candidate"] | ({"alpha": 0.3} if trial.number in using else {})
        other.add_trial(create_trial(value=trial.value, user_attrs={**trial.user_attrs, "candidate": candidate}))
    record_study(other, study, 1)
    right = 2.0 * (2 * np.eye(2)[np.array([row.label for row in study.target.scored()])] - 1)
    plant(folder, {0: right, 1: -right, 2: 0.9 * right})
    found = choose_ensemble(study, other, folder.files())
    assert found is not None
    assert found.members == members


def test_a_worse_log_loss_alone_does_not_refuse_an_ensemble(
    study: Study, searched: tuple[optuna.Study, RunFolder]
) -> None:
    stored, folder = searched
    right = 2.0 * (2 * np.eye(2)[np.array([row.label for row in study.target.scored()])] - 1)
    plant(folder, {0: right, 1: -right, 2: 0.1 * right})
    found = choose_ensemble(study, stored, folder.files())
    assert found is not None
    assert found.members == MEMBERS
    assert found.value == found.alone
    assert found.loss > found.loss_alone
    assert found.chosen


@pytest.fixture
def exported(study: Study, searched: tuple[optuna.Study, RunFolder]) -> Export:
    """A bundle of two of the trials."""
    stored, folder = searched
    chosen = Ensemble(MEMBERS, (2 / 3, 1 / 3), value=0.8, alone=0.7, error=0.05, loss=0.5, loss_alone=0.6, chosen=True)
    write_study(stored, ENSEMBLE, chosen)
    return export_winner(study, stored, folder)


def test_the_bundle_predicts_the_mean_of_its_models(
    study: Study, searched: tuple[optuna.Study, RunFolder], exported: Export, tmp_path: Path
) -> None:
    stored, folder = searched
    assert exported.members == MEMBERS
    assert [row.name.split(" ")[0] for row in exported.held_out[:2]] == ["ensemble", "winner"]
    assert verify(exported.folder).passed
    predictor = Predictor(exported.folder)
    rows = [row.fields for row in study.target.test]
    alone = [
        export_winner(study, stored, folder, ExportOptions(output=tmp_path / f"alone-{number}", trial=number))
        for number in MEMBERS
    ]
    assert [entry.members for entry in alone] == [(), ()]
    parts = [softmax(Predictor(entry.folder).logits(rows).astype(float), axis=1) for entry in alone]
    together = softmax(predictor.logits(rows).astype(float), axis=1)
    assert np.abs(together - (2 * parts[0] + parts[1]) / 3).max() < 1e-5
    assert np.abs(parts[0] - parts[1]).max() > 1e-3
    manifest = read_manifest(exported.folder)
    assert [(part.trial, part.file) for part in manifest.models] == [
        (0, "delta.safetensors"),
        (2, "delta-2.safetensors"),
    ]
    assert manifest.metrics["test"]["accuracy"] == pytest.approx(
        float(np.mean(together.argmax(1) == [row.label for row in study.target.test]))
    )
    assert (
        "An ensemble: the mean probabilities of trial 0 (0.67), trial 2 (0.33)"
        in (exported.folder / "README.md").read_text()
    )


def test_the_trial_alone_has_its_own_score_and_leaves_the_test_rows_as_they_are(
    study: Study, searched: tuple[optuna.Study, RunFolder], exported: Export, tmp_path: Path
) -> None:
    stored, folder = searched
    before = StudyRecord.of(stored).openings
    alone = export_winner(study, stored, folder, ExportOptions(output=tmp_path / "alone", trial=0))
    assert alone.held_out == exported.held_out[1:]
    assert StudyRecord.of(stored).openings == before
    assert not (alone.folder / "delta-2.safetensors").exists()


def test_a_single_model_takes_the_place_of_an_ensemble_in_its_folder(
    study: Study, searched: tuple[optuna.Study, RunFolder], exported: Export
) -> None:
    stored, folder = searched
    alone = export_winner(study, stored, folder, ExportOptions(trial=0))
    assert alone.folder == exported.folder
    assert not (alone.folder / "delta-2.safetensors").exists()
    assert verify(alone.folder).passed


def test_members_share_what_none_has_changed(exported: Export) -> None:
    first, second = (member.model.weights() for member in Predictor(exported.folder).members)
    changed = {name for member in Predictor(exported.folder).members for name in member.changed}
    shared = (first.keys() & second.keys()) - changed
    assert shared
    assert all(first[name].data_ptr() == second[name].data_ptr() for name in shared)
    assert any(first[name].data_ptr() != second[name].data_ptr() for name in changed & first.keys() & second.keys())


def test_models_run_the_frozen_layers_that_they_have_in_common_once(study: Study, exported: Export) -> None:
    predictor = Predictor(exported.folder)
    first, other = predictor.members
    twin = Predictor(exported.folder).members[0]
    rows, runs = [row.fields for row in study.target.test], list[int]()
    for member in (first, twin):
        lowest = member.model.backbone.model.encoder.layer[0]
        lowest.register_forward_hook(lambda layer, inputs, output: runs.append(len(inputs[0])))

    def scored(*members: LoadedModel) -> tuple[np.ndarray, int]:  # type: ignore[type-arg]
        runs.clear()
        predictor.members = members
        return predictor.logits(rows), sum(runs)

    alone, once = scored(first)
    same, shared = scored(first, twin)
    assert np.abs(softmax(same, axis=1) - softmax(alone, axis=1)).max() < 1e-6
    assert shared == once == len(rows)
    changed = replace(twin, changed=dict.fromkeys(twin.model.weights(), "others"))
    assert scored(first, changed)[1] == 2 * len(rows)
    together, probabilities = scored(first, other)[0], [softmax(scored(own)[0], axis=1) for own in (first, other)]
    weights = [first.weight, other.weight]
    assert np.abs(softmax(together, axis=1) - np.average(probabilities, axis=0, weights=weights)).max() < 1e-6
    # Of two that freeze more than they have in common, the lowest layer runs once all the same.
    backbone = first.model.backbone
    second_layer = set(backbone.names_below(2)) - set(backbone.names_below(1))
    both = [
        replace(member, changed={f"backbone.{name}": str(number) for name in second_layer})
        for number, member in enumerate((first, twin))
    ]
    for member in both:
        member.model.candidate = replace(member.model.candidate, frozen_layers=2)
    assert scored(*both)[1] == len(rows)


def test_a_format_for_one_model_refuses_an_ensemble(exported: Export, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"is an ensemble of the trials 0, 2, and an ONNX model holds one"):
        convert(exported.folder, tmp_path / "onnx", "onnx")
    assert not (tmp_path / "onnx").exists()


def test_probabilities_have_the_temperature_of_the_folds(study: Study, exported: Export) -> None:
    assert exported.confidence is not None
    predictor = Predictor(exported.folder)
    assert predictor.manifest.temperature == exported.confidence.temperature
    rows = [row.fields for row in study.target.test]
    expected = softmax(predictor.logits(rows).astype(float) / exported.confidence.temperature, axis=1)
    assert np.abs(predictor.predict_proba(rows) - expected).max() < 1e-9
    assert exported.confidence.coverage[0].coverage == 1.0

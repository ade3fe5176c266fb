"""What ships of a study over several backbones is on one of them: the winner's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import create_trial

from promptgraft.bundles import Predictor, read_manifest, verify
from promptgraft.objectives.trial import Objective
from promptgraft.search.exporting import ExportOptions, export_winner
from promptgraft.search.judging import choose_ensemble
from promptgraft.search.running.compatibility import record_study
from promptgraft.search.storage import LOGITS_FILE, RunFolder, keep_result, trial_file
from promptgraft.search.study import Study, load_study
from promptgraft.search.workers.repeats import Repeats
from promptgraft.spaces import Candidate
from tests.support.models import TinyModels
from tests.support.specs import TEMPLATES, VERBALIZERS
from tests.support.studies import write_study_file
from tests.support.tables import small_tables

PLAIN = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, steps=2, batch_size=4, learning_rate=1e-3, frozen_layers=2)
# The best first.
CANDIDATES = (
    replace(PLAIN, backbone="lm"),
    replace(PLAIN, backbone="small"),
    replace(PLAIN, backbone="lm", template=TEMPLATES[1].id),
)


Searched = tuple[Study, optuna.Study, RunFolder]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, tiny_models: TinyModels) -> Searched:
    """A study of 16 labelled rows in two folds, and three trials that were run."""
    folder = tmp_path_factory.mktemp("study")
    target = {"train": str(small_tables() / "amazon.csv"), "text": "text", "label": "label"}
    target |= {"train_rows": 16, "test_rows": 10, "folds": 2}
    backbones = {
        "small": {"path": tiny_models["encoder"], "family": "encoder", "max_tokens": 48},
        "lm": {"path": tiny_models["causal_lm"], "family": "causal_lm", "max_tokens": 64},
    }
    judging = {"finalists": 0, "ensemble": 3}
    file = write_study_file(
        folder / "study.yaml", None, backbones=backbones, source=None, target=target, judging=judging
    )
    study, stored = load_study(file), optuna.create_study(study_name="tiny", direction="maximize")
    stored.set_metric_names(["accuracy"])
    record_study(stored, study, 1)
    run, objective = RunFolder(folder / "run"), Objective(study.objective)
    for number, candidate in enumerate(CANDIDATES):
        result = objective.evaluate(candidate, study.file.seed)
        keep_result(run.files(), number, result)
        attrs = {f"validation_{name}": value for name, value in result.metrics.items()}
        value = 1.0 - number / 10
        attrs |= {"candidate": candidate.to_dict(), "best_step": result.step, "fold_values": [value] * 2}
        stored.add_trial(create_trial(value=value, user_attrs=attrs))
    return study, stored, run


def test_a_bundle_is_on_the_backbone_of_its_trial(searched: Searched, tiny_models: TinyModels, tmp_path: Path) -> None:
    """Not on the first of the study."""
    study, stored, run = searched
    options = ExportOptions(output=tmp_path / "bundle", trial=0)
    exported = export_winner(study, stored, run, options)
    manifest = read_manifest(exported.folder)
    assert (manifest.backbone.family, manifest.backbone.path) == ("causal_lm", tiny_models["causal_lm"])
    assert manifest.candidate["backbone"] == "lm"
    assert Path(tiny_models["causal_lm"]).name in (exported.folder / "README.md").read_text(encoding="utf-8")
    assert verify(exported.folder).passed
    assert np.isfinite(Predictor(exported.folder).logits([row.fields for row in study.target.test])).all()


def test_controls_are_fitted_on_the_backbone_of_the_winner(searched: Searched) -> None:
    study, _, run = searched
    together, alone = (
        Repeats(Objective(spec), run.files(), study.file.seed) for spec in (study.objective, study.objective.on("lm"))
    )
    found = [together.fit("linear_probe", 0, name, backbone) for name, backbone in (("a", "small"), ("b", "lm"))]
    assert None not in [outcome.value for outcome in found]
    assert alone.fit("linear_probe", 0, "c").metrics == found[1].metrics
    logits = {name: run.files().read_tensors(name)["logits"] for name in "abc"}
    assert torch.equal(logits["b"], logits["c"])
    assert not torch.equal(logits["a"], logits["b"])


def test_an_ensemble_shares_the_backbone_of_the_winner(searched: Searched) -> None:
    """The trial on the other backbone is right about every row, and yet no member."""
    study, stored, run = searched
    labels = np.array([row.label for row in study.target.scored()])
    right = 2.0 * (2 * np.eye(2)[labels] - 1)
    wrong_at = np.arange(len(labels))[:, None] % 4
    planted = [np.where(wrong_at == 0, -right / 2, right), 9 * right, np.where(wrong_at == 1, -right / 2, right)]
    for number, logits in enumerate(planted):
        content = {"logits": torch.from_numpy(logits.astype(np.float32))}
        run.files().write_tensors(trial_file(number, LOGITS_FILE), content)
    found = choose_ensemble(study, stored, run.files())
    assert found is not None
    assert found.members == (0, 2)

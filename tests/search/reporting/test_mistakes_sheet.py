"""Images that a trial got wrong are on a sheet among its artifacts; a trial without mistakes has none."""

import io
from pathlib import Path

import optuna
import torch
from optuna.artifacts import get_all_artifact_meta
from PIL import Image

from promptgraft.search.reporting.dashboard_tables import describe_trial
from promptgraft.search.storage import LOGITS_FILE, RunFolder, open_storage, trial_file
from promptgraft.search.study import load_study
from promptgraft.search.trials import Evaluated, TrialSummary
from promptgraft.spaces import Candidate
from tests.support.images import write_images
from tests.support.models import TinyModels
from tests.support.studies import write_study_file


def test_mistakes_are_on_a_sheet(tmp_path: Path, tiny_models: TinyModels) -> None:
    table = write_images(tmp_path / "data")
    file = write_study_file(
        tmp_path / "study.yaml",
        {"path": tiny_models["vit"], "family": "vit"},
        source=None,
        target={
            "kind": "image_classification",
            "train": str(table),
            "text": {"image": "image"},
            "label": "colour",
            "test_rows": 12,
            "folds": 2,
        },
        space={"head": "probe", "steps": 0},
    )
    study, folder = load_study(file), RunFolder(tmp_path / "run")
    folder.path.mkdir()
    storage = open_storage(folder.storage_url())
    stored = optuna.create_study(storage=storage, study_name="tiny", direction="maximize")
    rows = study.target.scored()
    right = torch.nn.functional.one_hot(torch.tensor([row.label for row in rows]), 3).float()
    template = study.objective.space.templates[0].id
    for number, wrong in enumerate((7, 0)):
        stored.ask()
        trial = stored.get_trials()[number]
        logits = torch.cat([right[:wrong].roll(1, dims=1), right[wrong:]])
        folder.files().write_tensors(trial_file(number, LOGITS_FILE), {"logits": logits})
        reports = [Evaluated(0, 0.5, summary=TrialSummary(0.5, best_step=0))]
        place = (trial._trial_id, number, folder)
        describe_trial(stored, storage, place, Candidate(template, "", head="probe", steps=0), reports, study)
        kept = {meta.filename: meta.artifact_id for meta in get_all_artifact_meta(trial, storage=storage)}
        assert kept.keys() - {"mistakes.jpg"} == {"curve.csv", "predictions.csv"}
        assert ("mistakes.jpg" in kept) == bool(wrong)
        if wrong:
            sheet = Image.open(io.BytesIO((folder.dashboard / kept["mistakes.jpg"]).read_bytes()))
            assert (sheet.format, sheet.size) == ("JPEG", (6 * 140, 2 * 170))

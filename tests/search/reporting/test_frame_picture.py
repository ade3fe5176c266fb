"""A winner's frame of pixels is a picture in the report, drawn from its weights."""

import base64
import io
from pathlib import Path

import numpy as np
import optuna
import torch
from optuna.trial import create_trial
from PIL import Image

from promptgraft.search.reporting import collect_facts, render_page
from promptgraft.search.running.compatibility import record_study
from promptgraft.search.storage import DELTA_FILE, RunFolder, to_json, trial_file
from promptgraft.search.study import load_study
from promptgraft.spaces import Candidate, SoftPrompt
from tests.support.images import write_images
from tests.support.models import TinyModels
from tests.support.studies import write_study_file

WIDTH, SIDE = 3, 32


def test_a_frame_is_drawn(tmp_path: Path, tiny_models: TinyModels) -> None:
    columns = {"text": {"image": "image"}, "label": "colour", "test_rows": 12, "folds": 2}
    file = write_study_file(
        tmp_path / "study.yaml",
        {"path": tiny_models["convolutional"], "family": "convolutional"},
        source=None,
        target={"kind": "image_classification", "train": str(write_images(tmp_path / "data")), **columns},
        space={"head": "linear", "steps": 2, "soft_prompt": {"length": [0, WIDTH], "place": "frame"}},
    )
    study, folder = load_study(file), RunFolder(tmp_path / "run")
    stored = optuna.create_study(direction="maximize")
    record_study(stored, study, 1)
    candidate = Candidate(
        study.objective.space.templates[0].id, "", "linear", soft_prompt=SoftPrompt(WIDTH, place="frame"), steps=2
    )
    attrs = {"candidate": candidate.to_dict(), "prompt_tokens": 0, "best_step": 2}
    stored.add_trial(create_trial(value=0.6, user_attrs=attrs))
    assert collect_facts(stored, study, folder.files()).answer.frame is None
    sides = {"top": (3, WIDTH, SIDE), "left": (3, SIDE - 2 * WIDTH, WIDTH)}
    sides |= {"bottom": sides["top"], "right": sides["left"]}
    weights = {f"soft_prompt.{side}": torch.zeros(shape) for side, shape in sides.items()}
    weights["soft_prompt.top"][:] = 2.5
    weights["soft_prompt.right"][:] = -2.5
    folder.files().write_tensors(trial_file(0, DELTA_FILE), weights | {"reader.bias": torch.zeros(3)})
    facts = collect_facts(stored, study, folder.files())
    told = to_json(facts.answer)["frame"]
    assert (told["width"], told["most"]) == (WIDTH, 2.5)
    page = render_page(facts)
    assert told["picture"] in page
    assert "a trained frame 3 pixels wide" in page
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(told["picture"].partition(",")[2]))), dtype=int)
    times = pixels.shape[0] // SIDE
    assert pixels.shape == (SIDE * times, SIDE * times, 3)
    middles = pixels[times // 2 :: times, times // 2 :: times].mean(2)
    expected = np.full((SIDE, SIDE), 128)
    expected[:WIDTH], expected[WIDTH:-WIDTH, -WIDTH:] = 255, 0
    assert np.abs(middles - expected).max() < 12

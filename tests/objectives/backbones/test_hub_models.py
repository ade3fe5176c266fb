"""Models by their names on the hub, as its cache has them."""

import shutil
from pathlib import Path

import pytest
import torch

from promptgraft.objectives.backbones import BACKBONES, model_folder, weights_hash
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.spaces import InvalidInputError
from tests.support.models import TinyModels

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


def test_a_branch_tag_or_commit_may_stand_behind_the_name(
    tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models--somebody--model"
    for name, commit in COMMITS.items():
        shutil.copytree(tiny_models["encoder"], repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / name).write_text(commit)
    config = repository / "snapshots" / COMMITS["v1"] / "config.json"
    config.write_text(config.read_text() + "\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = {own: model_folder(f"somebody/model{own}").name for own in ("", "@main", "@v1", f"@{COMMITS['v1']}")}
    assert found == dict.fromkeys(("", "@main"), COMMITS["main"]) | dict.fromkeys(
        ("@v1", f"@{COMMITS['v1']}"), COMMITS["v1"]
    )
    loaded = BACKBONES["encoder"](BackboneSpec("somebody/model@v1", "encoder", 48), torch.device("cpu"))
    assert loaded.weights_hash == weights_hash(str(config.parent)) != weights_hash("somebody/model")
    with pytest.raises(InvalidInputError, match="'somebody/model@v2' is neither a local folder nor a model that the"):
        model_folder("somebody/model@v2")

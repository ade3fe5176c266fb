"""Nothing that a user points at can run code: no pickles, no code beside weights, no YAML tags."""

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from promptgraft.objectives.backbones import BACKBONES
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.search.study import load_study
from promptgraft.spaces import InvalidInputError, PromptgraftError
from tests.support.paths import ROOT

CPU = torch.device("cpu")
PICKLERS = ("pickle", "cloudpickle", "joblib", "dill")


def test_pickled_weights_are_refused(tiny_models: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_models["encoder"], folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(InvalidInputError, match="no weights in safetensors"):
        BACKBONES["encoder"](BackboneSpec(str(folder), "encoder", 64), CPU)


def test_code_beside_the_weights_is_not_run(tiny_models: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_models["encoder"], folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\n")
    with pytest.raises(InvalidInputError, match="trust_remote_code: true"):
        BACKBONES["encoder"](BackboneSpec(str(folder), "encoder", 64), CPU)
    assert not (tmp_path / "was_run").exists()


def test_the_package_never_unpickles_files() -> None:
    """Rehearsals alone are pickled: between a driver and the process that it started, through their own pipe."""
    calls = set()
    for folder in ("spaces", "objectives", "bundles", "search"):
        for file in set((ROOT / folder).rglob("*.py")) - {ROOT / "search" / "workers" / "rehearsal.py"}:
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                    calls |= {
                        name for name in names if name.split(".")[0] in ("pickle", "cloudpickle", "joblib", "dill")
                    }
                if isinstance(node, ast.Call):
                    calls |= {name for name in (ast.unparse(node.func),) if name in ("torch.load", "eval", "exec")}
    assert not calls


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['touch was_run']", "!!python/name:os.system"])
def test_a_study_file_can_t_run_code(
    write_study: Callable[..., Path], tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_study()
    path.write_text(path.read_text() + f"\nseed: {tag}\n")
    with pytest.raises(PromptgraftError):
        load_study(path)
    assert not (tmp_path / "was_run").exists()

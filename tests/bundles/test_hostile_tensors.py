"""Weights from hostile hands: a bundle whose tensors aren't those of its candidate is refused when it is loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from promptgraft.bundles import Predictor, read_manifest
from promptgraft.bundles.folder import file_sha256
from promptgraft.bundles.manifest import DELTA_FILE, MANIFEST_FILE, Manifest
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.spaces import InvalidInputError, SoftPrompt
from tests.support.bundles import export_small

HEAD, PROMPT, BIAS = "reader.weight", "soft_prompt.prompt", "calibration.bias"


@pytest.fixture(scope="module")
def bundle(
    tmp_path_factory: pytest.TempPathFactory, make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str]
) -> Path:
    """One that has a head, a soft prompt, a trained layer and a calibration."""
    spec = make_spec(tiny_models["encoder"], "encoder", rows=8)
    changes = {"soft_prompt": SoftPrompt(3), "frozen_layers": 2, "calibration": "batch", "steps": 1}
    return export_small(tmp_path_factory.mktemp("bundle"), spec, **changes)


def forged(bundle: Path, folder: Path, write: Callable[[Path], None]) -> Path:
    """Copy a bundle with other weights, hashed as a forger would."""
    shutil.copytree(bundle, folder)
    write(folder / DELTA_FILE)
    content = json.loads(read_manifest(bundle).model_dump_json())
    content["files"][DELTA_FILE] = file_sha256(folder / DELTA_FILE)
    (folder / MANIFEST_FILE).write_text(Manifest.model_validate(content).to_json(), encoding="utf-8")
    return folder


def trained(state: dict[str, Tensor]) -> str:
    return next(name for name in state if ".layer.2." in name and name.endswith("weight"))


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {key: value for key, value in state.items() if key != name}


CHANGES: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "no head": without(HEAD),
    "no trained layer": lambda state: without(trained(state))(state),
    "a head of one number": lambda state: state | {HEAD: torch.ones(1)},
    "a head without shape": lambda state: state | {HEAD: torch.tensor(1.0)},
    "a head on its side": lambda state: state | {HEAD: state[HEAD].T.contiguous()},
    "a head of one row": lambda state: state | {HEAD: state[HEAD][:1].clone()},
    "a layer of one number": lambda state: state | {trained(state): torch.ones(1, 1)},
    "not a number": lambda state: state | {HEAD: state[HEAD] * float("nan")},
    "infinite": lambda state: state | {trained(state): state[trained(state)] / 0},
    "integers": lambda state: state | {HEAD: state[HEAD].int()},
    "an unknown weight": lambda state: state | {"backbone.more": torch.ones(1)},
    "another calibration": lambda state: state | {BIAS: torch.zeros(1)},
    "a calibration that is no number": lambda state: state | {BIAS: state[BIAS] * float("nan")},
    "nothing": lambda state: {},
}


@pytest.mark.parametrize("change", CHANGES)
def test_tensors_that_do_not_fit_are_refused_by_name(bundle: Path, tmp_path: Path, change: str) -> None:
    folder = forged(bundle, tmp_path / "b", lambda file: save_file(CHANGES[change](load_file(file)), file))
    with pytest.raises(InvalidInputError, match=rf"{DELTA_FILE} doesn't fit the manifest's candidate: .*tensor|weight"):
        Predictor(folder)


def test_the_exported_tensors_fit(bundle: Path, tmp_path: Path) -> None:
    folder = forged(bundle, tmp_path / "b", lambda file: save_file(load_file(file), file))
    assert Predictor(folder).predict(["good"])


HEADERS: dict[str, Callable[[bytes], bytes]] = {
    "too long": lambda content: (2**62).to_bytes(8, "little") + content[8:],
    "longer than the file": lambda content: len(content).to_bytes(8, "little") + content[8:],
    "no JSON": lambda content: (8).to_bytes(8, "little") + b"????????" + content[8:],
    "cut off": lambda content: content[:-100],
    "empty": lambda content: b"",
    "a pointer": lambda content: b"version https://git-lfs.github.com/spec/v1\n",
    "other shapes": lambda content: content.replace(b'"shape":[2,32]', b'"shape":[9,99]'),
    "other places": lambda content: content.replace(b'"data_offsets":[0,', b'"data_offsets":[4,'),
    "a shape beyond memory": lambda content: content.replace(b'"shape":[2,32]', b'"shape":[9999999999999,99]', 1),
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_that_lies_is_refused(bundle: Path, tmp_path: Path, header: str) -> None:
    def write(file: Path) -> None:
        content = file.read_bytes()
        changed = HEADERS[header](content)
        assert changed != content
        file.write_bytes(changed)

    with pytest.raises(InvalidInputError, match=rf"{DELTA_FILE} is no whole safetensors file"):
        Predictor(forged(bundle, tmp_path / "b", write))

"""`promptgraft push`, against a stand-in of the hub over HTTP."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from promptgraft.bundles import read_manifest
from promptgraft.objectives.spec import ObjectiveSpec
from tests.support.bundles import export_small
from tests.support.commands import PROMPTGRAFT, typed
from tests.support.hub import Hub, running_hub
from tests.support.models import TinyModels

PLACE = "hf:somebody/model"


@pytest.fixture(scope="module")
def bundle(
    tmp_path_factory: pytest.TempPathFactory, make_spec: Callable[..., ObjectiveSpec], tiny_models: TinyModels
) -> Path:
    return export_small(
        tmp_path_factory.mktemp("push") / "bundle", make_spec(tiny_models["encoder"], "encoder"), steps=0
    )


def push(hub: Hub, bundle: Path, *more: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_secret"}
    command = [*PROMPTGRAFT, "push", str(bundle), PLACE, *more]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_a_bundle_arrives_whole_and_nothing_else_does(bundle: Path, tmp_path: Path) -> None:
    (bundle / "notes.txt").write_text("mine")
    with running_hub() as hub:
        done = push(hub, bundle, "--private")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{bundle}: {hub.url}/somebody/model/commit/1\n"
        assert [(made["name"], made["organization"]) for made in hub.made] == [("model", "somebody")]
        assert "Bearer hf_secret" in hub.tokens
        for name, content in hub.files.items():
            (tmp_path / name).write_bytes(content)
        (bundle / "notes.txt").unlink()
        assert set(hub.files) == {file.name for file in bundle.iterdir()}
        assert read_manifest(tmp_path) == read_manifest(bundle)
        hub.refuses = 403
        refused = push(hub, bundle)
        assert refused.returncode == 1
        assert "did not take it" in refused.stderr
        assert "hf auth login" in refused.stderr
        assert "hf_secret" not in refused.stderr


def test_a_dry_run_lists_the_files_and_sends_nothing(bundle: Path) -> None:
    shown = typed("push", str(bundle), PLACE, "--dry-run")
    assert shown.exit_code == 0, shown.output
    names = [line.split()[0] for line in shown.stdout.splitlines()[:-1]]
    assert names == sorted(file.name for file in bundle.iterdir())
    assert shown.stdout.splitlines()[-1].endswith("-> hf:somebody/model; nothing was sent")
    assert "rows of the study in clear text" in shown.stderr


@pytest.mark.parametrize("place", ["somebody/model", "hf:model", "hf:some body/model", "hf:a/b/c"])
def test_a_place_that_is_none(bundle: Path, place: str) -> None:
    refused = typed("push", str(bundle), place)
    assert refused.exit_code == 2
    assert f"expected hf:USER/NAME, got {place!r}" in refused.stderr

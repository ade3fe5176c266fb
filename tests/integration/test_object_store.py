"""A study whose files are in an object store: an S3 server on loopback, spoken to over HTTP."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from typer.testing import CliRunner

from promptgraft.objectives.file_store import FileStore
from promptgraft.objectives.trial import Checkpoint
from promptgraft.search.cli.studies import app
from tests.support.commands import PROMPTGRAFT
from tests.support.studies import space

pytestmark = pytest.mark.slow


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", endpoint)
    fsspec.config.set_conf_env(fsspec.config.conf)
    fsspec.filesystem("s3").makedirs("graft", exist_ok=True)
    yield "s3://graft/study"
    server.stop()


def test_a_study_runs_and_exports_from_an_object_store(
    bucket: str, write_study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_study(space=space(learning_rate=[1e-4, 1e-3], source_steps=2), checkpoint={"every": 0.001})
    database = f"sqlite:///{tmp_path / 'study.db'}"
    where = ["--workdir", bucket, "--storage", database]
    done = subprocess.run([*PROMPTGRAFT, "run", str(path), *where], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    files = FileStore(bucket)
    names = [file.name for file in files.files()]
    assert [name for name in names if name.startswith("stages/")]
    assert len([name for name in names if name.endswith("delta.safetensors")]) <= 3
    assert not [name for name in names if name.startswith("checkpoints/")], "all trials have ended"
    status = subprocess.run([*PROMPTGRAFT, "status", str(path), *where, "--json"], capture_output=True, check=True)
    assert json.loads(status.stdout)["disk"]["free_bytes"] is None
    subprocess.run([*PROMPTGRAFT, "export", str(path), *where], check=True, capture_output=True)
    assert (tmp_path / "runs" / "tiny" / "bundle" / "manifest.json").is_file()


def test_a_checkpoint_comes_back_from_an_object_store(bucket: str) -> None:
    import torch

    point = Checkpoint(FileStore(bucket), "checkpoints/key-0.safetensors", 0)
    point.save({"seed": 0}, {"step": 4}, {"weight": torch.arange(3)})
    saved = point.load({"seed": 0})
    assert saved is not None
    assert saved.content["step"] == 4
    assert saved.tensors["weight"].tolist() == [0, 1, 2]
    assert point.load({"seed": 1}) is None


def test_a_database_can_t_be_in_an_object_store(write_study: Callable[..., Path]) -> None:
    result = CliRunner().invoke(app, ["run", str(write_study()), "--workdir", "s3://graft/study"])
    assert result.exit_code == 2
    assert "name one with --storage" in result.output

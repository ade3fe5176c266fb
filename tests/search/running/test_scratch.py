"""Scratch folders: of a run that was killed, the next one deletes them; those of live runs stay."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from promptgraft.search.running.scratch import scratch_folder

_RUN = """
from promptgraft.search.running.scratch import scratch_folder
with scratch_folder() as folder:
    print(folder, flush=True)
    input()
"""


def test_the_next_run_deletes_what_a_killed_one_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", _RUN]
    runs = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    killed, alive = (Path(run.stdout.readline().strip()) for run in runs if run.stdout)
    runs[0].send_signal(signal.SIGKILL)
    runs[0].communicate()
    elsewhere, older, recent = (tmp_path / f"promptgraft-{name}" for name in ("elsewhere", "older", "recent"))
    for folder in (elsewhere, older, recent):
        folder.mkdir()
    owner = json.loads((killed / "owner.json").read_text())
    (elsewhere / "owner.json").write_text(json.dumps({**owner, "machine": "another"}))
    os.utime(older, (0, time.time() - 30 * 86400))
    with scratch_folder() as ours:
        assert sorted(tmp_path.iterdir()) == sorted([alive, elsewhere, recent, Path(ours)])
    runs[1].communicate("\n")
    assert sorted(tmp_path.iterdir()) == sorted([elsewhere, recent])

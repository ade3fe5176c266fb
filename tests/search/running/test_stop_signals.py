"""Signals that stop a run."""

import subprocess
import sys
from pathlib import Path

from tests.support.waiting import wait_until

SCRIPT = """
import signal, sys, time
from pathlib import Path
from promptgraft.search.running.ray_session import StopSignals

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # The tests may run under nohup.
with StopSignals() as stop:
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("what a run says at its end", flush=True)
        print("and here", file=sys.stderr, flush=True)
Path(sys.argv[1]).write_text(f"stopped: {stop.came}")
"""
IGNORED = """
import signal
from promptgraft.search.running.ray_session import StopSignals

signal.signal(signal.SIGHUP, signal.SIG_IGN)
with StopSignals() as stop:
    signal.raise_signal(signal.SIGHUP)
    print(stop.came)
"""


def test_a_lost_terminal_stops_a_run_that_still_has_something_to_say(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    command = [sys.executable, "-c", "import pty, sys; pty.spawn(sys.argv[1:])", sys.executable, "-c", SCRIPT]
    with subprocess.Popen([*command, str(ended)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as terminal:
        assert terminal.stdout is not None
        assert terminal.stdout.readline().strip() == b"ready"
        terminal.kill()
    wait_until(ended.exists)
    wait_until(lambda: ended.read_text() == "stopped: True")


def test_nohup_keeps_a_run_going() -> None:
    done = subprocess.run([sys.executable, "-c", IGNORED], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

"""What commands share."""

import signal
import subprocess
import sys

import pytest
import typer

from promptgraft.search.cli.options import reported

# Signals the process where Python can only print an exception, as when Ctrl-C comes while an import tidies up.
SCRIPT = """
import signal
from contextlib import nullcontext
from promptgraft.search.cli.options import ended_by_ctrl_c

signal.signal(signal.SIGINT, signal.default_int_handler)  # A job in the background ignores it.

class Tidied:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

with {context}():
    Tidied()
print("went on")
"""


@pytest.mark.parametrize(("context", "ended"), [("nullcontext", False), ("ended_by_ctrl_c", True)])
def test_ctrl_c_is_not_lost_while_a_command_starts(context: str, ended: bool) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(context=context)], capture_output=True, text=True)
    assert (done.returncode == -signal.SIGINT) == ended, done.stderr
    assert ("went on" in done.stdout) != ended


def test_a_command_that_ray_ends_on_sigterm_was_stopped() -> None:
    """Ray leaves with the signal's number; other programs' exit codes stay."""
    with pytest.raises(typer.Exit) as stopped:
        reported(lambda: sys.exit(signal.SIGTERM))()
    assert stopped.value.exit_code == 130
    with pytest.raises(SystemExit, match="3"):
        reported(lambda: sys.exit(3))()

"""Commands as a user types them, in a process of their own or in this one."""

import gc
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

# `promptgraft` of this checkout, whatever else is installed.
PROMPTGRAFT = [sys.executable, "-c", "from promptgraft.search.cli.studies import app; app()"]
_LOOKING = """
import sys
from promptgraft.search.cli.studies import app
try:
    app(sys.argv[2:])
except SystemExit as error:
    code = error.code
loaded = [name for name in sys.argv[1].split(",") if name in sys.modules]
assert not loaded, loaded
sys.exit(code)
"""


def promptgraft(*arguments: str, absent: str = "nothing", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in a fresh process.

    Args:
        arguments: What comes after `promptgraft`.
        absent: Modules that the command must not import, with commas between them.
        cwd: Where it runs.
    """
    command = [sys.executable, "-c", _LOOKING, absent, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd, check=False)


def typed(*arguments: str, stdin: str | None = None) -> Result:
    """Run a command in this process, which has torch already; `stdin` is what stands on its standard input."""
    from promptgraft.search.cli.studies import app

    try:
        return CliRunner().invoke(app, arguments, input=stdin)
    finally:
        gc.unfreeze()  # What a command keeps to its end is garbage here.

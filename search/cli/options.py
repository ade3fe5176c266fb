"""Options that commands share, and how commands report errors."""

import errno
import functools
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec, TypeVar

import typer

from promptgraft.spaces import InvalidInputError, PromptgraftError, masked, uncollected

if TYPE_CHECKING:
    from rich.console import Console

# Exit code of what was stopped.
INTERRUPTED = 130
P = ParamSpec("P")
R = TypeVar("R")

# Extra -> modules that are missing after a plain `pip install promptgraft`.
EXTRAS = {
    "search": ("matplotlib", "optuna", "optuna_dashboard", "plotly", "psutil", "ray", "ruamel", "sqlalchemy"),
    "serve": ("fastapi", "prometheus_client", "uvicorn"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "mlflow": ("mlflow",),
}

# Errors of the machine rather than of a path, a port or a permission that the user has named.
_NOT_THE_USERS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_ADVICE = {
    errno.ENOENT: "check the path: it is relative to the present folder",
    errno.EACCES: "check who may read and write it, or name another place",
    errno.EPERM: "check who may read and write it, or name another place",
    errno.EROFS: "name a place that can be written",
    errno.EISDIR: "name a file rather than a folder",
    errno.ENOTDIR: "a part of this path is a file; name a folder",
    errno.EEXIST: "there is a file where a folder is expected; name another place",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.ELOOP: "its links lead in a circle; name another place",
    errno.ENOSPC: "make room and run the same command",
    errno.EDQUOT: "make room and run the same command",
    errno.EADDRINUSE: "the port is taken; name another one with --port",
}

StudyArgument = Annotated[str, typer.Argument(help="Study file, or name of an existing study.")]
StorageOption = Annotated[
    str | None,
    typer.Option(
        help="Optuna storage URL, sqlite or postgresql.",
        show_default="runs/NAME/study.db",
        envvar="PROMPTGRAFT_STORAGE",  # Keeps a password off the command line.
        show_envvar=True,
    ),
]
WorkdirOption = Annotated[
    str | None, typer.Option(help="Folder of the study, or URL of its files (s3://...).", show_default="runs/NAME")
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@contextmanager
def loading() -> Iterator[None]:
    """Exempt what is loaded here from garbage collection: a pass over it takes as long as importing pandas."""
    with uncollected():
        yield
        gc.freeze()


def reported(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors that the user can fix into one message and an exit code, and `~` into the home folder."""

    @functools.wraps(command)
    def run_command(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **{name: _at_home(value) for name, value in kwargs.items()})  # type: ignore[arg-type]
        except PromptgraftError as error:
            raise _failed(str(error), error.exit_code) from error
        except SystemExit as error:
            if error.code == signal.SIGTERM:  # Ray's answer to that signal, before a run takes it for Ctrl-C.
                raise typer.Exit(INTERRUPTED) from error
            raise
        except BrokenPipeError:
            raise  # The reader has gone, such as `head`; typer ends quietly.
        except OSError as error:
            raise _failed(os_error_in_words(error), 1 if error.errno in _NOT_THE_USERS else 2) from error
        except _storage_errors() as error:
            from promptgraft.search.storage import first_line

            message = f"the study's storage failed: {first_line(error)}; what is finished is recorded. Mend the "
            message += "storage (is its disk full, is its server up?) and run the same command"
            raise _failed(message, PromptgraftError.exit_code) from error
        except ModuleNotFoundError as error:
            module = (error.name or "").split(".")[0]
            extra = next((extra for extra, modules in EXTRAS.items() if module in modules), None)
            if extra is None:
                raise
            message = f"this command needs {error.name}; pip install 'promptgraft[{extra}]'"
            raise _failed(message, InvalidInputError.exit_code) from error

    return run_command


def _failed(message: str, code: int) -> typer.Exit:
    typer.echo(f"error: {masked(message)}", err=True)
    return typer.Exit(code)


def _at_home(value: object) -> object:
    """Expand `~`, which a shell leaves alone in `--workdir=~/runs`."""
    if not isinstance(value, str | Path) or not str(value).startswith("~"):
        return value
    found = Path(value).expanduser()
    return str(found) if isinstance(value, str) else found


def os_error_in_words(error: OSError) -> str:
    """Say in one line what the system refused, and what to do."""
    lines = str(error).strip().splitlines()
    what = error.strerror or (lines[0] if lines else type(error).__name__)
    places = " -> ".join(str(place) for place in (error.filename, error.filename2) if place is not None)
    advice = _ADVICE.get(error.errno or 0)
    return ": ".join(filter(None, (places, what))) + (f"; {advice}" if advice else "")


def _storage_errors() -> tuple[type[Exception], ...]:
    """Return what databases raise, as far as the modules are loaded: who hasn't loaded them hasn't been failed by them.

    Python looks here only once something was raised, so that `--help` and `status` don't wait for these modules.
    """
    known = {"sqlalchemy.exc": "DBAPIError", "optuna.exceptions": "StorageInternalError"}
    return tuple(getattr(sys.modules[module], name) for module, name in known.items() if module in sys.modules)


@contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C end the process at once, while there is nothing to tidy up: modules are imported, files are read.

    Python would raise KeyboardInterrupt, which is lost where it can't be raised, such as in a `__del__` that an import
    runs: the command would go on.
    """
    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def console(*, quiet: bool = False) -> "Console":
    """Return a console for tables: as wide as the terminal, or 120 columns where output goes to a file."""
    from rich.console import Console

    return Console(width=None if os.isatty(1) else 120, quiet=quiet)

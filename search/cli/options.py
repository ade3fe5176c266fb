"""What commands share: their options, and how errors are told."""

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ParamSpec, TypeVar

import typer

from promptgraft.spaces import InvalidInputError, PromptgraftError

if TYPE_CHECKING:
    from rich.console import Console

P = ParamSpec("P")
R = TypeVar("R")

# What a plain `pip install promptgraft` leaves out: extra -> modules.
EXTRAS = {
    "search": ("matplotlib", "optuna", "optuna_dashboard", "plotly", "psutil", "ray", "ruamel", "sqlalchemy"),
    "serve": ("fastapi", "prometheus_client", "uvicorn"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "mlflow": ("mlflow",),
}

StudyArgument = Annotated[str, typer.Argument(help="Study file, or the name of a study that was started.")]
StorageOption = Annotated[
    str | None,
    typer.Option(
        help="Optuna storage URL; sqlite or postgresql.  [default: runs/NAME/study.db]",
        envvar="PROMPTGRAFT_STORAGE",  # Keeps a password off the command line.
        show_envvar=True,
    ),
]
WorkdirOption = Annotated[
    str | None, typer.Option(help="Folder of the study, or URL for its files (s3://...).  [default: runs/NAME]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def reported(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors that are the user's to mend into one message and an exit code."""

    @functools.wraps(command)
    def run_command(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except PromptgraftError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from error
        except PermissionError as error:
            typer.echo(f"error: {error.filename or error} may not be read or written by this user", err=True)
            raise typer.Exit(InvalidInputError.exit_code) from error
        except ModuleNotFoundError as error:
            module = (error.name or "").split(".")[0]
            extra = next((extra for extra, modules in EXTRAS.items() if module in modules), None)
            if extra is None:
                raise
            typer.echo(f"error: this command needs {error.name}; pip install 'promptgraft[{extra}]'", err=True)
            raise typer.Exit(InvalidInputError.exit_code) from error

    return run_command


def console() -> "Console":
    """Return where tables are printed: as wide as the terminal, and 120 columns in a file."""
    from rich.console import Console

    return Console(width=None if os.isatty(1) else 120)

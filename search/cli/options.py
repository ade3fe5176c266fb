"""Options that commands share, and how commands report errors."""

import functools
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ParamSpec, TypeVar

import typer

from promptgraft.spaces import InvalidInputError, PromptgraftError

if TYPE_CHECKING:
    from rich.console import Console

P = ParamSpec("P")
R = TypeVar("R")

# Extra -> modules that are missing after a plain `pip install promptgraft`.
EXTRAS = {
    "search": ("matplotlib", "optuna", "optuna_dashboard", "plotly", "psutil", "ray", "ruamel", "sqlalchemy"),
    "serve": ("fastapi", "prometheus_client", "uvicorn"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "mlflow": ("mlflow",),
}

StudyArgument = Annotated[str, typer.Argument(help="Study file, or name of an existing study.")]
StorageOption = Annotated[
    str | None,
    typer.Option(
        help="Optuna storage URL, sqlite or postgresql.  [default: runs/NAME/study.db]",
        envvar="PROMPTGRAFT_STORAGE",  # Keeps a password off the command line.
        show_envvar=True,
    ),
]
WorkdirOption = Annotated[
    str | None, typer.Option(help="Folder of the study, or URL of its files (s3://...).  [default: runs/NAME]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def reported(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors that the user can fix into one message and an exit code."""

    @functools.wraps(command)
    def run_command(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except PromptgraftError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from error
        except PermissionError as error:
            typer.echo(f"error: permission denied: {error.filename or error}", err=True)
            raise typer.Exit(InvalidInputError.exit_code) from error
        except _storage_errors() as error:
            from promptgraft.search.storage import first_line

            typer.echo(
                f"error: the study's storage failed: {first_line(error)}; what is finished is recorded. Mend the "
                "storage (is its disk full, is its server up?) and run the same command",
                err=True,
            )
            raise typer.Exit(PromptgraftError.exit_code) from error
        except ModuleNotFoundError as error:
            module = (error.name or "").split(".")[0]
            extra = next((extra for extra, modules in EXTRAS.items() if module in modules), None)
            if extra is None:
                raise
            typer.echo(f"error: this command needs {error.name}; pip install 'promptgraft[{extra}]'", err=True)
            raise typer.Exit(InvalidInputError.exit_code) from error

    return run_command


def _storage_errors() -> tuple[type[Exception], ...]:
    """Return what databases raise, as far as the modules are loaded: who hasn't loaded them hasn't been failed by them.

    Python looks here only once something was raised, so that `--help` and `status` don't wait for these modules.
    """
    known = {"sqlalchemy.exc": "DBAPIError", "optuna.exceptions": "StorageInternalError"}
    return tuple(getattr(sys.modules[module], name) for module, name in known.items() if module in sys.modules)


def console() -> "Console":
    """Return a console for tables: as wide as the terminal, or 120 columns where output goes to a file."""
    from rich.console import Console

    return Console(width=None if os.isatty(1) else 120)

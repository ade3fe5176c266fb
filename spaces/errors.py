"""The errors of promptgraft, and the wording that they share."""

import difflib
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import ClassVar


class PromptgraftError(Exception):
    """Base class of every error that promptgraft raises on purpose.

    Attributes:
        exit_code: Exit code of the command line.
    """

    exit_code: ClassVar[int] = 1


class InvalidInputError(PromptgraftError, ValueError):
    """A study file, a data file, a bundle or a candidate is not valid."""

    exit_code = 2


class TrialError(PromptgraftError, RuntimeError):
    """A trial cannot continue; it is recorded as FAIL with this message as its cause."""


def checked_path(value: object, what: str) -> Path:
    """Return a path that a caller from Python gave, with the home folder in place of `~`.

    Args:
        value: What was given.
        what: What it is to be, for the message.

    Raises:
        InvalidInputError: If it is neither a text nor a path.
    """
    if not isinstance(value, str | PathLike):
        raise InvalidInputError(f"expected the path of {what}, got {value!r}")
    return Path(value).expanduser()


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Suggest an allowed name in place of an unknown one.

    Args:
        name: The unknown name.
        allowed: The allowed names.

    Returns:
        `did you mean 'x'?` if one is similar, otherwise the whole list.
    """
    names = [str(option) for option in allowed]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    shown = (option if option.isprintable() else repr(option) for option in names)
    return f"expected one of: {', '.join(shown)}" if names else "nothing is allowed here"

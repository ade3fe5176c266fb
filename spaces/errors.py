"""The one tree of errors, and the wording they share."""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class PromptgraftError(Exception):
    """Root of every error that promptgraft raises on purpose.

    Attributes:
        exit_code: What the command line ends with.
    """

    exit_code: ClassVar[int] = 1


class InvalidInputError(PromptgraftError, ValueError):
    """A study file, a data file or a candidate says something that can't be used."""

    exit_code = 2


class TrialError(PromptgraftError, RuntimeError):
    """A trial can't go on; it becomes FAIL with this message as its cause."""


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Say what was allowed where `name` was given, nearest first.

    Args:
        name: What was written.
        allowed: The names that would have been accepted.

    Returns:
        `did you mean 'x'?` where one name is close, otherwise the whole list.
    """
    names = [str(option) for option in allowed]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"expected one of: {', '.join(names)}" if names else "nothing is allowed here"

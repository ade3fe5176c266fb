"""How far a long computation has come: library code reports it, the command line shows it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

# Gets the name of the present part, how much of it is done, and how much there is; None where that isn't known.
Listener = Callable[[str, int, int | None], None]
_LISTENER: ContextVar[Listener | None] = ContextVar("promptgraft_progress", default=None)


@dataclass(frozen=True, slots=True)
class StageProgress:
    """A cycle is in a stage that takes long, ahead of its evaluations.

    Attributes:
        stage: What is trained, in words.
        step: Updates done.
        steps: Updates to do.
    """

    stage: str
    step: int
    steps: int

    def __str__(self) -> str:
        return f"{self.stage}, update {self.step} of {self.steps}"


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have the computations in the block report to a listener."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def report_progress(what: str, done: int, total: int | None) -> None:
    """Report how far a computation has come, if anyone listens."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(what, done, total)

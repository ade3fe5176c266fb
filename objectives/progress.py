"""How far a long computation is, for whoever shows it: library code reports, the command line draws bars."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Gets what a computation is at, how much of it is done, and how much there is; None where that isn't known.
Listener = Callable[[str, int, int | None], None]
_LISTENER: ContextVar[Listener | None] = ContextVar("promptgraft_progress", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have the computations in the block report to a listener."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def report_progress(what: str, done: int, total: int | None) -> None:
    """Report how far a computation is, if anyone listens."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(what, done, total)

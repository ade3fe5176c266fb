"""Progress bars on standard error for what takes long; nothing where that is no terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Timer
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

# What takes less than this shows nothing.
PATIENCE_S = 2.0


@contextmanager
def bar(what: str, *, quiet: bool = False, patience_s: float = PATIENCE_S) -> Iterator[Callable[[str], None]]:
    """Show how far the block has come, as the code in it reports by `objectives.progress.report_progress`.

    Args:
        what: Name of the bar while no part of the block reports how far it is.
        quiet: Whether to show nothing.
        patience_s: Seconds after which the bar appears.

    Yields:
        What shows a line on standard error, above the bar.
    """
    if quiet or not sys.stderr.isatty():
        yield _nothing if quiet else partial(typer.echo, err=True)
        return
    from promptgraft.objectives.progress import listening

    shown = _progress()
    task = shown.add_task(what, total=None)

    def listen(now: str, done: int, total: int | None) -> None:
        # A part that is over says nothing of what comes next.
        name, goal = (what, None) if done == total else (now, total)
        if shown.tasks[task].description != name:
            shown.reset(task, description=name, total=goal)
        shown.update(task, completed=done, total=goal)

    start = Timer(patience_s, shown.start)
    start.daemon = True
    start.start()
    try:
        with listening(listen):
            yield partial(shown.console.print, highlight=False, markup=False, soft_wrap=True)
    finally:
        start.cancel()
        start.join()
        shown.stop()


def _nothing(_: str) -> None:
    """Say nothing."""


def _progress() -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Left(TimeRemainingColumn):
        """The time left, and nothing while it isn't known."""

        def render(self, task: Task) -> Text:
            return Text("left ").append_text(super().render(task)) if task.time_remaining is not None else Text()

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(24),
        TimeElapsedColumn(),
        Left(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)

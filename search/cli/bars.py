"""Progress bars on standard error for what takes long; nothing where that is no terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

# What takes less than this shows nothing.
PATIENCE_S = 2.0


@contextmanager
def bar(what: str, *, quiet: bool = False, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Show how far the block has come, as the code in it reports by `objectives.progress.report_progress`.

    Args:
        what: Name of the bar until the code in the block reports one.
        quiet: Whether to show nothing.
        patience_s: Seconds after which the bar appears.
    """
    if quiet or not sys.stderr.isatty():
        yield
        return
    from promptgraft.objectives.progress import listening

    shown = _progress()
    task = shown.add_task(what, total=None)

    def listen(now: str, done: int, total: int | None) -> None:
        if shown.tasks[task].description != now:
            shown.reset(task, description=now, total=total)
        shown.update(task, completed=done, total=total)

    start = Timer(patience_s, shown.start)
    start.daemon = True
    start.start()
    try:
        with listening(listen):
            yield
    finally:
        start.cancel()
        start.join()
        shown.stop()


def _progress() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(24),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)

"""What `run` and `watch` show: a live table in a terminal or a notebook, plain lines elsewhere."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from promptgraft.objectives.progress import StageProgress
from promptgraft.search.trials import Evaluated, Forecast
from promptgraft.search.wording import duration, rounded

_BLOCKS = "▁▂▃▄▅▆▇█"
_BAR = 24  # Columns.
# Of a notebook's cell.
_CELL_WIDTH, _CELL_REFRESH_S = 100, 1.0
_CELL = '<pre style="line-height: normal; overflow-x: auto; font-family: monospace">{code}</pre>'


def sparkline(values: list[float]) -> str:
    """Draw values as a line of blocks, lowest to highest."""
    if not values:
        return ""
    low, high = min(values), max(values)
    width = (high - low) or 1.0
    return "".join(_BLOCKS[round((value - low) / width * (len(_BLOCKS) - 1))] for value in values)


@dataclass
class Progress:
    """Counts and curves of a run, shown while it goes on.

    Attributes:
        name: The study's name.
        metric: What is optimised.
        wanted: Finished trials to reach.
        ran_s: Seconds for which the run had gone on when it began to be shown.
        ends_at: When the search ends at the latest, seconds since the epoch; None without such a limit.
    """

    name: str
    metric: str
    wanted: int
    console: Console = field(default_factory=Console)
    states: dict[str, int] = field(default_factory=dict)
    best: tuple[int, float] | None = None  # Number and value of the trial with the best value.
    curves: dict[int, list[float]] = field(default_factory=dict)
    stages: dict[int, StageProgress] = field(default_factory=dict)
    finished: int = 0
    forecast: Forecast | None = None
    ran_s: float = 0.0
    ends_at: float | None = None

    def __post_init__(self) -> None:
        self._started = time.monotonic() - self.ran_s
        self._judging: tuple[int, int] | None = None
        self._judging_since = 0.0
        self._lock = threading.Lock()
        self._cell: Any = None  # Of a notebook.

    @property
    def is_live(self) -> bool:
        """Whether the table is drawn again and again, so that a line for each trial isn't needed."""
        return self.console.is_terminal or self.console.is_jupyter

    def update(self, states: dict[str, int], finished: int) -> None:
        """Take over the study's counts."""
        self.states, self.finished = states, finished

    def in_stage(self, number: int, message: StageProgress) -> None:
        """Show where a live trial is before its next evaluation."""
        with self._lock:
            self.stages[number] = message
        if not self.is_live:
            self.say(f"trial {number}  {message}")

    def evaluated(self, number: int, message: Evaluated) -> None:
        """Extend a live trial's curve."""
        with self._lock:
            self.stages.pop(number, None)
            self.curves.setdefault(number, []).append(message.value)

    def set_curves(self, curves: Mapping[int, Sequence[float]]) -> None:
        """Take over the curves of all trials that run, as a study has them."""
        with self._lock:
            self.curves = {number: list(values) for number, values in curves.items()}

    def ended(self, number: int, state: str, value: float | None, note: str = "") -> None:
        """Close a trial's curve; print a line where there is no live table."""
        with self._lock:
            self.curves.pop(number, None)
            self.stages.pop(number, None)
        if not self.is_live:
            shown = "" if value is None else f"{self.metric} {rounded(value)}"
            best = "" if self.best is None else f"best {rounded(self.best[1])} (trial {self.best[0]})"
            counts = f"{self.finished}/{self.wanted} finished"
            left = f"left {self.left()}" if self.forecast else ""
            parts = [f"trial {number}", state, shown, note, counts, best, left]
            self.console.print("  ".join(part for part in parts if part), highlight=False, soft_wrap=True, markup=False)

    def judging(self, done: int, left: int) -> None:
        """Take over how many reruns of the finalists and the baselines are done, and how many are left."""
        if self._judging is None:
            self._judging_since = time.monotonic()
        self._judging = (done, left)

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def left(self) -> str:
        """Say how long the search will go on, by the forecast, or else at most."""
        if self.finished >= self.wanted:
            return duration(0.0)
        if self.forecast:
            return duration(max(0.0, self.forecast.ends_at - time.time()))
        return "?" if self.ends_at is None else f"≤ {duration(max(0.0, self.ends_at - time.time()))}"

    def __rich__(self) -> RenderableType:
        """Draw the live table."""
        head = Table(title=f"study {self.name}", title_justify="left", expand=False)
        for column in ("finished", "COMPLETE", "PRUNED", "FAIL", "RUNNING", "best", "elapsed", "left"):
            head.add_column(column, justify="right")
        best = "-" if self.best is None else f"{rounded(self.best[1])} (trial {self.best[0]})"
        counts = [str(self.states.get(state, 0)) for state in ("COMPLETE", "PRUNED", "FAIL", "RUNNING")]
        elapsed = duration(time.monotonic() - self._started)
        left = "judging" if self._judging else self.left()
        head.add_row(f"{self.finished}/{self.wanted}", *counts, best, elapsed, left)
        with self._lock:
            curves = [
                Text(f"  trial {number:>4}  {sparkline(values)}  {self.metric} {rounded(values[-1])}")
                for number, values in sorted(self.curves.items())
            ]
            stages = [Text(f"  trial {number:>4}  {message}") for number, message in sorted(self.stages.items())]
        if self._judging:
            return Group(head, Text(f"  {self._judged(*self._judging)}"))
        if not any(self.states.values()):
            return Group(head, Text("  starting the workers"))
        end = [Text(f"  {self.forecast}")] if self.forecast else []
        return Group(head, *end, *stages, *curves)

    def _judged(self, done: int, left: int) -> str:
        """Say how far the judging is; the first reruns tell how long the others take."""
        took = time.monotonic() - self._judging_since
        bar = "━" * round(_BAR * done / max(1, done + left))
        ahead = f", about {duration(took / done * left)}" if done else ""
        return f"judging the winner  {bar.ljust(_BAR, '─')}  {done} reruns done, {left} left{ahead}"

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the table while the block runs, in a terminal or a notebook; it stays in the notebook."""
        if self.console.is_jupyter:
            with self._in_a_cell():
                yield
            return
        if not self.is_live:
            yield
            return
        with Live(get_renderable=self.__rich__, console=self.console, refresh_per_second=2, transient=True):
            yield

    @contextmanager
    def _in_a_cell(self) -> Iterator[None]:
        """Show the table in the output of a notebook's cell, in place; rich's own way needs widgets."""
        from IPython.display import HTML, display

        def drawn() -> HTML:
            page = Console(file=StringIO(), record=True, width=_CELL_WIDTH, force_jupyter=False)
            page.print(self)
            return HTML(page.export_html(inline_styles=True, code_format=_CELL))

        def refresh() -> None:
            while not over.wait(_CELL_REFRESH_S):
                self._cell.update(drawn())

        self._cell, over = self._cell or display(drawn(), display_id=True), threading.Event()
        thread = threading.Thread(target=refresh, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._judging = None
            self._cell.update(drawn())

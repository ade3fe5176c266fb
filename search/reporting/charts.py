"""A report's charts, as SVG that stands in the page: readable on light and dark, the same for the same numbers."""

import io
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import matplotlib as mpl
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from promptgraft.search.judging import CurvePoint
from promptgraft.search.reporting.error_analysis import CalibrationBin
from promptgraft.search.reporting.history import TrialFacts
from promptgraft.search.trials import FrontTrial

INK, ACCENT, QUIET, BAD = "#7a7f87", "#2f7ed8", "#9aa3ad", "#d1603d"
# Inches. Pages scale charts to their width: on a phone these stay readable.
WIDE, PANEL = 4.8, 3.4
# Different numbers from which on a knob is drawn as a line of numbers rather than side by side.
MANY = 6
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "promptgraft",
    "text.parse_math": False,  # Names are the user's; a dollar in them is a dollar.
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


class Chart:
    """One chart.

    Attributes:
        axes: Where to draw.
        svg: The picture, once the chart has been left.
    """

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self.svg = ""


@contextmanager
def chart(key: str, said: str, width: float = WIDE, height: float = 2.8) -> Iterator[Chart]:
    """Open a chart of so many inches; it scales with the page.

    Args:
        key: Its name in the page, which keeps its ids apart from those of other charts.
        said: What a screen reader says of it.
        width: Inches.
        height: Inches.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        drawn = Chart(figure.add_subplot())
        yield drawn
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{key}-", svg)
    drawn.svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(said)}"', 1)


def history(entries: Sequence[TrialFacts], metric: str, marks: Mapping[str, float]) -> str:
    """Draw every trial's value, the best so far, and what the winner turned out to score."""
    with chart("history", f"{metric} of every trial, in their order", height=3.2) as drawn:
        axes = drawn.axes
        for state, colour, marker in (("COMPLETE", ACCENT, "o"), ("PRUNED", QUIET, "x")):
            own = [(entry.trial, entry.value) for entry in entries if entry.state == state and entry.value is not None]
            places = [x for x, _ in own], [y for _, y in own]
            axes.scatter(*places, s=16, c=colour, marker=marker, label=state, clip_on=False)
        known = [(entry.trial, entry.best) for entry in entries if entry.best is not None]
        axes.step([x for x, _ in known], [y for _, y in known], where="post", color=ACCENT, lw=1, label="best so far")
        for (name, value), style in zip(marks.items(), ("--", ":"), strict=False):
            axes.axhline(value, color=BAD, lw=1.2, ls=style, label=name)
        axes.set(xlabel="trial", ylabel=metric)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="upper left", bbox_to_anchor=(-0.12, -0.17), ncols=2)
    return drawn.svg


def curves(entries: Sequence[TrialFacts], winner: int, metric: str) -> str:
    """Draw what each trial reported as it went, the winner on top."""
    with chart("curves", f"{metric} by step, a line for each trial", height=3.0) as drawn:
        axes, named = drawn.axes, set[str]()
        for entry in sorted(entries, key=lambda entry: entry.trial == winner):
            points = [(step, value) for step, value in entry.curve if value is not None]
            if not points or entry.state not in ("COMPLETE", "PRUNED"):
                continue
            won, pruned = entry.trial == winner, entry.state == "PRUNED"
            name = "winner" if won else entry.state
            look: dict[str, Any] = {"color": BAD if won else INK if pruned else ACCENT, "alpha": 1.0 if won else 0.5}
            look |= {"lw": 2.0 if won else 1.0, "label": None if name in named else name}
            axes.plot([p[0] for p in points], [p[1] for p in points], "--" if pruned else "-", **look)
            axes.plot(*points[-1], "x" if pruned else ".", color=look["color"], alpha=look["alpha"], ms=5)
            named.add(name)
        axes.set(xlabel="step", ylabel=metric)
        if named:
            axes.legend(loc="upper left", bbox_to_anchor=(-0.12, -0.17), ncols=3)
    return drawn.svg


def intervals(
    key: str, entries: Sequence[tuple[str, float, float, float]], label: str, marks: Sequence[float] = ()
) -> str:
    """Draw named values with their intervals, the first on top.

    Args:
        key: See `chart`.
        entries: Name, value, low, high.
        label: What the values are.
        marks: A value to compare each with, drawn as a stroke.
    """
    names = [textwrap.fill(entry[0], 24) for entry in reversed(entries)]
    lines = sum(1 + name.count("\n") for name in names)
    with chart(key, f"{label}: " + ", ".join(entry[0] for entry in entries), height=0.6 + 0.22 * lines) as drawn:
        axes, top = drawn.axes, len(entries) - 1
        for place, (_, value, low, high) in enumerate(reversed(entries)):
            axes.plot([low, high], [place, place], color=QUIET, lw=3, alpha=0.6, solid_capstyle="round")
            axes.plot(value, place, "o", color=ACCENT if place == top else INK, ms=5, clip_on=False)
        axes.plot(list(reversed(marks)), range(top - len(marks) + 1, top + 1), "|", color=BAD, ms=9, mew=1.5)
        axes.set_yticks(range(len(entries)), names)
        axes.set_ylim(-0.6, top + 0.6)
        axes.set_xlabel(label)
    return drawn.svg


def knob(key: str, name: str, entries: Sequence[tuple[Any, float, bool]], metric: str) -> str:
    """Draw the metric against one knob: numbers on a line with their running median, names side by side with theirs.

    Args:
        key: See `chart`.
        name: The knob.
        entries: Its value, the metric, and whether the trial is COMPLETE, of each trial that has the knob.
        metric: The metric's name.
    """
    values = [value for value, _, _ in entries]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    with chart(key, f"{metric} by {name}", PANEL, 2.4) as drawn:
        if numeric and len(set(values)) >= MANY:
            _line(drawn.axes, entries)
        else:
            _side_by_side(drawn.axes, entries, numeric)
        drawn.axes.set(title=name, ylabel=metric)
    return drawn.svg


def _line(axes: Axes, entries: Sequence[tuple[float, float, bool]]) -> None:
    """Draw numbers; the line is the median of a third of the COMPLETE trials around."""
    _points(axes, entries)
    complete = sorted((value, score) for value, score, whole in entries if whole)
    reach = max(2, len(complete) // 6)
    around = [complete[max(0, place - reach) : place + reach + 1] for place in range(len(complete))]
    middles = [median(score for _, score in own) for own in around]
    axes.plot([value for value, _ in complete], middles, color=BAD, lw=1.5)
    values = [value for value, _, _ in entries]
    if min(values) > 0 and max(values) / min(values) > 10:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _side_by_side(axes: Axes, entries: Sequence[tuple[Any, float, bool]], numeric: bool) -> None:
    names = sorted({value for value, _, _ in entries}, key=lambda value: value if numeric else str(value))
    for place, name in enumerate(names):
        own = sorted((score, whole) for value, score, whole in entries if value == name)
        ties: dict[float, int] = {}
        spread = []
        for score, whole in own:  # Equal scores beside each other, so that none hides another.
            ties[score] = ties.get(score, 0) + 1
            aside = (ties[score] // 2) * 0.07 * (-1) ** ties[score]
            spread.append((place + max(-0.42, min(0.42, aside)), score, whole))
        _points(axes, spread)
        complete = [score for score, whole in own if whole]
        if complete:
            axes.plot([place - 0.3, place + 0.3], [median(complete)] * 2, color=BAD, lw=1.5)
    shown = [text if len(text) < 15 else text[:13] + "…" for text in map(_short, names)]
    tilted = max(map(len, shown)) * len(shown) > 28
    axes.set_xticks(range(len(names)), shown, rotation=25 if tilted else 0, ha="right" if tilted else "center")
    axes.set_xlim(-0.6, len(names) - 0.4)


def _points(axes: Axes, entries: Sequence[tuple[float, float, bool]]) -> None:
    for complete, marker, colour in ((False, "x", QUIET), (True, "o", ACCENT)):
        own = [(value, score) for value, score, whole in entries if whole == complete]
        axes.scatter([v for v, _ in own], [s for _, s in own], s=14, c=colour, marker=marker, alpha=0.7)


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def reliability(key: str, bins: Sequence[CalibrationBin]) -> str:
    """Draw how often a model is right against how sure it is, with the rows of each bin."""
    with chart(key, "How often the model is right against how sure it is", 4.2, 3.2) as drawn:
        axes = drawn.axes
        low = min([0.5, *(entry.right for entry in bins), *(entry.sure for entry in bins)]) - 0.03
        axes.plot([low, 1], [low, 1], color=QUIET, lw=1, ls="--")
        axes.plot([e.sure for e in bins], [e.right for e in bins], "o-", color=ACCENT, lw=1, ms=4, clip_on=False)
        for entry in bins:
            place = (entry.sure, entry.right)
            above = entry.right >= entry.sure
            offset: dict[str, Any] = {"xytext": (0, 6 if above else -11), "textcoords": "offset points", "ha": "center"}
            axes.annotate(str(entry.rows), place, fontsize=7, **offset)
        axes.set(xlabel="how sure: mean probability of the predicted label", ylabel="how often right")
        axes.set_ylim(top=1.06)
    return drawn.svg


def curve(key: str, points: Sequence[CurvePoint], everything: int, part: str, metric: str) -> str:
    """Draw a learning curve with standard errors."""
    rows = [point.rows or everything for point in points]
    with chart(key, f"{metric} by number of {part} rows", PANEL, 2.4) as drawn:
        axes = drawn.axes
        means = [point.mean for point in points]
        errors = [point.standard_error or 0.0 for point in points]
        axes.errorbar(rows, means, errors, fmt="o-", color=ACCENT, lw=1, ms=4, capsize=2)
        axes.set_xscale("log", base=2)
        axes.set_xticks(rows, map(str, rows))
        axes.minorticks_off()
        axes.set(xlabel=f"{part} rows", ylabel=metric)
    return drawn.svg


def front(key: str, entries: Sequence[TrialFacts], front: Sequence[FrontTrial], metric: str, cost: str) -> str:
    """Draw all trials by the metric and one cost; those that no other one dominates with their numbers."""
    with chart(key, f"{metric} against {cost}, with the Pareto front") as drawn:
        axes = drawn.axes
        places = [(e.values.get(cost), e.values.get(metric)) for e in entries if e.state == "COMPLETE"]
        others = [(x, y) for x, y in places if x is not None and y is not None]
        axes.scatter([x for x, _ in others], [y for _, y in others], s=14, c=QUIET, label="dominated")
        best = [(e.values[cost], e.values[metric], e.number) for e in front]
        axes.scatter([x for x, _, _ in best], [y for _, y, _ in best], s=24, c=ACCENT, label="front")
        for x, y, number in best:
            axes.annotate(str(number), (x, y), textcoords="offset points", xytext=(5, 4), fontsize=7)
        axes.set(xlabel=cost.replace("_", " "), ylabel=metric)
        axes.legend(loc="best")
    return drawn.svg

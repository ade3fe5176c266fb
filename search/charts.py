"""A report's charts, as SVG that stands in the page: readable on light and dark, the same for the same numbers."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, ACCENT, QUIET, BAD = "#7a7f87", "#2f7ed8", "#b9bec6", "#d1603d"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # A name may hold dollars.
    "svg.hashsalt": "promptgraft",
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
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
def chart(width: float = 6.4, height: float = 2.8) -> Iterator[Chart]:
    """Open a chart of so many inches; it scales with the page."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        drawn = Chart(figure.add_subplot())
        yield drawn
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = written.getvalue()
    drawn.svg = svg[svg.index("<svg") :]


def history(entries: Sequence[Mapping[str, Any]], metric: str, marks: Mapping[str, float]) -> str:
    """Draw every trial's value, the best so far, and what the winner turned out to score."""
    with chart() as drawn:
        axes = drawn.axes
        for state, colour, marker in (("COMPLETE", ACCENT, "o"), ("PRUNED", QUIET, "x")):
            own = [entry for entry in entries if entry["state"] == state and entry["value"] is not None]
            axes.scatter(
                [e["trial"] for e in own], [e["value"] for e in own], s=16, c=colour, marker=marker, label=state
            )
        known = [entry for entry in entries if entry["best"] is not None]
        axes.step(
            [e["trial"] for e in known], [e["best"] for e in known], where="post", color=ACCENT, lw=1, label="best"
        )
        for (name, value), style in zip(marks.items(), ("--", ":"), strict=False):
            axes.axhline(value, color=BAD, lw=1, ls=style, label=name)
        axes.set(xlabel="trial", ylabel=metric)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    return drawn.svg


def intervals(entries: Sequence[tuple[str, float, float, float]], label: str) -> str:
    """Draw named values with their intervals: name, value, low, high; the first on top."""
    with chart(height=0.6 + 0.28 * len(entries)) as drawn:
        axes = drawn.axes
        for place, (_, value, low, high) in enumerate(reversed(entries)):
            axes.plot([low, high], [place, place], color=QUIET, lw=3, solid_capstyle="round")
            axes.plot(value, place, "o", color=ACCENT if place == len(entries) - 1 else INK, ms=5)
        axes.set_yticks(range(len(entries)), [entry[0] for entry in reversed(entries)])
        axes.set_ylim(-0.6, len(entries) - 0.4)
        axes.set_xlabel(label)
    return drawn.svg


def knob(name: str, values: Sequence[Any], scores: Sequence[float], metric: str) -> str:
    """Draw the metric against one knob: numbers on a line, names side by side with their medians."""
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    with chart(3.2, 2.2) as drawn:
        axes = drawn.axes
        if numeric and len(set(values)) > 5:
            axes.scatter(values, scores, s=14, c=ACCENT, alpha=0.8)
            if min(values) > 0 and max(values) / min(values) > 20:
                axes.set_xscale("log")
                axes.minorticks_off()
        else:
            names = sorted(set(values), key=lambda value: (not numeric, value if numeric else str(value)))
            for place, own in enumerate(names):
                found = sorted(score for value, score in zip(values, scores, strict=True) if value == own)
                axes.scatter([place] * len(found), found, s=14, c=ACCENT, alpha=0.6)
                middle = found[len(found) // 2]
                axes.plot([place - 0.25, place + 0.25], [middle, middle], color=BAD, lw=1.5)
            shown = [text if len(text) < 15 else text[:13] + "…" for text in map(str, names)]
            axes.set_xticks(range(len(names)), shown, rotation=20 if max(map(len, shown)) > 6 else 0)
            axes.set_xlim(-0.6, len(names) - 0.4)
        axes.set(title=name, ylabel=metric)
    return drawn.svg


def reliability(bins: Sequence[Mapping[str, Any]]) -> str:
    """Draw how often a model is right against how sure it is."""
    with chart(4.2, 3.2) as drawn:
        axes = drawn.axes
        low = min([0.5, *(entry["right"] for entry in bins), *(entry["sure"] for entry in bins)])
        axes.plot([low, 1], [low, 1], color=QUIET, lw=1, ls="--")
        axes.plot([e["sure"] for e in bins], [e["right"] for e in bins], "o-", color=ACCENT, lw=1, ms=4)
        for entry in bins:
            axes.annotate(
                str(entry["rows"]),
                (entry["sure"], entry["right"]),
                textcoords="offset points",
                xytext=(5, -10),
                fontsize=7,
            )
        axes.set(xlabel="how sure (mean probability of the predicted label)", ylabel="how often right")
    return drawn.svg


def curve(points: Sequence[Mapping[str, Any]], everything: int, part: str, metric: str) -> str:
    """Draw a learning curve with standard errors."""
    rows = [point["rows"] or everything for point in points]
    with chart(3.2, 2.4) as drawn:
        axes = drawn.axes
        axes.errorbar(
            rows,
            [point["mean"] for point in points],
            [point["standard_error"] or 0.0 for point in points],
            fmt="o-",
            color=ACCENT,
            lw=1,
            ms=4,
            capsize=2,
        )
        axes.set_xscale("log", base=2)
        axes.set_xticks(rows, map(str, rows))
        axes.minorticks_off()
        axes.set(xlabel=f"{part} rows", ylabel=metric)
    return drawn.svg


def front(entries: Sequence[Mapping[str, Any]], metric: str, cost: str) -> str:
    """Draw the trials that no other one dominates, by the metric and one cost."""
    with chart(4.2, 2.8) as drawn:
        axes = drawn.axes
        axes.plot([e["values"][cost] for e in entries], [e["values"][metric] for e in entries], "o", color=ACCENT, ms=5)
        for entry in entries:
            place = (entry["values"][cost], entry["values"][metric])
            axes.annotate(str(entry["number"]), place, textcoords="offset points", xytext=(5, 4), fontsize=7)
        axes.set(xlabel=cost.replace("_", " "), ylabel=metric)
    return drawn.svg

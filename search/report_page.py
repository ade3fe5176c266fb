"""A report as one self-contained page: no scripts, nothing loaded from elsewhere."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from promptgraft.search import charts
from promptgraft.search.comparison import NAMES
from promptgraft.search.judging import against_best
from promptgraft.search.status import reading_line
from promptgraft.search.wording import duration, size

TEMPLATE = "report.html.j2"
# Knobs that a candidate has whatever the study searches, shown only where they varied.
MAX_KNOBS = 16


def page(facts: Mapping[str, Any]) -> str:
    """Render a report.

    Args:
        facts: From `search.report.report`. Texts in it (rows, templates, errors) are data: they are escaped.

    Returns:
        The page, in HTML.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"figure": figure, "words": words, "duration": duration, "size": size}
    environment.globals |= {"against_best": against_best, "reading_line": reading_line}
    text = files("promptgraft.search").joinpath(TEMPLATE).read_text()
    return environment.from_string(text).render(facts, charts=drawn(facts))


def drawn(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Draw the charts: name -> SVG, or a list or mapping of some."""
    metric, answer, summary = facts["metric"], facts["answer"], facts["summary"]
    marks = {"winner, fresh repeats": answer["fresh"]["mean"]} if answer["fresh"] else {}
    marks |= {"winner, test rows": answer["test"]["value"]} if answer["test"] else {}
    found: dict[str, Any] = {"history": charts.history(facts["history"], metric, marks)}
    found["importances"] = charts.intervals(
        [(e["name"], e["importance"], e["low"], e["high"]) for e in facts["importances"]], "share of the variance"
    )
    shown = [entry["name"] for entry in facts["importances"]][:MAX_KNOBS] or _varied(facts)[:MAX_KNOBS]
    found["knobs"] = [
        charts.knob(name, [entry[name] for entry in facts["knobs"]], facts["values"], metric) for name in shown
    ]
    found["finalists"] = charts.intervals(
        [
            (f"trial {e['number']}", e["mean"], e["mean"] - e["standard_error"], e["mean"] + e["standard_error"])
            for e in summary["verdict"]["finalists"]
        ],
        f"{metric}, mean of its repeats and standard error",
    )
    compared = [e for e in (summary["transfer"] or {"controls": []})["controls"] if e["mean"] is not None]
    found["controls"] = charts.intervals(
        [(e["name"], e["mean"], e["mean"] - _error(e), e["mean"] + _error(e)) for e in compared],
        f"{metric}, mean of fresh repeats and standard error",
    )
    if facts["predictions"]:
        found["reliability"] = charts.reliability(facts["predictions"]["calibration"]["bins"])
    curves = (summary["learning_curves"] or {"curves": {}})["curves"]
    found["curves"] = [
        charts.curve(points, 2 * max(p["rows"] for p in points if p["rows"]), part, metric)
        for part, points in curves.items()
    ]
    costs = [name for name in (summary["front"][0]["values"] if summary["front"] else {}) if name != metric]
    found["fronts"] = [charts.front(summary["front"], metric, cost) for cost in costs]
    return {name: [Markup(svg) for svg in own] if isinstance(own, list) else Markup(own) for name, own in found.items()}


def figure(value: object) -> str:
    """Write a number as a reader wants it; other things as they are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    if isinstance(value, int) or (float(value).is_integer() and abs(value) >= 10):
        return f"{int(value):,}"
    return f"{value:.4f}" if 0.001 <= abs(value) < 100 or value == 0 else f"{value:.3g}"


def words(name: str) -> str:
    """Write an identifier as words."""
    return NAMES.get(name, name).replace("_", " ")


def _error(entry: Mapping[str, Any]) -> float:
    return float(entry["standard_error"] or 0.0)


def _varied(facts: Mapping[str, Any]) -> list[str]:
    knobs = facts["knobs"]
    return [n for n in (knobs[0] if knobs else ()) if n != "trial" and len({str(entry.get(n)) for entry in knobs}) > 1]

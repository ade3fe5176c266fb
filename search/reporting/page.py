"""A report as one self-contained page: no scripts, nothing loaded from elsewhere."""

import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from promptgraft.objectives.data import UnreadableImageError, thumbnail
from promptgraft.search.judging import NAMES, TESTED_FROM, ControlRow, FinalistRow, against_best
from promptgraft.search.reporting import charts
from promptgraft.search.reporting.error_analysis import Errors, WrongExample
from promptgraft.search.reporting.facts import Facts
from promptgraft.search.reporting.status import Summary, reading_line
from promptgraft.search.wording import duration, size

TEMPLATE = "report.html.j2"
# Knobs that are drawn, the most important first.
MAX_KNOBS = 16
# Images in a contact sheet, of some 5 kB each.
MAX_PICTURES = 36
# Whole numbers that were computed are written in full below it.
MOST_DIGITS = 1e9


def write_page(path: Path, facts: Facts) -> None:
    """Write a report; an earlier one stays until the new one is whole.

    Args:
        path: The HTML file.
        facts: From `collect_facts`.

    Raises:
        OSError: If it can't be written; it names the file.
    """
    page, path = render_page(facts), path.resolve()  # A link stays, and what it leads to is replaced.
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():  # A pipe, or a device.
        path.write_text(page, encoding="utf-8")
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # Users don't know the partial file.
    finally:
        partial.unlink(missing_ok=True)


def render_page(facts: Facts) -> str:
    """Render a report.

    Args:
        facts: From `collect_facts`. Texts in it (rows, templates, errors) are data: they are escaped.

    Returns:
        The page, in HTML.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "figure": figure,
        "words": words,
        "duration": duration,
        "size": size,
        "signed": signed,
        "plain": plain,
        "moment": moment,
        "file_name": lambda path: Path(path).name,
    }
    environment.globals |= {
        "against_best": against_best,
        "reading_line": reading_line,
        "tested_from": TESTED_FROM,
        "different_metrics": different_metrics,
        "mistakes": mistakes,
        "picture": picture,
    }
    text = files("promptgraft.search.reporting").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(text).render(
        {entry.name: getattr(facts, entry.name) for entry in fields(facts)}, charts=drawn(facts)
    )


def drawn(facts: Facts) -> dict[str, Any]:
    """Draw the charts: name -> SVG, or a list of some."""
    metric, answer, summary = facts.metric, facts.answer, facts.summary
    marks: dict[str, float] = {}
    if answer.fresh and answer.fresh.mean is not None:
        marks["winner, fresh reruns"] = answer.fresh.mean
    marks |= {"winner, reruns": answer.race.mean} if answer.race and not marks else {}
    marks |= {"winner, test rows": answer.test.value} if answer.test else {}
    knobs = facts.importances.knobs
    found: dict[str, Any] = {
        "history": charts.history(facts.history, metric, marks),
        "curves": charts.curves(facts.history, answer.trial, metric),
        "importances": charts.intervals(
            "importances",
            [(entry.name, entry.importance, entry.low, entry.high) for entry in knobs],
            f"share of the variance of {metric}",
            [entry.by_chance for entry in knobs],
        ),
        "finalists": charts.intervals(
            "finalists",
            [_with_error(f"trial {entry.number}", entry) for entry in summary.verdict.finalists],
            f"{metric}: mean of its reruns, standard error",
        ),
        "controls": charts.intervals(
            "controls",
            [_with_error(e.name, e) for e in _controls(summary) if e.mean is not None],
            f"{metric}: mean of fresh reruns, standard error",
        ),
        "knobs": _knobs(facts),
        "reliability": [
            charts.reliability(f"reliability-{entry.rows}", entry.calibration.bins) if entry.calibration else ""
            for entry in facts.predictions
        ],
    }
    found |= {"learning": _learning(facts), "fronts": _fronts(facts)}
    return {name: [Markup(svg) for svg in own] if isinstance(own, list) else Markup(own) for name, own in found.items()}


def _controls(summary: Summary) -> Sequence[ControlRow]:
    return summary.transfer.controls if summary.transfer else ()


def _with_error(name: str, entry: FinalistRow | ControlRow) -> tuple[str, float, float, float]:
    mean, error = entry.mean or 0.0, entry.standard_error or 0.0
    return name, mean, mean - error, mean + error


def _knobs(facts: Facts) -> list[str]:
    """Draw the knobs that varied, the most important first."""
    ran = [(own.knobs, own.value, own.state) for own in facts.history if own.value is not None and own.knobs]
    known = [entry.name for entry in facts.importances.knobs]
    names = dict.fromkeys((*known, *(name for knobs, _, _ in ran for name in knobs)))
    found: list[str] = []
    for name in names:
        points = [
            (knobs[name], value, state == "COMPLETE") for knobs, value, state in ran if knobs.get(name) is not None
        ]
        if len({value for value, _, _ in points}) > 1 and len(found) < MAX_KNOBS:
            found.append(charts.knob(f"knob-{len(found)}", name, points, facts.metric))
    return found


def _learning(facts: Facts) -> list[str]:
    table = facts.summary.learning_curves.curves if facts.summary.learning_curves else {}
    everything: dict[str, int | None] = {name: task.rows["train"] for name, task in (facts.data or {}).items()}
    everything["source"] = everything.get(f"source {facts.answer.candidate.get('source', '')}".rstrip())
    return [
        charts.curve(
            f"learning-{part}",
            points,
            everything.get(part) or 2 * max(point.rows or 1 for point in points),
            part,
            facts.metric,
        )
        for part, points in table.items()
    ]


def _fronts(facts: Facts) -> list[str]:
    front, metric = facts.summary.front, facts.metric
    costs = [name for name in (front[0].values if front else {}) if name != metric]
    return [charts.front(f"front-{place}", facts.history, front, metric, cost) for place, cost in enumerate(costs)]


def different_metrics(table: Sequence[tuple[str, Mapping[str, float]]]) -> list[str]:
    """Name the metrics of systems, but those that an earlier one equals in all of them, as micro F1 may accuracy."""
    found: dict[tuple[float, ...], str] = {}
    for name in table[0][1]:
        found.setdefault(tuple(metrics[name] for _, metrics in table), name)
    return list(found.values())


def mistakes(found: Errors) -> list[tuple[str, WrongExample]]:
    """List true labels and wrong examples of all classes, those first that the model was surest of."""
    everything = [(own.label, example) for own in found.classes for example in own.examples]
    return sorted(everything, key=lambda entry: -entry[1].chance)[:MAX_PICTURES]


def picture(path: str) -> str:
    """Return a small copy of an image as a data URI; empty if the image can't be read any more."""
    try:
        return f"data:image/jpeg;base64,{b64encode(thumbnail(Path(path))).decode()}"
    except UnreadableImageError:
        return ""


def figure(value: object) -> str:
    """Write a number as a reader wants it; other things as they are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    if isinstance(value, int) or (float(value).is_integer() and 10 <= abs(value) < MOST_DIGITS):
        return f"{int(value):,}"
    if value == 0 or 0.1 <= abs(value) < 100:
        return f"{value:.3f}"
    return f"{value:.4f}" if 0.001 <= abs(value) < 0.1 else f"{value:.3g}"


def plain(value: object) -> str:
    """Write a setting: a number with the digits that it needs, other things as they are."""
    return f"{value:.4g}" if isinstance(value, float) else figure(value)


def moment(when: object) -> str:
    """Write a time in UTC to the minute; what is no time as it is."""
    try:
        return f"{datetime.fromisoformat(str(when)).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return figure(when)


def signed(value: float) -> str:
    """Write a difference with its sign."""
    return f"{'−' if value < 0 else '+'}{figure(abs(value))}"


def words(name: str) -> str:
    """Write an identifier as words."""
    return NAMES.get(name, name).replace("_", " ")

"""What `compare` prints."""

from typing import TYPE_CHECKING

import typer

from promptgraft.search.cli.options import console
from promptgraft.search.wording import one_line, rounded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptgraft.bundles import BundleComparison, Disagreement, Predictor
    from promptgraft.search.judging import MetricComparison

# Rows shown on the terminal.
DISAGREEMENTS = 10


def known_line(champion: "Predictor", challenger: "Predictor", rows: "Sequence[Mapping[str, str]]") -> str | None:
    """Say how many rows are those that the bundles were trained or chosen by; None if none is known to be.

    Args:
        champion: The bundle in production.
        challenger: The other one.
        rows: Template field -> value, a mapping a row.
    """
    from promptgraft.bundles import count_known

    sides = {"champion": champion, "challenger": challenger}
    known = {name: count for name, own in sides.items() if (count := count_known(own, rows))}
    if not known:
        return None
    counts = ", ".join(f"{name}: {count}" for name, count in known.items())
    return (
        f"some of the {len(rows)} rows are those that a bundle was trained or chosen by ({counts}), perhaps more, "
        "since bundles hold few of these; compare on new rows"
    )


def print_comparison(found: "BundleComparison") -> None:
    """Print how two bundles differ label by label, where they disagree, and whether one is better."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("label", "rows", "only the challenger is right", "only the champion is right")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, counts in found.by_label.items():
        table.add_row(escape(one_line(name)), str(counts["rows"]), str(counts["won"]), str(counts["lost"]))
    console().print(table)
    _print_disagreements(found.disagreements)
    percent = f"{100 * (1 - found.level):g} %"
    typer.echo(
        f"right: champion {found.champion:.4f}, challenger {found.challenger:.4f} of {found.rows} rows; difference "
        f"{found.challenger - found.champion:+.4f}, {percent} interval {found.low:+.4f} to {found.high:+.4f}; they "
        f"disagree on {len(found.disagreements)} rows"
    )
    typer.echo(f"challenger: {found.outcome} (McNemar's exact test, p = {found.p_value:.3g})")


def print_metric_comparison(found: "MetricComparison") -> None:
    """Print how two bundles differ by a metric, where they disagree, and whether one is better."""
    _print_disagreements(found.disagreements)
    typer.echo(found.cleaning)
    gain, low, high = (rounded(own, sign="+") for own in (found.challenger - found.champion, found.low, found.high))
    typer.echo(
        f"{found.metric} ({found.direction}): champion {rounded(found.champion)}, challenger "
        f"{rounded(found.challenger)} on {found.rows} rows; difference {gain}, {100 * (1 - found.level):g} % interval "
        f"{low} to {high}; they disagree on {len(found.disagreements)} rows"
    )
    typer.echo(f"challenger: {found.outcome} (jackknife over groups of rows)")


def _print_disagreements(found: "Sequence[Disagreement]") -> None:
    for entry in found[:DISAGREEMENTS]:
        predicted = f"champion {entry.champion}, challenger {entry.challenger}"
        typer.echo(one_line(f"row {entry.row}: {entry.label}; {predicted}: {next(iter(entry.fields.values())):.60}"))

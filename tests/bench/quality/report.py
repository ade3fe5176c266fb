"""Tables and a plot of the quality benchmark's results."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import rankdata

from tests.bench.quality.running import Result
from tests.bench.quality.systems import SYSTEMS

Place = tuple[str, int]  # A pair, and its labels a class.


@dataclass(frozen=True, slots=True)
class Cell:
    """A system on one pair and number of labels; its standard error is over the splits."""

    accuracy: float
    error: float
    cpu_s: float
    splits: int


@dataclass(frozen=True, slots=True)
class Summary:
    """A system over the places where every system of the table was measured.

    Attributes:
        error: Standard error of `accuracy` over the splits, each of which is averaged over the places.
        rank: Mean rank of its accuracy, 1 for the best; equal accuracies share theirs.
    """

    system: str
    accuracy: float
    error: float
    rank: float
    cpu_s: float
    places: int


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of a mean; NaN for a single value."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")


def cells(results: Iterable[Result]) -> dict[Place, dict[str, Cell]]:
    """Average over the splits; failed runs are left out."""
    grouped: dict[Place, dict[str, list[Result]]] = {}
    for result in results:
        if result.accuracy is not None:
            place = grouped.setdefault((result.pair, result.shots), {})
            place.setdefault(result.system, []).append(result)
    return {place: {name: _cell(found) for name, found in systems.items()} for place, systems in grouped.items()}


def _cell(results: list[Result]) -> Cell:
    accuracies = [result.accuracy for result in results if result.accuracy is not None]
    cpu_s = statistics.fmean(result.cpu_s for result in results)
    return Cell(statistics.fmean(accuracies), standard_error(accuracies), cpu_s, len(results))


def summarize(results: Sequence[Result], systems: Sequence[str]) -> list[Summary]:
    """Compare systems over the places and splits that all of them have."""
    scores = {(r.pair, r.shots, r.split, r.system): r for r in results if r.accuracy is not None}
    keys = sorted({key[:3] for key in scores if all((*key[:3], system) in scores for system in systems)})
    shared = cells(result for key, result in scores.items() if key[:3] in keys and key[3] in systems)
    ranks = [rankdata([-place[system].accuracy for system in systems]) for place in shared.values()]
    summaries = []
    for number, system in enumerate(systems):
        by_split: dict[int, list[float]] = {}
        for key in keys:
            by_split.setdefault(key[2], []).append(scores[*key, system].accuracy or 0.0)
        places = [place[system] for place in shared.values()]
        summaries.append(
            Summary(
                system,
                statistics.fmean(place.accuracy for place in places) if places else float("nan"),
                standard_error([statistics.fmean(values) for values in by_split.values()]) if places else float("nan"),
                statistics.fmean(float(rank[number]) for rank in ranks) if ranks else float("nan"),
                statistics.fmean(place.cpu_s for place in places) if places else float("nan"),
                len(places),
            )
        )
    return summaries


def markdown(results: Sequence[Result]) -> str:
    """Write one table of accuracies by place, and one of the systems."""
    places = cells(results)
    systems = [name for name in SYSTEMS if any(name in place for place in places.values())]
    lines = [
        "| pair, labels a class | " + " | ".join(SYSTEMS[name].title for name in systems) + " |",
        "| --- |" + " --- |" * len(systems),
    ]
    for (pair, shots), place in sorted(places.items(), key=lambda item: (item[0][1], item[0][0])):
        shown = [_shown(place.get(name)) for name in systems]
        lines.append(f"| {pair}, {shots} | " + " | ".join(shown) + " |")
    lines += ["", "Accuracy (standard error over the splits) / CPU-seconds.", ""]
    lines += [
        "| system | mean accuracy | standard error | mean rank | CPU-seconds | places |",
        "| --- |" + " --- |" * 5,
    ]
    for row in sorted(summarize(results, systems), key=lambda row: row.rank):
        lines.append(
            f"| {SYSTEMS[row.system].title} | {row.accuracy:.3f} | {row.error:.3f} | {row.rank:.2f} "
            f"| {row.cpu_s:.0f} | {row.places} |"
        )
    failed = [result for result in results if result.accuracy is None]
    lines += ["", *(f"Failed: {r.system} on {r.pair}, {r.shots}, split {r.split}" for r in failed)]
    return "\n".join(lines).rstrip() + "\n"


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return ""
    error = f" ({cell.error:.3f})" if cell.splits > 1 else ""
    return f"{cell.accuracy:.3f}{error} / {cell.cpu_s:.0f}"


def plot(summaries: Sequence[Summary], path: Path) -> None:
    """Draw mean accuracy over mean CPU-seconds, a point a system."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    for row in summaries:
        axes.errorbar(row.cpu_s, row.accuracy, yerr=row.error, fmt="o", capsize=3)
        axes.annotate(SYSTEMS[row.system].title, (row.cpu_s, row.accuracy), xytext=(6, 4), textcoords="offset points")
    axes.set(xscale="log", xlabel="CPU-seconds a setting", ylabel="accuracy on the test rows")
    axes.grid(alpha=0.3)
    axes.margins(x=0.25)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)

"""What the replay benchmark makes of its reports: ratios within a run, groups of candidates, and the tables.

Standard library only, as `tests.bench.replay`.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

BASES = ("list", "cold", "warm")
# No search: neither in the ratios nor in the groups.
REFERENCE = "setfit"

Report = dict[str, Any]
Reports = dict[str, list[Report]]


def mean(report: Report, name: str) -> float:
    """Average over a report's candidates."""
    return statistics.fmean(entry[name] for entry in report["candidates"])


def summarise(reports: Reports) -> dict[str, dict[str, Any]]:
    """Reduce each system to its values for each run; ratios are taken within a run."""
    summary: dict[str, dict[str, Any]] = {}
    for system, runs in reports.items():
        summary[system] = {
            "cpu_s": [mean(run, "cpu_s") for run in runs],
            "wall_s": [mean(run, "wall_s") for run in runs],
            "run_cpu_s": [run["run_cpu_s"] for run in runs],
            "run_wall_s": [run["run_wall_s"] for run in runs],
            "startup_cpu_s": [run["startup_cpu_s"] for run in runs],
            "max_rss_mib": [run["max_rss_bytes"] / 2**20 for run in runs],
            "sum_rss_mib": [(run.get("sum_rss_bytes") or run["max_rss_bytes"]) / 2**20 for run in runs],
            "accuracy": [mean(run, "value") for run in runs],
        }
        if system == REFERENCE:
            summary[system]["test_accuracy"] = [mean(run, "test_accuracy") for run in runs]
        if "hits" in runs[0]["candidates"][0]:
            for name in ("hits", "misses", "saved_s"):
                summary[system][name] = [sum(entry[name] for entry in run["candidates"]) for run in runs]
    for system, entry in summary.items():
        if system == REFERENCE:
            continue
        for base in (base for base in BASES if base in summary):
            for name in ("cpu_s", "run_cpu_s", "run_wall_s"):
                # A default form may have fewer runs.
                pairs = zip(entry[name], summary[base][name], strict=False)
                entry[f"{name}_to_{base}"] = [mine / other for mine, other in pairs]
    return summary


def group_ratios(candidates: Sequence[dict[str, Any]], reports: Reports) -> dict[str, Any]:
    """Break the ratio of processor times down by kinds of candidates.

    Returns:
        For each way of grouping and each of its groups: how many candidates, and for each system and base the ratio
        of the group's sums, a run each.
    """
    ways: dict[str, Callable[[dict[str, Any]], str]] = {
        "place": _place,
        "frozen": lambda candidate: str(candidate["frozen_layers"]),
        "place, frozen": lambda candidate: f"{_place(candidate)}, {candidate['frozen_layers']}",
    }
    found: dict[str, Any] = {}
    for way, key_of in ways.items():
        groups: dict[str, list[int]] = {}
        for index, candidate in enumerate(candidates):
            groups.setdefault(key_of(candidate), []).append(index)
        found[way] = {
            key: {"candidates": len(groups[key]), "ratios": _ratios(reports, groups[key])} for key in sorted(groups)
        }
    return found


def _place(candidate: dict[str, Any]) -> str:
    return str(candidate["soft_prompt.place"]) if candidate["soft_prompt.length"] else "none"


def _ratios(reports: Reports, members: list[int]) -> dict[str, dict[str, list[float]]]:
    def sums(system: str) -> list[float]:
        return [sum(run["candidates"][index]["cpu_s"] for index in members) for run in reports[system]]

    bases = [base for base in BASES if base in reports]
    return {
        system: {base: [a / b for a, b in zip(sums(system), sums(base), strict=False)] for base in bases}
        for system in reports
        if system not in (REFERENCE, *bases)
    }


def show(name: str, count: int, summary: dict[str, dict[str, Any]], groups: dict[str, Any], checks: Report) -> None:
    """Print the tables."""
    runs = max(len(entry["cpu_s"]) for entry in summary.values())
    bases = [base for base in BASES if base in summary]
    heads = " ".join(f"{'/' + base:>6}" for base in bases)
    print(f"\n{name}: {count} candidates, median of {runs} runs (range), one thread; ratios of processor time")
    print(
        f"  {'system':18} {'CPU-s a candidate':22} {'wall s':22} {heads} {'start CPU-s':>11}"
        f" {'peak MiB':>8} {'all MiB':>7} {'accuracy':>8}"
    )
    for system, entry in summary.items():
        start, peak, together, accuracy = (
            statistics.median(entry[n]) for n in ("startup_cpu_s", "max_rss_mib", "sum_rss_mib", "accuracy")
        )
        times = f"{_spread(entry['cpu_s']):22} {_spread(entry['wall_s']):22}"
        ratios = _columns(entry, "cpu_s", bases)
        print(f"  {system:18} {times} {ratios} {start:11.2f} {peak:8.0f} {together:7.0f} {accuracy:8.3f}")
    print(f"  whole runs, all processes: {'CPU-s':22} {heads} {'wall s':22} {heads}")
    for system, entry in summary.items():
        cpu = f"{_spread(entry['run_cpu_s']):22} {_columns(entry, 'run_cpu_s', bases)}"
        wall = f"{_spread(entry['run_wall_s']):22} {_columns(entry, 'run_wall_s', bases)}"
        print(f"  {system:26} {cpu} {wall}")
    _show_store(summary)
    for way in ("place", "frozen", "place, frozen"):
        _show_groups(way, groups[way])
    _show_checks(checks)


def _show_store(summary: dict[str, dict[str, Any]]) -> None:
    for system, entry in summary.items():
        if any(entry.get("hits", ())) or any(entry.get("misses", ())):
            hits, misses, saved = (statistics.median(entry[n]) for n in ("hits", "misses", "saved_s"))
            print(f"  store, {system}: {hits:.0f} stages found, {misses:.0f} computed, {saved:.1f} s saved")
    if REFERENCE in summary:
        entry = summary[REFERENCE]
        cpu, test = statistics.median(entry["cpu_s"]), statistics.median(entry["test_accuracy"])
        print(f"  {REFERENCE}, one model instead of a search: {cpu:.1f} CPU-s, held-out accuracy {test:.3f}")


def _show_groups(way: str, groups: dict[str, Any]) -> None:
    """Print the ratios to `list`, or to the first base that there is."""
    systems = next(iter(groups.values()))["ratios"]
    base = next(iter(next(iter(systems.values()), {})), None)
    if base is None:
        return
    print(f"  {'CPU /' + base + ' by ' + way:26} {'n':>3} " + " ".join(f"{system:>18}" for system in systems))
    for key, group in groups.items():
        ratios = " ".join(f"{statistics.median(found[base]):18.2f}" for found in group["ratios"].values())
        print(f"  {key:26} {group['candidates']:3} {ratios}")


def _show_checks(checks: Report) -> None:
    for system, found in checks.get("off_against", {}).items():
        print(f"  |logits: off - {system}| at most {max(found):.1e}")
    if "list_against_reversed" in checks:
        print(f"  |logits: list - list reversed| at most {max(checks['list_against_reversed']):.1e}, wanted 0.0")
    if "untrained_peer_against_ours" in checks:
        largest = max(checks["untrained_peer_against_ours"])
        print(f"  |untrained log-probabilities: peer - promptgraft| at most {largest:.1e}")


def _columns(entry: dict[str, Any], name: str, bases: list[str]) -> str:
    found = (entry.get(f"{name}_to_{base}") for base in bases)
    return " ".join(f"{statistics.median(ratios):6.2f}" if ratios else f"{'-':>6}" for ratios in found)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"

"""Where a report's numbers come from: data with hashes and what was dropped, seeds, drivers, versions, and the cost."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from promptgraft.objectives.data import Task, rows_hash
from promptgraft.search.judging import CONTROL, CURVE, FRESH, REPEAT
from promptgraft.search.study import Study, row_hashes


def cost_of(stored: optuna.Study, trials: Sequence[FrozenTrial], summary: Mapping[str, Any]) -> dict[str, Any]:
    """Add up what a study took: seconds of each part of it, the largest memory of a worker, GPUs, what was shared."""
    seconds = {"race_s": 0.0, "controls_s": 0.0, "learning_curves_s": 0.0}
    for part, start in zip(seconds, (REPEAT, CONTROL, CURVE), strict=True):
        own = [outcome for name, outcome in stored.user_attrs.items() if name.startswith(start)]
        seconds[part] = sum(float(outcome.get("seconds", 0)) for outcome in own)
    memory = [t.user_attrs["max_rss_bytes"] for t in trials if t.user_attrs.get("max_rss_bytes") is not None]
    gpus = sorted({str(gpu) for trial in trials for gpu in trial.user_attrs.get("gpus") or ()})
    peak = max(memory, default=None)
    return {"trials_s": summary["seconds"], **seconds, "max_rss_bytes": peak, "gpus": gpus, "shared": summary["shared"]}


def data_of(stored: optuna.Study, study: Study) -> dict[str, Any]:
    """Describe each task's table: rows of each part with their hashes, and what was dropped."""
    recorded, present = stored.user_attrs.get("identity", {}), row_hashes(study)
    changed = {"target": any(recorded.get(part) != present[part] for part in ("target rows", "test rows"))}
    tables = {"target": (study.objective.target, study.target)}

    def of_source(hashes: Mapping[str, Any], source: str) -> Any:
        found = hashes.get("source rows")
        return found.get(source) if isinstance(found, Mapping) else found

    for source, spec in study.objective.all_sources.items():
        name = f"source {source}".rstrip()
        tables[name] = (spec.task, study.sources[source])
        changed[name] = of_source(recorded, source) != of_source(present, source)

    def described(name: str, file: str, task: Task) -> dict[str, Any]:
        parts = {part: getattr(task, part) for part in ("train", "validation", "test")}
        return {
            "file": Path(file).name,
            "labels": list(task.labels),
            "rows": {part: len(rows) for part, rows in parts.items()},
            "hashes": {part: rows_hash(rows) for part, rows in parts.items() if rows},
            "cleaning": asdict(task.cleaning),
            "changed": changed[name],
        }

    return {name: described(name, spec.train, task) for name, (spec, task) in tables.items()}


def provenance_of(stored: optuna.Study, trials: Sequence[FrozenTrial], summary: Mapping[str, Any]) -> dict[str, Any]:
    """Tell who ran what with which data and versions, and who opened the test rows."""
    attrs = stored.user_attrs
    seed = attrs.get("definition", {}).get("seed")
    repeats = sorted({int(name.rpartition("_")[2]) for name in attrs if name.startswith((REPEAT, CONTROL, CURVE))})
    return {
        **{name: attrs.get(name) for name in ("study_file", "identity", "edits", "run")},
        "seed": seed,
        "seeds_of_repeats": [] if seed is None else [seed + number for number in repeats],
        "fresh_from": FRESH,
        "drivers": _drivers(trials),
        "openings": summary["test_openings"],
    }


def _drivers(trials: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
    """List who ran trials: `driver`, `host`, `started` and number of `trials`."""
    owners = [trial.user_attrs["owner"] for trial in trials if "driver" in trial.user_attrs.get("owner", {})]
    counts = Counter(owner["driver"] for owner in owners)
    found = {owner["driver"]: owner for owner in owners}
    return [
        {"driver": name, "host": own["host"], "started": _moment(own.get("started")), "trials": counts[name]}
        for name, own in found.items()
    ]


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

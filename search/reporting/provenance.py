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
from promptgraft.search.judging import FRESH
from promptgraft.search.storage import (
    CONTROL,
    CURVE,
    EDITS,
    IDENTITY,
    REPEAT,
    RUN,
    STUDY_FILE,
    StudyRecord,
    TrialRecord,
)
from promptgraft.search.study import Study, row_hashes


def cost_of(stored: optuna.Study, trials: Sequence[FrozenTrial], summary: Mapping[str, Any]) -> dict[str, Any]:
    """Add up what a study took: seconds of each part of it, the largest memory of a worker, GPUs, what was shared."""
    seconds = {"race_s": 0.0, "controls_s": 0.0, "learning_curves_s": 0.0}
    record, records = StudyRecord.of(stored), [TrialRecord.of(trial) for trial in trials]
    for part, kind in zip(seconds, (REPEAT, CONTROL, CURVE), strict=True):
        seconds[part] = sum(record.seconds(kind))
    memory = [own for trial in records if (own := trial.figure("max_rss_bytes")) is not None]
    gpus = sorted({str(gpu) for trial in records for gpu in trial.gpus})
    peak = max(memory, default=None)
    return {"trials_s": summary["seconds"], **seconds, "max_rss_bytes": peak, "gpus": gpus, "shared": summary["shared"]}


def data_of(stored: optuna.Study, study: Study) -> dict[str, Any]:
    """Describe each task's table: rows of each part with their hashes, and what was dropped."""
    recorded, present = StudyRecord.of(stored).identity, row_hashes(study)
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
    record = StudyRecord.of(stored)
    seed = record.definition.get("seed")
    return {
        **{name: record.stored(name) for name in (STUDY_FILE, IDENTITY, EDITS, RUN)},
        "seed": seed,
        "seeds_of_repeats": [] if seed is None else [seed + number for number in record.repeat_numbers],
        "fresh_from": FRESH,
        "drivers": _drivers(trials),
        "openings": summary["test_openings"],
    }


def _drivers(trials: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
    """List who ran trials: `driver`, `host`, `started` and number of `trials`."""
    owners = [own for trial in trials if (own := TrialRecord.of(trial).owner) is not None and own.driver]
    counts = Counter(owner.driver for owner in owners)
    found = {owner.driver: owner for owner in owners}
    return [
        {"driver": name, "host": own.host, "started": _moment(own.started or None), "trials": counts[name]}
        for name, own in found.items()
    ]


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

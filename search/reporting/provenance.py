"""Where a report's numbers come from: data with hashes and what was dropped, seeds, drivers, versions, and the cost."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from promptgraft.objectives.data import Task, rows_hash
from promptgraft.search.judging import FRESH
from promptgraft.search.reporting.status import OpenedTestSet, Shared, Summary
from promptgraft.search.storage import (
    CONTROL,
    CURVE,
    EDITS,
    IDENTITY,
    REPEAT,
    RUN,
    StudyRecord,
    TrialRecord,
)
from promptgraft.search.study import Study, row_hashes


@dataclass(frozen=True, slots=True)
class Cost:
    """What a study took.

    Attributes:
        trials_s: Seconds of its trials.
        race_s: Seconds of the race of the best.
        controls_s: Seconds of the winner and its controls.
        learning_curves_s: Seconds of learning curves.
        max_rss_bytes: Largest memory of a worker; None if none is recorded.
        gpus: Ray's ids of its GPUs.
        shared: What trials shared.
    """

    trials_s: float
    race_s: float
    controls_s: float
    learning_curves_s: float
    max_rss_bytes: float | None
    gpus: tuple[str, ...]
    shared: Shared


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A task's table.

    Attributes:
        file: Its file, without the folder.
        labels: Its labels.
        rows: Part -> number of rows.
        hashes: Part -> hash of its rows; parts without rows are left out.
        cleaning: What was read, and reason -> number of rows that were dropped.
        changed: Whether the rows are others than those that the study was started with.
    """

    file: str
    labels: tuple[str, ...]
    rows: Mapping[str, int]
    hashes: Mapping[str, str]
    cleaning: Mapping[str, int]
    changed: bool


@dataclass(frozen=True, slots=True)
class Driver:
    """A driver that ran trials.

    Attributes:
        driver: Its random name.
        host: Its machine.
        started: When its process started; None in a record of an older version.
        trials: Number of trials that it ran.
    """

    driver: str
    host: str
    started: str | None
    trials: int


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who ran what, with which data and versions.

    Attributes:
        study_file: Path of the study file.
        identity: Hashes of rows and weights, settings, and the fingerprint of the space.
        edits: Edits of the study file between runs; None if there were none.
        run: Limits and versions of the last run.
        seed: The study's seed.
        seeds_of_repeats: Seeds of the repeats.
        fresh_from: Number of the first fresh repeat.
        drivers: Who ran trials.
        openings: Openings of the test set.
    """

    study_file: str | None
    identity: Mapping[str, Any] | None
    edits: Sequence[Mapping[str, Any]] | None
    run: Mapping[str, Any] | None
    seed: int | None
    seeds_of_repeats: tuple[int, ...]
    fresh_from: int
    drivers: tuple[Driver, ...]
    openings: tuple[OpenedTestSet, ...]


def cost_of(stored: optuna.Study, trials: Sequence[FrozenTrial], summary: Summary) -> Cost:
    """Add up what a study took: seconds of each part of it, the largest memory of a worker, GPUs, what was shared."""
    record, records = StudyRecord.of(stored), [TrialRecord.of(trial) for trial in trials]
    race_s, controls_s, curves_s = (sum(record.seconds(kind)) for kind in (REPEAT, CONTROL, CURVE))
    memory = [own for trial in records if (own := trial.figure("max_rss_bytes")) is not None]
    gpus = tuple(sorted({str(gpu) for trial in records for gpu in trial.gpus}))
    peak = max(memory, default=None)
    return Cost(summary.seconds, race_s, controls_s, curves_s, peak, gpus, summary.shared)


def data_of(stored: optuna.Study, study: Study) -> dict[str, TableFacts]:
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

    def described(name: str, file: str, task: Task) -> TableFacts:
        parts = {"train": task.train, "validation": task.validation, "test": task.test}
        if task.folds > 1:  # Each labelled row is trained on, and held out in its turn.
            parts |= {"train": task.labelled, "validation": task.scored()}
        parts |= {"unlabelled": task.unlabelled} if task.unlabelled else {}
        return TableFacts(
            file=Path(file).name,
            labels=tuple(task.labels),
            rows={part: len(rows) for part, rows in parts.items()},
            hashes={part: rows_hash(rows) for part, rows in parts.items() if rows},
            cleaning=task.cleaning.counts,
            changed=changed[name],
        )

    return {name: described(name, spec.train, task) for name, (spec, task) in tables.items()}


def provenance_of(stored: optuna.Study, trials: Sequence[FrozenTrial], summary: Summary) -> Provenance:
    """Tell who ran what with which data and versions, and who opened the test rows."""
    record = StudyRecord.of(stored)
    seed = record.definition.get("seed")
    seeds = () if seed is None else tuple(seed + number for number in record.repeat_numbers)
    return Provenance(
        study_file=record.study_file,
        identity=record.stored(IDENTITY),
        edits=record.stored(EDITS),
        run=record.stored(RUN),
        seed=seed,
        seeds_of_repeats=seeds,
        fresh_from=FRESH,
        drivers=_drivers(trials),
        openings=summary.test_openings,
    )


def _drivers(trials: Sequence[FrozenTrial]) -> tuple[Driver, ...]:
    """List who ran trials."""
    owners = [own for trial in trials if (own := TrialRecord.of(trial).owner) is not None and own.driver]
    counts = Counter(owner.driver for owner in owners)
    found = {owner.driver: owner for owner in owners}
    return tuple(Driver(name, own.host, _moment(own.started or None), counts[name]) for name, own in found.items())


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

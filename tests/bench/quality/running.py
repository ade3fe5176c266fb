"""Run one system on one setting, and score it."""

import csv
import json
import statistics
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import log_loss

from tests.bench.peers.processes import watch
from tests.bench.quality.data import Job, Setting
from tests.bench.quality.systems import REFERENCE, ROOT, System

LOG_END = 2000  # Characters of a failed system's log that are kept.


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one system on one setting; the scores are None where it failed.

    Attributes:
        cpu_s: Of the process and all below it, from its start until its end.
        budget_s: What `cpu_s` was to stay below; None where nothing is tuned.
        rows_sha256: Of the setting's files.
    """

    pair: str
    shots: int
    split: int
    system: str
    accuracy: float | None
    log_loss: float | None
    test_rows: int
    cpu_s: float
    wall_s: float
    budget_s: float | None
    rows_sha256: str
    notes: dict[str, Any] = field(default_factory=dict)
    failure: str = ""


class Results:
    """A folder of one JSON file a result: a run that was stopped goes on with what is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "results"
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, setting: Setting, system: str) -> Path:
        return self.folder / f"{setting.name}-{system}.json"

    def save(self, setting: Setting, result: Result) -> None:
        partial = self.path(setting, result.system).with_suffix(".partial")
        partial.write_text(json.dumps(asdict(result), indent=1))
        partial.rename(self.path(setting, result.system))

    def all(self) -> list[Result]:
        return [Result(**json.loads(path.read_text())) for path in sorted(self.folder.glob("*.json"))]

    def budget_s(self, setting: Setting, system: System) -> float | None:
        """Return a tuned system's CPU-seconds: the median of SetFit's over the splits of a setting, multiplied.

        Raises:
            ValueError: If SetFit was not measured there yet.
        """
        if system.budget is None:
            return None
        taken = [
            result.cpu_s
            for result in self.all()
            if (result.pair, result.shots, result.system) == (setting.pair.name, setting.shots, REFERENCE)
        ]
        if not taken:
            raise ValueError(f"{system.name} needs the time of {REFERENCE} on {setting.name}: run that first")
        return system.budget * statistics.median(taken)


def run(system: System, job: Job, budget_s: float | None) -> Result:
    """Run a system in a process of its own; its test rows are scored once, here."""
    setting = job.setting
    with tempfile.TemporaryDirectory() as temporary:
        out, log = Path(temporary) / "out", Path(temporary) / "log"
        out.mkdir()
        budget = [] if budget_s is None else ["--budget", f"{budget_s:.1f}"]
        command = [*system.command, str(job.folder), str(out), *budget]
        with log.open("w") as lines:
            code, used = watch(command, stdout=lines, stderr=lines, env=system.full_environment(), cwd=ROOT)
        failure = "" if code == 0 else f"exit code {code}: {log.read_text()[-LOG_END:]}"
        answers = [row["label"] for row in _rows(job.answers)]
        accuracy, loss = (None, None) if failure else score(out / "probabilities.csv", answers)
        notes = out / "notes.json"
        return Result(
            pair=setting.pair.name,
            shots=setting.shots,
            split=setting.split,
            system=system.name,
            accuracy=accuracy,
            log_loss=loss,
            test_rows=len(answers),
            cpu_s=used["run_cpu_s"],
            wall_s=used["run_wall_s"],
            budget_s=budget_s,
            rows_sha256=job.sha256,
            notes=json.loads(notes.read_text()) if notes.exists() else {},
            failure=failure,
        )


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def score(predicted: Path, answers: Iterable[str]) -> tuple[float, float]:
    """Return accuracy, and mean negative log-likelihood in nats, of a table of probabilities."""
    rows, labels = _rows(predicted), list(answers)
    if len(rows) != len(labels):
        raise ValueError(f"{predicted.name} must have a row for each of {len(labels)} test rows, got {len(rows)}")
    classes = sorted(rows[0])
    chances = np.array([[float(row[label]) for label in classes] for row in rows])
    right = np.array(classes)[chances.argmax(1)] == np.array(labels)
    return float(right.mean()), float(log_loss(labels, chances / chances.sum(1, keepdims=True), labels=classes))

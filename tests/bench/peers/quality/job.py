"""What a system of the quality benchmark reads and writes."""

import csv
import json
import resource
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Rows:
    """Texts and class numbers; `others` holds the second texts of pairs, or empty strings."""

    texts: list[str]
    others: list[str]
    labels: list[int]

    @property
    def joined(self) -> list[str]:
        """One text a row: what systems read that know no pairs."""
        return [f"{a} [SEP] {b}" if b else a for a, b in zip(self.texts, self.others, strict=True)]

    def __len__(self) -> int:
        return len(self.texts)

    def __add__(self, more: "Rows") -> "Rows":
        return Rows(self.texts + more.texts, self.others + more.others, self.labels + more.labels)

    def take(self, numbers: list[int]) -> "Rows":
        return Rows(*([column[n] for n in numbers] for column in (self.texts, self.others, self.labels)))


@dataclass(frozen=True)
class Job:
    """A setting, and the CPU-seconds that the whole process may use: None where nothing is tuned."""

    classes: list[str]
    backbone: str
    max_tokens: int
    seed: int
    train: Rows
    source: Rows
    test: Rows
    budget_s: float | None


def read_rows(path: Path, classes: list[str]) -> Rows:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = [classes.index(row["label"]) if "label" in row else -1 for row in rows]
    return Rows([row["text"] for row in rows], [row["other"] for row in rows], labels)


def read_job(folder: Path, budget_s: float | None) -> Job:
    facts = json.loads((folder / "job.json").read_text())
    tables = {name: read_rows(folder / f"{name}.csv", facts["classes"]) for name in ("train", "source", "test")}
    facts.pop("setting")
    return Job(**facts, **tables, budget_s=budget_s)


def write_probabilities(path: Path, job: Job, probabilities: np.ndarray) -> None:
    """Write one line a test row and one column a class."""
    with path.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([job.classes, *probabilities.tolist()])


def cpu_seconds() -> float:
    """Return the CPU time of this process and its ended children, in seconds since its start."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)

"""The settings of the quality benchmark: which pair, how many labels, which split; and their files.

Every system reads one folder, and nothing else:

    train.csv    the labelled target rows (text, other, label): all that exist for this setting
    source.csv   up to 1,000 labelled rows of the source
    test.csv     the test rows without their labels (text, other)
    job.json     classes, backbone, max_tokens, seed

The answers lie apart from it, in `answers/`, where only `scoring` looks. The rows of a split depend on the pair and the
number of the split alone; the labels of the smaller setting are among those of the larger one, and both have one test.
"""

import csv
import hashlib
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.bench.quality.domains import Row, read_rows, write_rows

MAX_SHOTS = 32
SOURCE_ROWS = TEST_ROWS = 1000
MIN_TEST_ROWS = 500


@dataclass(frozen=True, slots=True)
class Pair:
    """A source and a target domain with the same labels.

    Attributes:
        shots: Numbers of labelled rows a class for which it is run.
        backbone: Folder of the encoder below the models' folder.
        max_tokens: Length to which every system cuts its texts.
    """

    source: str
    target: str
    shots: tuple[int, ...] = (8,)
    backbone: str = "minilm"
    max_tokens: int = 64

    @property
    def name(self) -> str:
        return f"{self.source}-{self.target}"


PAIRS = {
    pair.name: pair
    for pair in (
        Pair("movie", "amazon", (8, 32)),
        Pair("amazon", "tweets", (8, 32)),
        Pair("tweets", "nyt", (8, 32)),
        Pair("nyt", "movie", (8, 32)),
        Pair("hotel", "computer", backbone="multilingual-e5"),
        Pair("paragraphs", "headlines"),
        Pair("restaurants", "citations", max_tokens=128),
    )
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the benchmark: a pair, the labels a class, and the number of the split."""

    pair: Pair
    shots: int
    split: int

    @property
    def name(self) -> str:
        return f"{self.pair.name}-{self.shots}-{self.split}"


@dataclass(frozen=True, slots=True)
class Job:
    """A setting's files.

    Attributes:
        folder: What a system reads.
        answers: The labels of the test rows, in their order.
        sha256: Of all files in `folder` and the answers.
    """

    setting: Setting
    folder: Path
    answers: Path
    sha256: str


def settings(pairs: Iterable[str], shots: Iterable[int], splits: Iterable[int]) -> list[Setting]:
    """List the settings, those with few labels first."""
    chosen = [PAIRS[name] for name in pairs]
    return [
        Setting(pair, count, split)
        for count in sorted(shots)
        for pair in chosen
        if count in pair.shots
        for split in splits
    ]


def divide(
    source: list[Row], target: list[Row], split: int, name: str, shots: int = MAX_SHOTS
) -> tuple[list[Row], list[Row], list[Row]]:
    """Draw one split of a pair.

    Returns:
        `MAX_SHOTS` labelled target rows of each class, or `shots` if that is more, class by class and in the order in
        which smaller settings take them; the source rows; the test rows, with the target's own mix of classes.
    """
    draw = random.Random(f"{name} {split}")
    target = draw.sample(target, len(target))
    train = [
        row for label in classes(target) for row in [r for r in target if r.label == label][: max(shots, MAX_SHOTS)]
    ]
    taken = set(train)
    test = [row for row in target if row not in taken][:TEST_ROWS]
    if len(test) < MIN_TEST_ROWS:
        raise ValueError(f"{name} has {len(test)} test rows, fewer than {MIN_TEST_ROWS}")
    known = {(row.text, row.other) for row in target}
    source = [row for row in source if (row.text, row.other) not in known]
    return train, draw.sample(source, min(SOURCE_ROWS, len(source))), test


def classes(rows: Iterable[Row]) -> list[str]:
    """Return the labels that occur, sorted."""
    return sorted({row.label for row in rows})


def write_job(setting: Setting, domains: Path, models: Path, folder: Path) -> Job:
    """Write a setting's files, the same bytes each time."""
    pair = setting.pair
    source, target = (read_rows(domains / f"{name}.csv") for name in (pair.source, pair.target))
    labels = classes(target)
    train, source, test = divide(source, target, setting.split, pair.name, setting.shots)
    few = [row for label in labels for row in [r for r in train if r.label == label][: setting.shots]]
    job, answers = folder / setting.name, folder / "answers" / f"{setting.name}.csv"
    facts = {
        "setting": setting.name,
        "classes": labels,
        "backbone": str(models / pair.backbone),
        "max_tokens": pair.max_tokens,
        "seed": setting.split,
    }
    contents: dict[Path, Callable[[Path], object]] = {
        job / "train.csv": partial(write_rows, rows=few),
        job / "source.csv": partial(write_rows, rows=source),
        job / "test.csv": partial(_write_table, header=("text", "other"), rows=[(row.text, row.other) for row in test]),
        answers: partial(_write_table, header=("label",), rows=[(row.label,) for row in test]),
    }
    digest = hashlib.sha256()
    for path, write in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
        digest.update(path.read_bytes())
    (job / "job.json").write_text(json.dumps(facts, indent=1))
    return Job(setting, job, answers, digest.hexdigest())


def _write_table(path: Path, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([header, *rows])

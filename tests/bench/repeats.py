"""A table of repeats: real candidates, each trained on many seeds and splits, with its outputs on many rows.

python -m tests.bench.repeats --out FOLDER [--plant shuffled|unrelated|help] [--candidates 32] [--repeats 10]

Searches, repeats and verdicts are replayed on it (`tests.bench.coverage`, `tests.bench.plants`): each draws its own
validation rows, of the few that a user would have, from the many that were scored. An interrupted run goes on.

Three sources may be planted in place of the movie reviews: the same with `shuffled` labels; an `unrelated` task, the
same rows labelled by their length; and `help`, 1,000 more rows of the target. With one of them, each candidate uses the
source, and is followed by its counterpart that doesn't, with as many updates.
"""

import argparse
import json
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.special import log_softmax

from promptgraft.objectives.data import Split, rows_hash
from promptgraft.objectives.measures import CostMeter
from promptgraft.objectives.runtime import quiet_transformers
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial import CrossValidation, Cycle, Objective
from promptgraft.search.study import load_study
from promptgraft.spaces import Candidate
from tests.bench.surface import grid

STUDY = Path(__file__).parent / "repeats.yaml"
VALIDATION_ROWS, TEST_ROWS = 400, 1000
SOURCE_ROWS = 1000


def plant(spec: ObjectiveSpec, kind: str, folder: Path) -> ObjectiveSpec:
    """Put a source in place of the study's own; its table, and the target's, are written into a folder."""
    assert spec.source is not None
    target, source = pd.read_csv(spec.target.train), pd.read_csv(spec.source.train)
    if kind == "help":
        target = target.sample(frac=1, random_state=0)
        source, target = target[:SOURCE_ROWS], target[SOURCE_ROWS:]
    elif kind == "shuffled":
        source["label"] = source["label"].sample(frac=1, random_state=0).to_numpy()
    else:
        words = source["text"].map(lambda text: len(text.split()))
        source["label"] = np.where(words > words.median(), "positive", "negative")
    tables = {name: str(folder / f"{name}.csv") for name in ("source", "target")}
    source.to_csv(tables["source"], index=False)
    target.to_csv(tables["target"], index=False)
    return replace(
        spec,
        source=replace(spec.source, train=tables["source"], train_rows=None if kind == "help" else SOURCE_ROWS),
        target=replace(spec.target, train=tables["target"]),
    )


def without_source(candidate: Candidate) -> Candidate:
    """Return the same without the source, with as many updates."""
    return replace(candidate, alpha=0.0, source_steps=0, steps=candidate.source_steps + candidate.steps)


def chosen(spec: ObjectiveSpec, count: int, planted: bool) -> list[Candidate]:
    """Draw candidates of the space; with their counterparts if a source is planted."""
    found = list({candidate.key: candidate for _, candidate in grid(spec.space)}.values())
    if planted:
        found = [candidate for candidate in found if candidate.source_steps]
    drawn = random.Random(0).sample(found, count)
    if not planted:
        return drawn
    return [entry for own in drawn for entry in (own, without_source(own).canonical(spec.space.facts))]


@dataclass(frozen=True)
class Table:
    """The table, read back.

    Attributes:
        uses_source: Whether each candidate does.
        prompt_tokens: Of each candidate.
        latency_ms: Of each candidate: processor time of predicting one row.
        seconds: Processor time of each candidate's cycles, mean over repeats.
        labels: True labels of the rows that aren't trained on, shape (repeats, rows).
        logits: Outputs, shape (candidates, repeats, rows, labels).
        held_out: How many of the rows, the last ones, are the same in all repeats.
    """

    uses_source: list[bool]
    prompt_tokens: list[int]
    latency_ms: list[float]
    seconds: list[float]
    labels: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]
    held_out: int

    @classmethod
    def read(cls, folder: Path) -> "Table":
        """Read a table; repeats that aren't there for every candidate are left out."""
        about = json.loads((folder / "table.json").read_text())
        numbers = range(len(about["candidates"]))
        whole = [
            repeat
            for repeat in range(about["repeats"])
            if all((folder / f"cell-{number}-{repeat}.npz").exists() for number in numbers)
        ]
        cells = [[np.load(folder / f"cell-{number}-{repeat}.npz") for repeat in whole] for number in numbers]
        labels = [np.load(folder / f"labels-{repeat}.npz") for repeat in whole]
        return cls(
            about["uses_source"],
            [int(own[0]["prompt_tokens"]) for own in cells],
            about["latency_ms"],
            [float(np.mean([cell["seconds"] for cell in own])) for own in cells],
            np.array([np.concatenate([entry["validation"], entry["test"]]) for entry in labels]),
            np.array([[np.concatenate([cell["validation"], cell["test"]]) for cell in own] for own in cells]),
            len(labels[0]["test"]),
        )

    def right(self) -> npt.NDArray[np.bool_]:
        """Return which outputs are right, shape (candidates, repeats, rows)."""
        return np.asarray(self.logits.argmax(-1) == self.labels)

    def losses(self) -> npt.NDArray[np.float64]:
        """Return negative log-likelihoods in nats, shape (candidates, repeats, rows)."""
        chances = log_softmax(self.logits.astype(np.float64), axis=-1)
        labels = np.broadcast_to(self.labels, chances.shape[:-1])
        return -np.take_along_axis(chances, labels[..., None], -1)[..., 0]


class Scorer(Objective):
    """Scores the held-out rows with the validation rows: only of these are frozen activations kept."""

    def run(self, *args: Any, **options: Any) -> Cycle | CrossValidation:
        tasks = self._resources.tasks
        if len(tasks.target.validation) < len(tasks.target.test):
            tasks.target = replace(tasks.target, validation=(*tasks.target.validation, *tasks.target.test))
            tasks._hashes["validation"] = rows_hash(tasks.target.validation)
        return super().run(*args, **options)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plant", choices=["shuffled", "unrelated", "help"])
    parser.add_argument("--candidates", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet_transformers()
    folder: Path = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    study = load_study(STUDY)
    target = replace(study.objective.target, validation_rows=VALIDATION_ROWS, test_rows=TEST_ROWS)
    spec = replace(study.objective, target=target, files=str(folder / "store"))
    if arguments.plant:
        spec = plant(spec, arguments.plant, folder)
    candidates = chosen(spec, arguments.candidates, arguments.plant is not None)
    objective = Scorer(replace(spec, evaluate_every=10**9))
    meter = CostMeter(Objective(replace(spec, minimize=("latency_ms",))))
    table = {
        "latency_ms": [meter.measure(candidate)["latency_ms"] for candidate in candidates],
        "candidates": [candidate.to_dict() for candidate in candidates],
        "uses_source": [bool(candidate.source_steps or candidate.alpha) for candidate in candidates],
        "repeats": arguments.repeats,
        "metric": study.file.metric,
    }
    (folder / "table.json").write_text(json.dumps(table))
    for repeat in range(arguments.repeats):
        objective.use_split(Split(repeat))
        labels = np.array([row.label for row in objective.target.validation])
        np.savez(folder / f"labels-{repeat}.npz", validation=labels[:VALIDATION_ROWS], test=labels[VALIDATION_ROWS:])
        for number, candidate in enumerate(candidates):
            file = folder / f"cell-{number}-{repeat}.npz"
            if file.exists():
                continue
            started = time.process_time()
            result = objective.evaluate(candidate, seed=repeat)
            np.savez(
                file,
                validation=result.logits[:VALIDATION_ROWS],
                test=result.logits[VALIDATION_ROWS:],
                prompt_tokens=result.prompt_tokens,
                seconds=time.process_time() - started,
            )
        print(f"repeat {repeat + 1} of {arguments.repeats}", flush=True)


if __name__ == "__main__":
    main()

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
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from promptgraft.objectives.objective import Objective
from promptgraft.objectives.quiet import quiet_transformers
from promptgraft.objectives.specs import ObjectiveSpec
from promptgraft.objectives.tasks import rows_hash
from promptgraft.search.studies import load_study
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
        words = source["text"].str.split().str.len()
        source["label"] = np.where(words > words.median(), "positive", "negative")
    tables = {name: str(folder / f"{name}.csv") for name in ("source", "target")}
    source.to_csv(tables["source"], index=False)
    target.to_csv(tables["target"], index=False)
    return replace(
        spec, source=replace(spec.source, train=tables["source"]), target=replace(spec.target, train=tables["target"])
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


class Scorer(Objective):
    """Scores the held-out rows with the validation rows: only of these are frozen activations kept."""

    def _load_rows(self) -> None:
        super()._load_rows()
        self.target = replace(self.target, validation=(*self.target.validation, *self.target.test))
        self._rows["validation"] = self.target.validation
        self._hashes["validation"] = rows_hash(self.target.validation)


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
    rows = {"validation_rows": VALIDATION_ROWS, "test_rows": TEST_ROWS}
    spec = replace(study.objective, target=replace(study.objective.target, **rows), files=str(folder / "store"))
    if arguments.plant:
        spec = plant(spec, arguments.plant, folder)
    candidates = chosen(spec, arguments.candidates, arguments.plant is not None)
    objective = Scorer(replace(spec, evaluate_every=10**9))
    table = {
        "candidates": [candidate.to_dict() for candidate in candidates],
        "uses_source": [bool(candidate.source_steps or candidate.alpha) for candidate in candidates],
        "repeats": arguments.repeats,
        "metric": study.file.metric,
    }
    (folder / "table.json").write_text(json.dumps(table))
    for repeat in range(arguments.repeats):
        objective.use_split(repeat)
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

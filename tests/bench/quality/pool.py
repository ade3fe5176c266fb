"""Measure a pool of candidates of the default space on a setting, once and whole, for searches to be replayed on it.

python -m tests.bench.quality.pool --pairs movie-amazon --shots 8 --splits 0,1 --out runs/quality

Each candidate runs on every fold, without pruning, and is fitted again to all labelled rows for the updates that its
folds chose, as the model that ships is. `replays` draws searches from what this leaves: POOL/SETTING.npz.
"""

import argparse
import csv
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from optuna.samplers import RandomSampler
from optuna.study import create_study
from optuna.trial import FixedTrial
from ruamel.yaml import YAML

from promptgraft.objectives.data import WHOLE
from promptgraft.objectives.trial import Objective
from promptgraft.search.sampling import baseline_candidates, start_points
from promptgraft.search.study import Study, load_study
from promptgraft.spaces import Candidate, SuggestingTrial, TrialError
from studies.prepare import MODELS
from tests.bench.quality.__main__ import names, numbers
from tests.bench.quality.data import PAIRS, Job, settings, write_job
from tests.bench.quality.ours import study_of

RANDOM = 8


def study_with_answers(job: Job, out: Path) -> Study:
    """Load the study that `ours` would run, with the benchmark's test rows as its own."""
    content = json.loads((job.folder / "job.json").read_text())
    out.mkdir(parents=True, exist_ok=True)
    description = study_of(job.folder, out, content, budget_s=600)
    with (job.folder / "test.csv").open(newline="", encoding="utf-8") as file, job.answers.open(newline="") as answers:
        rows = [row | own for row, own in zip(csv.DictReader(file), csv.DictReader(answers), strict=True)]
    with (out / "test.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["text", "other", "label"])
        table.writeheader()
        table.writerows(rows)
    description["target"]["test"] = str(out / "test.csv")
    with (out / "study.yaml").open("w") as stream:
        YAML().dump(description, stream)
    return load_study(out / "study.yaml")


def candidates(study: Study, seed: int) -> Iterator[tuple[str, Candidate]]:
    """List baselines, start points and random points of the space, each candidate once."""
    known: set[str] = set()
    space = study.objective.space
    found = [(f"baseline {name}", candidate) for name, candidate in baseline_candidates(study).items()]
    found += [
        (f"start {name}", space.suggest(cast("SuggestingTrial", FixedTrial(point))))
        for name, point in start_points(study).items()
    ]
    drawn = create_study(sampler=RandomSampler(seed=seed))
    found += [(f"random {n}", space.suggest(cast("SuggestingTrial", drawn.ask()))) for n in range(RANDOM)]
    for name, candidate in found:
        if candidate.key not in known:
            known.add(candidate.key)
            yield name, candidate


def measure(study: Study, seed: int, files: Path) -> dict[str, Any]:
    """Run the pool; each candidate's logits out of folds and on the test rows, shape (rows, labels)."""
    objective = Objective(replace(study.objective, files=str(files)))
    kept: list[dict[str, object]] = []
    found: dict[str, Any] = {
        "labels": np.array([row.label for row in study.target.scored()]),
        "folds": np.array(study.target.scored_folds()),
        "test_labels": np.array([row.label for row in study.target.test]),
    }
    ran = []
    for name, candidate in candidates(study, seed):
        started = time.process_time()
        try:
            ran.append((name, candidate, objective.evaluate(candidate, seed), time.process_time() - started))
        except TrialError as error:
            print(f"  {name}: {error}", file=sys.stderr)
    objective.use_split(WHOLE)
    for n, (name, candidate, result, seconds) in enumerate(ran):
        fitted = objective.evaluate(candidate, seed, at=result.step)
        found[f"oof_{n}"] = result.logits
        found[f"test_{n}"] = objective.score(candidate, fitted.delta, objective.target.test, seed)
        accuracy = float((found[f"test_{n}"].argmax(1) == found["test_labels"]).mean())
        kept.append({"name": name, "candidate": candidate.to_dict(), "cpu_s": seconds, "value": result.value})
        print(f"  {name}: folds {result.value:.3f}, test {accuracy:.3f}, {seconds:.0f} CPU-s", file=sys.stderr)
    found["candidates"] = np.array(json.dumps(kept))
    return found


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=names, default=list(PAIRS))
    parser.add_argument("--shots", type=numbers, default=[8])
    parser.add_argument("--splits", type=numbers, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    out: Path = chosen.out.resolve()
    (out / "pool").mkdir(parents=True, exist_ok=True)
    for setting in settings(chosen.pairs, chosen.shots, chosen.splits):
        path = out / "pool" / f"{setting.name}.npz"
        if path.exists():
            continue
        print(setting.name, file=sys.stderr)
        job = write_job(setting, out / "domains", MODELS, out / "data")
        folder = out / "pool" / setting.name
        found = measure(study_with_answers(job, folder), setting.split, folder / "files")
        partial = path.with_suffix(".partial.npz")
        np.savez_compressed(partial, **found)
        partial.rename(path)


if __name__ == "__main__":
    main()

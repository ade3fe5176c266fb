"""Measure self-training: fixed good candidates with and without pseudo-labelled rows, on test rows, without a search.

python -m tests.bench.quality.unlabelled --pairs movie-amazon --shots 8 --splits 0,1 --out runs/quality

1,000 further rows of the target stand for its unlabelled ones. Each candidate is fitted to all labelled rows, for all
of its updates. What is measured is kept: a run that was stopped goes on. Without --pairs, the table of what there is.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import torch

from promptgraft.objectives.data import WHOLE
from promptgraft.objectives.trial import Objective
from promptgraft.search.sampling import baseline_candidates
from promptgraft.search.study import Study
from promptgraft.spaces import Candidate
from studies.preparing.downloads import MODELS
from tests.bench.quality.__main__ import names, numbers
from tests.bench.quality.data import Setting, divide, settings, write_job
from tests.bench.quality.domains import read_rows, write_rows
from tests.bench.quality.pool import study_with_answers

UNLABELLED_ROWS = 1000
THRESHOLDS = (0.0, 0.8, 0.9)
STEPS, LEARNING_RATE = 32, 5e-5


def with_unlabelled(study: Study, setting: Setting, domains: Path, folder: Path) -> Study:
    """Add rows of the target that are neither labelled nor test rows, without their labels."""
    source, target = (read_rows(domains / f"{name}.csv") for name in (setting.pair.source, setting.pair.target))
    train, _, test = divide(source, target, setting.split, setting.pair.name)
    taken = {*train, *test}
    rest = [row for row in target if row not in taken]
    chosen = random.Random(setting.split).sample(rest, min(UNLABELLED_ROWS, len(rest)))
    path = folder / "unlabelled.csv"
    write_rows(path, [replace(row, label="") for row in chosen])
    spec = replace(study.objective.target, unlabelled=str(path))
    return replace(study, objective=replace(study.objective, target=spec))


def candidates(study: Study) -> Iterator[tuple[str, Candidate]]:
    """Name the candidates."""
    baselines, facts = baseline_candidates(study), study.objective.space.facts
    tuned = replace(baselines["contrastive_source"], steps=STEPS, learning_rate=LEARNING_RATE).canonical(facts)
    yield "linear probe with source", baselines["linear_probe_with_source"]
    yield "contrastive source, probe", baselines["contrastive_source"]
    yield f"contrastive source, {STEPS} updates", tuned


def measure(study: Study, seed: int, files: Path, path: Path) -> None:
    """Append what is missing to a file of JSON lines: accuracy on the test rows by candidate and threshold."""
    known = {(entry["candidate"], entry["threshold"]) for entry in entries(path)}
    wanted = [
        (name, own, least) for name, own in candidates(study) for least in THRESHOLDS if (name, least) not in known
    ]
    if not wanted:
        return
    objective = Objective(replace(study.objective, files=str(files)))
    objective.use_split(WHOLE)
    for name, plain, least in wanted:
        started = time.process_time()
        own = replace(plain, self_training=least)
        result = objective.evaluate(own, seed, at=own.steps)
        logits = objective.score(own, result.delta, objective.target.test, seed)
        accuracy = objective.target.measure(logits, objective.target.test)["accuracy"]
        entry = {"setting": path.stem, "candidate": name, "threshold": least, "accuracy": accuracy}
        entry["cpu_s"] = time.process_time() - started
        with path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        print(f"  {name}, {least}: {accuracy:.3f}, {entry['cpu_s']:.0f} CPU-s", file=sys.stderr)


def entries(path: Path) -> list[dict[str, object]]:
    """Read a file of JSON lines; nothing if it isn't there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(folder: Path) -> Iterator[str]:
    """Write the mean accuracy of each candidate, and how far self-training changes it; with standard errors."""
    found = [entry for path in sorted(folder.glob("*.jsonl")) for entry in entries(path)]
    values = {
        (entry["candidate"], entry["threshold"], entry["setting"]): float(str(entry["accuracy"])) for entry in found
    }
    for name in dict.fromkeys(entry["candidate"] for entry in found):
        for least in THRESHOLDS[1:]:
            own = [key for key in values if key[:2] == (name, least) and (name, 0, key[2]) in values]
            gains = [values[key] - values[name, 0, key[2]] for key in own]
            if len(gains) > 1:
                before, error = mean(values[name, 0, key[2]] for key in own), stdev(gains) / len(gains) ** 0.5
                yield f"{name}, from {least} on: {before:.3f}, {mean(gains):+.3f} ± {error:.3f} ({len(gains)} settings)"


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=names, default=[])
    parser.add_argument("--shots", type=numbers, default=[8])
    parser.add_argument("--splits", type=numbers, default=[0, 1])
    parser.add_argument("--domains", type=Path)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    out: Path = chosen.out.resolve()
    results = out / "unlabelled"
    results.mkdir(parents=True, exist_ok=True)
    domains = chosen.domains or out / "domains"
    for setting in settings(chosen.pairs, chosen.shots, chosen.splits):
        print(setting.name, file=sys.stderr)
        folder = results / setting.name
        job = write_job(setting, domains, chosen.models.resolve(), out / "data")
        study = study_with_answers(job, job.folder / "source.csv", folder)
        study = with_unlabelled(study, setting, domains, folder)
        measure(study, setting.split, folder / "files", results / f"{setting.name}.jsonl")
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()

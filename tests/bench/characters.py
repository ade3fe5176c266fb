"""Measure what TF-IDF beside a pretrained model is worth: a few candidates, with and without it, on several splits.

    python -m tests.bench.characters STUDY --rows 200 1000

STUDY is a study file of texts with one label, as `init` drafts it. Each split draws labelled and test rows anew; each
candidate is fitted to all labelled rows. Prints mean accuracy and loss on the test rows, with the paired difference in
accuracy to the same candidate without a prior and its standard error over splits.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

from promptgraft.objectives.data import WHOLE
from promptgraft.objectives.trial import Objective
from promptgraft.search.study import load_study
from promptgraft.spaces import Candidate

Scores = list[dict[str, float]]


def tried(text: Candidate) -> Iterator[tuple[str, str, Candidate]]:
    """Yield names of candidates, of what each is compared with, and themselves."""
    for name in ("words", "characters"):
        yield f"{name} alone", "probe", replace(text, prior=name, text_weight=0.0)
    for base, updates in {"probe": 0, "contrastive": 60}.items():
        own = replace(text, contrastive_steps=updates, frozen_layers=3 if updates else text.frozen_layers)
        yield base, "probe", own
        for name in ("words", "characters"):
            for weight in (0.1, 0.3, 1.0, 3.0):
                yield f"{base} x {weight:g} + {name}", base, replace(own, prior=name, text_weight=weight)


def measure(study: Path, rows: int, seed: int, files: Path) -> dict[str, dict[str, float]]:
    """Return the metrics of each candidate on the test rows of a split."""
    spec = load_study(study).objective
    target = replace(spec.target, train_rows=rows, validation_rows=None, folds=2)
    objective = Objective(replace(spec, target=target, source=None, split_seed=seed, files=str(files)))
    objective.use_split(WHOLE)
    text = Candidate(spec.space.templates[0].id, "", "probe", steps=0)
    found: dict[str, dict[str, float]] = {}
    for name, _, candidate in tried(text):
        own = candidate.canonical(spec.space.facts)
        result = objective.evaluate(own, seed, at=0)
        test = objective.target.test
        found[name] = dict(objective.target.measure(objective.score(own, result.delta, test, seed=seed), test))
    return found


def table(found: dict[str, Scores]) -> Iterator[str]:
    """Write a line for each candidate."""
    text = Candidate("", "", "probe", steps=0)
    for name, base, _ in tried(text):
        accuracy = [own["accuracy"] for own in found[name]]
        gains = [own - other["accuracy"] for own, other in zip(accuracy, found[base], strict=True)]
        error = stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
        loss = mean(own["loss"] for own in found[name])
        yield f"{name:32} accuracy {mean(accuracy):.3f} loss {loss:.3f}; {mean(gains):+.3f} ({error:.3f}) to {base}"


def main() -> None:
    """Measure and print a table for each number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[200])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--files", type=Path, default=Path("runs/characters"))
    asked = parser.parse_args()
    for rows in asked.rows:
        splits = [measure(asked.study, rows, seed, asked.files) for seed in range(asked.seeds)]
        print(f"{asked.study.stem}, {rows} labelled rows, {asked.seeds} splits")
        print("\n".join(table({name: [own[name] for own in splits] for name in splits[0]})), flush=True)


if __name__ == "__main__":
    main()

"""Is planted harm called harm, and planted help found? Verdicts on transfer, replayed on tables of repeats.

python -m tests.bench.plants FOLDER... [--runs 40] [--out F.json]

Each FOLDER is that of `tests.bench.repeats --plant ...`. A run draws one split to search in: of four candidates that
use the planted source and their counterparts, the one with the best accuracy on 64 validation rows wins. Five other
splits are the fresh repeats of the winner and its controls, which `search.judging` judges: on 64 validation rows
each, and on the same 1,000 held-out rows. Runs share the splits of the table (12), so they aren't independent.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna

from promptgraft.search.judging import BEST_TARGET_ONLY, TARGET_ONLY, WINNER, WITH_SOURCE
from promptgraft.search.judging.intervals import Interval, gain_on_rows, gain_over_repeats
from promptgraft.search.judging.transfer_gain import Comparison
from promptgraft.search.storage import DEFINITION, Outcome, write_study
from tests.bench.repeats import Table

VALIDATION_ROWS, REPEATS = 64, 5


def arms(table: Table, values: Sequence[float]) -> dict[str, int]:
    """Choose the winner and its controls by the values of a search, as `search.running.finals` does."""
    ranked = sorted(range(len(values)), key=lambda c: -values[c])
    winner = ranked[0]
    other = next(c for c in ranked if table.uses_source[c] != table.uses_source[winner])
    if not table.uses_source[winner]:
        return {WINNER: winner, WITH_SOURCE: other}
    return {WINNER: winner, TARGET_ONLY: winner + 1, BEST_TARGET_ONLY: other}  # Its counterpart is the next one.


def verdicts(table: Table, random: np.random.Generator) -> tuple[str, str, float]:
    """Search, repeat and judge; return the verdicts by validation rows and by held-out ones, and the latter's gain."""
    right = table.right()
    candidates, splits, rows = right.shape
    pool = rows - table.held_out
    searched, *fresh = random.permutation(splits)[: 1 + REPEATS]
    drawn = {split: random.choice(pool, VALIDATION_ROWS, replace=False) for split in (searched, *fresh)}
    chosen = arms(table, [right[c, searched, drawn[searched]].mean() for c in range(candidates)])
    values = {
        name: {n: float(right[c, split, drawn[split]].mean()) for n, split in enumerate(fresh)}
        for name, c in chosen.items()
    }
    held_out = {name: [table.logits[c, split, pool:] for split in fresh] for name, c in chosen.items()}
    labels = table.labels[0, pool:]

    def by_validation(ours: str, theirs: str, common: Sequence[int], level: float) -> Interval:
        return gain_over_repeats([values[ours][r] for r in common], [values[theirs][r] for r in common], level)

    def measure(logits: npt.NDArray[np.float32], kept: npt.NDArray[np.int64]) -> float:
        return float((logits.argmax(1) == labels[kept]).mean())

    def by_test(ours: str, theirs: str, common: Sequence[int], level: float) -> Interval:
        return gain_on_rows([held_out[ours][r] for r in common], [held_out[theirs][r] for r in common], measure, level)

    study = optuna.create_study(direction="maximize")
    study.set_metric_names(["accuracy"])
    write_study(study, DEFINITION, {"source": {}})
    found = {name: {n: Outcome(value) for n, value in own.items()} for name, own in values.items()}
    first = Comparison(study, found, values, "validation", by_validation).table()
    scores = {
        name: {n: measure(own[n], np.arange(len(labels))) for n in range(REPEATS)} for name, own in held_out.items()
    }
    second = Comparison(study, found, scores, "test", by_test).table()
    return first.verdict, second.verdict, second.gain or 0.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found: dict[str, Any] = {}
    for folder in arguments.folders:
        table, random = Table.read(folder), np.random.default_rng(0)
        uses, right = np.array(table.uses_source), table.right()
        runs = [verdicts(table, random) for _ in range(arguments.runs)]
        found[folder.name] = {
            "accuracy with the source": round(float(right[uses].mean()), 4),
            "without": round(float(right[~uses].mean()), 4),
            "by validation rows": Counter(run[0] for run in runs),
            "by test rows": Counter(run[1] for run in runs),
            "mean gain": round(float(np.mean([run[2] for run in runs])), 4),
        }
        print(folder.name, json.dumps(found[folder.name], indent=1), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

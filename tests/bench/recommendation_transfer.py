"""What the histories of one market are worth in another that has few: by counts, by texts, and when they are shuffled.

    python studies/prepare.py --kinds
    python -m tests.bench.recommendation_transfer

- same films: other users rate the same films: counts may help, and texts.
- other films: other users rate other films, half of all each: texts alone can help.

The target has 300 users, the source 600 others, on each of three draws of users and films. The source is as it is, or
its films have changed places, so that what goes with what is gone: it must not be said to help. Gains are differences
of NDCG@10 on the target's test rows, with intervals by a bootstrap over users, as `promptgraft export` has them.
"""

import argparse
import csv
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from promptgraft.objectives.data import HistorySpec, TaskSpec, all_labels
from promptgraft.objectives.kinds.histories.recommendation import Recommendation
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec, SourceTraining
from promptgraft.objectives.trial import Objective
from promptgraft.search.judging import RowMetric
from promptgraft.search.judging.intervals import Interval, gain_on_rows
from promptgraft.spaces import Candidate, SearchSpace, StudyFacts, Template, Verbalizer
from tests.support.paths import STUDIES

METRIC = "ndcg_at_10"
TARGET_USERS, SOURCE_USERS, DRAWS = 300, 600, 3
TEMPLATE = Template("three", "{{ history.split('\n')[:3] | join('; ') }} {{ label }}")
Values = Mapping[str, str | int | float]
RATINGS, FILMS = (STUDIES / "data" / f"movielens_{name}.csv" for name in ("ratings", "films"))


def read(path: Path) -> list[tuple[str, ...]]:
    """Read the rows of a table, without its header."""
    with path.open(newline="", encoding="utf-8") as file:
        return [tuple(row) for row in csv.reader(file)][1:]


def write(path: Path, rows: Sequence[Sequence[str]]) -> str:
    """Write ratings, and return their path."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("user", "film", "time"), *rows])
    return str(path)


def markets(seed: int, *, same_films: bool) -> dict[str, list[tuple[str, ...]]]:
    """Draw the ratings of a target, a source, and that source with its films dealt out anew."""
    drawn, ratings = random.Random(seed), read(RATINGS)
    users, films = (sorted({row[place] for row in ratings}, key=int) for place in (0, 1))
    drawn.shuffle(users)
    drawn.shuffle(films)
    ours, theirs = set(users[:TARGET_USERS]), set(users[TARGET_USERS : TARGET_USERS + SOURCE_USERS])
    half = len(films) // 2
    here, there = (set(films), set(films)) if same_films else (set(films[:half]), set(films[half:]))
    source = [row for row in ratings if row[0] in theirs and row[1] in there]
    own = sorted({row[1] for row in source}, key=int)
    others = dict(zip(own, drawn.sample(own, len(own)), strict=True))
    return {
        "target": [row for row in ratings if row[0] in ours and row[1] in here],
        "source": source,
        "shuffled": [(user, others[film], when) for user, film, when in source],
    }


def objective_of(folder: Path, tables: Mapping[str, list[tuple[str, ...]]], source: str) -> Objective:
    """Load a target with one of its sources."""
    histories = HistorySpec("user", "time", str(FILMS), ("title", "genres"), positions=5)
    target = TaskSpec(
        write(folder / "target.csv", tables["target"]),
        {"history": "history"},
        "film",
        kind="recommendation",
        histories=histories,
    )
    other = replace(target, train=write(folder / f"{source}.csv", tables[source]))
    own = Recommendation.load_target(target, 0)
    labels = all_labels(own, [Recommendation.load_source(other, 0, own)])
    words = Verbalizer("names", {name: (name,) for name in labels})
    backbone = BackboneSpec(str(STUDIES / "models/minilm"), "encoder", max_tokens=96)
    facts = StudyFacts(6, has_head=True, has_source=True)
    space = SearchSpace((TEMPLATE,), (words,), (), facts)
    spec = ObjectiveSpec(
        backbone,
        target,
        other,
        space,
        METRIC,
        evaluate_every=64,
        evaluation_batch_size=64,
        source_training=SourceTraining(64, 2e-4, 1e-2, frozen_layers=4),
    )
    return Objective(spec)


def gain(with_source: torch.Tensor, without: torch.Tensor, metric: RowMetric) -> Interval:
    """Return how much better the first is on the test rows."""
    ours, theirs = (metric.of(own.numpy()) for own in (with_source, without))
    return gain_on_rows([ours], [theirs], metric.measure, 0.05, bootstrap=True)


def verdict(found: Interval) -> str:
    """Say it in the words of a report."""
    return "helped" if found.low > 0 else "hurt" if found.high < 0 else "no difference shown"


def main() -> None:
    """Run all draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--source-steps", type=int, default=192)
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts: Values = {"prior": "ease", "prior_recency": 1.0, "text_weight": 0.0}
    text: Values = {"steps": options.steps, "learning_rate": 1e-4, "prompt_learning_rate": 1e-2, "batch_size": 64}
    text = {**text, "frozen_layers": 4}
    arms = {
        ("counts", True): (counts, {**counts, "alpha": 0.3}),
        ("texts", True): (text, {**text, "source_steps": options.source_steps}),
        ("texts", False): (text, {**text, "source_steps": options.source_steps}),
    }
    print("| by | films | draw | source | target alone | with the source | gain | 95 % interval | verdict | CPU-s |")
    for (by, same), (alone, helped) in arms.items():
        for draw in range(options.draws):
            run(by, draw, alone, helped, same_films=same)


def run(by: str, draw: int, alone: Values, helped: Values, *, same_films: bool) -> None:
    """Compare a candidate without a source with the same one on a source, and on that one shuffled."""
    tables = markets(draw, same_films=same_films)
    for source in ("source", "shuffled"):
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            objective = objective_of(Path(folder), tables, source)
            words = objective.spec.space.first_verbalizer
            logits = []
            for values in (alone, helped):
                candidate = Candidate.from_values({"template": TEMPLATE.id, "verbalizer": words, **values})
                candidate = candidate.canonical(objective.spec.space.facts)
                result = objective.evaluate(candidate, draw)
                logits.append(torch.from_numpy(objective.score(candidate, result.delta, objective.target.test, draw)))
        metric = RowMetric(objective.target, METRIC, objective.target.test)
        found = gain(logits[1], logits[0], metric)
        scores = [metric.measure(metric.of(own.numpy()), np.arange(len(own))) for own in logits]
        cells = [by, "the same" if same_films else "others", draw, source, *(f"{own:.4f}" for own in scores)]
        cells += [f"{found.value:+.4f}", f"{found.low:+.4f} to {found.high:+.4f}", verdict(found)]
        print("| " + " | ".join(map(str, [*cells, f"{time.process_time() - start:.0f}"])) + " |", flush=True)


if __name__ == "__main__":
    main()

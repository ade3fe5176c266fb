"""What a causal model's log-probabilities of titles add to counts: MovieLens 100K, users of 35 and more.

    python studies/prepare.py --kinds --smollm2
    python -m tests.bench.titles                 # as pretrained
    python -m tests.bench.titles --steps 32      # trained on the titles that came, upper layers alone

Of each user the 50 films that EASE or item-kNN ranks first are ranked again; NDCG@10 on users that are chosen by, for
several weights of the text beside the counts, with the standard error of its difference to the counts alone. Prompts
are the last three titles, the newest first or last.
"""

import argparse
import time
from dataclasses import replace

import numpy as np
import torch

from promptgraft.objectives.data import HistorySpec, TaskSpec
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.search.judging import RowMetric
from promptgraft.spaces import Candidate, Constant, SearchSpace, StudyFacts, Template
from tests.support.paths import STUDIES

METRIC = "ndcg_at_10"
WEIGHTS = (0.1, 0.3, 1.0, 3.0)
TEMPLATES = {
    "newest first": Template("newest", "{{ history.split('\n')[:3] | join('; ') }}; {{ label }}"),
    "newest last": Template("oldest", "{{ history.split('\n')[:3] | reverse | join('; ') }}; {{ label }}"),
}
LAYERS = 30


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=150)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--priors", nargs="+", default=["ease"])
    parser.add_argument("--templates", nargs="+", default=list(TEMPLATES), choices=list(TEMPLATES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = STUDIES / "data"
    histories = HistorySpec("user", "time", str(data / "movielens_films.csv"), ("title",))
    target = TaskSpec(
        str(data / "movielens_older.csv"),
        {"history": "history"},
        "film",
        kind="recommendation",
        histories=histories,
        validation_rows=options.users,
    )
    backbone = BackboneSpec(str(STUDIES / "models/smollm2"), "causal_lm", max_tokens=96)
    space = SearchSpace(
        tuple(TEMPLATES.values()),
        (),
        (Constant("head", "titles"), Constant("prior", "ease")),
        StudyFacts(LAYERS, has_head=False, has_source=False),
    )
    objective = Objective(ObjectiveSpec(backbone, target, None, space, METRIC, evaluate_every=1000))
    task = objective.target
    metric = RowMetric(task, METRIC, task.validation)
    print(f"{len(task.labels)} films, {len(task.train)} training rows, {len(task.validation)} users")
    print("| prompt | counts | alone | with text at " + ", ".join(map(str, WEIGHTS)) + " | CPU-s |")
    for name in options.templates:
        for prior in options.priors:
            start = time.process_time()
            own = Candidate(TEMPLATES[name].id, "", head="titles", prior=prior, prior_recency=1.0, steps=options.steps)
            own = replace(own, frozen_layers=LAYERS - 2, learning_rate=options.learning_rate)
            both = objective.evaluate(own.canonical(space.facts), 0, at=options.steps).logits
            counts = objective.score(replace(own, text_weight=0.0), {}, task.validation)
            alone, cells = metric.of(counts), []
            for weight in WEIGHTS:
                found = metric.of(weight * (both - counts) + counts)
                error = (found - alone).std(ddof=1) / np.sqrt(len(alone))
                cells.append(f"{found.mean():.3f} ({found.mean() - alone.mean():+.3f}, se {error:.3f})")
            cost = time.process_time() - start
            print(f"| {name} | {prior} | {alone.mean():.3f} | {', '.join(cells)} | {cost:.0f} |", flush=True)


if __name__ == "__main__":
    main()

"""Scoring all items for 1,000 users: seconds and memory, beside scoring pairs of a user and an item one by one.

    python -m tests.bench.all_items                    # the 1,682 films of MovieLens 100K
    python -m tests.bench.all_items --items 100000     # as many texts, made of theirs

Items are embedded once, histories once, and multiplied; then ranked and measured as in a trial. A pair is a text that
holds both, as a cross-encoder reads it: some are timed, one by one and in batches, and the time of all is worked out.
"""

import argparse
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count as numbers
from itertools import islice

import numpy as np
import torch

from promptgraft.objectives.backbones import BACKBONES
from promptgraft.objectives.data import PriorRows, Row
from promptgraft.objectives.kinds.histories.recommendation import Recommendation
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.spaces import Candidate, Template, Verbalizer
from tests.bench.recommenders import load
from tests.support.paths import STUDIES

TEMPLATE = Template("three", "{{ history.split('\n')[:3] | join('; ') }} {{ label }}")
USERS, PAIRS = 1000, 256


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long something takes, and the largest memory of the process so far."""
    start, before = time.perf_counter(), time.process_time()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds, cpu = time.perf_counter() - start, time.process_time() - before
    print(f"{what}: {seconds:.1f} s, {cpu:.1f} CPU-seconds; peak {peak:.2f} GiB", flush=True)


def shop(n_items: int) -> Recommendation:
    """Return histories of users with so many items; beyond the films these have the texts of two of them."""
    task = load()
    names = list(task.labels)
    pairs = (f"{names[n % len(names)]}, {names[(n // len(names) + n) % len(names)]}" for n in numbers(len(names)))
    labels = tuple(dict.fromkeys([*names, *islice(pairs, max(0, n_items - len(names)))]))[:n_items]
    rows = (*task.test, *task.validation)[:USERS]
    kept = tuple(row for row in task.train if row.label < len(labels))
    return Recommendation(labels, kept, rows, tuple(row for row in rows if row.label < len(labels)))


def main() -> None:
    """Time both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1682)
    n_items = parser.parse_args().items
    torch.set_num_threads(1)
    task = shop(n_items)
    labels, rows = task.labels, task.test
    spec = BackboneSpec(str(STUDIES / "models/minilm"), "encoder", max_tokens=96)
    with timed("loading"):
        backbone = BACKBONES["encoder"](spec, torch.device("cpu"))
    words = Verbalizer("names", {name: (name,) for name in labels})
    candidate = Candidate(TEMPLATE.id, words.id, steps=0)
    with timed(f"embedding {len(labels):,} items"):
        model = PromptedModel(backbone, candidate, TEMPLATE, words, labels, 0)
    with timed(f"scoring them for {len(rows):,} users"):
        logits = model.score(model.encode(rows), labels, 64).numpy()
    with timed("ranking and metrics"):
        metrics = task.measure(logits, rows)
    with timed("prior `neighbours`, fitted and applied"):
        tensors = task.fit_prior("neighbours", 0.5, PriorRows(task.train, (), (), 0.0, labels))
        features = [task.prior_features("neighbours", row.fields, labels) for row in rows]
        found = task.prior_logits("neighbours", 0.5, tensors, features)
    with timed("item-kNN, the control"):
        task.fit_by_words(task.train, rows)
    both = metrics["ndcg_at_10"], task.measure(found, rows)["ndcg_at_10"]
    print(f"ndcg_at_10 of the text {both[0]:.4f}, of the prior {both[1]:.4f}")
    pairs(model, rows, labels)


def pairs(model: PromptedModel, rows: tuple[Row, ...], labels: tuple[str, ...]) -> None:
    """Time some pairs, each with a text of its own."""
    drawn = np.random.default_rng(0)
    texts = [
        f"{rows[drawn.integers(len(rows))].fields['history']}\n".split("\n")[0]
        + "; "
        + labels[drawn.integers(len(labels))]
        for _ in range(PAIRS)
    ]
    encoded = model.encode_fields([{"history": text} for text in texts])
    for size in (1, 64):
        start = time.process_time()
        model.score(encoded, labels[:2], size)
        each = (time.process_time() - start) / PAIRS
        hours = each * len(rows) * len(labels) / 3600
        print(
            f"a pair, {size} at a time: {1000 * each:.1f} ms; all {len(rows) * len(labels):,} pairs: {hours:.1f} hours"
        )


if __name__ == "__main__":
    main()

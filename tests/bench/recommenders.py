"""Recommendation without texts on MovieLens 100K: each user's last film, ranked among all that the user hasn't seen.

    python studies/prepare.py --kinds
    python -m tests.bench.recommenders                       # ours
    python -m tests.bench.recommenders --recbole FOLDER      # RecBole's, on the same table, split and metrics

FOLDER holds `recbole==1.2.1` and what it needs beside torch (`pip install --no-deps --target FOLDER recbole==1.2.1
colorlog==4.7.2 colorama texttable thop tabulate`). RecBole's own metrics of our rankings are compared with ours in
either case that it is there. Both leave out nothing: all 943 users, all 1,682 films, the film before the last to choose
by, and full ranking.
"""

import argparse
import csv
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from promptgraft.objectives.data import HistorySpec, PriorRows, TaskSpec
from promptgraft.objectives.kinds.histories.recommendation import Recommendation
from promptgraft.objectives.measures.sequence_models import SequenceSettings, score, sequences_of, train
from promptgraft.search.judging import RowMetric, score_interval

DATA = Path(__file__).resolve().parents[2] / "studies/data"
RATINGS = DATA / "movielens_ratings.csv"
COLUMNS = ("user_id", "item_id")  # As RecBole calls them.
SHOWN = ("ndcg_at_10", "recall_at_10", "mrr", "coverage_at_10", "popularity_at_10")
Scores = npt.NDArray[np.float32]


def load() -> Recommendation:
    """Read the ratings; the newest older row of each user holds all that the user had before."""
    histories = HistorySpec("user", "time", str(DATA / "movielens_films.csv"), ("title",), positions=1, least=1)
    spec = TaskSpec(str(RATINGS), {"history": "history"}, "film", kind="recommendation", histories=histories)
    return Recommendation.load_target(spec, 0)


def prior(task: Recommendation, name: str, recency: float) -> Scores:
    """Score the test rows by counts on the training rows."""
    tensors = task.fit_prior(name, recency, PriorRows(task.train, (), (), 0.0, task.labels))
    features = [task.prior_features(name, row.fields, task.labels) for row in task.test]
    return task.prior_logits(name, recency, tensors, features)


def sequence(task: Recommendation, settings: SequenceSettings) -> Scores:
    """Score the test rows by a model of sequences that is trained on the training rows."""
    places = {name: place for place, name in enumerate(task.labels)}
    state = train(sequences_of(task.train, places), len(task.labels), settings)
    histories = [[places[name] for name in reversed(row.fields["history"].split("\n"))] for row in task.test]
    return score(state, histories, len(task.labels), settings)


def ours(task: Recommendation, seeds: int) -> None:
    """Print the figures of our baselines."""
    found: dict[str, Callable[[], Scores]] = {
        "most popular": lambda: task.constant(task.test),
        "item-kNN (control)": lambda: task.fit_by_words(task.train, task.test),
    }
    for name in ("neighbours", "ease"):
        for recency in (0.0, 0.5, 1.0):
            found[f"prior {name}, recency {recency:g}"] = partial(prior, task, name, recency)
    for seed in range(seeds):
        found[f"SASRec, seed {seed}"] = partial(sequence, task, SequenceSettings(seed=seed))
        gru = SequenceSettings(reader="gru", layers=1, seed=seed)
        found[f"GRU4Rec, seed {seed}"] = partial(sequence, task, gru)
    print("| system | " + " | ".join(SHOWN) + " | 95 % interval of ndcg_at_10 | CPU-seconds |", flush=True)
    for name, compute in found.items():
        start = time.process_time()
        logits = compute()
        seconds = time.process_time() - start
        metrics = task.measure(logits, task.test)
        rows = RowMetric(task, SHOWN[0], task.test)
        interval = score_interval(rows.of(logits), rows.measure, SHOWN[0], 0.05, bootstrap=True)
        figures = " | ".join(f"{metrics[metric]:.4f}" for metric in SHOWN)
        print(f"| {name} | {figures} | {interval.low:.4f} to {interval.high:.4f} | {seconds:.0f} |", flush=True)


def recbole(folder: str, models: Sequence[str], epochs: int) -> None:
    """Print RecBole's figures on the same ratings."""
    sys.path.append(folder)
    import torch

    data_of, used = import_module("recbole.data"), import_module("recbole.utils")
    configured = import_module("recbole.config").Config

    torch.set_num_threads(1)
    gone = {"float": float, "int": int, "bool": bool, "complex": complex, "object": object, "str": str, "long": int}
    gone |= {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_, "unicode": str}
    for name, kind in gone.items():  # Which numpy had until 1.24 or 2.0.
        vars(np).setdefault(name, kind)
    load_checkpoint = torch.load
    torch.load = lambda *args, **kwargs: load_checkpoint(*args, **{**kwargs, "weights_only": False})
    own = {
        "data_path": str(Path(folder) / "recbole/dataset_example"),
        "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"},
        "metrics": ["Recall", "NDCG", "MRR"],
        "topk": [10],
        "valid_metric": "NDCG@10",
        "epochs": epochs,
        "stopping_step": 5,
        "eval_batch_size": 4096,
        "show_progress": False,
        "checkpoint_dir": str(Path(folder) / "saved"),
    }
    sequential: dict[str, Any] = {"loss_type": "CE", "train_neg_sample_args": None}
    sequential |= {"hidden_dropout_prob": 0.2, "attn_dropout_prob": 0.2}
    for name in models:
        start = time.process_time()
        config = configured(model=name, dataset="ml-100k", config_dict=own | (sequential if "Rec" in name else {}))
        used.init_seed(config["seed"], reproducibility=True)
        data = data_of.create_dataset(config)
        parts = data_of.data_preparation(config, data)
        model = used.get_model(config["model"])(config, parts[0].dataset)
        trainer = used.get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        trainer.fit(parts[0], parts[1], saved=True, show_progress=False)
        found = trainer.evaluate(parts[2], load_best_model=True, show_progress=False)
        print(name, dict(found), f"{time.process_time() - start:.0f} CPU-seconds", flush=True)
        if "Rec" in name:  # Of sequential models RecBole ranks the films that a user has seen, too.
            print(name, "without seen films", without_seen(model, data, parts[2].dataset), flush=True)


def without_seen(model: Any, data: Any, test: Any) -> dict[str, float]:
    """Measure a sequential model of RecBole's as all others are: among the films that a user hasn't seen.

    Args:
        model: The model.
        data: The data set, before it is split.
        test: The users' last films, each with what came before.
    """
    import torch

    rows = test.inter_feat
    users, films = (rows[name].numpy() for name in COLUMNS)
    scores = np.full((len(rows), data.item_num), -np.inf)
    model.eval()
    with torch.no_grad():
        for start in range(0, len(rows), 256):
            places = list(range(start, min(start + 256, len(rows))))
            scores[places] = model.full_sort_predict(rows[places]).reshape(len(places), -1).numpy()
    with RATINGS.open(newline="") as file:
        pairs = [(row["user"], row["film"]) for row in csv.DictReader(file)]
    names = [data.token2id(name, list(own)) for name, own in zip(COLUMNS, zip(*pairs, strict=True), strict=True)]
    seen = np.zeros((data.user_num, data.item_num), dtype=bool)
    seen[tuple(names)] = True
    own = scores[np.arange(len(rows)), films]
    scores[seen[users]] = -np.inf
    scores[:, 0] = -np.inf  # Padding.
    ranks = (scores > own[:, None]).sum(axis=1)
    gains = np.where(ranks < 10, 1 / np.log2(ranks + 2), 0.0)
    return {"recall@10": float((ranks < 10).mean()), "ndcg@10": float(gains.mean())}


def agreement(task: Recommendation, folder: str) -> None:
    """Print how far RecBole's metrics of our rankings are from ours."""
    sys.path.append(folder)
    vars(np).setdefault("float", float)  # Which numpy had until 1.24.
    metrics = import_module("recbole.evaluator.metrics")
    outputs = np.random.default_rng(0).normal(size=(len(task.test), len(task.labels))).astype(np.float32)
    labels = np.array([row.label for row in task.test])
    outputs[np.arange(len(labels)), labels] += 2
    best = np.argsort(-task._unseen(outputs, [row.fields for row in task.test]), axis=1)[:, :20]
    hits, one = best == labels[:, None], np.ones(len(labels), dtype=int)
    mine = task.measure(outputs, task.test)
    for kind in (metrics.NDCG, metrics.Recall):
        theirs = kind({"topk": [20], "metric_decimal_place": 9}).metric_info(hits, one).mean(axis=0)
        for cut in (5, 10, 20):
            name = f"{kind.__name__.lower()}_at_{cut}"
            print(name, mine[name], "differs by", abs(mine[name] - theirs[cut - 1]), flush=True)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recbole", help="folder with RecBole")
    parser.add_argument("--models", nargs="*", default=["Pop", "ItemKNN", "EASE", "SASRec", "GRU4Rec"])
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    task = load()
    print(task.cleaning, f"{len(task.labels)} items, {len(task.test)} test rows", flush=True)
    if options.recbole:
        agreement(task, options.recbole)
        recbole(options.recbole, options.models, options.epochs)
    else:
        ours(task, options.seeds)


if __name__ == "__main__":
    main()

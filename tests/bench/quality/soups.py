"""Average the weights of candidates that differ in their learning rate alone (Wortsman et al. 2022), or their outputs.

python -m tests.bench.quality.soups --pairs amazon-tweets --shots 8 --splits 0-2 --out runs/quality

All members start from one source stage, freeze the lower half of the layers, and are fitted to all labelled rows.
Accuracy on 500 test rows: the members' mean, the best of them with hindsight, their ensemble, and their soup.
"""

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from promptgraft.objectives.data import WHOLE
from promptgraft.objectives.trial import Objective
from promptgraft.search.sampling import baseline_candidates
from promptgraft.search.study import Study
from studies.preparing.downloads import MODELS
from tests.bench.quality.__main__ import names, numbers
from tests.bench.quality.data import PAIRS, settings, write_job
from tests.bench.quality.pool import SEED, study_with_answers
from tests.bench.quality.replays import points

LEARNING_RATES = (2e-5, 5e-5, 1e-4, 2e-4)
UPDATES = 32


def averaged(deltas: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each weight; all have the same weights."""
    return {name: torch.stack([own[name] for own in deltas]).mean(0) for name in deltas[0]}


def measure(study: Study, files: Path) -> dict[str, float]:
    """Return the accuracy on the test rows of each way."""
    objective = Objective(replace(study.objective, files=str(files)))
    objective.use_split(WHOLE)
    facts = study.objective.space.facts
    trained = replace(
        baseline_candidates(study)["contrastive_source"], alpha=0.0, steps=UPDATES, frozen_layers=facts.n_layers // 2
    )
    members = [replace(trained, learning_rate=rate).canonical(facts) for rate in LEARNING_RATES]
    deltas = [objective.evaluate(own, SEED, at=UPDATES).delta for own in members]
    labels = np.array([row.label for row in study.target.test])

    def chances(delta: Mapping[str, Tensor]) -> np.ndarray:
        return np.asarray(softmax(objective.score(members[0], delta, study.target.test, SEED), axis=1))

    def accuracy(found: np.ndarray) -> float:
        return float((found.argmax(1) == labels).mean())

    each = [chances(delta) for delta in deltas]
    return {
        "mean of members": mean(accuracy(own) for own in each),
        "best member, with hindsight": max(accuracy(own) for own in each),
        "ensemble": accuracy(np.mean(each, axis=0)),
        "soup": accuracy(chances(averaged(deltas))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=names, default=list(PAIRS))
    parser.add_argument("--shots", type=numbers, default=[8])
    parser.add_argument("--splits", type=numbers, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    out: Path = chosen.out.resolve()
    found: dict[str, list[float]] = defaultdict(list)
    for setting in settings(chosen.pairs, chosen.shots, chosen.splits):
        job = write_job(setting, out / "domains", MODELS, out / "data")
        first = write_job(replace(setting, split=0), out / "domains", MODELS, out / "data")
        files = out / "pool" / f"{setting.pair.name}-{setting.shots}-files"
        with tempfile.TemporaryDirectory() as folder:
            scores = measure(study_with_answers(job, first.folder / "source.csv", Path(folder)), files)
        print(setting.name, " ".join(f"{name} {score:.3f};" for name, score in scores.items()), file=sys.stderr)
        for name, score in scores.items():
            found[name].append(score)
    for name, own in found.items():
        gains = [score - least for score, least in zip(own, found["mean of members"], strict=True)]
        print(f"{name}: {mean(own):.4f}, {points(gains)} points")


if __name__ == "__main__":
    main()

"""Say what the searches that `pool` left would have shipped, and what each part of the search is worth.

python -m tests.bench.quality.replays --out runs/quality

A replay takes the candidates of one search, or some of them, in their order; lets them race between folds; chooses the
winner and an ensemble by rows out of their folds alone; and looks up what would have shipped on the test rows. The
splits of a pair have test rows of one domain, so that standard errors are over splits, pair by pair, and say nothing of
other pairs.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from promptgraft.objectives.kinds import log_loss
from promptgraft.objectives.measures import choose_members
from promptgraft.search.judging.intervals import score_interval
from promptgraft.search.sampling import FoldRace
from promptgraft.search.trials import FoldScores

MEMBERS = 3

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """A candidate: what it had after each fold, if it ran; what it made of the test rows; and what its folds took.

    Attributes:
        found: After each fold, its values so far and its probabilities of the rows so far, shape (rows, labels).
        test: Probabilities of the test rows.
        cpu_s: CPU-seconds of all folds.
    """

    name: str
    candidate: dict[str, object]
    found: Sequence[tuple[tuple[float, ...], Floats]]
    test: Floats
    cpu_s: float

    @property
    def chances(self) -> Floats | None:
        """Probabilities of all rows, each by a model that hadn't seen it."""
        return self.found[-1][1] if self.found else None

    @property
    def is_baseline(self) -> bool:
        """Whether a user would have tried it without a search."""
        return self.name.startswith("baseline")


@dataclass(frozen=True)
class Pool:
    """A setting with its candidates.

    Attributes:
        labels: Of the labelled rows, fold by fold, shape (rows,).
        folds: Number of each row's fold, shape (rows,).
        test_labels: Shape (test rows,).
    """

    name: str
    labels: npt.NDArray[np.int64]
    folds: npt.NDArray[np.int64]
    test_labels: npt.NDArray[np.int64]
    candidates: Sequence[Measured]

    @classmethod
    def load(cls, path: Path) -> "Pool":
        """Read a file of `pool`."""
        with np.load(path) as file:
            measured = [
                Measured(
                    entry["name"],
                    entry["candidate"],
                    [
                        (tuple(values), softmax(file[f"oof_{n}_{fold}"].astype(np.float64), axis=1))
                        for fold, values in enumerate(entry["fold_values"])
                    ],
                    softmax(file[f"test_{n}"].astype(np.float64), axis=1),
                    entry["cpu_s"],
                )
                for n, entry in enumerate(json.loads(str(file["candidates"])))
            ]
            return cls(path.stem, file["labels"], file["folds"], file["test_labels"], measured)

    @property
    def pair(self) -> str:
        """Name of the pair and number of labels a class."""
        return self.name.rpartition("-")[0]

    @property
    def n_folds(self) -> int:
        """Number of folds."""
        return int(self.folds.max()) + 1

    def values(self, chances: Floats) -> Floats:
        """Return the accuracy of each fold, shape (folds,)."""
        right = chances.argmax(1) == self.labels
        return np.array([right[self.folds == fold].mean() for fold in range(self.n_folds)])

    def value(self, chances: Floats, folds: int | None = None) -> float:
        """Return the accuracy out of folds, the mean over the first folds or all."""
        return float(self.values(chances)[:folds].mean())

    def loss(self, chances: Floats) -> float:
        """Return the mean log loss out of folds, in nats."""
        return float(log_loss(chances, self.labels).mean())

    def accuracy(self, test: Floats) -> float:
        """Return the accuracy on the test rows."""
        return float((test.argmax(1) == self.test_labels).mean())


def raced(pool: Pool, candidates: Sequence[Measured], *, prunes: bool) -> tuple[list[Measured], float]:
    """Return who runs on every fold, and the CPU-seconds of all; nobody is pruned unless told so."""
    race, ended, spent = FoldRace(maximize=True), list[Measured](), 0.0
    for own in candidates:
        for fold, (values, chances) in enumerate(own.found):
            rows = np.arange(len(chances))
            scores = FoldScores(values, tuple(chances[rows, pool.labels[: len(rows)]].tolist()))
            if fold + 1 == len(own.found):
                race.finished(scores)
                ended.append(own)
            elif not (prunes and race.is_behind(scores)):
                continue
            spent += own.cpu_s * len(rows) / len(pool.labels)
            break
    return ended, spent


Chances = dict[str, Floats]  # Name -> probabilities out of folds.
Rank = Callable[[Pool, Floats], tuple[float, ...]]


def uses_source(own: Measured) -> bool:
    return bool(own.candidate.get("source_steps") or own.candidate.get("alpha"))


def is_contrastive(own: Measured) -> bool:
    source = own.candidate.get("source_steps") and own.candidate.get("source_objective") == "contrastive"
    return bool(source or own.candidate.get("contrastive_steps"))


def by_metric(pool: Pool, chances: Floats) -> tuple[float, ...]:
    """Rank by accuracy, then by log loss."""
    return pool.value(chances), -pool.loss(chances)


def by_likelihood(pool: Pool, chances: Floats) -> tuple[float, ...]:
    """Rank by log loss alone."""
    return (-pool.loss(chances),)


def by_first_fold(pool: Pool, chances: Floats) -> tuple[float, ...]:
    """Rank by one held-out part, as without cross-validation."""
    inside = pool.folds == 0
    return pool.value(chances, 1), -float(log_loss(chances[inside], pool.labels[inside]).mean())


def by_order(pool: Pool, chances: Floats) -> tuple[float, ...]:
    """Take the first that was tried."""
    return ()


@dataclass(frozen=True)
class Variant:
    """A way to search.

    Attributes:
        keeps: Which candidates the space has.
        rank: What the winner is best in; None for what ships, see `winner_of`.
        members: Most picks of an ensemble; 1 for none.
        prunes: Whether candidates race between folds.
    """

    keeps: Callable[[Measured], bool] = field(default=lambda own: True)
    rank: Rank | None = None
    members: int = MEMBERS
    prunes: bool = True


VARIANTS = {
    "default": Variant(),
    "no race between folds": Variant(prunes=False),
    "no ensemble": Variant(members=1),
    "no ensemble, winner by the best value": Variant(rank=by_metric, members=1),
    "winner by the best value": Variant(rank=by_metric),
    "no ensemble, winner by log loss": Variant(rank=by_likelihood, members=1),
    "no ensemble, winner by one held-out part": Variant(rank=by_first_fold, members=1),
    "the first candidate, no search": Variant(rank=by_order, members=1),
    "no baselines as trials": Variant(keeps=lambda own: not own.is_baseline),
    "baselines alone": Variant(keeps=lambda own: own.is_baseline),
    "no contrastive recipes": Variant(keeps=lambda own: not is_contrastive(own)),
    "no source": Variant(keeps=lambda own: not uses_source(own)),
}


@dataclass(frozen=True)
class Replay:
    """What would have shipped.

    Attributes:
        accuracy: On the test rows.
        estimate: What the winner alone scored out of its folds.
        winner: What the winner alone scores on the test rows.
        covered: Whether the 95 % interval of the estimate holds that.
        control: The best baseline on the test rows.
        cpu_s: CPU-seconds of the search.
    """

    accuracy: float
    estimate: float
    winner: float
    covered: bool
    control: float
    cpu_s: float


def replay(pool: Pool, variant: Variant) -> Replay | None:
    """Search once; None if the search has no candidate."""
    kept, cpu_s = raced(pool, [own for own in pool.candidates if variant.keeps(own)], prunes=variant.prunes)
    chances: Chances = {own.name: own.chances for own in kept if own.chances is not None}
    tests = {own.name: own.test for own in kept}
    if not chances:
        return None
    using = {own.name for own in kept if uses_source(own)}
    winner = winner_of(pool, chances, using, variant.rank)

    def measure(logits: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]) -> float:
        return float((logits.argmax(1) == pool.labels[rows]).mean())

    interval = score_interval(chances[winner].astype(np.float32), measure, "accuracy", 0.05)
    alone = pool.accuracy(tests[winner])
    near = {name: own for name, own in chances.items() if winner not in using or name in using}
    members = _members(pool, near, winner, variant.members)
    return Replay(
        accuracy=pool.accuracy(np.mean([tests[name] for name in members], axis=0)),
        estimate=pool.value(chances[winner]),
        winner=alone,
        covered=interval.low <= alone <= interval.high,
        control=max(pool.accuracy(own.test) for own in pool.candidates if own.is_baseline),
        cpu_s=cpu_s,
    )


def winner_of(pool: Pool, chances: Chances, using: Collection[str], rank: Rank | None) -> str:
    """Return the best by a rank, or what `search.trials.ranked_trials` has first.

    Args:
        pool: The setting.
        chances: Those that ran on every fold.
        using: Which of them use the source.
        rank: The rank.
    """
    if rank is not None:
        return max(chances, key=lambda name: rank(pool, chances[name]))
    best = max(chances, key=lambda name: (pool.value(chances[name]), name in using, -pool.loss(chances[name])))

    def is_near(name: str) -> bool:
        behind = (pool.values(chances[best]) - pool.values(chances[name])).tolist()
        return bool(mean(behind) <= standard_error(behind) + 1e-12)

    return max(filter(is_near, chances), key=lambda name: (name in using, -pool.loss(chances[name])))


def _members(pool: Pool, chances: Chances, winner: str, picks: int) -> Sequence[str]:
    """Return what ships: the ensemble, unless the folds show it to be worse (see `choose_ensemble`), or the winner."""
    names = list(chances)
    first = names.index(winner)
    rows = np.arange(len(pool.labels))
    good = {number: own[rows, pool.labels] for number, own in enumerate(chances.values())}
    values = {number: pool.values(own) for number, own in enumerate(chances.values())}
    together = np.empty_like(chances[winner])
    for fold in range(pool.n_folds):
        inside = pool.folds == fold
        rest = {number: own[~inside] for number, own in good.items()}
        other_folds = {number: np.delete(own, fold) for number, own in values.items()}
        chosen = choose_members(rest, other_folds, first, picks)
        together[inside] = np.mean([chances[names[number]][inside] for number in chosen], axis=0)
    gains = (pool.values(together) - values[first]).tolist()
    if mean(gains) < -standard_error(gains):
        return [winner]
    return [names[number] for number in choose_members(good, values, first, picks)]


def standard_error(values: Sequence[float]) -> float:
    """Return that of a mean; 0 for one value."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def points(values: Sequence[float]) -> str:
    """Write a mean difference and its standard error in points."""
    return f"{100 * mean(values):+.2f} ± {100 * standard_error(values):.2f}"


def table(pools: Sequence[Pool]) -> str:
    """Compare the variants with the default, pair by pair."""
    pairs: dict[str, list[Pool]] = defaultdict(list)
    for pool in pools:
        pairs[pool.pair].append(pool)
    lines = ["| search | " + " | ".join(f"{name}, {len(own)} splits" for name, own in pairs.items()) + " |"]
    lines += ["| --- " * (len(pairs) + 1) + "|"]
    default = {pool.name: found for pool in pools if (found := replay(pool, Variant()))}
    for name, variant in VARIANTS.items():
        cells = []
        for own in pairs.values():
            runs = {pool.name: replayed for pool in own if (replayed := replay(pool, variant))}
            gains = [replayed.accuracy - default[setting].accuracy for setting, replayed in runs.items()]
            left_out = f" ({len(own) - len(runs)} without a candidate)" if len(runs) < len(own) else ""
            score = mean(replayed.accuracy for replayed in runs.values()) if runs else math.nan
            seconds = mean(replayed.cpu_s for replayed in runs.values()) if runs else 0.0
            compared = f"; {points(gains)}" if name != "default" and gains else ""
            cells.append(f"{score:.4f}, {seconds:.0f} CPU-s{compared}{left_out}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    every = list(default.values())
    worse = mean(own.accuracy < own.control - 0.01 for own in every)
    bias = points([own.estimate - own.winner for own in every])
    lines += [
        "",
        f"{len(every)} searches.",
        f"Shipped more than 1 point below the best baseline on the test rows: {100 * worse:.1f} %.",
        f"Shipped less the best baseline: {points([own.accuracy - own.control for own in every])} points.",
        f"95 % interval holds the winner's accuracy on the test rows: {100 * mean(o.covered for o in every):.1f} %.",
        f"Winner's score out of folds less that accuracy: {bias} points.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    chosen = parser.parse_args()
    found = table([Pool.load(path) for path in sorted((chosen.out / "pool").glob("*[0-9].npz"))])
    (chosen.out / "replays.md").write_text(found)
    print(found)


if __name__ == "__main__":
    main()

"""Replay searches on measured pools (`pool`), and say what each part of the search is worth on the test rows.

python -m tests.bench.quality.replays --out runs/quality --replays 20

A replay draws a seeded order of a setting's candidates: the baselines and start points first, as a study queues them,
then some of the random ones. It races them over the folds, chooses the winner and an ensemble by rows out of their
folds alone, and looks up what would have shipped on the test rows. Replays of one setting share its rows, so standard
errors are over the means of the settings.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from statistics import mean, stdev

import numpy as np
import numpy.typing as npt
import optuna
from scipy.special import softmax

from promptgraft.objectives.kinds import log_loss
from promptgraft.objectives.measures import choose_members
from promptgraft.search.judging.intervals import score_interval
from promptgraft.search.sampling import FoldRace
from promptgraft.search.trials import FoldScores

CONTROLS = ("full_fine_tuning", "linear_probe", "linear_probe_with_source", "zero_shot", "contrastive")
RANDOM_DRAWN = 6
MEMBERS = 5

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """A candidate of a pool: what it made of the rows out of their folds, and of the test rows."""

    name: str
    candidate: dict[str, object]
    seconds: float
    chances: Floats
    test: Floats


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
                    entry["cpu_s"],
                    softmax(file[f"oof_{n}"].astype(np.float64), axis=1),
                    softmax(file[f"test_{n}"].astype(np.float64), axis=1),
                )
                for n, entry in enumerate(json.loads(str(file["candidates"])))
            ]
            return cls(path.stem, file["labels"], file["folds"], file["test_labels"], measured)

    def value(self, chances: Floats, folds: int | None = None) -> float:
        """Return the accuracy out of folds, the mean over the first folds or all."""
        right = chances.argmax(1) == self.labels
        return mean(float(right[self.folds == fold].mean()) for fold in range(folds or self.n_folds))

    def loss(self, chances: Floats) -> float:
        """Return the mean log loss out of folds, in nats."""
        return float(log_loss(chances, self.labels).mean())

    def accuracy(self, test: Floats) -> float:
        """Return the accuracy on the test rows."""
        return float((test.argmax(1) == self.test_labels).mean())

    @property
    def n_folds(self) -> int:
        """Number of folds."""
        return int(self.folds.max()) + 1


Rank = Callable[[Pool, Measured], tuple[float, ...]]
Keeps = Callable[[Measured], bool]


def by_metric(pool: Pool, own: Measured) -> tuple[float, ...]:
    """Rank by accuracy, then by log loss."""
    return pool.value(own.chances), -pool.loss(own.chances)


def by_likelihood(pool: Pool, own: Measured) -> tuple[float, ...]:
    """Rank by log loss alone."""
    return (-pool.loss(own.chances),)


def by_first_fold(pool: Pool, own: Measured) -> tuple[float, ...]:
    """Rank by one held-out part, as without cross-validation."""
    inside = pool.folds == 0
    return pool.value(own.chances, 1), -float(log_loss(own.chances[inside], pool.labels[inside]).mean())


class NoRace:
    """Prunes nothing."""

    def finished(self, scores: FoldScores) -> None:
        """Take note of nothing."""

    def is_behind(self, scores: FoldScores) -> bool:
        """Never."""
        return False


class WilcoxonRace:
    """Optuna's WilcoxonPruner on the rows' probabilities of the true label, asked at the end of each fold."""

    def __init__(self) -> None:
        self._study = optuna.create_study(direction="maximize", pruner=optuna.pruners.WilcoxonPruner())

    def finished(self, scores: FoldScores) -> None:
        """Keep a trial that has run all folds."""
        curve = dict(enumerate(scores.row_scores))
        self._study.add_trial(optuna.create_trial(value=mean(scores.row_scores), intermediate_values=curve))

    def is_behind(self, scores: FoldScores) -> bool:
        """Ask the pruner."""
        if not self._study.trials:
            return False
        curve = dict(enumerate(scores.row_scores))
        running = optuna.trial.TrialState.RUNNING
        trial = optuna.create_trial(state=running, intermediate_values=curve)
        return self._study.pruner.prune(self._study, trial)


@dataclass(frozen=True)
class Variant:
    """A way to search.

    Attributes:
        keeps: Which candidates the space has.
        rank: What the winner is best in.
        race: Makes what prunes between folds.
        members: Most picks of an ensemble; 1 for none.
    """

    keeps: Keeps = field(default=lambda own: True)
    rank: Rank = by_metric
    race: Callable[[], FoldRace | NoRace | WilcoxonRace] = field(default=lambda: FoldRace(maximize=True))
    members: int = MEMBERS


def uses_source(own: Measured) -> bool:
    return bool(own.candidate.get("source_steps") or own.candidate.get("alpha"))


def is_contrastive(own: Measured) -> bool:
    source = own.candidate.get("source_steps") and own.candidate.get("source_objective") == "contrastive"
    return bool(source or own.candidate.get("contrastive_steps"))


VARIANTS = {
    "default": Variant(),
    "no ensemble": Variant(members=1),
    "winner by log loss": Variant(rank=by_likelihood),
    "winner by one held-out part": Variant(rank=by_first_fold),
    "no baselines as trials": Variant(keeps=lambda own: not own.name.startswith("baseline")),
    "no start points": Variant(keeps=lambda own: not own.name.startswith("start")),
    "baselines alone": Variant(keeps=lambda own: own.name.startswith("baseline")),
    "no contrastive recipes": Variant(keeps=lambda own: not is_contrastive(own)),
    "no source": Variant(keeps=lambda own: not uses_source(own)),
    "no pruning between folds": Variant(race=NoRace),
    "WilcoxonPruner between folds": Variant(race=WilcoxonRace),
}


@dataclass(frozen=True)
class Replay:
    """What would have shipped.

    Attributes:
        accuracy: On the test rows.
        estimate: What the winner alone scored out of its folds.
        winner: What the winner alone scores on the test rows.
        covered: Whether the 95 % interval of the estimate holds that.
        control: The best of the controls on the test rows.
        seconds: CPU-seconds of the folds that ran.
    """

    accuracy: float
    estimate: float
    winner: float
    covered: bool
    control: float
    seconds: float


def replay(pool: Pool, variant: Variant, seed: int) -> Replay:
    """Search once."""
    ran, seconds = _race(pool, variant, _order(pool, seed, variant.keeps))
    winner = max(ran, key=lambda own: variant.rank(pool, own))
    shipped = _shipped(pool, winner, ran, variant.members)

    def measure(logits: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]) -> float:
        return float((logits.argmax(1) == pool.labels[rows]).mean())

    interval = score_interval(winner.chances.astype(np.float32), measure, "accuracy", 0.05)
    alone = pool.accuracy(winner.test)
    controls = [own for own in pool.candidates if own.name.removeprefix("baseline ") in CONTROLS]
    best = max(pool.accuracy(own.test) for own in controls)
    covered = interval.low <= alone <= interval.high
    return Replay(pool.accuracy(shipped), pool.value(winner.chances), alone, covered, best, seconds)


def _order(pool: Pool, seed: int, keeps: Keeps) -> list[Measured]:
    """List what a search tries: all that is queued, then some random points."""
    drawn = [own for own in pool.candidates if own.name.startswith("random")]
    queued = [own for own in pool.candidates if own not in drawn]
    found = [*queued, *Random(seed).sample(drawn, min(RANDOM_DRAWN, len(drawn)))]
    return [own for own in found if keeps(own)] or queued[:1]


def _race(pool: Pool, variant: Variant, order: Sequence[Measured]) -> tuple[list[Measured], float]:
    """Return the candidates that ran on all folds, and the CPU-seconds of all."""
    race, ran, seconds = variant.race(), [], 0.0
    by_fold = [np.flatnonzero(pool.folds == fold) for fold in range(pool.n_folds)]
    for own in order:
        scores = own.chances[np.arange(len(pool.labels)), pool.labels]
        for done in range(1, pool.n_folds + 1):
            rows = np.concatenate(by_fold[:done])
            so_far = FoldScores(pool.value(own.chances, done), tuple(scores[rows].tolist()))
            if done < pool.n_folds and race.is_behind(so_far):
                seconds += own.seconds * done / pool.n_folds
                break
        else:
            race.finished(so_far)
            ran.append(own)
            seconds += own.seconds
    return ran, seconds


def _shipped(pool: Pool, winner: Measured, ran: Sequence[Measured], picks: int) -> Floats:
    """Return the probabilities of what ships: the ensemble if it is better out of folds, as `choose_ensemble` says."""
    numbers = dict(enumerate(ran))
    first = next(number for number, own in numbers.items() if own is winner)
    chances = {number: own.chances for number, own in numbers.items()}
    together = np.empty_like(winner.chances)
    for fold in range(pool.n_folds):
        inside = pool.folds == fold
        others = {number: own[~inside] for number, own in chances.items()}
        chosen = choose_members(others, partial(log_loss, labels=pool.labels[~inside]), first, picks)
        together[inside] = np.mean([chances[number][inside] for number in chosen], axis=0)
    right = [(found.argmax(1) == pool.labels) for found in (together, winner.chances)]
    gains = [
        float(right[0][pool.folds == fold].mean() - right[1][pool.folds == fold].mean()) for fold in range(pool.n_folds)
    ]
    error = stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
    if pool.loss(together) >= pool.loss(winner.chances) or mean(gains) < -error:
        return winner.test
    members = choose_members(chances, partial(log_loss, labels=pool.labels), first, picks)
    return np.asarray(np.mean([numbers[number].test for number in members], axis=0))


def table(pools: Sequence[Pool], replays: int) -> str:
    """Compare the variants with the default, setting by setting."""
    lines = ["| search | accuracy | against the default | CPU-s |", "| --- | --- | --- | --- |"]
    default = [[replay(pool, VARIANTS["default"], seed) for seed in range(replays)] for pool in pools]
    for name, variant in VARIANTS.items():
        found = [[replay(pool, variant, seed) for seed in range(replays)] for pool in pools]
        means = [mean(own.accuracy for own in runs) for runs in found]
        gains = [ours - mean(own.accuracy for own in runs) for ours, runs in zip(means, default, strict=True)]
        error = stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
        seconds = mean(own.seconds for runs in found for own in runs)
        lines.append(f"| {name} | {mean(means):.4f} | {100 * mean(gains):+.2f} ± {100 * error:.2f} | {seconds:.0f} |")
    every = [own for runs in default for own in runs]
    worse = mean(own.accuracy < own.control - 0.01 for own in every)
    biases = [mean(own.estimate - own.winner for own in runs) for runs in default]
    error = stdev(biases) / math.sqrt(len(biases)) if len(biases) > 1 else math.nan
    covered = 100 * mean(own.covered for own in every)
    bias = f"{100 * mean(biases):+.2f} ± {100 * error:.2f} points"
    lines += [
        "",
        f"{len(every)} replays on {len(pools)} settings.",
        f"Shipped more than 1 point below the best of {len(CONTROLS)} controls on the test rows: {100 * worse:.1f} %.",
        f"95 % interval of the winner's score holds its accuracy on the test rows: {covered:.1f} %.",
        f"Winner's score out of folds less its accuracy on the test rows: {bias}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--replays", type=int, default=20, help="searches a setting")
    chosen = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pools = [Pool.load(path) for path in sorted((chosen.out / "pool").glob("*.npz"))]
    found = table(pools, chosen.replays)
    (chosen.out / "replays.md").write_text(found)
    print(found)


if __name__ == "__main__":
    main()

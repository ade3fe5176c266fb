"""Compute to reach a score: searches replayed on a table of real results, ours and those that a user would run today.

python -m tests.bench.replay --study surface --runs 1 --systems list,hpo_optuna_tuned --out REPLAY.json
python -m tests.bench.free_search SURFACE.json [--peer REPLAY.json] [--seeds 100] [--out F.json]

Every searcher meets the same table (`tests.bench.surface`): the validation accuracy of each candidate at each of its
evaluations was measured once. What differs is what is drawn, what is stopped early, and what that costs. The target is
what random search without pruning reaches in 100 trials, the median of a thousand searches (few of them would leave it
to chance which of two scores that is). Costs are processor seconds:

    ours      what each candidate took beside the stages that trials share, and each stage when the first one needs it
    peers     `Trainer.hyperparameter_search` in its tuned form, measured on a sample of the candidates
              (`--peer`, a replay of candidates of `surface.yaml`) and fitted to the others

Overhead of the search itself (Ray, storage, start-up) is in neither. Searchers:

    peer random         Optuna's random sampler, nothing pruned, candidates drawn again and again
    peer tpe asha       Optuna's TPE as Ray's OptunaSearch uses it (a stopped trial counts with its last value), Ray's
                        own ASHA with the reduction factor that serves it best
    ours                promptgraft's draws (TPE, no candidate twice) and the demo's median pruner
    ours, unpruned      the same, nothing pruned; with random draws
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState
from ray.tune.schedulers.async_hyperband import _Bracket

from promptgraft.search.sampling import Proposals
from promptgraft.search.study import EngineSection, build_pruner, load_study
from promptgraft.spaces import Candidate, SearchSpace, SuggestingTrial
from tests.bench.replay_ours import read_candidate
from tests.bench.surface import STUDY

PEER = "hpo_optuna_tuned"
RANDOM_TRIALS, RANDOM_SEARCHES = 100, 1000
MAX_TRIALS = 300
FACTORS = (2, 3, 4)  # Ray's default reduction factor is 4.

# What a search has spent and the best value it has seen, after each evaluation.
Progress = Iterator[tuple[float, float]]


@dataclass(frozen=True)
class Table:
    """Real results.

    Attributes:
        space: Where they were drawn from.
        candidates: Key of a candidate -> its curve and value.
        stages: Stage -> [seconds, stages that it is made from].
    """

    space: SearchSpace
    candidates: dict[str, dict[str, Any]]
    stages: dict[str, list[Any]]

    @classmethod
    def read(cls, path: Path) -> "Table":
        content = json.loads(path.read_text())
        return cls(load_study(STUDY).objective.space, content["candidates"], content["stages"])

    def curve(self, candidate: Candidate) -> list[dict[str, Any]]:
        curve: list[dict[str, Any]] = self.candidates[candidate.key]["curve"]
        return curve


class OurCosts:
    """Seconds of a trial up to each evaluation, with a store that fills up as the search goes on."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._stored: set[str] = set()

    def _pay(self, stage: str) -> float:
        if stage in self._stored:
            return 0.0
        self._stored.add(stage)
        seconds, parts = self.table.stages[stage]
        return float(seconds) + sum(self._pay(part) for part in parts)

    def steps(self, candidate: Candidate) -> Iterator[float]:
        """Hand out what each further evaluation costs."""
        before = 0.0
        for point in self.table.curve(candidate):
            yield point["own_s"] - before + sum(self._pay(stage) for stage in point["stages"])
            before = point["own_s"]


class PeerCosts:
    """The same for the peer: a sum of what its parts took in a sample, fitted by least squares.

    The table and the sample were measured at different times, on a machine that may have been busier: the peer's
    seconds are put on the table's scale by what our own cost of the sample is in both.
    """

    def __init__(self, table: Table, replay: dict[str, Any]) -> None:
        self.table = table
        rows = [read_candidate(entry) for entry in replay["candidates"]]
        ours = OurCosts(table)
        in_table = sum(sum(ours.steps(row)) for row in rows)
        self.scale = in_table / sum(_medians(replay, "list"))
        seconds = self.scale * np.array(_medians(replay, PEER))
        known = np.array([self._features(row) for row in rows])
        self._weights = np.linalg.lstsq(known, seconds, rcond=None)[0]
        fitted = known @ self._weights
        self.error = float(np.abs(fitted - seconds).mean() / seconds.mean())

    @staticmethod
    def _features(candidate: Candidate) -> list[float]:
        """Source stage, evaluations, then forward and backward passes of the updates."""
        tasks = 2.0 if candidate.alpha > 0 else 1.0
        tokens = float(candidate.soft_prompt.length > 0)
        # A late prompt needs gradients from layer 4 on, whatever is frozen.
        depth = 6 - min(candidate.frozen_layers, 4 if tokens else 6)
        return [float(candidate.source_steps > 0), 1.0, tasks, tasks * depth]

    def steps(self, candidate: Candidate) -> Iterator[float]:
        """Hand out what each further evaluation costs."""
        source, evaluations, *updates = np.array(self._features(candidate)) * self._weights
        curve = self.table.curve(candidate)
        last = max(1, curve[-1]["step"])
        before = 0
        for index, point in enumerate(curve):
            share = (point["step"] - before) / last
            before = point["step"]
            yield float(evaluations / len(curve) + share * sum(updates) + (source if index == 0 else 0.0))


def _medians(replay: dict[str, Any], system: str) -> list[float]:
    """Return what each candidate of a replay took, the median of its runs."""
    runs = [[entry["cpu_s"] for entry in run["candidates"]] for run in replay["reports"][system]]
    return [statistics.median(found) for found in zip(*runs, strict=True)]


def peer(table: Table, costs: PeerCosts, sampler: str, factor: int | None, seed: int) -> Progress:
    """Search as Ray Tune with OptunaSearch does; ASHA with a reduction factor, or nothing stopped."""
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.RandomSampler(seed) if sampler == "random" else optuna.samplers.TPESampler(seed=seed),
    )
    bracket = _Bracket(8, 32, factor, 0) if factor else None
    spent, best = 0.0, 0.0
    for _ in range(MAX_TRIALS):
        trial = study.ask()
        candidate = table.space.suggest(cast("SuggestingTrial", trial))
        ray_trial: Any = SimpleNamespace(trial_id=trial.number)  # All that the bracket asks for.
        value = 0.0
        for point, seconds in zip(table.curve(candidate), costs.steps(candidate), strict=True):
            spent, value = spent + seconds, point["accuracy"]
            best = max(best, value)
            yield spent, best
            if bracket and point["step"] and bracket.on_result(ray_trial, point["step"], value) == "STOP":
                break
        study.tell(trial, value)


def ours(table: Table, seed: int, sampler: str = "tpe", pruner: str = "median") -> Progress:
    """Search as promptgraft does, one trial at a time."""
    engine = EngineSection(name="tpe", n_startup_trials=8) if sampler == "tpe" else EngineSection(name="random")
    proposals = Proposals(table.space, engine, seed, [StudyDirection.MAXIMIZE])
    options = {"n_startup_trials": 4, "n_warmup_steps": 8} if pruner == "median" else {}
    proposals._copy.pruner = build_pruner(pruner, options)
    costs = OurCosts(table)
    known: set[str] = set()
    spent, best = 0.0, 0.0
    while (proposal := proposals.draw(known, len(known))) is not None:
        candidate, trial = proposal.candidate, proposal.trial
        assert trial is not None
        known.add(candidate.key)
        curve = table.curve(candidate)
        state = TrialState.COMPLETE
        for point, seconds in zip(curve, costs.steps(candidate), strict=True):
            spent, best = spent + seconds, max(best, point["accuracy"])
            yield spent, best
            trial.report(point["accuracy"], point["step"])
            if point is not curve[-1] and trial.should_prune():
                state = TrialState.PRUNED
                break
        value = table.candidates[candidate.key]["value"]
        proposals.told(proposal, state, [value])


def to_reach(progress: Progress, target: float) -> float | None:
    """Return what a search had spent when it reached a value; None if it never did."""
    return next((spent for spent, best in progress if best >= target), None)


def target_of(table: Table) -> tuple[float, list[float]]:
    """Return the median of the best values of random searches, and all of them."""
    found = []
    for seed in range(RANDOM_SEARCHES):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
        drawn = [table.space.suggest(cast("SuggestingTrial", study.ask())).key for _ in range(RANDOM_TRIALS)]
        found.append(max(table.candidates[key]["value"] for key in drawn))
    return statistics.median_low(found), found


def searchers(table: Table, peer_costs: PeerCosts | None) -> dict[str, Callable[[int], Progress]]:
    """Return all searchers by name, from seed to search."""
    found: dict[str, Callable[[int], Progress]] = {
        "ours": partial(ours, table),
        "ours, unpruned": partial(ours, table, pruner="none"),
        "ours, unpruned, random": partial(ours, table, sampler="random", pruner="none"),
    }
    if peer_costs is not None:
        found["peer random"] = partial(peer, table, peer_costs, "random", None)
        found["peer tpe"] = partial(peer, table, peer_costs, "tpe", None)
        for factor in FACTORS:
            found[f"peer tpe asha {factor}"] = partial(peer, table, peer_costs, "tpe", factor)
    return found


def measure(
    table: Table, chosen: dict[str, Callable[[int], Progress]], seeds: Sequence[int], out: Path | None
) -> dict[str, Any]:
    """Let searchers search with all seeds; show and write what is known after each of them."""
    target, best_of_random = target_of(table)
    found: dict[str, Any] = {"target": target, "best_of_random": best_of_random, "spent_s": {}}
    print(f"target {target:.4f} (best of {RANDOM_TRIALS} random: {min(best_of_random):.4f}-{max(best_of_random):.4f})")
    print(f"  {'searcher':28} {'CPU-s to the target':>20} {'quartiles':>20} {'ratio to the first':>19} {'failed':>7}")
    for name, search in chosen.items():
        found["spent_s"][name] = [to_reach(search(seed), target) for seed in seeds]
        show(name, found["spent_s"])
        if out:
            out.write_text(json.dumps(found, indent=1))
    return found


def show(name: str, spent: dict[str, list[float | None]]) -> None:
    """Print a line; a search that failed counts as longer than all others."""
    values, base = spent[name], _median(next(iter(spent.values())))
    middle, low, high = _median(values), _median(values, 0.25), _median(values, 0.75)
    failed = sum(value is None for value in values)
    quartiles = f"{low:9.0f}-{high:<10.0f}"
    print(f"  {name:28} {middle:20.0f} {quartiles} {middle / base:18.2f} {failed:4}/{len(values)}", flush=True)


def _median(values: Sequence[float | None], share: float = 0.5) -> float:
    ranked = sorted(float("inf") if value is None else value for value in values)
    return ranked[round(share * (len(ranked) - 1))]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("surface", type=Path)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--only", action="append", help="a searcher; may be given several times")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table = Table.read(arguments.surface)
    peer_costs = None
    if arguments.peer:
        peer_costs = PeerCosts(table, json.loads(arguments.peer.read_text())["surface"])
        print(
            f"the peer's costs: times {peer_costs.scale:.2f} for the scale, "
            f"fitted with a mean error of {100 * peer_costs.error:.0f} %"
        )
    chosen = searchers(table, peer_costs)
    if arguments.only:
        chosen = {name: chosen[name] for name in arguments.only}
    measure(table, chosen, range(arguments.seeds), arguments.out)


if __name__ == "__main__":
    main()

"""Regret against number of trials on a table of real results: samplers, and templates that join on the way.

python -m tests.bench.surface --study tests/bench/templates.yaml --out TABLE.json --files STORE
python -m tests.bench.samplers TABLE.json [--seeds 20] [--out F.json] [--plot F.png]

Every candidate of `templates.yaml` was evaluated once: 24 templates, 4 of them written by hand and 20 that rounds of
growth made from those. Regret is the best value of the table less the best value seen. Samplers draw from all of it:

    random      Optuna's random sampler, as it is: it may draw a candidate again
    tpe         Optuna's TPE, as it is
    no double   promptgraft's draws with TPE: no candidate twice, templates are strangers to each other
    ours        the same, with the kernel that says which templates are alike (`search.similarity`)

Templates that join: a search has the 4 templates for some trials, then all 24.

    from the start      it had all 24 at once
    joined              it goes on with what it has learnt, as promptgraft does
    joined, strangers   the same without the kernel
    restarted           it begins again with all 24, and knows nothing; its earlier trials count
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from promptgraft.search.guidance import FIRST_LOOKS, Guidance
from promptgraft.search.proposals import Proposals
from promptgraft.search.similarity import TemplateKernel
from promptgraft.search.studies import load_study
from promptgraft.search.study_file import EngineSection, GuidanceSection
from promptgraft.spaces import Candidate, SearchSpace
from promptgraft.spaces.parameters import SuggestingTrial

STUDY = Path(__file__).parent / "templates.yaml"
WRITTEN, JOIN_AT = 4, 20
TRIALS = 80
SHOWN = (10, 20, 25, 30, 40, 60, 80)
ENGINE = EngineSection(name="tpe", n_startup_trials=8)

Values = Iterator[float]


@dataclass(frozen=True)
class Table:
    """Real results of all candidates of a space, and what is known of its templates before any training."""

    space: SearchSpace
    values: dict[str, float]
    kernel: TemplateKernel

    @classmethod
    def read(cls, path: Path) -> "Table":
        content = json.loads(path.read_text())
        values = {key: entry["value"] for key, entry in content["candidates"].items()}
        features = {entry["template"]: entry for entry in content["features"]}
        return cls(load_study(STUDY).objective.space, values, TemplateKernel(features, content[FIRST_LOOKS]))

    def value(self, candidate: Candidate) -> float:
        return self.values[candidate.key]


def plain(table: Table, sampler: Callable[[int], optuna.samplers.BaseSampler], seed: int) -> Values:
    """Search as a user of Optuna does."""
    study = optuna.create_study(direction="maximize", sampler=sampler(seed))
    while True:
        trial = study.ask()
        value = table.value(table.space.suggest(cast(SuggestingTrial, trial)))
        study.tell(trial, value)
        yield value


def ours(table: Table, seed: int, *, alike: bool = True, join_at: int = 0, restart: bool = False) -> Values:
    """Search as promptgraft does, one trial at a time; with the templates written by hand alone up to a trial."""
    few = replace(table.space, templates=table.space.templates[:WRITTEN])
    told: list[tuple[Candidate, dict[str, Any], float]] = []
    known: set[str] = set()
    draws: Proposals | None = None
    while True:
        if draws is None or len(told) == join_at:
            space = few if len(told) < join_at else table.space
            draws = Proposals(space, ENGINE, seed, [StudyDirection.MAXIMIZE], Guidance(GuidanceSection()))
            draws.kernel = table.kernel if alike else None
            for candidate, params, value in [] if restart else told:
                _learn(draws, candidate, params, value)
        proposal = draws.draw(() if restart and len(known) == join_at else known, len(known))
        assert proposal is not None
        known.add(proposal.candidate.key)
        value = table.value(proposal.candidate)
        draws.told(proposal, TrialState.COMPLETE, [value])
        told.append((proposal.candidate, proposal.params, value))
        yield value


def _learn(draws: Proposals, candidate: Candidate, params: dict[str, Any], value: float) -> None:
    distributions = {name: draws.distributions[name] for name in params}
    trial = optuna.trial.create_trial(
        value=value, params=params, distributions=distributions, user_attrs={"candidate": candidate.to_dict()}
    )
    draws.learn(trial)


def regrets(table: Table, search: Values) -> list[float]:
    """Return what is missing to the best value of the table after 1, 2, ... trials."""
    best, found, top = -1.0, [], max(table.values.values())
    for _ in range(TRIALS):
        best = max(best, next(search))
        found.append(top - best)
    return found


def show(title: str, curves: dict[str, list[list[float]]]) -> None:
    """Print the mean regret of each search after some trials."""
    seeds = len(next(iter(curves.values())))
    print(f"\n{title}: mean regret in points (standard error) after so many trials, {seeds} seeds")
    print(f"  {'':20}" + "".join(f"{count:>13}" for count in SHOWN))
    for name, runs in curves.items():
        cells = []
        for count in SHOWN:
            values = [100 * run[count - 1] for run in runs]
            error = statistics.stdev(values) / len(values) ** 0.5
            cells.append(f"{statistics.mean(values):6.2f} ({error:.2f})")
        print(f"  {name:20}" + "".join(f"{cell:>13}" for cell in cells))


def plot(path: Path, parts: dict[str, dict[str, list[list[float]]]]) -> None:
    """Draw the mean regrets."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(parts), figsize=(6 * len(parts), 4), sharey=True)
    for axis, (title, curves) in zip(axes, parts.items(), strict=True):
        for name, runs in curves.items():
            means = [100 * statistics.mean(run[i] for run in runs) for i in range(TRIALS)]
            axis.plot(range(1, TRIALS + 1), means, label=name)
        axis.set(title=title, xlabel="trials", ylabel="mean regret, points", yscale="symlog")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def searches(table: Table) -> dict[str, dict[str, Callable[[int], Values]]]:
    """Return all searches by part and name, from seed to values."""
    tpe = partial(optuna.samplers.TPESampler, n_startup_trials=8)
    return {
        "samplers": {
            "random": partial(plain, table, optuna.samplers.RandomSampler),
            "tpe": partial(plain, table, lambda seed: tpe(seed=seed)),
            "no double": partial(ours, table, alike=False),
            "ours": partial(ours, table),
        },
        f"20 templates join after {JOIN_AT} trials": {
            "from the start": partial(ours, table),
            "joined": partial(ours, table, join_at=JOIN_AT),
            "joined, strangers": partial(ours, table, alike=False, join_at=JOIN_AT),
            "restarted": partial(ours, table, join_at=JOIN_AT, restart=True),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("table", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table = Table.read(arguments.table)
    ranked = sorted(table.values.values(), reverse=True)
    middle = statistics.median(ranked)
    print(f"{len(ranked)} candidates, the best {ranked[0]:.4f}, the tenth {ranked[9]:.4f}, the median {middle:.4f}")
    found: dict[str, dict[str, list[list[float]]]] = {}
    for part, chosen in searches(table).items():
        found[part] = {
            name: [regrets(table, search(seed)) for seed in range(arguments.seeds)] for name, search in chosen.items()
        }
        show(part, found[part])
        if arguments.out:
            arguments.out.write_text(json.dumps(found))
    if arguments.plot:
        plot(arguments.plot, found)


if __name__ == "__main__":
    main()

"""Two objectives on a table of real results: hypervolume with and without pruning, at equal compute.

python -m tests.bench.surface --study tests/bench/fronts.yaml --out TABLE.json --files STORE
python -m tests.bench.fronts TABLE.json [--seeds 20] [--out F.json]

Accuracy is maximised, prompt tokens are minimised. Each search is promptgraft's own: draws of TPE for several
objectives in which no candidate comes twice, and Optuna's pruners on the trials that cost no more (`search.sampling`).
Compute is processor time: of each evaluation up to the one at which a trial ends, stages that trials share paid for
once. Hypervolume is Optuna's, of what COMPLETE trials dominate, as a share of what the table's own front dominates;
the reference point is accuracy 0.5 and one token more than the longest prompt has.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna._hypervolume import compute_hypervolume

from promptgraft.objectives.data import all_labels
from promptgraft.objectives.measures import Sizes
from promptgraft.search.running import SearchSettings, StudyLedger
from promptgraft.search.storage import open_storage
from promptgraft.search.study import EngineSection, Study, load_study
from tests.bench.free_search import OurCosts, Table
from tests.bench.surface import grid

STUDY = Path(__file__).parent / "fronts.yaml"
BUDGETS_S = (60, 120, 240, 480, 960)
WORST_ACCURACY = 0.5
PRUNERS: dict[str, dict[str, Any]] = {
    "none": {"name": "none"},
    "median": {"name": "median", "n_startup_trials": 4, "n_warmup_steps": 8},
    "median from step 16": {"name": "median", "n_startup_trials": 4, "n_warmup_steps": 16},
    "halving": {"name": "successive_halving", "min_resource": 8, "reduction_factor": 2},
}

Spent = Iterator[tuple[float, list[tuple[float, float]]]]


def search(table: Table, tokens: dict[str, int], pruner: dict[str, Any], sampler: str, seed: int) -> Spent:
    """Search one trial at a time; hand out what was spent and the points that are COMPLETE after each."""
    costs, spent, points = OurCosts(table), 0.0, list[tuple[float, float]]()
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(f"sqlite:///{folder}/study.db")
        study = optuna.create_study(storage=storage, study_name="s", directions=["maximize", "minimize"])
        study.set_metric_names(["accuracy", "prompt_tokens"])
        options = {"n_startup_trials": 8} if sampler == "tpe" else {}
        engine = EngineSection.model_validate({"name": sampler, **options})
        settings = SearchSettings(engine, EngineSection.model_validate(pruner), seed)
        ledger = StudyLedger(study, storage, table.space, settings)
        while (asked := ledger.ask()) is not None:
            length = tokens[asked.candidate.key]
            ledger.set_attrs(asked.number, {"prompt_tokens": length})
            curve = table.curve(asked.candidate)
            for point, seconds in zip(curve, costs.steps(asked.candidate), strict=True):
                spent += seconds
                final = point is curve[-1]
                if ledger.report(asked.number, point["step"], point["accuracy"], compared=not final):
                    ledger.prune(asked.number, point["accuracy"])
                    break
                if final:
                    value = table.candidates[asked.candidate.key]["value"]
                    ledger.complete(asked.number, value)
                    points.append((value, length))
            yield spent, points


def hypervolume(points: list[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Return what points dominate: accuracy above the reference's times tokens below it."""
    losses = np.array([(-accuracy, length) for accuracy, length in points if accuracy > reference[0]])
    return float(compute_hypervolume(losses, np.array([-reference[0], reference[1]]))) if len(losses) else 0.0


def prompt_tokens(study: Study) -> dict[str, int]:
    """Count each candidate's prompt tokens as a study does before a trial."""
    sizes = Sizes(study.objective.backbone, study.objective.space, all_labels(study.target, study.sources.values()))
    return {candidate.key: sizes.prompt_tokens(candidate) for _, candidate in grid(study.objective.space)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("table", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--sampler", choices=("tpe", "random"), default="tpe")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = load_study(STUDY)
    tokens = prompt_tokens(study)
    content = json.loads(arguments.table.read_text())
    candidates = {key: content["candidates"][key] for key in tokens}
    table = Table(study.objective.space, candidates, content["stages"])
    reference = WORST_ACCURACY, max(tokens.values()) + 1.0
    everything = [(float(entry["value"]), float(tokens[key])) for key, entry in table.candidates.items()]
    whole = hypervolume(everything, reference)
    front = sorted({p for p in everything if not any(q[0] >= p[0] and q[1] <= p[1] and q != p for q in everything)})
    print(f"{len(everything)} candidates; front (accuracy, prompt tokens): {front}", flush=True)
    found: dict[str, dict[str, list[Any]]] = {}
    for name, pruner in PRUNERS.items():
        runs = []
        for seed in range(arguments.seeds):
            shares, trials = [0.0] * len(BUDGETS_S), [0] * len(BUDGETS_S)
            for count, (spent, points) in enumerate(search(table, tokens, pruner, arguments.sampler, seed), 1):
                if spent > BUDGETS_S[-1]:
                    break
                for index, budget in enumerate(BUDGETS_S):
                    if spent <= budget:
                        shares[index], trials[index] = hypervolume(points, reference) / whole, count
            runs.append((shares, trials))
        found[name] = {"shares": [run[0] for run in runs], "trials": [run[1] for run in runs]}
        print(f"\n{name}: share of the hypervolume, mean (standard error); trials, median")
        for index, budget in enumerate(BUDGETS_S):
            values = [run[0][index] for run in runs]
            error = statistics.stdev(values) / len(values) ** 0.5
            print(
                f"  {budget:5} CPU-s  {statistics.mean(values):.4f} ({error:.4f})"
                f"  {statistics.median(run[1][index] for run in runs):.0f}",
                flush=True,
            )
        if arguments.out:
            arguments.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()

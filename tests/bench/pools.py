"""Templates written by hand against the pool grown from them: same space, budget and seeds, scored on held-out rows.

python -m tests.bench.pools [--study demo|smollm2] [--seeds 5] [--trials 16] [--out F.json]

Both searches are the study's own (TPE, no pruning), one trial at a time, with the ledger and the rounds of growth that
`promptgraft run` uses; one store of stages serves all of them, which changes no result. A trial counts one, whatever it
costs; what the rounds of growth cost is shown beside.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import torch

from promptgraft.objectives.growth import GrowthPlan, WriterSpec, grow
from promptgraft.objectives.runtime import quiet_transformers
from promptgraft.objectives.trial import Objective
from promptgraft.search.running import SearchSettings, StudyLedger
from promptgraft.search.side_jobs import GrowthJobs
from promptgraft.search.storage import open_storage
from promptgraft.search.study import EngineSection, GrowSection, Study, load_study
from promptgraft.search.trials import SideJobDone, best_trial
from promptgraft.spaces import Candidate

HERE = Path(__file__).resolve().parent
STUDIES = HERE.parents[1] / "studies"
FILES = {"demo": HERE / "demo.yaml", "smollm2": HERE / "pools.yaml"}
WRITER = WriterSpec(str(STUDIES / "models" / "smollm2"), "causal_lm")
SOURCES = {
    "demo": ("mutation", "crossover", "paraphrase"),
    "smollm2": ("mutation", "crossover", "paraphrase", "continuation"),
}


class Search:
    """One search, in a study of its own.

    Args:
        study: The study; its space is searched.
        objective: Evaluates candidates, whatever search they are of.
        section: How the pool grows; it doesn't if None.
        seed: Seed of sampler, splits' trials and growth.
        folder: Where the study is stored.
    """

    def __init__(
        self, study: Study, objective: Objective, section: GrowSection | None, seed: int, folder: Path
    ) -> None:
        self.study, self.objective, self.seed = study, objective, seed
        storage = open_storage(f"sqlite:///{folder}/study.db")
        record = optuna.create_study(storage=storage, study_name="search", directions=study.objective.directions)
        space, sampler = study.objective.space, study.file.sampler
        self.ledger = StudyLedger(record, storage, space, SearchSettings(sampler, EngineSection(name="none"), seed))
        self.growth = None
        if section is not None:
            plan = GrowthPlan(section.sources, section.size, WRITER, section.verbalizers, section.label_words)
            self.growth = GrowthJobs(self.ledger, plan, section, last=10**9, seed=seed, on_growth=print)
        self.growth_s = 0.0

    def run(self, trials: int) -> dict[str, Any]:
        """Search, and score the winner, by its validation score, on the held-out rows."""
        deltas: dict[int, Any] = {}
        while self.ledger.finished < trials:
            self._grow()
            asked = self.ledger.ask(trials)
            assert asked is not None
            self.objective.know([self.ledger.space.template(asked.candidate.template)])
            result = self.objective.evaluate(asked.candidate, self.seed)
            deltas[asked.number] = result.delta
            self.ledger.set_attrs(asked.number, {"validation_loss": result.metrics["loss"]})
            self.ledger.complete(asked.number, result.value)
        winner = best_trial(self.ledger.study)
        assert winner is not None
        candidate, task = Candidate.from_values(winner.user_attrs["candidate"]), self.objective.target
        logits = self.objective.score(candidate, deltas[winner.number], task.test)
        template = self.ledger.space.template(candidate.template)
        return {
            "validation": winner.value,
            "held_out": task.measure(logits, task.test)["accuracy"],
            "winner": {"template": template.text, "source": template.source},
            "templates": [entry.text for entry in self.ledger.pool.templates],
            "growth_s": self.growth_s,
        }

    def _grow(self) -> None:
        job = self.growth.next_job() if self.growth else None
        if self.growth is None or job is None:
            return
        started = time.process_time()
        self.objective.know(job.parents, job.verbalizers)
        self.growth.on_result(job, SideJobDone(grow(self.objective, job.parents, job.plan, job.round, job.seed)))
        self.growth_s += time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--study", choices=sorted(SOURCES), default="demo")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet_transformers()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = load_study(FILES[arguments.study])
    growing = GrowSection(sources=SOURCES[arguments.study], every=4, size=2, limit=12)
    found: dict[str, list[dict[str, Any]]] = {"written": [], "grown": []}
    with tempfile.TemporaryDirectory() as files:
        for seed in range(arguments.seeds):
            for name, grow in (("written", None), ("grown", growing)):
                # A fresh objective: what joined in one search is unknown to the next.
                objective = Objective(replace(study.objective, files=files))
                with tempfile.TemporaryDirectory() as folder:
                    entry = Search(study, objective, grow, seed, Path(folder)).run(arguments.trials)
                found[name].append(entry)
                print(f"seed {seed}, {name}: {json.dumps(entry)}", flush=True)
                if arguments.out:
                    arguments.out.write_text(json.dumps(found, indent=1))
    for name, runs in found.items():
        held_out, best, growth_s = ([run[key] for run in runs] for key in ("held_out", "validation", "growth_s"))
        print(f"{name:8} held-out accuracy {statistics.mean(held_out):.4f} ({min(held_out):.4f}-{max(held_out):.4f}),")
        print(f"{'':8} best validation {statistics.mean(best):.4f}, growth {statistics.mean(growth_s):.0f} CPU-s")
    pairs = zip(found["grown"], found["written"], strict=True)
    gains = [100 * (grown["held_out"] - written["held_out"]) for grown, written in pairs]
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
    print(f"grown less written: {statistics.mean(gains):+.2f} points, standard error {error:.2f}, {len(gains)} seeds")


if __name__ == "__main__":
    main()

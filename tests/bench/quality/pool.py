"""Search a setting in one process, as `ours` does, and measure all that it tried on the test rows, for `replays`.

python -m tests.bench.quality.pool --pairs amazon-tweets --shots 8 --splits 0-49 --out runs/quality

What a study queues, baselines and start points, runs on every fold until its CPU-seconds are spent, and is then fitted
again to all labelled rows for the updates that its folds chose, as the model that ships is, and scores 500 test rows;
with `--all-baselines`, so do baselines that weren't begun. All of it is left in OUT/pool/SETTING.npz, with what each
candidate had after each fold: which of them a race between folds would have ended is for `replays` to say.

All splits of a pair have the seed and the source rows of the first, without those that are nearly the same as a row of
the target, and so one source stage: what that took is counted in each of them. Labelled and test rows are their own.
"""

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from optuna.trial import FixedTrial
from ruamel.yaml import YAML

from promptgraft.objectives.data import WHOLE, Row, find_near_duplicates
from promptgraft.objectives.progress import StageProgress
from promptgraft.objectives.trial import Objective, Result
from promptgraft.search.sampling import first_trials
from promptgraft.search.study import Study, load_study
from promptgraft.spaces import Candidate, SuggestingTrial
from studies.preparing.downloads import MODELS
from tests.bench.quality.__main__ import names, numbers
from tests.bench.quality.data import MIN_TEST_ROWS, PAIRS, Job, Setting, settings, write_job
from tests.bench.quality.domains import Row as Example
from tests.bench.quality.domains import prepare_domains, read_rows, write_rows
from tests.bench.quality.ours import OVERHEAD_S, study_of
from tests.bench.quality.running import Results
from tests.bench.quality.systems import SYSTEMS

SEED = 0


def study_with_answers(job: Job, source: Path, out: Path) -> Study:
    """Load the study that `ours` would run, with the benchmark's test rows as its own."""
    content = json.loads((job.folder / "job.json").read_text())
    out.mkdir(parents=True, exist_ok=True)
    description = study_of(job.folder, out, content, budget_s=600)
    with (job.folder / "test.csv").open(newline="", encoding="utf-8") as file, job.answers.open(newline="") as answers:
        rows = [row | own for row, own in zip(csv.DictReader(file), csv.DictReader(answers), strict=True)][
            :MIN_TEST_ROWS
        ]
    with (out / "test.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["text", "other", "label"])
        table.writeheader()
        table.writerows(rows[:MIN_TEST_ROWS])
    description["target"]["test"] = str(out / "test.csv")
    description["source"]["train"] = str(source)
    description["seed"] = 0
    with (out / "study.yaml").open("w") as stream:
        YAML().dump(description, stream)
    return load_study(out / "study.yaml")


def write_source(setting: Setting, domains: Path, first: Job, out: Path) -> Path:
    """Write the source rows that every split of a pair may use; return their table."""
    path = out / f"{setting.pair.name}-{setting.shots}-source.csv"
    if not path.exists():
        rows = read_rows(first.folder / "source.csv")
        known = [row_of(own) for own in read_rows(domains / f"{setting.pair.target}.csv")]
        alike = find_near_duplicates([row_of(own) for own in rows], known, "fields")
        write_rows(path, [own for place, own in enumerate(rows) if place not in alike])
    return path


def row_of(own: Example) -> Row:
    return Row({"text": own.text} | ({"other": own.other} if own.other else {}), 0)


def candidates(study: Study) -> Iterator[tuple[str, Candidate]]:
    """List baselines and start points, each candidate once."""
    known: set[str] = set()
    space = study.objective.space
    found: dict[str, Candidate] = {}
    for baselines, points in first_trials(study):
        found |= {f"baseline {name}": own for name, own in baselines.items()}
        found |= {
            f"start {name}": space.suggest(cast("SuggestingTrial", FixedTrial(own))) for name, own in points.items()
        }
    for name, candidate in found.items():
        if candidate.key not in known:
            known.add(candidate.key)
            yield name, candidate


@dataclass
class Measured:
    """A candidate that was tried; without results if the time was over. One result for each fold, of all up to it."""

    name: str
    candidate: Candidate
    results: Sequence[Result] = ()
    seconds: float = 0.0


class Search:
    """One search, and what it saw.

    Args:
        study: What to search.
        files: Folder of the store that the splits of a pair share.
        budget_s: CPU-seconds after which no candidate is begun.
        source_s: What the source stage took when it was computed: added to the first candidate that has one.
    """

    def __init__(self, study: Study, files: Path, budget_s: float, source_s: float) -> None:
        self.study, self.budget_s, self.source_s = study, budget_s, source_s
        self.objective = Objective(replace(study.objective, files=str(files)))

    def run(self) -> list[Measured]:
        """Try what fits."""
        tried: list[Measured] = []
        spent = 0.0
        for name, candidate in candidates(self.study):
            own = Measured(name, candidate)
            if spent < self.budget_s:
                started = time.process_time()
                own.results = self._evaluate(candidate)
                own.seconds = time.process_time() - started
                if candidate.source_steps and not any(other.candidate.source_steps for other in tried):
                    own.seconds = self.source_s = max(self.source_s, own.seconds)
                spent += own.seconds
            tried.append(own)
            outcome = f"{own.results[-1].value:.3f}" if own.results else "not begun"
            print(f"  {name}: {outcome}, {own.seconds:.1f} CPU-s", file=sys.stderr)
        return tried

    def _evaluate(self, candidate: Candidate) -> list[Result]:
        """Run a candidate on its folds."""
        reports = self.objective.run(candidate, SEED)
        return [own.so_far for own in reports if not isinstance(own, StageProgress) and own.so_far is not None]

    def measure(self, tried: Iterable[Measured], *, all_baselines: bool) -> dict[str, Any]:
        """Return the logits of each candidate out of folds and on the test rows, shape (rows, labels)."""
        target = self.study.target
        found: dict[str, Any] = {
            "labels": np.array([row.label for row in target.scored()]),
            "folds": np.array(target.scored_folds()),
            "test_labels": np.array([row.label for row in target.test]),
        }
        kept: list[dict[str, object]] = []
        self.objective.use_split(WHOLE)
        for own in tried:
            if not own.results and not (all_baselines and own.name.startswith("baseline")):
                continue
            step = own.results[-1].step if own.results else own.candidate.steps
            fitted = self.objective.evaluate(own.candidate, SEED, at=step)
            found[f"test_{len(kept)}"] = self.objective.score(own.candidate, fitted.delta, target.test, SEED)
            for fold, result in enumerate(own.results):
                found[f"oof_{len(kept)}_{fold}"] = result.logits
            kept.append(
                {
                    "name": own.name,
                    "candidate": own.candidate.to_dict(),
                    "cpu_s": own.seconds,
                    "fold_values": [result.fold_values for result in own.results],
                }
            )
        return found | {"candidates": np.array(json.dumps(kept)), "source_s": np.array(self.source_s)}


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=names, default=list(PAIRS))
    parser.add_argument("--shots", type=numbers, default=[8])
    parser.add_argument("--splits", type=numbers, default=list(range(20)))
    parser.add_argument("--all-baselines", action="store_true", help="also fit those that were pruned or not begun")
    parser.add_argument("--budget", type=float, help="CPU-seconds, instead of four times what SetFit's defaults took")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    chosen = parser.parse_args()
    prepare_domains(chosen.out.resolve() / "domains")
    torch.set_num_threads(1)
    out: Path = chosen.out.resolve()
    (out / "pool").mkdir(parents=True, exist_ok=True)
    source_s: dict[str, float] = {}
    for setting in sorted(settings(chosen.pairs, chosen.shots, chosen.splits), key=lambda own: own.split):
        path = out / "pool" / f"{setting.name}.npz"
        group = f"{setting.pair.name}-{setting.shots}"
        if path.exists():
            source_s[group] = max(source_s.get(group, 0.0), float(np.load(path)["source_s"]))
            continue
        job = write_job(setting, out / "domains", MODELS, out / "data")
        first = write_job(replace(setting, split=0), out / "domains", MODELS, out / "data")
        budget_s = chosen.budget or Results(out).budget_s(setting, SYSTEMS["promptgraft"])
        assert budget_s is not None
        with tempfile.TemporaryDirectory() as folder:
            source = write_source(setting, out / "domains", first, out / "pool")
            study = study_with_answers(job, source, Path(folder))
            search = Search(study, out / "pool" / f"{group}-files", budget_s - OVERHEAD_S, source_s.get(group, 0.0))
            found = search.measure(search.run(), all_baselines=chosen.all_baselines)
        source_s[group] = search.source_s
        partial = path.with_suffix(".partial.npz")
        np.savez_compressed(partial, **found)
        partial.rename(path)
        print(f"{setting.name}: {time.process_time():.0f} CPU-s in all", file=sys.stderr)


if __name__ == "__main__":
    main()

"""Search a setting in one process, as `ours` does, and measure all that it tried on the test rows, for `replays`.

python -m tests.bench.quality.pool --pairs amazon-tweets --shots 8 --splits 0-49 --out runs/quality

What a study queues, baselines and start points, runs on every fold until its CPU-seconds are spent, and is then fitted
again to all labelled rows for the updates that its folds chose, as the model that ships is, and scores 500 test rows;
with `--all-baselines`, so do baselines that weren't begun. All of it is left in OUT/pool/SETTING.npz, with what each
candidate had after each fold: which of them a race between folds would have ended is for `replays` to say. With
`--drawn N` the race is held here, as in a study, and up to N candidates are drawn by the study's sampler; `--without`
leaves out those that would take too long, which a study doesn't begin.

All splits of a pair have the seed and the source rows of the first, without those that are nearly the same as a row of
the target, and so one source stage: what that took is counted in each of them. Labelled and test rows are their own.
"""

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from optuna.study import StudyDirection
from optuna.trial import FixedTrial, TrialState
from ruamel.yaml import YAML

from promptgraft.objectives.data import WHOLE, Row, find_near_duplicates
from promptgraft.objectives.progress import StageProgress
from promptgraft.objectives.trial import Objective, Result
from promptgraft.search.sampling import FoldRace, Proposal, Proposals, first_trials
from promptgraft.search.study import Study, load_study
from promptgraft.search.trials import FoldScores
from promptgraft.spaces import Candidate, SuggestingTrial
from studies.preparing.downloads import MODELS
from tests.bench.quality.__main__ import names, numbers
from tests.bench.quality.data import MIN_TEST_ROWS, PAIRS, Job, Setting, write_job
from tests.bench.quality.domains import Row as Example
from tests.bench.quality.domains import prepare_domains, read_rows, write_rows
from tests.bench.quality.ours import OVERHEAD_S, study_of
from tests.bench.quality.running import Results
from tests.bench.quality.systems import SYSTEMS

SEED = 0
MAXIMIZE = StudyDirection.MAXIMIZE


def study_with_answers(job: Job, source: Path, out: Path, effort: str | None = None) -> Study:
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
    if effort:
        description["effort"] = effort
        del description["budget"]["trials"]
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


def candidates(study: Study, without: Collection[str] = ()) -> Iterator[tuple[str, Candidate]]:
    """List baselines and start points but for some, each candidate once."""
    known: set[str] = set()
    space = study.objective.space
    found: dict[str, Candidate] = {}
    for baselines, points in first_trials(study):
        found |= {f"baseline {name}": own for name, own in baselines.items()}
        found |= {
            f"start {name}": space.suggest(cast("SuggestingTrial", FixedTrial(own))) for name, own in points.items()
        }
    for name, candidate in found.items():
        if candidate.key not in known and name not in without:
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
        drawn: Most candidates that are drawn after what the study queues; if there are any, they all race.
        without: Names of those that are left out.
    """

    def __init__(
        self,
        study: Study,
        files: Path,
        budget_s: float,
        source_s: float,
        drawn: int = 0,
        without: Collection[str] = (),
    ) -> None:
        self.study, self.budget_s, self.source_s = study, budget_s, source_s
        self.drawn, self.without = drawn, without
        self.objective = Objective(replace(study.objective, files=str(files)))
        self.race = FoldRace(maximize=True) if drawn else None

    def run(self) -> list[Measured]:
        """Try what fits."""
        tried: list[Measured] = []
        spent = 0.0
        for name, candidate, tell in self._candidates():
            own = Measured(name, candidate)
            if spent < self.budget_s:
                started = time.process_time()
                own.results = self._evaluate(candidate)
                own.seconds = time.process_time() - started
                if candidate.source_steps and not any(other.candidate.source_steps for other in tried):
                    own.seconds = self.source_s = max(self.source_s, own.seconds)
                spent += own.seconds
            elif name.startswith("drawn"):
                break
            tell(own)
            tried.append(own)
            outcome = f"{own.results[-1].value:.3f}" if own.results else "not begun"
            print(f"  {name}: {outcome}, {own.seconds:.1f} CPU-s", file=sys.stderr)
        return tried

    def _candidates(self) -> Iterator[tuple[str, Candidate, Callable[[Measured], None]]]:
        """Yield a name, a candidate and whom to tell of its result: what is queued, then draws that learn from it."""
        study, known = self.study, set[str]()
        sampler = Proposals(study.objective.space, study.file.sampler, SEED, [MAXIMIZE], study.constraints)
        for name, candidate in candidates(study, self.without):
            known.add(candidate.key)
            yield name, candidate, partial(self._tell, sampler, sampler.baseline(candidate))
        for number in range(self.drawn):
            drawn = sampler.draw(known, len(known))
            if drawn is None:
                return
            known.add(drawn.candidate.key)
            yield f"drawn {number}", drawn.candidate, partial(self._tell, sampler, drawn)

    def _tell(self, sampler: Proposals, proposal: Proposal, own: Measured) -> None:
        if not own.results:
            sampler.told(proposal, TrialState.FAIL, None)
            return
        whole = len(own.results[-1].fold_values) == self.study.target.folds
        state = TrialState.COMPLETE if whole else TrialState.PRUNED
        sampler.told(proposal, state, [own.results[-1].value] if whole else None)

    def _evaluate(self, candidate: Candidate) -> list[Result]:
        """Run a candidate on its folds, or on those after which it is not clearly behind."""
        found: list[Result] = []
        for own in self.objective.run(candidate, SEED):
            if isinstance(own, StageProgress) or own.so_far is None:
                continue
            found.append(own.so_far)
            scores = self._scores(own.so_far)
            if self.race is not None and self.race.is_behind(scores):
                return found
        if self.race is not None:
            self.race.finished(scores)
        return found

    def _scores(self, result: Result) -> FoldScores:
        target = self.study.target
        rows = target.scored()[: len(result.logits)]
        return FoldScores(tuple(result.fold_values), tuple(target.row_scores(result.logits, rows).tolist()))

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
            results = own.results if len(own.results) == self.study.target.folds else ()
            if not results and not (all_baselines and own.name.startswith("baseline")):
                continue
            step = own.results[-1].step if own.results else own.candidate.steps
            fitted = self.objective.evaluate(own.candidate, SEED, at=step)
            found[f"test_{len(kept)}"] = self.objective.score(own.candidate, fitted.delta, target.test, SEED)
            for fold, result in enumerate(results):
                found[f"oof_{len(kept)}_{fold}"] = result.logits
            kept.append(
                {
                    "name": own.name,
                    "candidate": own.candidate.to_dict(),
                    "cpu_s": own.seconds,
                    "fold_values": [result.fold_values for result in results],
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
    parser.add_argument("--drawn", type=int, default=0, help="most candidates to draw after what is queued")
    parser.add_argument("--without", action="append", default=[], help="a baseline or start point to leave out")
    parser.add_argument("--effort", help="that of the study, with its own number of trials")
    parser.add_argument("--budget", type=float, help="CPU-seconds, instead of four times what SetFit's defaults took")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    chosen = parser.parse_args()
    prepare_domains(chosen.out.resolve() / "domains")
    torch.set_num_threads(1)
    out: Path = chosen.out.resolve()
    (out / "pool").mkdir(parents=True, exist_ok=True)
    source_s: dict[str, float] = {}
    for split, shots, pair in product(chosen.splits, chosen.shots, chosen.pairs):
        setting = Setting(PAIRS[pair], shots, split)
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
            study = study_with_answers(job, source, Path(folder), chosen.effort)
            search = Search(
                study,
                out / "pool" / f"{group}-files",
                budget_s - OVERHEAD_S,
                source_s.get(group, 0.0),
                chosen.drawn,
                chosen.without,
            )
            found = search.measure(search.run(), all_baselines=chosen.all_baselines)
        source_s[group] = search.source_s
        partial = path.with_suffix(".partial.npz")
        np.savez_compressed(partial, **found)
        partial.rename(path)
        print(f"{setting.name}: {time.process_time():.0f} CPU-s in all", file=sys.stderr)


if __name__ == "__main__":
    main()

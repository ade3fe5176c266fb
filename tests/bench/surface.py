"""A table of real results: every candidate of a small space evaluated once, and what each part of it cost.

python -m tests.bench.surface --out surface.json

Searches are replayed on it (`tests.bench.free_search`): what would take days of training takes seconds, and every
searcher meets the same surface. Seconds are processor time of one thread. What trials share is listed stage by stage
with what it took, so that the cost of any order of candidates can be told: a stage is paid for by the first that needs
it. An interrupted run goes on where it stood.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from promptgraft.objectives.caching import StageKey
from promptgraft.objectives.runtime import quiet_transformers
from promptgraft.objectives.trial import Objective
from promptgraft.search.study import load_study
from promptgraft.spaces import Candidate, Categorical, Constant, Scalar, SearchSpace

STUDY = Path(__file__).parent / "surface.yaml"
SHOW_EVERY = 10


def grid(space: SearchSpace) -> Iterator[tuple[dict[str, Scalar], Candidate]]:
    """List a space of choices: the values as a sampler draws them, and the candidate that they make."""
    points: list[dict[str, Scalar]] = [{}]
    for parameter in space.all_parameters():
        if not isinstance(parameter, Categorical | Constant):
            raise TypeError(f"{parameter.name} is not a list of choices")
        choices = parameter.choices if isinstance(parameter, Categorical) else (parameter.value,)
        when = parameter.when
        points = [
            {**point, parameter.name: choice} if when is None or when.holds(point) else point
            for point in points
            for choice in (choices if when is None or when.holds(point) else choices[:1])
        ]
    for point in points:
        yield point, Candidate.from_values(point).canonical(space.facts)


class Recorder:
    """Notes which stages a trial asks for, what each took, and which others it was computed from.

    Args:
        objective: Its store is watched.
        known: Stage -> [seconds, stages it needs], from an earlier run.
        save: Called before a stage is stored: a run that is cut off then must not find one whose cost it doesn't know.
    """

    def __init__(self, objective: Objective, known: dict[str, list[Any]], save: Callable[[], object]) -> None:
        self.known = known
        self.save = save
        self.asked: list[str] = []  # By the trial itself.
        self.spent_s = 0.0
        self._open: list[list[str]] = []
        self._get = objective.stages.get
        objective.stages.get = self.get  # type: ignore[method-assign]

    def get(self, key: StageKey, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Pass on to the store, and take note."""
        name = key.name.split("/")[1][:12]
        asked = self._open[-1] if self._open else self.asked
        if name not in asked:
            asked.append(name)

        def watched() -> dict[str, Tensor]:
            started, before = time.process_time(), self.spent_s
            self._open.append([])
            tensors = compute()
            seconds = time.process_time() - started - (self.spent_s - before)  # What it was made from counts there.
            self.known[name] = [round(seconds, 4), self._open.pop()]
            self.save()
            self.spent_s += time.process_time() - started - (self.spent_s - before)  # Taking note is no trial's cost.
            return tensors

        return self._get(key, watched)


def evaluate(objective: Objective, recorder: Recorder, candidate: Candidate, seed: int) -> dict[str, Any]:
    """Run one candidate's cycle; return its curve, and what it had spent and asked for at each point."""
    started, before = time.process_time(), recorder.spent_s
    recorder.asked.clear()
    curve = []
    for evaluation in objective.run(candidate, seed):
        own_s = time.process_time() - started - (recorder.spent_s - before)
        metrics = {name: evaluation.metrics[name] for name in ("accuracy", "loss")}
        curve.append({"step": evaluation.step, **metrics, "own_s": round(own_s, 4), "stages": [*recorder.asked]})
        result = evaluation.result
    assert result is not None
    return {"candidate": candidate.to_dict(), "curve": curve, "value": result.value}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--files", type=Path, required=True, help="store of stages; keep it to go on later")
    parser.add_argument("--study", type=Path, default=STUDY)
    parser.add_argument("--limit", type=int, help="evaluate only so many more")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet_transformers()
    study = load_study(arguments.study)
    candidates = {candidate.key: candidate for _, candidate in grid(study.objective.space)}
    table = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"stages": {}, "candidates": {}}
    left = [key for key in candidates if key not in table["candidates"]]
    random.Random(0).shuffle(left)
    objective = Objective(replace(study.objective, files=str(arguments.files)))
    recorder = Recorder(objective, table["stages"], lambda: arguments.out.write_text(json.dumps(table)))
    for number, key in enumerate(left[: arguments.limit], 1):
        table["candidates"][key] = evaluate(objective, recorder, candidates[key], study.file.seed)
        recorder.save()
        if number % SHOW_EVERY == 0 or number == len(left[: arguments.limit]):
            print(f"{number} of {len(left)}", flush=True)


if __name__ == "__main__":
    main()

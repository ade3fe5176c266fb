"""A table of real results: every candidate of a small space, evaluated once.

python -m tests.bench.surface --out surface.json

Searches are replayed on it (`tests.bench.search_replay`): what would take days of training takes seconds, and every
searcher meets the same surface. An interrupted run goes on where it stood.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from promptgraft.objectives.objective import Objective
from promptgraft.objectives.quiet import quiet_transformers
from promptgraft.search.studies import load_study
from promptgraft.spaces import Candidate, Categorical, SearchSpace
from promptgraft.spaces.parameters import Constant, Scalar

STUDY = Path(__file__).parent / "surface.yaml"


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


def evaluate(objective: Objective, candidate: Candidate, seed: int) -> dict[str, Any]:
    """Run one candidate's cycle, and score its best state on the held-out rows."""
    started = time.process_time()
    curve = []
    for evaluation in objective.run(candidate, seed):
        metrics = {name: evaluation.metrics[name] for name in ("accuracy", "loss")}
        curve.append({"step": evaluation.step, **metrics, "cpu_s": round(time.process_time() - started, 3)})
        result = evaluation.result
    assert result is not None
    scores = objective.score(candidate, result.delta, objective.target.test)
    test = objective.target.measure(scores, objective.target.test)
    return {
        "candidate": candidate.to_dict(),
        "curve": curve,
        "value": result.value,
        "test_accuracy": test["accuracy"],
        "test_loss": test["loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--study", type=Path, default=STUDY)
    parser.add_argument("--limit", type=int, help="evaluate only so many more")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet_transformers()
    study = load_study(arguments.study)
    candidates = {candidate.key: candidate for _, candidate in grid(study.objective.space)}
    done = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    left = [key for key in candidates if key not in done]
    random.Random(0).shuffle(left)
    with tempfile.TemporaryDirectory() as files:
        objective = Objective(replace(study.objective, files=files))
        for number, key in enumerate(left[: arguments.limit], 1):
            done[key] = evaluate(objective, candidates[key], study.file.seed)
            arguments.out.write_text(json.dumps(done, indent=0))
            if number % 20 == 0:
                print(f"{len(done)} of {len(candidates)}", flush=True)


if __name__ == "__main__":
    main()

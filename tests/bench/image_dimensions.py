"""Measure whether a dimension of images helps: one candidate with each of its values, at equal updates.

    python -m tests.bench.image_dimensions studies/image_classification.yaml --out runs/augmentation.jsonl
    python -m tests.bench.image_dimensions studies/image_classification.yaml --out runs/frames.jsonl --frames 8 30

The dimension is `augmentation`, or the width of a frame of pixels. Each seed has folds of its own, the same for all
values; accuracy and loss are those of the last update, the mean over the folds. What is measured is kept: a run that
was stopped goes on. Prints paired differences to `none`.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

from promptgraft.objectives.data import Split
from promptgraft.objectives.progress import StageProgress
from promptgraft.objectives.trial import Objective
from promptgraft.search.study import load_study
from promptgraft.spaces import Candidate, SoftPrompt

Entry = dict[str, float | str]
METRICS = ("accuracy", "loss")


def measure(objective: Objective, candidate: Candidate, name: str, seed: int) -> Entry:
    """Run a candidate, which has a value of that name, on the folds of a seed."""
    objective.use_split(Split(seed))
    began, last = time.process_time(), dict[int, dict[str, float]]()
    for report in objective.run(candidate, seed):
        if not isinstance(report, StageProgress):
            last[report.fold] = dict(report.metrics)
    found: Entry = {name: mean(own[name] for own in last.values()) for name in METRICS}
    return {"value": name, "seed": seed, **found, "cpu_s": time.process_time() - began}


def entries(path: Path) -> list[Entry]:
    """Read what was measured; nothing if the file isn't there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(found: list[Entry]) -> Iterator[str]:
    """Write the mean of each metric, and its paired difference to `none` with the standard error over seeds."""
    values = {(own["value"], own["seed"]): own for own in found}
    for name in dict.fromkeys(own["value"] for own in found):
        seeds = [seed for own, seed in values if own == name and ("none", seed) in values]
        parts = [f"{len(seeds)} seeds"]
        for metric in (*METRICS, "cpu_s"):
            own = [float(values[name, seed][metric]) for seed in seeds]
            gains = [value - float(values["none", seed][metric]) for value, seed in zip(own, seeds, strict=True)]
            error = f" ± {stdev(gains) / len(gains) ** 0.5:.3f}" if len(gains) > 1 else ""
            parts.append(f"{metric} {mean(own):.3f}" + ("" if name == "none" else f" ({mean(gains):+.3f}{error})"))
        yield f"{name}: {', '.join(parts)}"


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/augmentation.jsonl"))
    parser.add_argument("--head", default="probe")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--frozen-layers", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--prompt-learning-rate", type=float, default=1e-2)
    parser.add_argument("--frames", type=int, nargs="*", default=[])
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    study = load_study(asked.study)
    fixed = study.objective.on(next(iter(study.objective.backbones), ""))  # The first of several backbones.
    candidate = Candidate(
        fixed.space.templates[0].id,
        "",
        asked.head,
        frozen_layers=asked.frozen_layers,
        steps=asked.steps,
        learning_rate=asked.learning_rate,
        prompt_learning_rate=asked.prompt_learning_rate,
        probe_c=10.0,
    )
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    spec = replace(fixed, evaluate_every=asked.steps, files=str(asked.out.with_suffix("")))
    objective, known = Objective(spec), {(own["value"], own["seed"]) for own in entries(asked.out)}
    if asked.frames:
        framed = {f"frame {width}": SoftPrompt(width, place="frame") for width in asked.frames}
        tried = {"none": candidate} | {name: replace(candidate, soft_prompt=own) for name, own in framed.items()}
    else:
        tried = {name: replace(candidate, augmentation=name) for name in type(objective.target).augmentations}
    for name, own in tried.items():
        for seed in range(asked.seeds):
            if (name, seed) not in known:
                with asked.out.open("a") as file:
                    file.write(json.dumps(measure(objective, own, name, seed)) + "\n")
    print("\n".join(table(entries(asked.out))))


if __name__ == "__main__":
    main()

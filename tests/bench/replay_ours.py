"""The replay benchmark's side of promptgraft: draws the candidates, and evaluates them; see `tests.bench.replay`.

Runs in processes of its own, started by `tests.bench.replay`.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from promptgraft.objectives.data import Row
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.objectives.runtime import quiet_transformers
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.search.study import load_study
from promptgraft.spaces import Candidate, RenderedPrompt, SuggestingTrial


def draw(spec: ObjectiveSpec, count: int, seed: int) -> list[Candidate]:
    """Draw different candidates from the study's own space, uniformly."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    drawn: dict[str, Candidate] = {}
    while len(drawn) < count:
        candidate = spec.space.suggest(cast("SuggestingTrial", study.ask()))
        drawn[candidate.key] = candidate
    return list(drawn.values())


def write_job(path: Path, study: Path, count: int, seed: int) -> None:
    """Write all that a peer needs to evaluate the same candidates, as plain JSON.

    Args:
        path: The job file.
        study: The study file.
        count: Candidates to draw.
        seed: Seed of the draw. The candidates themselves are evaluated with the study's split seed.
    """
    spec = replace(load_study(study).objective, files=None)
    objective = Objective(spec)
    candidates = draw(spec, count, seed)
    prompts: dict[str, Any] = {}
    entries = []
    for candidate in candidates:
        if candidate.steps % spec.evaluate_every:
            raise ValueError(f"steps {candidate.steps} is no multiple of evaluation.every {spec.evaluate_every}")
        model = _model(objective, candidate)
        if candidate.template not in prompts:
            prompts[candidate.template] = _prompts(objective, model)
        untrained = objective.score(candidate, {}, objective.target.validation)
        entries.append({**candidate.to_dict(), **_words(objective, candidate), "untrained": untrained.tolist()})
    sources = objective.sources.values()
    job = {
        "study": str(study),
        "backbone": spec.backbone.path,
        "family": spec.backbone.family,
        "max_tokens": spec.backbone.max_tokens,
        "labels": objective.labels,
        "target_labels": [objective.labels.index(label) for label in objective.target.labels],
        "source_labels": [objective.labels.index(label) for task in sources for label in task.labels],
        "seed": spec.split_seed,
        "evaluate_every": spec.evaluate_every,
        "evaluation_batch_size": spec.evaluation_batch_size,
        "source_training": {
            name: getattr(spec.source_training, name)
            for name in ("batch_size", "learning_rate", "head_learning_rate", "frozen_layers")
        },
        "prompts": prompts,
        "plain": _plain(objective),
        "candidates": entries,
    }
    path.write_text(json.dumps(job))


def _model(objective: Objective, candidate: Candidate) -> PromptedModel:
    """Build the model that renders a candidate's prompts."""
    space = objective.spec.space
    verbalizer = space.verbalizer(candidate.verbalizer) if candidate.verbalizer else None
    template = space.template(candidate.template)
    return PromptedModel(
        objective.backbone, candidate, template, verbalizer, objective.labels, objective.spec.split_seed
    )


def _prompts(objective: Objective, model: PromptedModel) -> dict[str, list[tuple[str, int]]]:
    """Render all rows, cut to the longest prompt: what stands before the label, or the text without it."""
    causal = objective.spec.backbone.family == "causal_lm"

    def text(prompt: RenderedPrompt) -> str:
        return prompt.before.rstrip(" ") if causal else prompt.without_label()

    def rendered(rows: Sequence[Row]) -> list[tuple[str, int]]:
        return [(text(model.render(row.fields)), row.label) for row in rows]

    return {
        "train": rendered(objective.target.train),
        "validation": rendered(objective.target.validation),
        "source": rendered([row for task in objective.sources.values() for row in task.train]),
    }


def _plain(objective: Objective) -> dict[str, list[tuple[str, int]]]:
    """List the target's rows without any template, test rows too."""
    target = objective.target
    parts = {"train": target.train, "validation": target.validation, "test": target.test}
    return {name: [(" ".join(row.fields.values()), row.label) for row in rows] for name, rows in parts.items()}


def _words(objective: Objective, candidate: Candidate) -> dict[str, Any]:
    """Return the label words as this family reads them, and the tokens that a soft prompt may start from."""
    if not candidate.verbalizer:
        return {"words": {}, "word_ids": []}
    space = objective.spec.space
    words, template = space.verbalizer(candidate.verbalizer).words, space.template(candidate.template)
    empty = template.render(dict.fromkeys(template.fields, ""))
    space_before = " " if empty.before.endswith(" ") else ""
    if objective.spec.backbone.family == "causal_lm":
        read = {label: [space_before + word for word in words[label]] for label in words}
    else:
        read = {label: [empty.with_label(word).strip() for word in words[label]] for label in words}
    ids = objective.backbone.label_word_ids([word for entry in words.values() for word in entry])
    return {"words": read, "word_ids": ids}


def read_candidate(entry: dict[str, Any]) -> Candidate:
    """Take a candidate out of an entry of a job, which says more than that."""
    fields = Candidate.__dataclass_fields__
    return Candidate.from_values({k: v for k, v in entry.items() if k.partition(".")[0] in fields})


def evaluate(job: dict[str, Any], mode: str, files: Path, reverse: bool) -> dict[str, Any]:
    """Evaluate the job's candidates, one after another.

    Args:
        job: The content of the job file.
        mode: `off` (no store), `cold` (an empty store and a new objective for each candidate), otherwise one
            store for all, in the state in which it is found.
        files: Folder of the store, or of the stores.
        reverse: Whether to go through the list from its end.

    Returns:
        Times of the start and of each candidate, in the order of the job, with scores.
    """
    spec = load_study(Path(job["study"])).objective
    store = None if mode == "off" else str(files / "0" if mode == "cold" else files)
    objective = Objective(replace(spec, files=store))
    candidates = [read_candidate(entry) for entry in job["candidates"]]
    clock = Clock()
    outcomes: dict[int, dict[str, Any]] = {}
    order = list(range(len(candidates)))
    for index in order[::-1] if reverse else order:
        if mode == "cold" and outcomes:
            objective = Objective(replace(spec, files=str(files / str(len(outcomes)))))
        with clock.candidate() as times:
            result = objective.evaluate(candidates[index], job["seed"])
        used = {"hits": result.stages.hits, "misses": result.stages.misses, "saved_s": result.stages.saved_s}
        scores = {"value": result.value, "step": result.step, "logits": result.logits.tolist()}
        outcomes[index] = {**times(), **used, **scores}
    return clock.report([outcomes[index] for index in order])


class Clock:
    """Measures processor and wall time of this process; whatever came before it is the start."""

    def __init__(self) -> None:
        self.startup_cpu_s = time.process_time()

    @contextmanager
    def candidate(self) -> Iterator[Callable[[], dict[str, float]]]:
        """Measure one candidate; the times can be read behind the block."""
        cpu, wall = time.process_time(), time.perf_counter()
        times: dict[str, float] = {}
        yield times.copy
        times.update(cpu_s=time.process_time() - cpu, wall_s=time.perf_counter() - wall)

    def report(self, candidates: list[dict[str, Any]]) -> dict[str, Any]:
        """Collect what is known at the end."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return {"startup_cpu_s": self.startup_cpu_s, "max_rss_bytes": peak, "candidates": candidates}


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("job")
    write.add_argument("job", type=Path)
    write.add_argument("study", type=Path)
    write.add_argument("--candidates", type=int, required=True)
    write.add_argument("--seed", type=int, required=True)
    run = commands.add_parser("run")
    run.add_argument("job", type=Path)
    run.add_argument("out", type=Path)
    run.add_argument("--mode", choices=("off", "cold", "shared"), required=True)
    run.add_argument("--files", type=Path, required=True)
    run.add_argument("--reverse", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet_transformers()
    if arguments.command == "job":
        write_job(arguments.job, arguments.study, arguments.candidates, arguments.seed)
        return
    job = json.loads(arguments.job.read_text())
    report = evaluate(job, arguments.mode, arguments.files, arguments.reverse)
    arguments.out.write_text(json.dumps(report))


if __name__ == "__main__":
    main()

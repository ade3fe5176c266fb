"""Ray Tune with OptunaSearch, and a plain PyTorch loop over a PEFT model as in PEFT's documentation."""

import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from peers.job import Job, Outcomes, Stopwatch
from peers.model import Batch, Prompted, freeze
from peers.ray_session import ray_session
from peers.trials import Candidate, Parts, endless, kept_parts, optimizer_and_schedule

Point = tuple[float, float]


def evaluate(model: Prompted, parts: Parts, candidate: Candidate) -> Point:
    """Return accuracy and negative loss on the validation rows."""
    rows, size = parts.rows(candidate, "validation"), parts.job["evaluation_batch_size"]
    model.eval()
    right, loss = 0, 0.0
    with torch.inference_mode():
        for start in range(0, len(rows), size):
            batch = parts.inputs.collate(rows[start : start + size])
            outputs = model(**batch)
            right += int((outputs["logits"].argmax(-1) == batch["labels"]).sum())
            loss += float(outputs["loss"]) * len(batch["labels"])
    return right / len(rows), -loss / len(rows)


def train(
    model: Prompted, batches: Iterator[Batch], steps: int, rates: tuple[float, float], mix: Any = None
) -> Iterator[int]:
    """Train by one update at a time; yield how many there were.

    Args:
        model: The model, frozen as it should be.
        batches: Endless.
        steps: Updates in all, which the schedule counts on.
        rates: Of what was carried over, and of what is attached.
        mix: Turns a target loss into the mixed one.
    """
    optimizer, schedule = optimizer_and_schedule(model, *rates, steps)
    trainable = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(1, steps + 1):
        model.train()
        loss = model(**next(batches))["loss"]
        (loss if mix is None else mix(loss)).backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        yield step


def evaluations(parts: Parts, candidate: Candidate) -> Iterator[Point]:
    """Run one whole trial; yield each evaluation."""
    torch.manual_seed(parts.job["seed"])
    model, vectors = parts.model(candidate)
    if candidate["source_steps"]:
        settings = parts.job["source_training"]
        freeze(model, settings["frozen_layers"], embeddings=parts.tuned)
        batches = endless(parts.batches(parts.rows(candidate, "source"), settings["batch_size"]))
        rates = settings["learning_rate"], settings["head_learning_rate"]
        for _ in train(model, batches, candidate["source_steps"], rates):
            pass
    parts.migrate(model, vectors, candidate)
    yield evaluate(model, parts, candidate)
    if not candidate["steps"]:
        return
    source, alpha = parts.source_batches(candidate), candidate["alpha"]

    def mix(loss: torch.Tensor) -> torch.Tensor:
        if source is None:
            return loss
        model.rows = parts.job["source_labels"]
        other = model(**next(source))["loss"]
        model.rows = parts.job["target_labels"]
        return alpha * other + (1 - alpha) * loss

    batches = endless(parts.batches(parts.rows(candidate, "train"), candidate["batch_size"]))
    rates = candidate["learning_rate"], candidate["prompt_learning_rate"]
    for step in train(model, batches, candidate["steps"], rates, mix):
        if step % parts.job["evaluate_every"] == 0:
            yield evaluate(model, parts, candidate)


def run_trial(config: dict[str, Any], job: Job, outcomes: Outcomes) -> None:
    """The default form: a training function, which loads what it needs."""
    watch = Stopwatch()
    torch.set_num_threads(1)
    parts = Parts(job)
    curve = []
    for point in evaluations(parts, job["candidates"][config["candidate"]]):
        curve.append(point)
        tune.report({"accuracy": point[0]})
    outcomes.add(config["candidate"], curve, watch)


class Trial(tune.Trainable):  # type: ignore[misc]
    """The tuned form: an actor that lives on, with the model and the tokens in it."""

    def setup(self, config: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        kept_parts(config["path"]).base()
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.parts = kept_parts(new_config["path"])
        self.index, self.outcomes = int(new_config["candidate"]), Outcomes(new_config["outcomes"])
        self.candidate = self.parts.job["candidates"][self.index]
        self.watch, self.curve = Stopwatch(), list[Point]()
        self.left = 1 + self.candidate["steps"] // self.parts.job["evaluate_every"]
        self.points = evaluations(self.parts, self.candidate)
        return True

    def step(self) -> dict[str, Any]:
        self.curve.append(next(self.points))
        self.left -= 1
        if not self.left:
            self.outcomes.add(self.index, self.curve, self.watch)
            self.points.close()
        return {"accuracy": self.curve[-1][0], "done": not self.left}


def search(path: str, outcomes: Outcomes, tuned: bool) -> Callable[[], None]:
    """Prepare a search whose first points are the job's list, and its only ones.

    Returns:
        What runs it.
    """
    from peers.job import read_job

    job = read_job(path)
    count = len(job["candidates"])
    space: dict[str, Any] = {"candidate": tune.choice(list(range(count)))}
    if tuned:
        space |= {"path": path, "outcomes": outcomes.path}

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder, ray_session():
            trainable = Trial if tuned else tune.with_parameters(run_trial, job=job, outcomes=outcomes)
            lean: dict[str, Any] = (
                {"checkpoint_config": tune.CheckpointConfig(checkpoint_at_end=False), "verbose": 0} if tuned else {}
            )
            points = [{"candidate": index} for index in range(count)]
            results = tune.Tuner(
                tune.with_resources(trainable, {"cpu": 1}),
                param_space=space,
                tune_config=tune.TuneConfig(
                    search_alg=OptunaSearch(points_to_evaluate=points),
                    metric="accuracy",
                    mode="max",
                    num_samples=count,
                    max_concurrent_trials=1,
                    reuse_actors=tuned,
                ),
                run_config=tune.RunConfig(storage_path=folder, **lean),
            ).fit()
            for error in results.errors:
                raise error

    return run

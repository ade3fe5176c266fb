"""`Trainer.hyperparameter_search` over the job's list, with its Optuna and its Ray backend."""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from torch import nn
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from peers.job import Outcomes, Stopwatch
from peers.model import Batch, Prompted, freeze
from peers.trials import Candidate, Parts, optimizer_and_schedule, parts_of


class MixedTrainer(Trainer):
    """Trains on alpha * L_s + (1 - alpha) * L_t; a trial's candidate decides on model, data and settings.

    The model, and with it the data, depend on the trial: both are made in `call_model_init`, which Trainer calls
    at the start of each trial.

    Args:
        parts: What trials are made of.
        outcomes: Where each trial writes what came of it.
        folder: Trainer's output folder; nothing is saved, which favours the peers.
    """

    def __init__(self, parts: Parts, outcomes: Outcomes, folder: str) -> None:
        self.parts, self.outcomes, self.folder = parts, outcomes, folder
        self.candidate: Candidate = parts.job["candidates"][0]
        self.source: Iterator[Batch] | None = None
        super().__init__(
            args=_arguments(parts, folder, 1, 1, eval_strategy="steps", eval_on_start=True),
            model_init=self._build,
            train_dataset=parts.rows(self.candidate, "train"),
            eval_dataset=parts.rows(self.candidate, "validation"),
            data_collator=parts.inputs.collate,
            compute_metrics=_accuracy,
        )
        _quieten(self, parts)

    def call_model_init(self, trial: Any = None) -> Any:
        """Build the trial's model and data, source stage included; without a trial, what the constructor wants."""
        if trial is None:
            # The constructor's model is only looked at, then thrown away; Ray would send it to every trial.
            return nn.Linear(1, 1) if self.parts.tuned else self.parts.model(self.candidate)[0]
        self.candidate = self.parts.job["candidates"][_index(trial, len(self.parts.job["candidates"]))]
        self.args.max_steps = self.candidate["steps"]
        self.args.per_device_train_batch_size = self.candidate["batch_size"]
        self.train_dataset, self.eval_dataset = (self.parts.rows(self.candidate, n) for n in ("train", "validation"))
        self.source = self.parts.source_batches(self.candidate)
        return self._build()

    def _build(self) -> Prompted:
        model, vectors = self.parts.model(self.candidate)
        if self.candidate["source_steps"]:
            train_on_source(model, self.parts, self.candidate["source_steps"], self.candidate, self.folder)
        self.parts.migrate(model, vectors, self.candidate)
        return model

    def create_optimizer(self, model: Any = None) -> Any:
        """Two groups with rates of their own."""
        rates = self.candidate["learning_rate"], self.candidate["prompt_learning_rate"]
        self.optimizer, self.lr_scheduler = optimizer_and_schedule(self.model, *rates, self.args.max_steps)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Leave the schedule that came with the optimizer."""
        return self.lr_scheduler

    def compute_loss(self, model: Any, inputs: Batch, return_outputs: bool = False, **kwargs: Any) -> Any:
        """Mix the losses of a target batch and a source batch."""
        outputs = model(**inputs)
        loss, alpha = outputs["loss"], self.candidate["alpha"]
        if self.source is not None and model.training:
            model.rows = self.parts.job["source_labels"]
            source = model(**next(self.source))["loss"]
            model.rows = self.parts.job["target_labels"]
            loss = alpha * source + (1 - alpha) * loss
        return (loss, outputs) if return_outputs else loss

    def train(self, *args: Any, trial: Any = None, **kwargs: Any) -> Any:
        """Run one trial, and write down what came of it."""
        watch = Stopwatch()
        index = _index(trial, len(self.parts.job["candidates"]))
        if self.parts.job["candidates"][index]["steps"]:
            output = super().train(*args, trial=trial, **kwargs)
        else:  # Nothing to train, which Trainer refuses: the trial is one evaluation.
            output, self.state = None, TrainerState()
            self.model = self.model_wrapped = self.call_model_init(trial)
            self._evaluate(trial, None)
        seen = [entry for entry in self.state.log_history if "eval_accuracy" in entry]
        self.outcomes.add(index, [(entry["eval_accuracy"], -entry["eval_loss"]) for entry in seen], watch)
        return output


def train_on_source(model: Prompted, parts: Parts, steps: int, candidate: Candidate, folder: str) -> None:
    """Train on the source with a plain Trainer, before the migration."""
    settings = parts.job["source_training"]
    freeze(model, settings["frozen_layers"], embeddings=parts.tuned)
    trainer = Trainer(
        model=model,
        args=_arguments(parts, folder, steps, settings["batch_size"]),
        train_dataset=parts.rows(candidate, "source"),
        data_collator=parts.inputs.collate,
        optimizers=optimizer_and_schedule(model, settings["learning_rate"], settings["head_learning_rate"], steps),
    )
    _quieten(trainer, parts)
    trainer.train()


def _arguments(parts: Parts, folder: str, steps: int, batch_size: int, **evaluation: Any) -> TrainingArguments:
    lean: dict[str, Any] = {"disable_tqdm": True, "logging_strategy": "no"} if parts.tuned else {}
    return TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=parts.job["evaluation_batch_size"],
        eval_steps=parts.job["evaluate_every"],
        max_grad_norm=1.0,
        seed=parts.job["seed"],
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        label_names=["labels"],
        **evaluation,
        **lean,
    )


def _quieten(trainer: Trainer, parts: Parts) -> None:
    if parts.tuned:
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)


def _accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((np.argmax(prediction.predictions, -1) == prediction.label_ids).mean())}


def _objective(metrics: dict[str, float]) -> float:
    return metrics["eval_accuracy"]


def _index(trial: Any, count: int) -> int:
    """Return the candidate's place in the list; Ray's trial is a dictionary, Optuna's is asked."""
    if isinstance(trial, dict):
        return int(trial["candidate"])
    return int(trial.suggest_categorical("candidate", list(range(count))))


def search_optuna(path: str, outcomes: Outcomes, tuned: bool) -> Callable[[], None]:
    """Prepare a search whose queue is the job's list; nothing is pruned, as everywhere in the replay.

    Returns:
        What runs it.
    """
    import optuna

    parts = parts_of(path, tuned)
    count = len(parts.job["candidates"])
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(study_name="replay", storage=storage, direction="maximize")
    for index in range(count):
        study.enqueue_trial({"candidate": index})
    if tuned:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        parts.base()
    folder = tempfile.TemporaryDirectory()
    trainer = MixedTrainer(parts, outcomes, folder.name)

    def run() -> None:
        with folder:
            trainer.hyperparameter_search(
                backend="optuna",
                hp_space=partial(_space, count=count),
                compute_objective=_objective,
                n_trials=count,
                direction="maximize",
                storage=storage,
                study_name="replay",
                load_if_exists=True,
                pruner=optuna.pruners.NopPruner(),
            )

    return run


def _space(trial: Any, count: int) -> dict[str, Any]:
    """Ask for the candidate; its settings are applied in `call_model_init`, which comes first."""
    _index(trial, count)
    return {}


def search_ray(path: str, outcomes: Outcomes, tuned: bool) -> Callable[[], None]:
    """Prepare a search over a grid of one dimension, the job's list.

    Returns:
        What runs it.
    """
    from ray import tune

    from peers.ray_session import ray_session

    parts = parts_of(path, tuned)
    count = len(parts.job["candidates"])
    folder = tempfile.TemporaryDirectory()
    trainer = MixedTrainer(parts, outcomes, folder.name)
    lean: dict[str, Any] = {"reuse_actors": True, "verbose": 0} if tuned else {}

    def run() -> None:
        with folder, ray_session():
            trainer.hyperparameter_search(
                backend="ray",
                hp_space=lambda _: {"candidate": tune.grid_search(list(range(count)))},
                compute_objective=_objective,
                n_trials=1,
                direction="maximize",
                storage_path=folder.name,
                resources_per_trial={"cpu": 1},
                **lean,
            )

    return run

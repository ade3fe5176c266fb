"""Full fine-tuning by transformers' Trainer: with its defaults, and tuned by its own Optuna backend."""

import tempfile
from functools import partial
from typing import Any

import numpy as np
import optuna
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

from peers.quality.job import Job, Rows
from peers.quality.search import MANY_TRIALS, Clock, hold_out

QUIET = {"report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "use_cpu": True}
# Decides among trials of equal accuracy, which are many on few rows.
TIE_WEIGHT = 1e-4


class Setup:
    """Tokenizer and model of a job."""

    def __init__(self, job: Job) -> None:
        self.job, self.tokenizer = job, AutoTokenizer.from_pretrained(job.backbone)

    def dataset(self, rows: Rows) -> Dataset:
        others = rows.others if any(rows.others) else None
        encoded = self.tokenizer(rows.texts, others, truncation=True, max_length=self.job.max_tokens)
        return Dataset.from_dict({**encoded, "labels": rows.labels})

    def model(self) -> torch.nn.Module:
        return AutoModelForSequenceClassification.from_pretrained(
            self.job.backbone, num_labels=len(self.job.classes), dtype=torch.float32
        )

    def trainer(self, folder: str, rows: Rows, chosen_by: Rows | None = None, **settings: Any) -> Trainer:
        return Trainer(
            model_init=self.model,
            args=TrainingArguments(output_dir=folder, seed=self.job.seed, **QUIET, **settings),
            processing_class=self.tokenizer,
            train_dataset=self.dataset(rows),
            eval_dataset=None if chosen_by is None else self.dataset(chosen_by),
            compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
        )

    def fit(self, **settings: Any) -> np.ndarray:
        """Train on all labelled rows; return the probabilities of the test rows."""
        with tempfile.TemporaryDirectory() as folder:
            trainer = self.trainer(folder, self.job.train, **settings)
            trainer.train()
            return self.predict(trainer, self.job.test)

    def predict(self, trainer: Trainer, rows: Rows) -> np.ndarray:
        unlabelled = self.dataset(rows).remove_columns("labels")
        return torch.from_numpy(trainer.predict(unlabelled).predictions).softmax(-1).numpy()


def defaults(job: Job) -> tuple[np.ndarray, dict[str, Any]]:
    """Do what the documentation's first example does: 3 epochs, batches of 8, learning rate 5e-5."""
    return Setup(job).fit(), {}


def tuned(job: Job) -> tuple[np.ndarray, dict[str, Any]]:
    setup = Setup(job)
    with tempfile.TemporaryDirectory() as folder:
        trainer = setup.trainer(folder, *hold_out(job))
        clock = Clock(job, partial(setup.predict, trainer))

        def space(trial: optuna.Trial) -> dict[str, Any]:
            clock.begin(trial)
            batch = trial.suggest_categorical("per_device_train_batch_size", [4, 8, 16])
            return {
                "per_device_train_batch_size": batch,
                "max_steps": trial.suggest_int("max_steps", *clock.updates(batch), log=True),
                "learning_rate": trial.suggest_float("learning_rate", 1e-5, 5e-4, log=True),
                "weight_decay": trial.suggest_categorical("weight_decay", [0.0, 0.01, 0.1]),
            }

        best = trainer.hyperparameter_search(
            hp_space=space,
            compute_objective=lambda metrics: metrics["eval_accuracy"] - TIE_WEIGHT * metrics["eval_loss"],
            n_trials=MANY_TRIALS,
            direction="maximize",
            backend="optuna",
        )
    return setup.fit(**best.hyperparameters), {**best.hyperparameters, "trials": clock.trials}

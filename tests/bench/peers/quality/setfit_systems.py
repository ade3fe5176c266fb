"""SetFit: with its defaults, and tuned by its own Optuna backend over the space of its documentation."""

import tempfile
from typing import Any

import numpy as np
import optuna
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments
from sklearn.linear_model import LogisticRegression

from peers.quality.encoder import sentence_encoder
from peers.quality.job import Job, Rows
from peers.quality.search import MANY_TRIALS, Clock, hold_out

BATCH = 16


def model(job: Job, parameters: dict[str, Any] | None) -> SetFitModel:
    chosen = parameters or {}
    head = LogisticRegression(max_iter=chosen.get("max_iter", 100), solver=chosen.get("solver", "lbfgs"))
    return SetFitModel(model_body=sentence_encoder(job), model_head=head)


def dataset(rows: Rows) -> Dataset:
    return Dataset.from_dict({"text": rows.joined, "label": rows.labels})


def probabilities(fitted: SetFitModel, rows: Rows) -> np.ndarray:
    return fitted.predict_proba(rows.joined, as_numpy=True, show_progress_bar=False)


def arguments(folder: str, job: Job) -> TrainingArguments:
    quiet = {"report_to": "none", "save_strategy": "no", "show_progress_bar": False}
    return TrainingArguments(output_dir=folder, seed=job.seed, **quiet)


def defaults(job: Job) -> tuple[np.ndarray, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model=model(job, None), args=arguments(folder, job), train_dataset=dataset(job.train))
        trainer.train()
        return probabilities(trainer.model, job.test), {}


def tuned(job: Job) -> tuple[np.ndarray, dict[str, Any]]:
    fitted, chosen_by = hold_out(job)
    encoder = sentence_encoder(job)
    clock = Clock(job, lambda rows: encoder.encode(rows.joined, show_progress_bar=False))

    # liblinear knows two classes only.
    solvers = ["newton-cg", "lbfgs", *(["liblinear"] if len(job.classes) == 2 else [])]

    def space(trial: optuna.Trial) -> dict[str, Any]:
        clock.begin(trial)
        return {
            "body_learning_rate": trial.suggest_float("body_learning_rate", 1e-6, 1e-3, log=True),
            "max_steps": trial.suggest_int("max_steps", *clock.updates(2 * BATCH), log=True),
            "max_iter": trial.suggest_int("max_iter", 50, 300),
            "solver": trial.suggest_categorical("solver", solvers),
        }

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model_init=lambda parameters: model(job, parameters),
            args=arguments(folder, job),
            train_dataset=dataset(fitted),
            eval_dataset=dataset(chosen_by),
            metric=lambda found, labels: {"accuracy": float(np.mean(np.array(found) == np.array(labels)))},
        )
        best = trainer.hyperparameter_search(hp_space=space, n_trials=MANY_TRIALS, direction="maximize")
        trainer.apply_hyperparameters(best.hyperparameters, final_model=True)
        trainer.train_dataset, trainer.eval_dataset = dataset(job.train), None
        trainer.train()
        return probabilities(trainer.model, job.test), {**best.hyperparameters, "trials": clock.trials}

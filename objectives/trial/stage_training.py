"""Training that trials share: saved every now and then, and gone on with after a kill, the same bit for bit."""

import math
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from promptgraft.objectives.caching import StageKey, StageStore
from promptgraft.objectives.progress import StageProgress
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.objectives.trial.checkpoints import Checkpoint, Saved
from promptgraft.objectives.trial.cycle_state import state_of, take_up
from promptgraft.objectives.trial.training import Trainer, Update

# Seconds between two reports of a stage.
REPORT_EVERY_S = 20.0


@dataclass(frozen=True, slots=True)
class StageTraining:
    """How the weights of a stage are found: in the store, or by training from the last checkpoint on.

    Attributes:
        stages: The store.
        every_s: Seconds between two checkpoints, at least.
    """

    stages: StageStore
    every_s: float

    def weights(
        self,
        stage: str,
        key: StageKey,
        build_model: Callable[[], PromptedModel],
        start: Callable[[PromptedModel, int], Trainer],
        take: Callable[[PromptedModel, Trainer], dict[str, Tensor]] | None = None,
    ) -> Generator[StageProgress, None, dict[str, Tensor]]:
        """Return what a stage trains but for the head, where that has no part in it; report every now and then.

        Args:
            stage: What it is, in words.
            key: Everything that decides the outcome.
            build_model: Returns the model to train, in the state before the first update.
            start: Takes the model and a number of updates; returns the trainer in the state after them.
            take: Takes model and trainer in the state after the last update; returns what is kept in place of weights.
        """
        checkpoint = self._checkpoint(key)
        is_trained = False

        def train() -> Generator[StageProgress, None, dict[str, Tensor]]:
            nonlocal is_trained
            is_trained = True
            model = build_model()
            trainer = _resumed(model, start, key, checkpoint)
            yield from _train(stage, model, trainer, key, checkpoint)
            return (take or _weights)(model, trainer)

        found = yield from self.stages.get_in_steps(key, train)
        if is_trained and checkpoint is not None:
            checkpoint.delete()
        return found

    def _checkpoint(self, key: StageKey) -> Checkpoint | None:
        if self.stages.files is None:
            return None
        name = key.name.removesuffix(".safetensors")
        return Checkpoint(self.stages.files, f"{name}.checkpoint.safetensors", self.every_s)


def _weights(model: PromptedModel, trainer: Trainer) -> dict[str, Tensor]:
    head = model.heads() if trainer.settings.contrastive else ()
    return model.snapshot([name for name in model.trainable() if name not in head])


@dataclass(frozen=True, slots=True)
class SharedStates:
    """The states of one training, for trials that differ only in what they do with them.

    Attributes:
        stages: The store.
        content: Everything that decides the training, as JSON types.
    """

    stages: StageStore
    content: Mapping[str, object]

    def train(self, model: PromptedModel, trainer: Trainer, step: int) -> list[Update]:
        """Put model and trainer into the state after a step, by training or from the store; return the updates' losses.

        Args:
            model: The model in training.
            trainer: What trains it, at an earlier step.
            step: The step.
        """
        updates: list[Update] = []

        def compute() -> dict[str, Tensor]:
            updates.extend(trainer.updates(step))
            losses = [[math.nan if loss is None else loss for loss in astuple(update)] for update in updates]
            return state_of(model, trainer) | {"losses": torch.tensor(losses, dtype=torch.float64)}

        found = self.stages.get(StageKey.of({"stage": "trained", **self.content, "step": step}), compute)
        if updates:
            return updates
        trainer.seek(step)
        take_up(Saved({}, found), model, trainer)
        return [Update(*(None if math.isnan(loss) else loss for loss in own)) for own in found["losses"].tolist()]


def _resumed(
    model: PromptedModel,
    start: Callable[[PromptedModel, int], Trainer],
    key: StageKey,
    checkpoint: Checkpoint | None,
) -> Trainer:
    """Return the trainer in the state of the last checkpoint, or before the first update."""
    saved = checkpoint.load(_identity(key)) if checkpoint else None
    trainer = start(model, saved.content["step"] if saved else 0)
    if saved is not None:
        take_up(saved, model, trainer)
    return trainer


def _train(
    stage: str, model: PromptedModel, trainer: Trainer, key: StageKey, checkpoint: Checkpoint | None
) -> Generator[StageProgress, None, None]:
    """Train to the last step; save the state and report every now and then."""
    steps = trainer.settings.steps
    report_at = time.monotonic() + REPORT_EVERY_S
    for _ in trainer.updates():
        if checkpoint is not None and checkpoint.is_due and trainer.step < steps:
            checkpoint.save(_identity(key), {"step": trainer.step}, state_of(model, trainer))
        if time.monotonic() >= report_at:
            report_at = time.monotonic() + REPORT_EVERY_S
            yield StageProgress(stage, trainer.step, steps)


def _identity(key: StageKey) -> dict[str, str]:
    return {"stage": key.content}

"""How far a cycle has come: its evaluations and its best state, and all of it as a checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from promptgraft.objectives.data import Task
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.objectives.runtime import random_state, set_random_state
from promptgraft.objectives.trial.checkpoints import Saved
from promptgraft.objectives.trial.results import Evaluation
from promptgraft.objectives.trial.training import Trainer

# Updates before which no training ends early: the first evaluations lie in the warm-up.
LEAST_UPDATES = 32


@dataclass(frozen=True, slots=True)
class BestState:
    """The best evaluation so far, and what it was made with.

    Attributes:
        evaluation: The evaluation.
        logits: Validation logits, shape (rows, labels).
        weights: Trained weights by name.
    """

    evaluation: Evaluation
    logits: npt.NDArray[np.float32]
    weights: Mapping[str, Tensor]


@dataclass(slots=True)
class CycleState:
    """How far a cycle has come.

    Attributes:
        evaluations: What was handed out.
        logits: The validation logits of each, shape (rows, labels).
        best: The best of it; None before the first evaluation.
        resumed_at: Update at which a checkpoint was taken up; 0 if none was.
        seconds_before: Time that earlier runs of the same cycle took, up to the checkpoint.
    """

    evaluations: list[Evaluation] = field(default_factory=list)
    logits: list[npt.NDArray[np.float32]] = field(default_factory=list)
    best: BestState | None = None
    resumed_at: int = 0
    seconds_before: float = 0.0
    _row_scores: list[float] = field(default_factory=list, init=False)

    @classmethod
    def of(cls, saved: Saved) -> "CycleState":
        """Read a checkpoint, but for what only a trainer can take up."""
        evaluations = [Evaluation(**entry) for entry in saved.content["evaluations"]]
        logits, number = list(saved.tensors["logits"].numpy()), saved.content["best"]
        best = BestState(evaluations[number], logits[number], saved.part("best/"))
        return cls(evaluations, logits, best, saved.content["step"], saved.content["seconds"])

    def is_past_best(self, task: Task) -> bool:
        """Whether training has gone on for as long again as up to its best evaluation, by metric and by row scores.

        Prechelt (1998), Early Stopping - But When?

        Args:
            task: Whose validation rows were scored.
        """
        step = self.evaluations[-1].step
        if step < LEAST_UPDATES:
            return False
        for logits in self.logits[len(self._row_scores) :]:
            self._row_scores.append(float(task.row_scores(logits, task.validation).mean()))
        surest = self.evaluations[int(np.argmax(self._row_scores))]
        assert self.best is not None, "it is noted with the first evaluation"
        return step >= 2 * max(self.best.evaluation.step, surest.step)

    def checkpoint(
        self, model: PromptedModel, trainer: Trainer, seconds: float
    ) -> tuple[dict[str, object], dict[str, Tensor]]:
        """Collect what a checkpoint holds: JSON types, and tensors.

        Args:
            model: The model in training.
            trainer: What trains it.
            seconds: Time that the cycle took so far.
        """
        assert self.best is not None, "the first evaluation comes before the first checkpoint"
        steps = [evaluation.step for evaluation in self.evaluations]
        content: dict[str, object] = {
            "step": trainer.step,
            "seconds": seconds,
            "best": steps.index(self.best.evaluation.step),
            "evaluations": [asdict(evaluation) for evaluation in self.evaluations],
        }
        best = {f"best/{name}": value for name, value in self.best.weights.items()}
        return content, state_of(model, trainer) | best | {"logits": torch.from_numpy(np.stack(self.logits))}


def state_of(model: PromptedModel, trainer: Trainer) -> dict[str, Tensor]:
    """Return what `take_up` needs to go on training."""
    parts = {
        "model": model.snapshot(list(model.trainable())),
        "optimizer": trainer.state(),
        "random": random_state(model.backbone.device),
    }
    return {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}


def take_up(saved: Saved, model: PromptedModel, trainer: Trainer) -> None:
    """Put model, trainer and random generators into the state of a checkpoint."""
    model.load(saved.part("model/"))
    trainer.load_state(saved.part("optimizer/"))
    set_random_state(model.backbone.device, saved.part("random/"))

"""The one training loop: updates on source and target batches."""

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional

from promptgraft.objectives.prompting import EncodedRow, Loss, PromptedModel
from promptgraft.objectives.trial.losses import mixed_loss, task_weights
from promptgraft.spaces import CUSTOM_PARAMETERS, Candidate, TrialError


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How many updates of what size, and by which loss; a custom parameter may change any of it.

    Attributes:
        steps: Updates.
        batch_size: Rows of each task in one update.
        learning_rate: Peak step size of the backbone's weights, or of the adapters in their place.
        prompt_learning_rate: Peak step size of soft prompt and head.
        alpha: Weight of the source loss.
        micro_batch_size: Largest number of rows that are run at once; gradients of a batch's parts are accumulated.
            None for no limit.
        loss: What is minimised on each task's batch; L_s and L_t.
        weight_decay: AdamW's.
        warmup: Share of the updates over which step sizes rise; over the others they fall to 0.
        max_gradient_norm: Norm that the gradient of all weights together is clipped to.
    """

    steps: int
    batch_size: int
    learning_rate: float
    prompt_learning_rate: float
    alpha: float
    micro_batch_size: int | None = None
    loss: Loss = functional.cross_entropy
    weight_decay: float = 0.0
    warmup: float = 0.1
    max_gradient_norm: float = 1.0

    @classmethod
    def of(cls, candidate: Candidate, micro_batch_size: int | None) -> "TrainingSettings":
        """Return how a candidate is trained on the target.

        Raises:
            InvalidInputError: If a custom parameter is brought by no installed package.
        """
        settings = cls(
            candidate.steps,
            candidate.batch_size,
            candidate.learning_rate,
            candidate.prompt_learning_rate,
            candidate.alpha,
            micro_batch_size,
        )
        for name, value in candidate.custom:
            settings = CUSTOM_PARAMETERS[name].change(settings, value)
        return settings


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Encoded rows of one task, and its labels in the order of the logits."""

    rows: Sequence[EncodedRow]
    labels: Sequence[str]


@dataclass(frozen=True, slots=True)
class Update:
    """The losses of one update, in nats; None where the task took no part."""

    source_loss: float | None
    target_loss: float | None


class Trainer:
    """Trains with AdamW on alpha * L_s + (1 - alpha) * L_t.

    A task with weight 0 takes no part at all: its rows are not drawn and its forward pass is not run, so
    that alpha = 0 and alpha = 1 equal training on one task alone, bit for bit.

    Args:
        model: What to train; only weights that require gradients change.
        source: Source rows; may be None if alpha is 0.
        target: Target rows; may be None if alpha is 1.
        settings: How long and how fast.
        seed: Seed of the batches; dropout follows torch's global generator, which the caller seeds.
        step: Updates done before, by a trainer whose `state` is then to be loaded.

    Attributes:
        step: Updates done.
    """

    def __init__(
        self,
        model: PromptedModel,
        source: TrainingData | None,
        target: TrainingData | None,
        settings: TrainingSettings,
        seed: int,
        step: int = 0,
    ) -> None:
        self.model = model
        self.source, self.target = source, target
        self.settings = settings
        self.step = step
        use_source, use_target = settings.alpha > 0, settings.alpha < 1
        self._source_batches = batches(source, settings.batch_size, seed) if use_source and source else None
        self._target_batches = batches(target, settings.batch_size, seed + 1) if use_target and target else None
        for drawn in (self._source_batches, self._target_batches):
            if drawn is not None:
                deque(islice(drawn, step), maxlen=0)

    @cached_property
    def _engine(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Optimizer and schedule, built when the first update needs them: a candidate may have no steps."""
        return _optimizer(self.model, self.settings, self.step)

    def updates(self) -> Iterator[Update]:
        """Train up to the last step.

        Yields:
            The losses of each update.

        Raises:
            TrialError: If a loss is not finite.
        """
        while self.step < self.settings.steps:
            optimizer, schedule = self._engine
            self.model.backbone.train()
            optimizer.zero_grad(set_to_none=True)
            alpha = self.settings.alpha
            source_weight, target_weight = task_weights(alpha)
            source_nll = self._backward(self.source, self._source_batches, source_weight)
            target_nll = self._backward(self.target, self._target_batches, target_weight)
            loss = _combine(source_nll, target_nll, alpha)
            if not math.isfinite(loss):
                raise TrialError(
                    f"the loss became {loss} at step {self.step + 1} (L_s {source_nll}, "
                    f"L_t {target_nll}, learning_rate {self.settings.learning_rate:g}, "
                    f"prompt_learning_rate {self.settings.prompt_learning_rate:g})"
                )
            torch.nn.utils.clip_grad_norm_(self.model.trainable().values(), self.settings.max_gradient_norm)
            optimizer.step()
            schedule.step()
            self.step += 1
            yield Update(source_nll, target_nll)

    def _backward(
        self, data: TrainingData | None, drawn: Iterator[list[EncodedRow]] | None, weight: float
    ) -> float | None:
        """Add the gradient of one task's weighted loss, in parts of similar length; return L, None without the task."""
        if data is None or drawn is None:
            return None
        rows = next(drawn)
        parts: list[Tensor] = []
        for chosen in self.model.split(rows, self.settings.micro_batch_size or len(rows)):
            batch = self.model.batch([rows[i] for i in chosen])
            loss = self.model.nll(batch, data.labels, self.settings.loss) * (len(chosen) / len(rows))
            (weight * loss).backward()  # type: ignore[no-untyped-call]
            parts.append(loss.detach())
        return float(torch.stack(parts).sum())

    def state(self) -> dict[str, Tensor]:
        """Return the optimizer's state, `<parameter>.<name>` -> tensor on the CPU."""
        found = self._engine[0].state_dict()["state"]
        return {
            f"{index}.{name}": torch.as_tensor(value).to("cpu", copy=True)
            for index, entry in found.items()
            for name, value in entry.items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over the optimizer's state from a trainer that was `step` updates far."""
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            index, _, name = key.partition(".")
            entries.setdefault(int(index), {})[name] = value
        optimizer, _ = self._engine
        optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})


def first_epoch(n_rows: int, seed: int) -> list[int]:
    """Return the order in which `batches` draws the rows for the first time."""
    order: list[int] = torch.randperm(n_rows, generator=torch.Generator().manual_seed(seed)).tolist()
    return order


def batches(data: TrainingData, size: int, seed: int) -> Iterator[list[EncodedRow]]:
    """Draw batches without end: every epoch is a fresh permutation, and epochs join without a gap.

    Args:
        data: The rows; where there are fewer than `size`, a batch holds all of them.
        size: Rows a batch.
        seed: Seed of the permutations.
    """
    generator = torch.Generator().manual_seed(seed)
    size = min(size, len(data.rows))
    waiting: list[int] = []
    while True:
        while len(waiting) < size:
            waiting += torch.randperm(len(data.rows), generator=generator).tolist()
        chosen, waiting = waiting[:size], waiting[size:]
        yield [data.rows[index] for index in chosen]


def _combine(source_nll: float | None, target_nll: float | None, alpha: float) -> float:
    if source_nll is not None and target_nll is not None:
        return mixed_loss(source_nll, target_nll, alpha)
    alone = source_nll if source_nll is not None else target_nll
    if alone is None:
        raise TrialError(f"no rows to train on at alpha = {alpha}")
    return alone


def _optimizer(
    model: PromptedModel, settings: TrainingSettings, done: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    attached = [p for p in model.attached().values() if p.requires_grad]
    carried = [p for p in (model.carried() | model.adapters()).values() if p.requires_grad]
    groups = [
        {"params": params, "lr": rate, "initial_lr": rate}
        for params, rate in ((carried, settings.learning_rate), (attached, settings.prompt_learning_rate))
    ]
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)
    warmup = max(1, round(settings.warmup * settings.steps))

    def factor(step: int) -> float:
        rising = (step + 1) / warmup
        falling = (settings.steps - step) / max(1, settings.steps - warmup)
        return max(0.0, min(1.0, rising, falling))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor, last_epoch=done - 1)

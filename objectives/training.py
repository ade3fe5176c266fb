"""The one training loop: updates on source and target batches."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from promptgraft.objectives.losses import mixed_loss
from promptgraft.objectives.prompted_model import EncodedRow, PromptedModel
from promptgraft.spaces import TrialError

WARMUP_FRACTION = 0.1
MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How many updates of what size.

    Attributes:
        steps: Updates.
        batch_size: Rows of each task in one update.
        learning_rate: Peak step size of the backbone's weights.
        prompt_learning_rate: Peak step size of soft prompt and head.
        alpha: Weight of the source loss.
    """

    steps: int
    batch_size: int
    learning_rate: float
    prompt_learning_rate: float
    alpha: float


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


def train(
    model: PromptedModel,
    source: TrainingData | None,
    target: TrainingData | None,
    settings: TrainingSettings,
    seed: int,
) -> Iterator[Update]:
    """Train with AdamW on alpha * L_s + (1 - alpha) * L_t, yielding after every update.

    A task with weight 0 takes no part at all: its rows are not drawn and its forward pass is not run, so
    that alpha = 0 and alpha = 1 equal training on one task alone, bit for bit.

    Args:
        model: What to train; only weights that require gradients change.
        source: Source rows; may be None if alpha is 0.
        target: Target rows; may be None if alpha is 1.
        settings: How long and how fast.
        seed: Seed of the batches; dropout follows torch's global generator, which the caller seeds.

    Yields:
        The losses of each update.

    Raises:
        TrialError: If a loss is not finite.
    """
    use_source, use_target = settings.alpha > 0, settings.alpha < 1
    source_batches = batches(source, settings.batch_size, seed) if use_source and source else None
    target_batches = batches(target, settings.batch_size, seed + 1) if use_target and target else None
    optimizer, schedule = _optimizer(model, settings)
    for step in range(1, settings.steps + 1):
        model.backbone.model.train()
        source_nll = _nll(model, source, source_batches)
        target_nll = _nll(model, target, target_batches)
        loss = _combine(source_nll, target_nll, settings.alpha)
        if not math.isfinite(loss.item()):
            raise TrialError(
                f"the loss became {loss.item()} at step {step} (L_s {_item(source_nll)}, L_t {_item(target_nll)}, "
                f"learning_rate {settings.learning_rate:g}, prompt_learning_rate {settings.prompt_learning_rate:g})"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.trainable().values(), MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        yield Update(_item(source_nll), _item(target_nll))


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


def _nll(model: PromptedModel, data: TrainingData | None, drawn: Iterator[list[EncodedRow]] | None) -> Tensor | None:
    if data is None or drawn is None:
        return None
    return model.nll(model.batch(next(drawn)), data.labels)


def _combine(source_nll: Tensor | None, target_nll: Tensor | None, alpha: float) -> Tensor:
    if source_nll is not None and target_nll is not None:
        return mixed_loss(source_nll, target_nll, alpha)
    alone = source_nll if source_nll is not None else target_nll
    if alone is None:
        raise TrialError(f"no rows to train on at alpha = {alpha}")
    return alone


def _optimizer(
    model: PromptedModel, settings: TrainingSettings
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    attached = [p for p in model.attached().values() if p.requires_grad]
    carried = [p for p in model.carried().values() if p.requires_grad]
    groups = [
        {"params": carried, "lr": settings.learning_rate},
        {"params": attached, "lr": settings.prompt_learning_rate},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.0)
    warmup = max(1, round(WARMUP_FRACTION * settings.steps))

    def factor(step: int) -> float:
        rising = (step + 1) / warmup
        falling = (settings.steps - step) / max(1, settings.steps - warmup)
        return max(0.0, min(1.0, rising, falling))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _item(value: Tensor | None) -> float | None:
    return None if value is None else value.item()

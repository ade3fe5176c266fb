"""The one training loop: updates on source and target batches."""

import logging
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional

from promptgraft.objectives.data import LossName
from promptgraft.objectives.progress import report_progress
from promptgraft.objectives.prompting import BACKBONE, EncodedRow, Loss, PromptedModel
from promptgraft.objectives.trial.losses import LOSSES, contrastive_loss, mixed_loss, task_weights
from promptgraft.objectives.trial.trial_data import TrainingData, balanced_batches, batches
from promptgraft.spaces import CUSTOM_PARAMETERS, Candidate, TrialError

logger = logging.getLogger(__name__)


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
        contrastive: Whether L_s and L_t are `contrastive_loss` of the text embeddings instead.
        class_weights: Whether rows count by the inverse frequency of their label.
        layer_decay: Factor by which the step size of each layer is smaller than that of the one above it.
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
    contrastive: bool = False
    class_weights: bool = False
    layer_decay: float = 1.0
    weight_decay: float = 0.0
    warmup: float = 0.1
    max_gradient_norm: float = 1.0

    @classmethod
    def of(
        cls, candidate: Candidate, micro_batch_size: int | None, loss_name: LossName = "cross_entropy"
    ) -> "TrainingSettings":
        """Return how a candidate is trained on the target.

        Args:
            candidate: The candidate.
            micro_batch_size: See `TrainingSettings`.
            loss_name: That of the task kind.

        Raises:
            InvalidInputError: If a custom parameter is brought by no installed package.
        """
        loss = LOSSES[loss_name]
        if candidate.label_smoothing:
            loss = partial(functional.cross_entropy, label_smoothing=candidate.label_smoothing)
        settings = cls(
            steps=candidate.steps,
            batch_size=candidate.batch_size,
            learning_rate=candidate.learning_rate,
            prompt_learning_rate=candidate.prompt_learning_rate,
            alpha=candidate.alpha,
            micro_batch_size=micro_batch_size,
            loss=loss,
            class_weights=candidate.class_weights == "balanced",
            layer_decay=candidate.layer_decay,
            weight_decay=candidate.weight_decay,
            warmup=candidate.warmup,
        )
        for name, value in candidate.custom:
            settings = CUSTOM_PARAMETERS[name].change(settings, value)
        return settings

    @classmethod
    def of_contrast(cls, candidate: Candidate, micro_batch_size: int | None) -> "TrainingSettings":
        """Return how the text embeddings of a candidate are trained before there is a head."""
        settings = cls.of(replace(candidate, label_smoothing=0.0, custom=()), micro_batch_size)
        return replace(settings, steps=candidate.contrastive_steps, contrastive=True, class_weights=False)


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
        reduced_to: Rows that are run at once since the device ran out of memory; None if it never did.
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
        self.reduced_to: int | None = None
        self._seed = seed
        self._source_batches, self._target_batches = self._drawn()

    def _drawn(self) -> tuple[Iterator[list[EncodedRow]] | None, Iterator[list[EncodedRow]] | None]:
        """Draw the batches of source and target from the next update on; None where a task takes no part."""
        settings, seed = self.settings, self._seed
        draw = balanced_batches if settings.contrastive else batches
        source = draw(self.source, settings.batch_size, seed) if settings.alpha > 0 and self.source else None
        target = draw(self.target, settings.batch_size, seed + 1) if settings.alpha < 1 and self.target else None
        for drawn in (source, target):
            if drawn is not None:
                deque(islice(drawn, self.step), maxlen=0)
        return source, target

    def seek(self, step: int) -> None:
        """Go on from another update, whose `state` is then to be loaded."""
        self.step = step
        self._source_batches, self._target_batches = self._drawn()
        self.__dict__.pop("_engine", None)

    @cached_property
    def _engine(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Optimizer and schedule, built when the first update needs them: a candidate may have no steps."""
        return _optimizer(self.model, self.settings, self.step)

    def updates(self, until: int | None = None) -> Iterator[Update]:
        """Train up to a step, the last one if None.

        Yields:
            The losses of each update.

        Raises:
            TrialError: If a loss is not finite, or the device's memory does not hold the least that can be run at once.
        """
        while self.step < (self.settings.steps if until is None else until):
            optimizer, schedule = self._engine
            self.model.backbone.train()
            drawn = (self._source_batches, self._target_batches)
            source_nll, target_nll = self._accumulate(*(next(rows) if rows is not None else [] for rows in drawn))
            loss = _combine(source_nll, target_nll, self.settings.alpha)
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
            report_progress("training", self.step, self.settings.steps)
            yield Update(source_nll, target_nll)

    def _accumulate(self, source: list[EncodedRow], target: list[EncodedRow]) -> tuple[float | None, float | None]:
        """Set the gradient of both tasks' weighted losses; return L_s and L_t.

        Where the device's memory does not hold so many rows at once, half as many are run from here on.
        """
        source_weight, target_weight = task_weights(self.settings.alpha)
        while True:
            self._engine[0].zero_grad(set_to_none=True)
            try:
                return (
                    self._backward(self.source, source, source_weight),
                    self._backward(self.target, target, target_weight),
                )
            except torch.OutOfMemoryError as error:
                self._reduce(max(len(source), len(target)), error)
            torch.cuda.empty_cache()  # Here, since the handled error still held what the failed pass had allocated.

    def _reduce(self, rows: int, error: torch.OutOfMemoryError) -> None:
        if self.settings.contrastive:
            raise TrialError(
                f"the device ran out of memory with {rows} rows at step {self.step + 1}, and a contrastive loss needs "
                "the whole batch at once; set backbone.gradient_checkpointing: true, or lower batch_size"
            ) from error
        before = min(self._rows_at_once(rows), rows)
        if before == 1:
            raise TrialError(
                f"the device ran out of memory with a single row at step {self.step + 1}; set "
                "backbone.gradient_checkpointing: true, or lower backbone.max_tokens"
            ) from error
        self.reduced_to = before // 2
        logger.warning(
            "out of memory with %d rows at once at step %d: going on with %d", before, self.step + 1, self.reduced_to
        )

    def _rows_at_once(self, rows: int) -> int:
        return self.reduced_to or self.settings.micro_batch_size or rows

    def _backward(self, data: TrainingData | None, rows: list[EncodedRow], weight: float) -> float | None:
        """Add the gradient of one task's weighted loss, in parts of similar length; return L, None without the task."""
        if data is None or not rows:
            return None
        parts: list[Tensor] = []
        for chosen in self._cut(rows):
            part = [rows[i] for i in chosen]
            loss = self._loss(data, part) * data.share(part, rows)
            (weight * loss).backward()  # type: ignore[no-untyped-call]
            parts.append(loss.detach())
        return float(torch.stack(parts).sum())

    def _cut(self, rows: list[EncodedRow]) -> Sequence[Sequence[int]]:
        """Return which rows are run at once: all of them, where the loss is one of pairs, which a cut would part."""
        if self.settings.contrastive:
            return [range(len(rows))]
        return self.model.split(rows, self._rows_at_once(len(rows)))

    def _loss(self, data: TrainingData, rows: Sequence[EncodedRow]) -> Tensor:
        """Return the mean loss of some rows, shape ()."""
        if self.settings.contrastive:
            return contrastive_loss(self.model.embed(self.model.batch(rows)), self.model.targets(rows))
        if self.model.scorer.listed:
            return self.model.title_loss(rows, data.labels)
        loss, targets = self.settings.loss, data.targets(rows).to(self.model.backbone.device)
        if self.settings.class_weights:
            loss = partial(loss, weight=data.label_weights().to(self.model.backbone.device))
        return loss(self.model.logits(self.model.batch(rows), data.labels), targets)

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
    groups = [
        {"params": parameters, "lr": rate, "initial_lr": rate} for rate, parameters in _by_rate(model, settings).items()
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)
    warmup = max(1, round(settings.warmup * settings.steps))

    def factor(step: int) -> float:
        rising = (step + 1) / warmup
        falling = (settings.steps - step) / max(1, settings.steps - warmup)
        return max(0.0, min(1.0, rising, falling))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor, last_epoch=done - 1)


def _by_rate(model: PromptedModel, settings: TrainingSettings) -> dict[float, list[torch.nn.Parameter]]:
    """Return step size -> the weights that are trained with it: those of lower layers may have smaller ones."""
    found: dict[float, list[torch.nn.Parameter]] = {}
    own = {f"{BACKBONE}{name}": name for name in model.backbone.pretrained}
    attached = model.attached()
    for name, parameter in model.trainable().items():
        rate = settings.prompt_learning_rate if name in attached else settings.learning_rate
        if settings.layer_decay < 1 and name in own:
            rate *= settings.layer_decay ** model.backbone.layers_above(own[name])
        found.setdefault(rate, []).append(parameter)
    return found

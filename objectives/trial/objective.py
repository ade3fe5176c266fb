"""The objective: one candidate's whole migrate-and-evaluate cycle."""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from promptgraft.objectives.backbones import (
    BACKBONES,
    FAMILIES,
    Backbone,
    weights_hash,
)
from promptgraft.objectives.caching import Activations, StageKey, StageStore, reader_key, source_key, source_prompt
from promptgraft.objectives.data import (
    Row,
)
from promptgraft.objectives.file_store import FileStore
from promptgraft.objectives.prompting import DemonstrationPools, EncodedRow, PromptedModel, calibrate
from promptgraft.objectives.runtime import choose_device, random_state, set_random_state
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial.checkpoints import VERSION as CHECKPOINT_VERSION
from promptgraft.objectives.trial.checkpoints import Checkpoint, Saved
from promptgraft.objectives.trial.migration import LoadReport, migrate
from promptgraft.objectives.trial.results import Evaluation, Result, max_rss_bytes, mean
from promptgraft.objectives.trial.training import Trainer, TrainingData, TrainingSettings, Update, first_epoch
from promptgraft.objectives.trial.trial_data import StudyTasks
from promptgraft.spaces import Adapter, Candidate, Template, TrialError, Verbalizer


@dataclass
class _Best:
    """The best evaluation so far and the weights it was made with."""

    evaluation: Evaluation
    logits: npt.NDArray[np.float32]
    state: Mapping[str, Tensor]


class Objective:
    """Evaluates candidates of one study, one after another, with the backbone loaded once.

    Args:
        spec: The study's fixed part.
        device: Where to compute; chosen from what this process was given if None.

    Raises:
        InvalidInputError: If the data or the backbone can't serve.
    """

    def __init__(self, spec: ObjectiveSpec, device: torch.device | None = None) -> None:
        self.spec = spec
        self._fewer: Mapping[str, int] = {}
        self._load_rows()
        self.backbone: Backbone = BACKBONES[spec.backbone.family](spec.backbone, device or choose_device())
        self.stages = StageStore(FileStore(spec.files) if spec.files else None, spec.memory_bytes)
        self._model_in_use: PromptedModel | None = None
        self._weights_hash: str | None = None
        self._run = 0

    def _load_rows(self) -> None:
        self._tasks = tasks = StudyTasks(self.spec, self._fewer)
        self.target, self.sources, self.labels = tasks.target, tasks.sources, tasks.labels
        self._pools = DemonstrationPools(self.target, self.sources, self.spec.space)

    def use_split(self, repeat: int, fewer: Mapping[str, int] | None = None) -> None:
        """Take up another of the repeated splits; a cycle that is open is over.

        Args:
            repeat: Number of the split.
            fewer: `target` or `source` -> how many of its training rows are kept; all where nothing is said.
        """
        if (repeat, fewer or {}) != (self.spec.repeat, self._fewer):
            self._run += 1
            self._fewer = fewer or {}
            self.spec = replace(self.spec, repeat=repeat)
            self._load_rows()

    def know(self, templates: Sequence[Template], verbalizers: Sequence[Verbalizer] = ()) -> None:
        """Take into the space what may have joined the study since."""
        old = self.spec.space
        space = old.with_more(templates, verbalizers)
        if space != old:
            self.spec = replace(self.spec, space=space)
            self._pools = DemonstrationPools(self.target, self.sources, self.spec.space)

    def evaluate(self, candidate: Candidate, seed: int, at: int | None = None) -> Result:
        """Run the whole cycle, or up to a step, and return its outcome; see `run`."""
        *_, last = self.run(candidate, seed, at=at)
        assert last.result is not None
        return last.result

    def score(
        self, candidate: Candidate, delta: Mapping[str, Tensor], rows: Sequence[Row], seed: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Score rows of the target with a trained state, or with the pretrained weights alone.

        Args:
            candidate: What is attached.
            delta: A result's `delta`, with its calibration; empty for the pretrained weights.
            rows: The rows.
            seed: Seed of the trial, which its demonstrations are drawn with; that of the splits if None.

        Returns:
            Logits, shape (len(rows), labels).
        """
        (model,) = self.untrained([candidate])
        model.load(delta)
        labels, batch_size = self.target.labels, self.spec.evaluation_batch_size
        pool = self._pools.get(candidate, "target", self.spec.split_seed if seed is None else seed)
        if candidate.calibration != "none" and model.bias is None:
            calibrate(model, model.encode(self.target.train, pool), labels, batch_size, pool)
        return model.score(model.encode(rows, pool), labels, batch_size).numpy()

    def untrained(self, candidates: Sequence[Candidate]) -> list[PromptedModel]:
        """Return models with the pretrained weights, all on the one backbone: good for scoring only."""
        self._run += 1
        self.backbone.restore()
        return [self._model(candidate, self.spec.split_seed) for candidate in candidates]

    def run(
        self, candidate: Candidate, seed: int, checkpoint: Checkpoint | None = None, at: int | None = None
    ) -> Iterator[Evaluation]:
        """Run the cycle, handing out every evaluation; stop early by not asking for the next one.

        The result depends on the study's fixed part, the candidate and the seed alone: the backbone is
        restored first, and every random number comes from the seed. A cycle that is still open when the
        next one starts is over.

        Args:
            candidate: What to evaluate.
            seed: Seed of initial values, batches and dropout. Sets torch's global generator.
            checkpoint: Where to save the state every now and then. A cycle whose state is there hands out its
                evaluations once more and goes on behind them; the result is the same, bit for bit.
            at: Step whose state is the result, the only one that is evaluated; that of the best evaluation if None.

        Yields:
            The evaluation at step 0, then one every `evaluate_every` updates and one at the last; or that at `at`.

        Raises:
            TrialError: If the training fails, as with a loss that is not finite.
            InvalidInputError: If the candidate asks for what the backbone can't do.
        """
        started = time.perf_counter()
        this_run = self._run = self._run + 1
        candidate = candidate.canonical(self.spec.space.facts)
        self.stages.start_trial()
        used = self.stages.use
        identity = self._identity(candidate, seed) if checkpoint else {}
        saved = checkpoint.load(identity) if checkpoint else None
        model, load_report = self._migrated(candidate, seed)
        self._model_in_use = model
        done: list[Evaluation] = []
        best: _Best | None = None
        if saved is not None:
            done = [Evaluation(**entry) for entry in saved.content["evaluations"]]
            best = _Best(done[saved.content["best"]], saved.tensors["logits"].numpy(), saved.part("best/"))
            started -= saved.content["seconds"]
        for evaluation in list(done):
            yield evaluation
            self._check_open(this_run)
        trainer = self._trainer(model, candidate, seed, saved)
        for evaluation, logits in self._evaluations(model, trainer, saved is None, at):
            done.append(evaluation)
            ahead = best is None or evaluation.is_better(best.evaluation, self.spec.direction)
            if best is None or evaluation.step == at or (at is None and ahead):
                best = _Best(evaluation, logits, model.snapshot(list(model.trainable())))
            if evaluation.step == (candidate.steps if at is None else at):
                model.load(best.state)
                result = self._result(model, best, load_report, started)
                used = self.stages.use - used
                resumed_at = saved.content["step"] if saved else 0
                yield replace(evaluation, result=replace(result, stages=used, resumed_at=resumed_at))
                return
            yield evaluation
            self._check_open(this_run)
            if checkpoint is not None and checkpoint.is_due:
                seconds = time.perf_counter() - started
                checkpoint.save(identity, *self._state(model, trainer, done, best, seconds))

    def example(self) -> str:
        """Render the first validation row as the running cycle's model sees it, its label in brackets."""
        model, row = self._model_in_use, self.target.validation[0]
        assert model is not None, "a cycle must run"
        pool = self._pools.get(model.candidate, "validation", model.seed)
        return model.render(row.fields, pool).with_label(f"[{self.target.labels[row.label]}]")

    def _check_open(self, run: int) -> None:
        if run != self._run:
            raise TrialError("another cycle was started on this objective, so this one can't go on")

    def _identity(self, candidate: Candidate, seed: int) -> dict[str, object]:
        """Everything that decides a cycle's outcome, as JSON types."""
        return {
            **self.reader_key(),
            "version": CHECKPOINT_VERSION,
            "candidate": candidate.to_dict(),
            "seed": seed,
            "rows": self._tasks.hashes(candidate),
            "source_training": asdict(self.spec.training_on(candidate.source)),
            "evaluation": [self.spec.evaluate_every, self.spec.evaluation_batch_size, self.spec.metric],
        }

    def _state(
        self, model: PromptedModel, trainer: Trainer, done: list[Evaluation], best: _Best, seconds: float
    ) -> tuple[dict[str, object], dict[str, Tensor]]:
        """Collect what a checkpoint needs: JSON types and tensors."""
        steps = [evaluation.step for evaluation in done]
        content: dict[str, object] = {
            "step": trainer.step,
            "seconds": seconds,
            "best": steps.index(best.evaluation.step),
            "evaluations": [asdict(evaluation) for evaluation in done],
        }
        tensors = {f"model/{name}": value for name, value in model.snapshot(list(model.trainable())).items()}
        tensors |= {f"best/{name}": value for name, value in best.state.items()}
        tensors |= {f"optimizer/{name}": value for name, value in trainer.state().items()}
        tensors |= {f"random/{name}": value for name, value in random_state(self.backbone.device).items()}
        return content, tensors | {"logits": torch.from_numpy(best.logits)}

    def _trainer(self, model: PromptedModel, candidate: Candidate, seed: int, saved: Saved | None) -> Trainer:
        """Build what trains on the target, in the saved state if there is one."""
        target = TrainingData(self._encoded(model, "target", seed + 1), self.target.labels)
        source = None
        if candidate.alpha > 0:
            source = TrainingData(self._encoded(model, "source", seed), self._tasks.source(candidate).labels)
        plan = TrainingSettings.of(candidate, self.spec.backbone.micro_batch_size)
        if saved is None:
            return Trainer(model, source, target, plan, seed)
        trainer = Trainer(model, source, target, plan, seed, saved.content["step"])
        model.load(saved.part("model/"))
        trainer.load_state(saved.part("optimizer/"))
        set_random_state(self.backbone.device, saved.part("random/"))
        return trainer

    def _migrated(self, candidate: Candidate, seed: int) -> tuple[PromptedModel, LoadReport]:
        """Train on the source if the candidate says so, then build the target model from it."""
        state = self._source_state(candidate, seed) if candidate.source_steps else {}
        self.backbone.restore()
        model = self._model(candidate, seed)
        report = migrate(model, state)
        self._reuse(model, candidate, seed)
        # Dropout starts from the same number whether the source stage was computed or read.
        torch.manual_seed(seed)
        return model, report

    def _source_state(self, candidate: Candidate, seed: int) -> dict[str, Tensor]:
        """Return the weights after the source stage, from the store if they are there."""
        source, settings = self._tasks.source(candidate), self.spec.training_on(candidate.source)
        on_source = replace(
            candidate,
            soft_prompt=source_prompt(candidate),
            adapter=Adapter(),
            frozen_layers=settings.frozen_layers,
            alpha=1.0,
        )

        def compute() -> dict[str, Tensor]:
            self.backbone.restore()
            model = self._model(on_source, seed)
            self._reuse(model, on_source, seed)
            rates = (settings.learning_rate, settings.head_learning_rate)
            size = (candidate.source_steps, settings.batch_size)
            plan = TrainingSettings(*size, *rates, 1.0, self.spec.backbone.micro_batch_size)
            torch.manual_seed(seed)
            rows = TrainingData(self._encoded(model, "source", seed), source.labels)
            deque(Trainer(model, rows, None, plan, seed).updates(), maxlen=0)
            return model.snapshot(list(model.trainable()))

        return self.stages.get(StageKey.of(self._source_key(candidate, seed)), compute)

    def _source_key(self, candidate: Candidate, seed: int) -> dict[str, object]:
        """Everything that decides the weights after the source stage, as JSON types."""
        pool = self._pools.get(candidate, "source", seed)
        labels = (self._tasks.source(candidate).labels, self.labels)
        rows, shown = self._tasks.hashes(candidate)["source"], pool.content if pool else None
        return self.reader_key() | source_key(self.spec, candidate, seed, rows, labels, shown)

    def _reuse(self, model: PromptedModel, candidate: Candidate, seed: int) -> None:
        """Let a model take from the store what its frozen layers make of the rows."""
        reuse = model.reuse()
        if reuse is None:
            return
        base = self.spec.frozen_on(candidate.source)

        def weights(depth: int) -> dict[str, object]:
            trained = candidate.source_steps > 0 and depth > base
            return {
                "backbone": self.backbone_hash(),
                "numerics": self.spec.backbone.numerics,
                "source": self._source_key(candidate, seed) if trained else None,
                "device": self.backbone.device.type,
            }

        on_the_way = base if FAMILIES[self.spec.backbone.family].in_parts else 0
        model.activations = Activations(self.stages, self.backbone.layers, reuse, on_the_way, weights)

    def _encoded(self, model: PromptedModel, part: str, seed: int | None = None) -> list[EncodedRow]:
        """Return the token ids of rows; those trained on are laid out in the order in which they are drawn."""
        encoded = self._ids(model, part)
        if model.activations is not None:
            by_length = sorted(range(len(encoded)), key=lambda index: len(encoded[index].ids))
            order = by_length if seed is None else first_epoch(len(encoded), seed)
            model.activations.add([row.ids for row in encoded], order)
        return encoded

    def _ids(self, model: PromptedModel, part: str) -> list[EncodedRow]:
        """Return the token ids of rows, from the store if they are there."""
        rows = self._tasks.rows(part, model.candidate)
        pool = self._pools.get(model.candidate, part, model.seed)
        content = {
            "stage": "encoded",
            "backbone": self.backbone_hash(),
            "max_tokens": self.spec.backbone.max_tokens,
            "family": self.spec.backbone.family,
            "template": model.template.text,
            "masks": model.reader.masks,
            "rows": self._tasks.hashes(model.candidate)[part],
            **({"demonstrations": pool.content} if pool else {}),
        }
        key = StageKey.of(content)
        return EncodedRow.unpack(self.stages.get(key, lambda: EncodedRow.pack(model.encode(rows, pool))))

    def _model(self, candidate: Candidate, seed: int) -> PromptedModel:
        space = self.spec.space
        verbalizer = space.verbalizer(candidate.verbalizer) if candidate.verbalizer else None
        template = space.template(candidate.template)
        return PromptedModel(self.backbone, candidate, template, verbalizer, self.labels, seed)

    def reader_key(self) -> dict[str, object]:
        """Return everything that decides what the pretrained backbone makes of a prompt, as JSON types."""
        return reader_key(self.spec.backbone, self.backbone_hash(), self.backbone.device)

    def backbone_hash(self) -> str:
        """Return the hash of the pretrained weights."""
        if self._weights_hash is None:
            self._weights_hash = weights_hash(self.spec.backbone.path)
        return self._weights_hash

    def _evaluations(
        self, model: PromptedModel, trainer: Trainer, first: bool, at: int | None
    ) -> Iterator[tuple[Evaluation, npt.NDArray[np.float32]]]:
        """Train, and evaluate on the way, before the first update too if `first`; or at one step alone."""
        validation = self._encoded(model, "validation")
        labels, batch_size = self.target.labels, self.spec.evaluation_batch_size
        pool = self._pools.get(model.candidate, "target", model.seed)
        updates: list[Update] = []

        def evaluate() -> tuple[Evaluation, npt.NDArray[np.float32]]:
            calibrate(model, trainer.target.rows if trainer.target else (), labels, batch_size, pool)
            logits = model.score(validation, labels, batch_size).numpy()
            if not np.isfinite(logits).all():
                raise TrialError(f"the validation logits are not finite at step {trainer.step}")
            metrics = self.target.measure(logits, self.target.validation)
            evaluation = Evaluation(
                trainer.step,
                metrics[self.spec.metric],
                metrics,
                self.target.confusion(logits, self.target.validation),
                mean([update.source_loss for update in updates]),
                mean([update.target_loss for update in updates]),
            )
            updates.clear()
            return evaluation, logits

        if first and at in (None, 0):
            yield evaluate()
        for update in trainer.updates():
            updates.append(update)
            due = trainer.step % self.spec.evaluate_every == 0 or trainer.step == trainer.settings.steps
            if due if at is None else trainer.step == at:
                yield evaluate()

    def _result(self, model: PromptedModel, best: _Best, load_report: LoadReport, started: float) -> Result:
        changed = [*load_report.loaded, *model.trainable(), *model.attached()]
        shown = self._ids(model, "validation") if model.candidate.demonstrations.count else []
        return Result(
            value=best.evaluation.value,
            step=best.evaluation.step,
            metrics=best.evaluation.metrics,
            confusion=best.evaluation.confusion,
            logits=best.logits,
            delta=model.snapshot(list(dict.fromkeys(changed))),
            load_report=load_report,
            trainable_parameters=model.trainable_parameters,
            prompt_tokens=model.prompt_tokens(shown),
            demonstrations=mean([row.demonstrations for row in shown]) or 0.0,
            seconds=time.perf_counter() - started,
            max_rss_bytes=max_rss_bytes(),
        )

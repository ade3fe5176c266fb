"""One run of the method, its steps in their order: source stage, migration, training on both tasks, evaluation."""

import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from promptgraft.objectives.caching import StageKey
from promptgraft.objectives.data import IGNORED
from promptgraft.objectives.kinds import scores
from promptgraft.objectives.progress import StageProgress
from promptgraft.objectives.prompting import EncodedRow, PromptedModel, calibrate
from promptgraft.objectives.runtime import forget_gpu_peak, max_gpu_bytes
from promptgraft.objectives.trial.checkpoints import VERSION, Checkpoint, Saved, values_of
from promptgraft.objectives.trial.cycle_state import BestState, CycleState, take_up
from promptgraft.objectives.trial.losses import LOSSES
from promptgraft.objectives.trial.migration import LoadReport, migrate
from promptgraft.objectives.trial.probe import EmbeddedRows, fit_probe
from promptgraft.objectives.trial.resources import Resources
from promptgraft.objectives.trial.results import Evaluation, Evaluations, Result, max_rss_bytes, mean
from promptgraft.objectives.trial.row_encoder import RowEncoder
from promptgraft.objectives.trial.stage_training import SharedStates, StageTraining
from promptgraft.objectives.trial.training import Trainer, TrainingSettings, Update
from promptgraft.objectives.trial.trial_data import TrainingData
from promptgraft.spaces import Candidate, Constant, Decoding, TrialError

# Seconds between two checkpoints of a stage, where the cycle itself is not saved.
STAGE_CHECKPOINT_S = 300.0


class Cycle(Evaluations):
    """Runs one candidate: hands out an evaluation every few updates, and the result with the last one.

    It trains while the next evaluation is asked for; a caller that stops asking has stopped the trial. The outcome
    depends on the study's fixed part, the candidate and the seed alone: the backbone is restored first, and every
    random number comes from the seed, which is also set as that of torch's global generator.

    Args:
        resources: What all cycles of the study use.
        candidate: What to run, canonical.
        seed: Seed of initial values, batches and dropout; the source stage has that of the study, see `Resources`.
        checkpoint: Where to save the state every now and then. A cycle whose state is there hands out its evaluations
            once more and goes on behind them; the result is the same, bit for bit.
        at: Step whose state is the result, the only one that is evaluated; that of the best evaluation if None.
        until: Step at which training ends; if None, once its curve is past the best.

    Raises:
        TrialError: While iterating, if the training fails, as with a loss that is not finite.
        InvalidInputError: Likewise, if the candidate asks for what the backbone can't do.

    Source: "The method" in the README.
    """

    def __init__(
        self,
        resources: Resources,
        candidate: Candidate,
        seed: int,
        checkpoint: Checkpoint | None = None,
        at: int | None = None,
        until: int | None = None,
    ) -> None:
        self.candidate = candidate
        self.seed = seed
        self._resources = resources
        self._tasks = resources.tasks
        self._rows = RowEncoder(resources)
        self._checkpoint = checkpoint
        self._stages = StageTraining(resources.stages, checkpoint.every_s if checkpoint else STAGE_CHECKPOINT_S)
        self._at, self._until = at, until
        self._started = time.perf_counter()
        self._state = CycleState()
        self._model: PromptedModel | None = None
        super().__init__(self._run())

    def _run(self) -> Generator[Evaluation | StageProgress, None, None]:
        forget_gpu_peak(self._resources.backbone.device)
        saved = self._load_checkpoint()
        if self.candidate.self_training:
            yield from self._label_rows()
        model, load_report = yield from self._prepare()
        torch.manual_seed(self.seed)  # Dropout starts from the same number, whatever was computed or read before.
        yield from list(self._state.evaluations)  # Those before the checkpoint, once more.
        trainer = self._target_trainer(model, saved)
        for evaluation, logits in self._train_on_target(model, trainer, resumed=saved is not None):
            self._note(evaluation, logits, model)
            if self._is_last(evaluation.step):
                yield replace(evaluation, result=self._result(model, load_report, trainer))
                return
            yield evaluation
            self._save_checkpoint(model, trainer)

    def _prepare(self) -> Generator[StageProgress, None, tuple[PromptedModel, LoadReport]]:
        """Return the model as it is before the first update on both tasks, and what the migration did."""
        source_weights = (yield from self._train_on_source()) if self.candidate.source_steps else {}
        model, load_report = self._migrate(source_weights)
        if self.candidate.contrastive_steps:
            model.load((yield from self._train_embeddings(model)))
        if self.candidate.head == "probe":
            self._fit_head(model)
        return model, load_report

    def _label_rows(self) -> Generator[StageProgress, None, None]:
        """Train on the labelled rows alone, to the last step; let that model label others, to train on from here on."""
        model, _ = yield from self._prepare()

        def start(model: PromptedModel, step: int) -> Trainer:
            torch.manual_seed(self.seed)
            return self._trainer(model, step)

        def logits(model: PromptedModel, trainer: Trainer) -> dict[str, Tensor]:
            return {"logits": self._score(model, trainer, self._rows.encode(model, "unlabelled"))}

        key = StageKey.of(self._labelling_key())
        found = yield from self._stages.weights("self-training", key, lambda: model, start, logits)
        self._resources = self._resources.labelling(found["logits"].numpy(), self.candidate.self_training)
        self._rows = RowEncoder(self._resources)

    def _train_on_source(self) -> Generator[StageProgress, None, dict[str, Tensor]]:
        """Return the weights after training on the source alone, from the store if another trial has computed them."""
        resources, candidate, seed = self._resources, self.candidate, self._resources.source_seed
        settings = resources.spec.training_on(candidate.source)
        on_source = resources.on_source(candidate)

        plan = TrainingSettings(
            steps=candidate.source_steps,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            prompt_learning_rate=settings.head_learning_rate,
            alpha=1.0,
            micro_batch_size=resources.spec.backbone.micro_batch_size,
            loss=LOSSES[resources.tasks.target.loss],
            contrastive=candidate.source_objective == "contrastive",
        )

        def build_model() -> PromptedModel:
            resources.backbone.restore()
            model = resources.build_model(on_source, seed)
            self._rows.share_activations(model)
            return model

        def start(model: PromptedModel, step: int) -> Trainer:
            torch.manual_seed(seed)
            rows = TrainingData.of(resources.tasks.source(candidate), self._rows.encode(model, "source", seed))
            return Trainer(model, rows, None, plan, seed, step)

        key = StageKey.of(resources.source_key(candidate))
        return (yield from self._stages.weights("source stage", key, build_model, start))

    def _migrate(self, source_weights: dict[str, Tensor]) -> tuple[PromptedModel, LoadReport]:
        """Carry the source's weights over to a model of the target, with frozen layers, soft prompt and adapters."""
        self._resources.backbone.restore()
        model = self._model = self._resources.build_model(self.candidate, self.seed)
        report = migrate(model, source_weights)
        self._rows.share_activations(model)
        return model, report

    def _train_embeddings(self, model: PromptedModel) -> Generator[StageProgress, None, dict[str, Tensor]]:
        """Return the weights after contrastive training on both tasks, from the store if another trial has them."""
        candidate, seed = self.candidate, self.seed

        plan = TrainingSettings.of_contrast(candidate, self._resources.spec.backbone.micro_batch_size)

        def start(model: PromptedModel, step: int) -> Trainer:
            torch.manual_seed(seed)
            return Trainer(model, self._source_data(model), self._target_data(model), plan, seed, step)

        key = StageKey.of(self._resources.embedding_key(candidate, seed))
        return (yield from self._stages.weights("contrastive stage", key, lambda: model, start))

    def _fit_head(self, model: PromptedModel) -> None:
        """Fit the probe to its optimum on the embeddings as they are now."""
        source = self._source_data(model)
        weight, bias = fit_probe(
            self._embedded(model, self._target_data(model)),
            self._embedded(model, source) if source else None,
            len(self._resources.tasks.labels),
            self.candidate.alpha,
            self.candidate.probe_c,
            self._resources.tasks.target.loss,
        )
        model.load_head(weight, bias)

    def _embedded(self, model: PromptedModel, data: TrainingData) -> EmbeddedRows:
        embeddings = model.embeddings(data.rows, self._resources.spec.evaluation_batch_size)
        places = [self._resources.tasks.labels.index(label) for label in data.labels]
        targets = data.targets(data.rows)
        if model.words is not None:
            targets = targets[targets != IGNORED]
        return EmbeddedRows(functional.normalize(embeddings, dim=-1), targets, places)

    def _target_data(self, model: PromptedModel) -> TrainingData:
        rows = self._rows.encode(model, "target", self.seed + 1)
        return TrainingData.of(self._resources.tasks.target, rows, model)

    def _source_data(self, model: PromptedModel) -> TrainingData | None:
        """Return the source's rows, if they take part after the migration."""
        if not self.candidate.alpha:
            return None
        rows = self._rows.encode(model, "source", self.seed)
        return TrainingData.of(self._resources.tasks.source(self.candidate), rows, model)

    def _target_trainer(self, model: PromptedModel, saved: Saved | None) -> Trainer:
        """Build what trains on both tasks, in the saved state if there is one."""
        trainer = self._trainer(model, self._state.resumed_at)
        if saved is not None:
            take_up(saved, model, trainer)
        return trainer

    def _trainer(self, model: PromptedModel, step: int) -> Trainer:
        """Build what trains on alpha * L_s + (1 - alpha) * L_t, at a step whose state is then loaded if it isn't 0."""
        target, source = self._target_data(model), self._source_data(model)
        micro_batch_size = self._resources.spec.backbone.micro_batch_size
        plan = TrainingSettings.of(self.candidate, micro_batch_size, self._resources.tasks.target.loss)
        trainer = Trainer(model, source, target, plan, self.seed, step)
        scaling = self._resources.tasks.target.scaling
        model.scaling = None if scaling is None else torch.tensor(scaling, dtype=torch.float64)
        self._resources.fit_prior(model)
        return trainer

    def _train_on_target(
        self, model: PromptedModel, trainer: Trainer, *, resumed: bool
    ) -> Iterator[tuple[Evaluation, npt.NDArray[np.float32]]]:
        """Train to the end, and evaluate on the way: before the first update, every few, and after the last."""
        at, every = self._at, self._resources.spec.evaluate_every
        validation = self._rows.encode(model, "validation")
        updates: list[Update] = []

        def evaluate() -> tuple[Evaluation, npt.NDArray[np.float32]]:
            found = self._evaluate(model, trainer, validation, updates)
            updates.clear()
            return found

        if not resumed and at in (None, 0):
            yield evaluate()
        states = self._shared_states()
        if states is not None:
            last = trainer.settings.steps if at is None else at
            while trainer.step < last:
                updates += states.train(model, trainer, min(trainer.step + every, last))
                if at is None or trainer.step == at:
                    yield evaluate()
            return
        for update in trainer.updates():
            updates.append(update)
            due = trainer.step % every == 0 or trainer.step == trainer.settings.steps
            if due if at is None else trainer.step == at:
                yield evaluate()

    def _shared_states(self) -> SharedStates | None:
        """Return where states of the training are shared, if the study searches how texts are written."""
        parameters = self._resources.spec.space.parameters
        if not any(own.name.startswith("decoding.") and not isinstance(own, Constant) for own in parameters):
            return None
        content = self.identity() | {"candidate": replace(self.candidate, decoding=Decoding()).to_dict()}
        del content["evaluation"], content["written"]
        return SharedStates(self._resources.stages, content)

    def _evaluate(
        self, model: PromptedModel, trainer: Trainer, validation: list[EncodedRow], updates: list[Update]
    ) -> tuple[Evaluation, npt.NDArray[np.float32]]:
        """Score the validation rows; return the evaluation and their logits, shape (rows, labels)."""
        target, spec = self._resources.tasks.target, self._resources.spec
        logits = self._score(model, trainer, validation).numpy()
        if not np.isfinite(logits).all():
            raise TrialError(f"the validation logits are not finite at step {trainer.step}")
        metrics = scores(target, logits, target.validation)
        evaluation = Evaluation(
            step=trainer.step,
            value=metrics[spec.metric],
            metrics=metrics,
            confusion=target.confusion(logits, target.validation),
            source_loss=mean([update.source_loss for update in updates]),
            target_loss=mean([update.target_loss for update in updates]),
        )
        return evaluation, logits

    def _score(self, model: PromptedModel, trainer: Trainer, rows: list[EncodedRow]) -> Tensor:
        """Score rows, calibrated if the candidate says so; shape (rows, labels)."""
        labels, batch_size = self._resources.tasks.target.labels, self._resources.spec.evaluation_batch_size
        shown = self._resources.demonstrations.get(self.candidate, "target", self.seed)
        calibrate(model, trainer.target.rows if trainer.target else (), labels, batch_size, shown)
        return model.score(rows, labels, batch_size, self._written(len(rows)))

    def _written(self, rows: int) -> frozenset[int] | None:
        """Return the places of rows whose answers are written, where these are texts; all if None.

        All are where a single step is evaluated, as in repeats; a sample where steps and candidates are compared, and
        where the rows are those that it is trained on.
        """
        is_final = self._at is not None and not self._resources.tasks.split.whole
        count = self._resources.spec.evaluation_sample
        return None if is_final or count >= rows else frozenset(place * rows // count for place in range(count))

    def _note(self, evaluation: Evaluation, logits: npt.NDArray[np.float32], model: PromptedModel) -> None:
        """Remember an evaluation, and the state that it was made with if that is the best."""
        self._state.evaluations.append(evaluation)
        self._state.logits.append(logits)
        best = self._state.best
        is_ahead = best is None or evaluation.is_better(best.evaluation, self._resources.spec.direction)
        if best is None or evaluation.step == self._at or (self._at is None and is_ahead):
            self._state.best = BestState(evaluation, logits, model.snapshot(list(model.trainable())))

    def _is_last(self, step: int) -> bool:
        last = self._until if self._at is None else self._at
        if last is not None:
            return step == last
        return step == self.candidate.steps or self._state.is_past_best(self._resources.tasks.target)

    def _result(self, model: PromptedModel, load_report: LoadReport, trainer: Trainer) -> Result:
        """Go back to the best state, and describe it."""
        best = self._state.best
        assert best is not None
        model.load(best.weights)
        changed = [*load_report.loaded, *model.trainable(), *model.attached()]
        shown = self._rows.token_ids(model, "validation") if self.candidate.demonstrations.count else []
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
            seconds=self._seconds(),
            max_rss_bytes=max_rss_bytes(),
            max_gpu_bytes=max_gpu_bytes(self._resources.backbone.device),
            reduced_to=trainer.reduced_to,
            stages=self._resources.stages.use_of_trial,
            resumed_at=self._state.resumed_at,
        )

    @property
    def curve(self) -> list[tuple[Evaluation, npt.NDArray[np.float32]]]:
        """The evaluations so far, each with its validation logits, shape (rows, labels)."""
        return list(zip(self._state.evaluations, self._state.logits, strict=True))

    def example(self) -> str:
        """Render the first validation row as the model sees it, its label in brackets; once training has begun."""
        model, target = self._model, self._resources.tasks.target
        assert model is not None, "the cycle must run"
        row = target.validation[0]
        shown = self._resources.demonstrations.get(self.candidate, "validation", self.seed)
        return model.render(row.fields, shown).with_label(f"[{target.show(row)}]")

    def _seconds(self) -> float:
        return self._state.seconds_before + time.perf_counter() - self._started

    def _load_checkpoint(self) -> Saved | None:
        saved = self._checkpoint.load(self.identity()) if self._checkpoint else None
        if saved is not None:
            self._state = CycleState.of(saved)
        return saved

    def _save_checkpoint(self, model: PromptedModel, trainer: Trainer) -> None:
        if self._checkpoint is not None and self._checkpoint.is_due:
            self._checkpoint.save(self.identity(), *self._state.checkpoint(model, trainer, self._seconds()))

    def identity(self) -> dict[str, object]:
        """Return everything that decides the cycle's outcome, as JSON types."""
        spec, candidate, source_seed = self._resources.spec, self.candidate, self._resources.source_seed
        return {
            **({} if self.seed == source_seed else {"source_seed": source_seed}),
            **self._resources.backbone_key(),
            "version": VERSION,
            "candidate": values_of(candidate),
            "seed": self.seed,
            "rows": self._tasks.hashes(candidate),
            **({"unlabelled": self._tasks.unlabelled_hash} if candidate.self_training else {}),
            "source_training": asdict(spec.training_on(candidate.source)),
            "evaluation": [spec.evaluate_every, spec.evaluation_batch_size, spec.metric],
            **({"written": [spec.evaluation_sample, self._at is None]} if candidate.head == "answer" else {}),
        }

    def _labelling_key(self) -> dict[str, object]:
        """Return everything that decides which labels the unlabelled rows get."""
        rows = {part: own for part, own in self._tasks.hashes(self.candidate).items() if part != "validation"}
        return self.identity() | {
            "stage": "self-training",
            "candidate": values_of(replace(self.candidate, self_training=0)),
            "rows": rows,
            "labels": [list(self._tasks.target.labels), list(self._tasks.labels)],
            "evaluation": [self._resources.spec.evaluation_batch_size],
        }

"""What every cycle of a study uses, loaded once by a worker."""

from dataclasses import asdict, dataclass, replace

from promptgraft.objectives.backbones import Backbone
from promptgraft.objectives.caching import (
    LoadedBackbones,
    StageKey,
    StageStore,
    backbone_key,
    source_key,
    source_prompt,
)
from promptgraft.objectives.data import Outputs, PriorRows
from promptgraft.objectives.prompting import DemonstrationPools, PromptedModel
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial.training import TrainingSettings
from promptgraft.objectives.trial.trial_data import StudyTasks, certain
from promptgraft.spaces import Adapter, Candidate, InvalidInputError


@dataclass(frozen=True, slots=True)
class Resources:
    """What every cycle of a study uses; a cycle changes the backbone's weights, and restores them before it starts.

    Attributes:
        spec: The study's fixed part.
        tasks: Its rows, on one split.
        demonstrations: The training rows that prompts may show.
        backbones: The pretrained models that are loaded.
        stages: What trials share.
    """

    spec: ObjectiveSpec
    tasks: StudyTasks
    demonstrations: DemonstrationPools
    backbones: LoadedBackbones
    stages: StageStore

    @property
    def backbone(self) -> Backbone:
        """The pretrained model."""
        return self.backbones.get(self.spec.backbone)

    def on(self, tasks: StudyTasks) -> "Resources":
        """Return the same with the rows of another split."""
        demonstrations = DemonstrationPools(tasks.target, tasks.sources, self.spec.space)
        return replace(self, tasks=tasks, demonstrations=demonstrations)

    def with_spec(self, spec: ObjectiveSpec) -> "Resources":
        """Return the same with another fixed part, such as that on another backbone."""
        demonstrations = DemonstrationPools(self.tasks.target, self.tasks.sources, spec.space)
        return replace(self, spec=spec, demonstrations=demonstrations)

    def folds(self) -> "list[Resources]":
        """Return the same with the rows of each fold; itself alone if there is but one."""
        found = self.tasks.folds()
        return [self] if len(found) == 1 else [self.on(tasks) for tasks in found]

    def labelling(self, logits: Outputs, least: float) -> "Resources":
        """Return the same with unlabelled rows to train on; demonstrations are of labelled rows only.

        Args:
            logits: A model's for the unlabelled rows, shape (rows, labels).
            least: Smallest probability of a label with which a row is trained on.
        """
        return replace(self, tasks=self.tasks.labelling(certain(self.tasks.target.expected(logits), least)))

    @property
    def source_seed(self) -> int:
        """Seed of every source stage, whatever the seed of the cycle.

        The stage doesn't depend on the target's rows, and what ships is built on the one of the search: repeats on
        other seeds start from it, too, so that they judge that model, and it is trained once.
        """
        return self.spec.split_seed

    def on_source(self, candidate: Candidate) -> Candidate:
        """Return what the source stage trains: nothing of the target's, and no head where it has no part."""
        if candidate.source_objective == "contrastive":
            candidate = replace(candidate, head="probe", verbalizer="")
        return replace(
            candidate,
            soft_prompt=source_prompt(candidate),
            adapter=Adapter(),
            prior="none",
            frozen_layers=self.spec.training_on(candidate.source).frozen_layers,
            alpha=1.0,
        )

    def build_model(self, candidate: Candidate, seed: int) -> PromptedModel:
        """Attach what a candidate asks for to the backbone, in the state that this is in.

        Raises:
            InvalidInputError: If the backbone or the kind of task can't do it.
        """
        space = self.spec.space
        for name, value in candidate.to_dict().items():
            if reason := self.tasks.target.refuses(name, value):
                raise InvalidInputError(reason)
        if candidate.self_training and not self.tasks.target.unlabelled:
            raise InvalidInputError("self_training needs unlabelled rows; name their table as target.unlabelled")
        verbalizer = space.verbalizer(candidate.verbalizer) if candidate.verbalizer else None
        template = space.template(candidate.template)
        if verbalizer is not None and not self.backbone.has_head:  # Heads can learn to tell such labels apart.
            self.backbone.check_label_words(template, verbalizer, self.tasks.labels)
        model = PromptedModel(self.backbone, candidate, template, verbalizer, self.tasks.labels, seed)
        if words := self.tasks.target.words():
            model.read_words(words)
        model.read_prior(self.tasks.target, self.tasks.labels)
        return model

    def fit_prior(self, model: PromptedModel) -> None:
        """Fit a model's prior on the training rows, or take it from the store; nothing without one.

        The source takes part with the weight alpha, as in the loss.

        Raises:
            InvalidInputError: If there is none, but the candidate needs one.
        """
        prior, alpha, tasks = model.prior, model.candidate.alpha, self.tasks
        if prior is None:
            if model.scorer.listed:
                raise InvalidInputError(
                    f"head {model.candidate.head!r} scores the items that a prior ranks first, and prior is 'none'; "
                    f"use {' or '.join(self.tasks.target.priors)}"
                )
            return
        source = tasks.source(model.candidate) if alpha else None
        source_rows, source_labels = (source.train, source.labels) if source else ((), ())
        rows = PriorRows(tasks.target.train, source_rows, source_labels, alpha, prior.labels)
        hashes = tasks.hashes(model.candidate)
        key = {
            "stage": "prior",
            "kind": type(prior.kind).__name__,
            "prior": [prior.name, prior.recency, alpha],
            "rows": [hashes["target"], hashes["source"] if source else None],
            "labels": [list(prior.labels), list(tasks.target.labels), list(source_labels)],
        }
        prior.tensors = self.stages.get(StageKey.of(key), lambda: prior.fit(rows))

    def backbone_key(self) -> dict[str, object]:
        """Return everything that decides what the pretrained backbone makes of a prompt, as JSON types."""
        return backbone_key(self.spec.backbone, self.backbone.weights_hash, self.backbone.device)

    def embedding_key(self, candidate: Candidate, seed: int) -> dict[str, object]:
        """Return everything that decides a candidate's text embeddings after their contrastive training."""
        settings = TrainingSettings.of_contrast(candidate, None)
        numbers = ("steps", "batch_size", "learning_rate", "prompt_learning_rate", "alpha", "layer_decay")
        return self.backbone_key() | {
            "stage": "embeddings",
            "source": self.source_key(candidate) if candidate.source_steps else None,
            "rows": {part: own for part, own in self.tasks.hashes(candidate).items() if part != "validation"},
            "labels": list(self.tasks.labels),
            "template": self.spec.space.template(candidate.template).text,
            "verbalizer": candidate.verbalizer if candidate.soft_prompt.init == "label_words" else "",
            "soft_prompt": asdict(candidate.soft_prompt),
            "adapter": asdict(candidate.adapter),
            "frozen_layers": candidate.frozen_layers,
            "pooling": candidate.pooling,
            **({} if candidate.augmentation == "none" else {"augmentation": candidate.augmentation}),
            "settings": {name: getattr(settings, name) for name in (*numbers, "weight_decay", "warmup")},
            "seed": seed,
        }

    def source_key(self, candidate: Candidate) -> dict[str, object]:
        """Return everything that decides the weights after a candidate's source stage, as JSON types."""
        shown = self.demonstrations.get(candidate, "source", self.source_seed)
        labels = (self.tasks.source(candidate).labels, self.tasks.labels)
        rows = self.tasks.hashes(candidate)["source"]
        return self.backbone_key() | source_key(
            self.spec, candidate, self.source_seed, rows, labels, shown.content if shown else None
        )

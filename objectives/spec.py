"""The fixed part of a study, as the workers get it: plain data, no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from promptgraft.objectives.data import TASK_KINDS, Direction, TaskSpec
from promptgraft.objectives.kinds import directions
from promptgraft.spaces import SearchSpace

# Rows whose answers are written in an evaluation, where answers are texts, unless a study says otherwise.
SAMPLE = 64
# Height and width of images at most; a bundle's manifest may say anything.
MOST_PIXELS_A_SIDE = 4096
# Attention of transformers that takes any mask; the others know only causality and padding.
MASKED_ATTENTION = ("eager", "sdpa")


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """Which pretrained model, and how it reads text.

    Attributes:
        path: Local folder or hub id.
        family: Name of the backbone family.
        max_tokens: Longest rendered prompt, in tokens, soft prompt not counted; longer fields are cut.
        trust_remote_code: Whether Python code that lies beside the weights may be run.
        micro_batch_size: Largest number of rows that are trained on at once; the gradients of a larger batch's parts
            are accumulated. None for no limit.
        dtype: Type in which frozen matrices are held: `float32`, `bfloat16` or `float16`.
        autocast: Type in which the model computes, the same names; that of `dtype` if None.
        attn_implementation: How transformers computes attention; its own choice if None.
        gradient_checkpointing: Whether layers are run again in the backward pass rather than remembered.
        languages: Names or codes of the language that is read and of the one that is written; None where a task has
            none.
        layers: How many of the lowest layers or stages are used; those above are left out. All if None.
        image_size: Height and width of the images that the model reads; what its image processor says if None.
        device_map: Where transformers puts the parts of the model; all on one device if None.
    """

    path: str
    family: str
    max_tokens: int = 128
    trust_remote_code: bool = False
    micro_batch_size: int | None = None
    dtype: str = "float32"
    autocast: str | None = None
    attn_implementation: str | None = None
    gradient_checkpointing: bool = False
    device_map: str | Mapping[str, int | str] | None = None
    languages: tuple[str, str] | None = None
    layers: int | None = None
    image_size: int | None = None

    @property
    def numerics(self) -> dict[str, object]:
        """What decides the last bits of a result, as JSON types: part of every key."""
        return {
            "dtype": self.dtype,
            "autocast": self.computes_in,
            "attn_implementation": self.attn_implementation,
            "gradient_checkpointing": self.gradient_checkpointing,
            "micro_batch_size": self.micro_batch_size,
            "device_map": dict(self.device_map) if isinstance(self.device_map, Mapping) else self.device_map,
            **({"languages": list(self.languages)} if self.languages else {}),
            **({"layers": self.layers} if self.layers else {}),
            **({"image_size": self.image_size} if self.image_size else {}),
        }

    @property
    def computes_in(self) -> str:
        """Name of the type in which the model computes."""
        return self.autocast or self.dtype

    @property
    def takes_masks(self) -> bool:
        """Whether attention can be told which token sees which."""
        return self.attn_implementation in (None, *MASKED_ATTENTION)

    def in_float32(self) -> "BackboneSpec":
        """Return the same model in full precision, as production loads it."""
        attention = self.attn_implementation if self.takes_masks else None
        return replace(
            self, dtype="float32", autocast=None, attn_implementation=attention, gradient_checkpointing=False
        )


@dataclass(frozen=True, slots=True)
class SourceTraining:
    """Settings of the source stage; its number of steps is the candidate's to choose.

    Attributes:
        batch_size: Rows in one update.
        learning_rate: Peak step size of the backbone's weights.
        head_learning_rate: Peak step size of the head.
        frozen_layers: Layers (and the embeddings) kept frozen while training on the source.
    """

    batch_size: int = 16
    learning_rate: float = 5e-5
    head_learning_rate: float = 1e-2
    frozen_layers: int = 0


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A source task and how its stage trains."""

    task: TaskSpec
    training: SourceTraining = SourceTraining()


@dataclass(frozen=True, slots=True)
class ObjectiveSpec:
    """The fixed part of a study: everything that decides a result beside candidate and seed.

    Attributes:
        backbone: The pretrained model.
        target: The target task.
        source: The source task of a study that names but one.
        space: The search space; the objective looks templates and verbalizers up in it.
        metric: Name of the metric to optimise; see `metrics` of the task kinds.
        minimize: What a candidate costs that is minimised beside the metric; see `objectives.measures.costs`.
        evaluate_every: Updates between two evaluations.
        evaluation_batch_size: Rows a batch in evaluation.
        evaluation_sample: Validation rows of a fold whose answers are written while candidates are compared, where
            answers are texts; see `Cycle`.
        source_training: Settings of that one's stage.
        sources: The source tasks of a study that names several, by name; a candidate says which one it uses.
        split_seed: Seed of the splits and of the source stages.
        files: Folder or URL of the study's files; None computes every stage afresh for each trial.
        memory_bytes: How much of the stages, and of backbones that aren't in use, a worker keeps in memory.
        backbones: The fixed part on each backbone, by name, if the study names them; `backbone` is the first of them
            then, and `space` that of all.
    """

    backbone: BackboneSpec
    target: TaskSpec
    source: TaskSpec | None
    space: SearchSpace
    metric: str = "accuracy"
    evaluate_every: int = 8
    evaluation_batch_size: int = 32
    evaluation_sample: int = SAMPLE
    source_training: SourceTraining = SourceTraining()
    sources: Mapping[str, SourceSpec] = field(default_factory=dict)
    split_seed: int = 0
    files: str | None = None
    memory_bytes: int = 2 * 2**30
    minimize: tuple[str, ...] = ()
    backbones: Mapping[str, "ObjectiveSpec"] = field(default_factory=dict)

    def on(self, backbone: str) -> "ObjectiveSpec":
        """Return the fixed part on one backbone, by its name; itself if the study doesn't name its backbones.

        Args:
            backbone: As in `Candidate.backbone`.

        Raises:
            InvalidInputError: If there is no such backbone.
        """
        if not self.backbones:
            return self
        space = self.space.on(backbone)  # It may have grown since.
        return replace(self.backbones[backbone], space=space, files=self.files)

    @property
    def is_float32(self) -> bool:
        """Whether all backbones compute in full precision."""
        return all(spec.backbone.computes_in == "float32" for spec in self.backbones.values() or [self])

    def in_float32(self) -> "ObjectiveSpec":
        """Return the same with its backbones in full precision, as production loads them."""
        own = {name: spec.in_float32() for name, spec in self.backbones.items()}
        return replace(self, backbone=self.backbone.in_float32(), backbones=own)

    @property
    def all_sources(self) -> Mapping[str, SourceSpec]:
        """The source tasks by the name that candidates know them by; a single one's is empty."""
        single = {} if self.source is None else {"": SourceSpec(self.source, self.source_training)}
        return single | dict(self.sources)

    def training_on(self, source: str) -> SourceTraining:
        """Return how the stage of a source trains, by its name."""
        return self.sources[source].training if source in self.sources else self.source_training

    def frozen_on(self, source: str) -> int:
        """Return how many layers stay frozen in a source's stage; of any source, where a candidate uses none."""
        depths = {name: entry.training.frozen_layers for name, entry in self.all_sources.items()}
        return depths.get(source, min(depths.values(), default=0))

    @property
    def direction(self) -> Direction:
        """`maximize` or `minimize`: which way the metric is better."""
        return directions(TASK_KINDS[self.target.kind])[self.metric]

    @property
    def directions(self) -> list[Direction]:
        """That of the metric, then one for each cost."""
        costs: list[Direction] = ["minimize"] * len(self.minimize)
        return [self.direction, *costs]

"""The schema of a study file."""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from promptgraft.search.study.units import next_moment, parse_bytes, parse_seconds


class Section(BaseModel):
    """A mapping in a study file: unknown keys are refused, and nothing changes after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=False)


def _fields(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else value


def _words(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _moment(value: Any) -> Any:
    next_moment(str(value), 0.0)
    return value


OneOrMore = BeforeValidator(_words, json_schema_input_type=tuple[str, ...] | str)
Seconds = Annotated[float, BeforeValidator(parse_seconds, json_schema_input_type=float | str), Field(gt=0)]
Bytes = Annotated[int, BeforeValidator(parse_bytes, json_schema_input_type=int | str), Field(gt=0)]
Control = Literal["target_only", "source_only", "full_fine_tuning", "linear_probe", "tfidf", "zero_shot", "majority"]
Cost = Literal["prompt_tokens", "trainable_parameters", "latency_ms"]
Words = Annotated[tuple[str, ...], OneOrMore]


class BackboneSection(Section):
    """The pretrained model."""

    path: str = Field(description="Local folder (relative to the study file) or hub id.")
    family: str = Field(description="Registered name, such as encoder.")
    max_tokens: int = Field(128, ge=8, description="Longest rendered prompt, in tokens.")
    trust_remote_code: bool = Field(False, description="Run Python code that lies beside the weights.")
    micro_batch_size: int | None = Field(
        None, ge=1, description="Rows trained on at once; gradients of larger batches are accumulated."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Type of frozen matrices, and of computing; what is trained stays float32."
    )
    autocast: Literal["bfloat16", "float16"] | None = Field(
        None, validate_default=True, description="Type of computing alone."
    )
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"] | None = Field(
        None, validate_default=True, description="As in transformers."
    )
    gradient_checkpointing: bool = Field(False, description="Run layers again in the backward pass; saves memory.")
    device_map: str | dict[str, int | str] | None = Field(None, description="As in transformers, such as auto.")

    @field_validator("autocast")
    @classmethod
    def _is_that_of_dtype(cls, value: str | None, info: ValidationInfo) -> str | None:
        dtype = info.data.get("dtype", "float32")
        if value is not None and dtype not in ("float32", value):
            raise ValueError(f"must be left out or be {dtype} where dtype is {dtype}")
        return value

    @field_validator("attn_implementation")
    @classmethod
    def _computes_in_low_precision(cls, value: str | None, info: ValidationInfo) -> str | None:
        low = info.data.get("dtype", "float32") != "float32" or info.data.get("autocast") is not None
        if value is not None and value.startswith("flash") and not low:
            raise ValueError(f"{value} does not compute in float32; add dtype: bfloat16, or take sdpa")
        return value


class TaskSection(Section):
    """A table of labelled rows."""

    train: str = Field(description="CSV, JSONL or Parquet, relative to the study file.")
    text: Annotated[dict[str, str], BeforeValidator(_fields, json_schema_input_type=dict[str, str] | str)] = Field(
        description="Column of the text, or template field -> column."
    )
    label: str = Field(description="Column of the label.")
    kind: str = Field("text_classification", description="Kind of task.")
    labels: tuple[str, ...] | None = Field(None, description="Labels to keep; all that occur if left out.")
    train_rows: int | None = Field(None, ge=2, description="Rows to train on; all that remain if left out.")


class SourceTrainingSection(Section):
    """How the source stage trains; its number of steps is searched, as `space.source_steps`."""

    batch_size: int = Field(16, ge=1, description="Rows in one update.")
    learning_rate: float = Field(5e-5, gt=0, description="Step size of the backbone's weights.")
    head_learning_rate: float = Field(1e-2, gt=0, description="Step size of the head and of a soft prompt.")
    frozen_layers: int = Field(0, ge=0, description="Lowest layers that stay; from 1 on, embeddings too.")


class SourceSection(TaskSection):
    """The task with many labels."""

    training: SourceTrainingSection = Field(SourceTrainingSection(), description="How its stage trains.")


class TargetSection(TaskSection):
    """The task with few labels, and how it is split."""

    test: str | None = Field(None, description="Separate table to hold out; part of `train` if left out.")
    validation_rows: int | None = Field(None, ge=2, description="Rows to choose by.")
    test_rows: int | None = Field(None, ge=2, description="Rows that stay sealed until the winner is exported.")
    shots: int | None = Field(None, ge=1, description="Rows of each label to train on, and as many to choose by.")
    group: str | None = Field(None, description="Column of groups, such as authors: each is on one side of a split.")
    time: str | None = Field(None, description="Column of times: what is held out is newer than what is trained on.")

    @field_validator("shots")
    @classmethod
    def _stands_alone(cls, value: int | None, info: ValidationInfo) -> int | None:
        others = [name for name in ("train_rows", "validation_rows") if info.data.get(name) is not None]
        if value is not None and others:
            raise ValueError(f"says how many rows to take of each label; leave out {' and '.join(others)}")
        return value

    @field_validator("group", "time")
    @classmethod
    def _splits_rows(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("shots") is not None:
            raise ValueError(f"{info.field_name} can't be had with shots; use train_rows and validation_rows")
        return value


def _range_or_choices(value: Any) -> Any:
    """Read a bare value or list as choices."""
    if isinstance(value, list):
        return {"choices": value}
    return value if isinstance(value, dict) else {"choices": [value]}


class ConditionSection(Section):
    """When a parameter exists."""

    parameter: str = Field(description="The parameter on which this one depends.")
    choices: Annotated[
        tuple[Any, ...], BeforeValidator(lambda v: v if isinstance(v, list) else [v], json_schema_input_type=Any)
    ] = Field((), description="Its values with which this one exists.")
    above: float | None = Field(None, description="Or above which this one exists.")


class ParameterSection(Section):
    """A fixed value, a list of choices, or a range."""

    choices: tuple[Any, ...] | None = Field(None, description="A list of choices; a bare value or list means this.")
    low: float | None = Field(None, description="Lower end of a range.")
    high: float | None = Field(None, description="Upper end of a range.")
    step: float | None = Field(None, description="Distance of the range's values.")
    log: bool = Field(False, description="Whether the range is drawn from logarithmically.")
    when: ConditionSection | None = Field(None, description="When the parameter exists; always if left out.")


Searched = Annotated[
    ParameterSection | None,
    BeforeValidator(
        _range_or_choices, json_schema_input_type=ParameterSection | list[Any] | str | int | float | bool | None
    ),
]


class DemonstrationsSection(Section):
    """Labelled training rows in front of the prompt."""

    count: Searched = Field(None, description="How many.")
    choice: Searched = Field(None, description="random, balanced or nearest.")
    order: Searched = Field(None, description="random, alternating or nearest_last.")


class SoftPromptSection(Section):
    """The soft prompt's parameters."""

    length: Searched = Field(None, description="Number of vectors.")
    init: Searched = Field(None, description="vocabulary, label_words, template or source.")
    place: Searched = Field(None, description="prefix, suffix, layer K or deep.")
    parametrization: Searched = Field(None, description="direct, mlp or lstm.")


class AdapterSection(Section):
    """Adapters in place of the weights of layers that aren't frozen."""

    method: Searched = Field(None, description="none, lora or ia3.")
    rank: Searched = Field(None, description="Rank of LoRA's matrices.")


class WriterSection(Section):
    """A language model that writes templates."""

    path: str = Field(description="Local folder (relative to the study file) or hub id.")
    family: Literal["masked_lm", "causal_lm"] = Field(description="What kind of model it is.")


class GrowSection(Section):
    """How new templates join while the study runs."""

    sources: Annotated[tuple[str, ...], OneOrMore] = Field(
        ("mutation", "crossover"), min_length=1, description="Where they come from, by name."
    )
    every: int = Field(8, ge=1, description="Finished trials between two rounds; the first is at the start.")
    size: int = Field(4, ge=1, description="Templates that join in a round.")
    limit: int = Field(32, ge=2, description="Templates in all, those of this file included.")
    verbalizers: int = Field(0, ge=0, description="Verbalizers that join in a round, drafted for the best template.")
    label_words: int = Field(1, ge=1, le=20, description="Words of each label in them.")
    verbalizer_sources: Annotated[tuple[str, ...], OneOrMore] = Field(
        ("likelihood",), min_length=1, description="Where they come from, by name."
    )
    writer: WriterSection | None = Field(None, description="The model that writes; the backbone if it can.")


class SpaceSection(Section):
    """What can be tried."""

    templates: dict[str, str] = Field({}, description="Name -> jinja2 text.")
    promptsource: Words = Field((), description="Files of templates in PromptSource's format.")
    grow: GrowSection | None = Field(None, description="How new templates join while the study runs.")
    verbalizers: dict[str, dict[str, Words]] = Field({}, description="Name -> label -> words.")
    head: Searched = Field(None, description="label_words or linear; encoders only.")
    demonstrations: DemonstrationsSection = Field(
        DemonstrationsSection(), description="Labelled training rows in front of the prompt."
    )
    soft_prompt: SoftPromptSection = Field(SoftPromptSection(), description="The soft prompt.")
    frozen_layers: Searched = Field(None, description="Lowest layers that stay; from 1 on, embeddings too.")
    adapter: AdapterSection = Field(AdapterSection(), description="Adapters in place of unfreezing.")
    source_steps: Searched = Field(None, description="Updates on the source before the migration.")
    alpha: Searched = Field(None, description="Weight of the source loss after it.")
    source: Searched = Field(None, description="Which of several sources is used, by name.")
    steps: Searched = Field(None, description="Updates after the migration.")
    batch_size: Searched = Field(None, description="Rows of each task in one update.")
    learning_rate: Searched = Field(None, description="Step size of carried-over weights, or of their adapters.")
    prompt_learning_rate: Searched = Field(None, description="Step size of soft prompt and head.")
    calibration: Searched = Field(None, description="none, contextual or batch.")
    custom: dict[str, Searched] = Field({}, description="Parameters that other packages bring, by name.")

    def described(self) -> Mapping[tuple[str, ...], ParameterSection]:
        """Return the parameters that the file gives, by their path below `space`."""
        found: dict[tuple[str, ...], ParameterSection | None] = {}
        for name in type(self).model_fields:
            section = getattr(self, name)
            if isinstance(section, DemonstrationsSection | SoftPromptSection | AdapterSection):
                found |= {(name, own): getattr(section, own) for own in type(section).model_fields}
            elif name == "custom":
                found |= {(name, own): described for own, described in section.items()}
            elif name not in ("templates", "promptsource", "grow", "verbalizers"):
                found[name,] = section
        return {path: section for path, section in found.items() if section is not None}


class EvaluationSection(Section):
    """When and how the target is evaluated."""

    every: int = Field(8, ge=1, description="Updates between two evaluations.")
    batch_size: int = Field(32, ge=1, description="Rows evaluated at once.")


class EngineSection(BaseModel):
    """A sampler or pruner of Optuna; keys beside `name` are its own options."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = Field(description="Its name; a bare name means this.")

    @property
    def options(self) -> Mapping[str, Any]:
        """The engine's own options."""
        return self.model_extra or {}


def _engine(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Engine = Annotated[EngineSection, BeforeValidator(_engine, json_schema_input_type=EngineSection | str)]


class BudgetSection(Section):
    """When the search ends."""

    trials: int = Field(24, ge=1, description="Finished trials (complete or pruned), earlier runs included.")
    timeout: Seconds | None = Field(None, description="Length of a run, such as 8h.")
    trial_timeout: Seconds | None = Field(None, description="Wall time after which a trial is killed and FAIL.")
    deadline: Annotated[str, BeforeValidator(_moment)] | None = Field(
        None, description="When the run must be over: a time of day such as 07:00, or a date with time."
    )
    compute: Seconds | None = Field(None, description="Time of all trials together, earlier runs included.")
    disk: Bytes | None = Field(None, description="What all files of the study may take up, such as 20GB.")
    reserve: float = Field(0.1, ge=0, lt=1, description="Share of time and compute kept for judging the winner.")
    max_retries: int = Field(3, ge=0, description="Times a trial is run again whose worker or driver died.")
    max_failure_rate: float = Field(0.5, gt=0, le=1, description="Stop if more trials than this fail.")


class ConstraintsSection(Section):
    """What candidates must keep to; those beyond a bound are not tried."""

    prompt_tokens: int | None = Field(
        None, ge=0, description="At most: the template's own tokens, special ones included, and the soft prompt's."
    )
    trainable_parameters: int | None = Field(None, ge=0, description="At most: weights that the target stage trains.")


class JudgingSection(Section):
    """How the winner is chosen."""

    finalists: int = Field(3, ge=0, description="Trials that race for the win on other seeds and splits; 0 for none.")
    repeats: int = Field(5, ge=2, description="Times that each is run again; as many more trials qualify by one.")
    level: float = Field(0.05, gt=0, lt=1, description="Level at which one is shown to be worse than the best.")
    cost: Cost = Field("prompt_tokens", description="By what the cheapest of those not shown to be worse wins.")
    controls: Annotated[tuple[Control, ...], OneOrMore] = Field(
        get_args(Control),
        description="What the winner is compared with, on the same seeds and splits; [] for nothing.",
    )
    curves: bool = Field(
        False, description="Whether the winner is trained on a quarter and half of the target and source rows, too."
    )


class CacheSection(Section):
    """How much of what trials share is kept: source-trained weights, token ids, what frozen layers make of the rows."""

    memory: Bytes = Field(2 * 2**30, description="In the memory of each worker.")
    disk: Bytes = Field(10 * 2**30, description="In the study's files; what was not used for longest goes first.")


class CheckpointSection(Section):
    """When a trial saves its state, from which it goes on after a crash."""

    every: Seconds = Field(300.0, description="Time between two checkpoints, at least.")


class ResourcesSection(Section):
    """What one trial gets."""

    cpu: int = Field(1, ge=1, description="Cores; as many threads.")
    gpu: float = Field(0, ge=0, description="GPUs; fractions share one.")


class StudyFile(Section):
    """A whole study."""

    study: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="Name; state lives in runs/NAME.")
    seed: int = Field(0, ge=0, lt=2**31, description="Of splits, trials and sampler.")
    metric: str = Field("accuracy", description="What is optimised on validation rows.")
    direction: Literal["maximize", "minimize"] | None = Field(None, description="The metric's own if left out.")
    minimize: Annotated[tuple[Cost, ...], OneOrMore] = Field(
        (), description="Further objectives: what candidates cost in production."
    )
    backbone: BackboneSection = Field(description="The pretrained model.")
    source: SourceSection | None = Field(None, description="The task with many labels.")
    sources: dict[Annotated[str, Field(min_length=1)], SourceSection] = Field(
        {}, description="In place of `source`: several to choose from, by name."
    )
    target: TargetSection = Field(description="The task with few labels.")
    space: SpaceSection = Field(description="What can be tried.")
    evaluation: EvaluationSection = Field(EvaluationSection(), description="When the target is evaluated.")
    sampler: Engine = Field(EngineSection(name="tpe"), description="Optuna's, with its own options.")
    pruner: Engine = Field(EngineSection(name="median"), description="Optuna's, with its own options.")
    constraints: ConstraintsSection = Field(ConstraintsSection(), description="What candidates must keep to.")
    budget: BudgetSection = Field(BudgetSection(), description="When the search ends.")
    judging: JudgingSection = Field(JudgingSection(), description="How the winner is chosen.")
    checkpoint: CheckpointSection = Field(CheckpointSection(), description="When trials save their state.")
    cache: CacheSection = Field(CacheSection(), description="How much of what trials share is kept.")
    resources: ResourcesSection = Field(ResourcesSection(), description="What one trial gets.")

    @field_validator("judging")
    @classmethod
    def _measures_its_cost(cls, value: JudgingSection, info: ValidationInfo) -> JudgingSection:
        if value.cost == "latency_ms" and "latency_ms" not in info.data.get("minimize", ()):
            raise ValueError("cost: latency_ms is measured only where `minimize` names it, too")
        return value

    @field_validator("minimize")
    @classmethod
    def _names_each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("must name each cost once")
        return value

    def all_sources(self) -> dict[str, SourceSection]:
        """Return the source tasks by name; a single one's is empty."""
        return ({} if self.source is None else {"": self.source}) | self.sources

    def concurrent(self) -> int:
        """Number of trials at a time that this machine's CPUs allow."""
        return max(1, (os.cpu_count() or 1) // self.resources.cpu)

"""The schema of a study file, of sections in `sections` and `tasks`."""

import os
import re
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from promptgraft.search.study.schema.sections import BackboneSection, GrowSection, OneOrMore, Section, SpaceSection
from promptgraft.search.study.schema.tasks import SourceSection, TargetSection
from promptgraft.search.study.schema.units import next_moment, parse_bytes, parse_seconds
from promptgraft.spaces import InvalidInputError

STUDY_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
# Bytes of disk with which no trial would start.
LEAST_DISK = 10**6
BACKBONE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"


def name_advice(name: object) -> str:
    """Say what a study's name may hold, and suggest one that is like it."""
    plain = unicodedata.normalize("NFKD", str(name)).encode("ascii", "ignore").decode()
    like = re.sub(r"[^A-Za-z0-9_.-]+", "-", plain).strip("-._") or "study-1"
    return (
        "may hold letters (a to z), digits, '-', '_' and '.', and begins with a letter or a digit, since it names a "
        f"folder; for instance {like!r}"
    )


def check_study_name(name: object) -> None:
    """Refuse a name that no study can have.

    Raises:
        InvalidInputError: If it is none.
    """
    if not isinstance(name, str):
        raise InvalidInputError(f"the study's name must be a text, got {name!r}")
    if not re.fullmatch(STUDY_NAME, name):
        raise InvalidInputError(f"the study's name {name_advice(name)}, got {name!r}")


def _moment(value: Any) -> Any:
    next_moment(str(value), 0.0)
    return value


def _holds_a_study(value: int) -> int:
    if value < LEAST_DISK:
        raise ValueError(
            "must be at least 1MB, since a study's database alone takes more than half of that; write the unit, as in "
            "20GB"
        )
    return value


Seconds = Annotated[float, BeforeValidator(parse_seconds, json_schema_input_type=float | str), Field(gt=0)]
Bytes = Annotated[int, BeforeValidator(parse_bytes, json_schema_input_type=int | str), Field(gt=0)]
AnyControl = Literal["target_only", "source_only", "full_fine_tuning", "linear_probe", "tfidf", "zero_shot", "majority"]
Control = Literal[AnyControl, "popular_lately", "svd", "sasrec", "gru4rec"]
TextBaseline = Literal[
    "contrastive_source",
    "linear_probe_with_source",
    "linear_probe",
    "words",
    "characters",
    "zero_shot",
    "contrastive",
    "full_fine_tuning",
]
Baseline = Literal[TextBaseline, "neighbours", "ease", "items"]
AUTO = "auto"
EffortName = Literal["quick", "balanced", "best"]
TrackerName = Literal["mlflow", "tensorboard", "wandb"]
Cost = Literal["prompt_tokens", "trainable_parameters", "latency_ms"]


def _space(value: Any) -> Any:
    if isinstance(value, str) and value != AUTO:
        raise ValueError(f"must be {AUTO}, or a section")
    return None if value == AUTO else value


class EvaluationSection(Section):
    """Evaluation on the target's validation rows."""

    every: int = Field(8, ge=1, description="Number of updates between two evaluations.")
    batch_size: int = Field(32, ge=1, description="Rows per batch in evaluation.")
    sample: int | None = Field(
        None, ge=1, description="Rows of a fold whose texts are written in an evaluation of the search; 64 if left out."
    )


class EngineSection(BaseModel):
    """A sampler or pruner of Optuna; all other keys are its own options."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = Field(description="Name; a bare string is short for it.")

    @property
    def options(self) -> Mapping[str, Any]:
        """The engine's own options."""
        return self.model_extra or {}


def _engine(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Engine = Annotated[EngineSection, BeforeValidator(_engine, json_schema_input_type=EngineSection | str)]


class BudgetSection(Section):
    """Limits of the search."""

    trials: int = Field(24, ge=1, description="Number of finished trials (complete or pruned), counting earlier runs.")
    timeout: Seconds | None = Field(None, description="Time limit of a run, such as 8h.")
    trial_timeout: Seconds | None = Field(
        None, description="Time limit of a trial, after which it is killed and recorded as FAIL."
    )
    deadline: Annotated[str, BeforeValidator(_moment)] | None = Field(
        None, description="End of the run: a time of day such as 07:00, or a date with a time."
    )
    compute: Seconds | None = Field(None, description="Limit on the total time of all trials, counting earlier runs.")
    gpu_hours: float | None = Field(
        None, gt=0, description="Limit on the GPU-hours of all trials: their total time, times resources.gpu."
    )
    disk: Annotated[Bytes, AfterValidator(_holds_a_study)] | None = Field(
        None, description="Limit on the size of all files of the study, such as 20GB."
    )
    reserve: float = Field(
        0.1, ge=0, lt=1, description="Share of time and compute that is reserved for judging the winner."
    )
    max_retries: int = Field(3, ge=0, description="Number of times to rerun a trial whose worker or driver died.")
    max_failure_rate: float = Field(0.5, gt=0, le=1, description="Share of failed trials above which the search stops.")


class ConstraintsSection(Section):
    """Bounds on candidates; those beyond a bound are not tried."""

    prompt_tokens: int | None = Field(
        None,
        ge=0,
        description="Upper bound on the prompt's tokens: the template's own, special tokens, and the soft prompt's.",
    )
    trainable_parameters: int | None = Field(
        None, ge=0, description="Upper bound on the number of weights that the target stage trains."
    )


class JudgingSection(Section):
    """Choice of the winner."""

    finalists: int = Field(
        3, ge=0, description="Number of finalists that race on other seeds and splits; 0 for no race."
    )
    repeats: int = Field(
        5, ge=2, description="Reruns of each finalist; twice as many trials as finalists get one rerun to qualify."
    )
    level: float = Field(
        0.05, gt=0, lt=1, description="Significance level at which a finalist counts as worse than the best."
    )
    cost: Cost = Field(
        "prompt_tokens", description="Cost by which the winner is chosen among finalists that tie with the best."
    )
    controls: Annotated[tuple[Control, ...], OneOrMore] = Field(
        get_args(AnyControl),
        description="Baselines that the winner is compared with, on the same seeds and splits; [] for none.",
    )
    ensemble: int = Field(
        1,
        ge=1,
        le=20,
        description="Largest ensemble that may ship, unless the folds show it to be worse than the winner; 1 for none.",
    )
    curves: bool = Field(
        False, description="Whether to train the winner on a quarter and half of the target and source rows, too."
    )


class CacheSection(Section):
    """Size of the caches that trials share: source-trained weights, token ids, and activations of frozen layers."""

    memory: Bytes = Field(2 * 2**30, description="Cache in the memory of each worker.")
    disk: Bytes = Field(
        10 * 2**30, description="Cache in the study's files; the least recently used entries are dropped first."
    )


class CheckpointSection(Section):
    """Checkpoints, from which a trial resumes after a crash."""

    every: Seconds = Field(300.0, description="Shortest time between two checkpoints of a trial.")


class ResourcesSection(Section):
    """Resources of one trial."""

    cpu: int = Field(1, ge=1, description="Number of CPU cores, and of threads.")
    gpu: float = Field(0, ge=0, description="Number of GPUs; trials with fractions share one.")


class StudyFile(Section):
    """A whole study."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["backbone"]}, {"required": ["backbones"]}]})

    study: str = Field(pattern=STUDY_NAME, description="Name of the study; its state is stored in runs/NAME.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed for splits, trials and sampler.")
    effort: EffortName = Field(
        "balanced", description="Size of the search: sets defaults of budget, folds, judging, baselines and space."
    )
    metric: str = Field(
        "accuracy", description="Metric to optimize, on validation rows; if left out, the usual one of the task kind."
    )
    direction: Literal["maximize", "minimize"] | None = Field(
        None, description="Direction of the metric; its own if left out."
    )
    minimize: Annotated[tuple[Cost, ...], OneOrMore] = Field(
        (), description="Further objectives: costs of a candidate in production."
    )
    backbone: BackboneSection | None = Field(None, description="The pretrained model; this or `backbones` is required.")
    backbones: dict[Annotated[str, Field(pattern=BACKBONE_NAME)], BackboneSection] = Field(
        {}, validate_default=True, description="Several pretrained models by name, in place of `backbone`."
    )
    source: SourceSection | None = Field(None, description="The task with many labels.")
    sources: dict[Annotated[str, Field(min_length=1)], SourceSection] = Field(
        {}, description="Several source tasks by name, in place of `source`."
    )
    target: TargetSection = Field(description="The task with few labels.")
    space: Annotated[
        SpaceSection | None, BeforeValidator(_space, json_schema_input_type=SpaceSection | Literal["auto"] | None)
    ] = Field(AUTO, validate_default=True, description="The search space; auto for one that fits the task.")
    baselines: Annotated[tuple[Baseline, ...], OneOrMore] = Field(
        get_args(TextBaseline), description="Baselines that are tried first, as trials; [] for none."
    )
    evaluation: EvaluationSection = Field(EvaluationSection(), description="Evaluation on the target.")
    sampler: Engine = Field(EngineSection(name="tpe"), description="Sampler of Optuna, with its own options.")
    pruner: Engine = Field(
        EngineSection.model_validate({"name": "median", "n_min_trials": 4, "n_warmup_steps": 1}),
        description="Pruner of Optuna, with its own options.",
    )
    constraints: ConstraintsSection = Field(ConstraintsSection(), description="Bounds on candidates.")
    budget: BudgetSection = Field(BudgetSection(), description="Limits of the search.")
    judging: JudgingSection = Field(JudgingSection(), description="Choice of the winner.")
    checkpoint: CheckpointSection = Field(CheckpointSection(), description="Checkpoints of trials.")
    cache: CacheSection = Field(CacheSection(), description="Size of the caches that trials share.")
    resources: ResourcesSection = Field(ResourcesSection(), description="Resources of one trial.")
    track: Annotated[tuple[TrackerName, ...], OneOrMore] = Field(
        (), description="Experiment trackers that get every trial and the bundle: mlflow, tensorboard, wandb."
    )
    notify: str | None = Field(
        None, pattern="^https?://", description="URL, such as a webhook, that gets a short JSON when a run has ended."
    )

    @field_validator("backbones")
    @classmethod
    def _are_in_place_of_one(
        cls, value: dict[str, BackboneSection], info: ValidationInfo
    ) -> dict[str, BackboneSection]:
        if "backbone" in info.data and bool(value) == (info.data["backbone"] is not None):
            found = "both are given" if value else "neither is given"
            raise ValueError(f"name one model as `backbone`, or several as `backbones`; {found}")
        return value

    @field_validator("judging")
    @classmethod
    def _measures_its_cost(cls, value: JudgingSection, info: ValidationInfo) -> JudgingSection:
        if value.cost == "latency_ms" and "latency_ms" not in info.data.get("minimize", ()):
            raise ValueError("cost: latency_ms is measured only if `minimize` names it, too")
        return value

    @field_validator("notify")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        try:
            parsed = urlsplit(value or "http://nobody")
            if parsed.hostname and (parsed.port is None or parsed.port):
                return value
        except ValueError:
            pass
        raise ValueError("expected a URL with a host, such as https://example.org/hook")

    @field_validator("minimize")
    @classmethod
    def _names_each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("must name each cost once")
        return value

    def on_each_backbone(self) -> "dict[str, StudyFile]":
        """Return the file with each of its backbones alone, by name; the name of a single one is empty."""
        if not self.backbones:
            return {"": self}
        return {
            name: self.model_copy(update={"backbone": section, "backbones": {}})
            for name, section in self.backbones.items()
        }

    @property
    def only_backbone(self) -> BackboneSection:
        """The backbone of a file with one."""
        assert self.backbone is not None, "a file with several is taken apart by `on_each_backbone`"
        return self.backbone

    def all_sources(self) -> dict[str, SourceSection]:
        """Return the source tasks by name; the name of a single one is empty."""
        return ({} if self.source is None else {"": self.source}) | self.sources

    @property
    def grow(self) -> GrowSection | None:
        """Growth of the template pool, if it grows."""
        return self.space.grow if self.space else None

    def concurrent(self) -> int:
        """Return how many trials this machine's CPUs can run at the same time."""
        return max(1, (os.cpu_count() or 1) // self.resources.cpu)

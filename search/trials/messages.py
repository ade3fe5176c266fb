"""What driver and workers tell each other; imports neither Ray nor torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import mean
from typing import Any, TypeAlias

from promptgraft.objectives.growth import Growth, GrowthPlan
from promptgraft.objectives.progress import StageProgress
from promptgraft.search.storage import Outcome
from promptgraft.spaces import Candidate, PromptgraftError, Template, Verbalizer, masked


@dataclass(frozen=True, slots=True)
class TrialJob:
    """A trial of the study.

    Attributes:
        number: Its number.
        candidate: What it evaluates.
        seed: Its seed.
        templates: The candidate's template: a worker that began before it joined doesn't know it.
        verbalizers: Its verbalizer, likewise.
    """

    number: int
    candidate: Candidate
    seed: int
    templates: tuple[Template, ...] = ()
    verbalizers: tuple[Verbalizer, ...] = ()

    def __str__(self) -> str:
        return f"trial {self.number}"


@dataclass(frozen=True, slots=True)
class GrowthJob:
    """A round of growth.

    Attributes:
        round: Its number.
        parents: The templates so far, the best first.
        verbalizers: Those so far.
        plan: What is wanted.
        seed: The study's seed.
    """

    round: int
    parents: tuple[Template, ...]
    verbalizers: tuple[Verbalizer, ...]
    plan: GrowthPlan
    seed: int

    def __str__(self) -> str:
        return f"round {self.round} of growth"


@dataclass(frozen=True, slots=True)
class RepeatJob:
    """One more run of a trial's candidate, on another seed and split.

    Attributes:
        trial: The trial.
        repeat: Number of the repeat, which decides seed and split.
        step: Step at which it is evaluated.
        candidate: The candidate.
        seed: The study's seed.
        templates: See `TrialJob`.
        verbalizers: Likewise.
    """

    trial: int
    repeat: int
    step: int
    candidate: Candidate
    seed: int
    templates: tuple[Template, ...] = ()
    verbalizers: tuple[Verbalizer, ...] = ()

    def __str__(self) -> str:
        return f"rerun {self.repeat} of trial {self.trial}"


SideJob: TypeAlias = GrowthJob | RepeatJob
Job: TypeAlias = TrialJob | SideJob


@dataclass(frozen=True, slots=True)
class TrialSummary:
    """What a finished trial leaves in the study, by the names of its user attributes.

    Attributes:
        value: The study's metric at the best step.
        best_step: That step.
        resumed_at: Update at which a checkpoint was taken up; 0 if none was.
        node: Ray's id of the node.
        gpus: Ray's ids of its GPUs.
        max_rss_bytes: Largest resident memory of the worker so far.
        max_gpu_bytes: Largest memory that the trial's tensors held on its GPUs; 0 without one.
        reduced_to: Rows that were trained on at once after a GPU ran out of memory; None if it never did.
        trainable_parameters: Weights that the target stage trained.
        prompt_tokens: Tokens that the prompt adds to a text.
        load_report: What the migration did with the weights.
        demonstrations: How many a row was shown on average; None where there are none.
        fold_values: The metric of each fold, whose mean the value is; None where there is but one.
        standard_error: That of the mean.
        weights_hash: Hash of the weights that it kept; None if it has none of its own.
    """

    value: float
    best_step: int
    resumed_at: int = 0
    node: str = ""
    gpus: tuple[str, ...] = ()
    max_rss_bytes: int = 0
    max_gpu_bytes: int = 0
    reduced_to: int | None = None
    trainable_parameters: int = 0
    prompt_tokens: int = 0
    load_report: str = ""
    demonstrations: float | None = None
    fold_values: tuple[float, ...] | None = None
    standard_error: float | None = None
    weights_hash: str | None = None

    def attributes(self) -> dict[str, Any]:
        """Return what is stored of it, as JSON types; the value is the trial's own."""
        found = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        del found["value"]
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class FoldScores:
    """How a trial did on the folds that it has run.

    Attributes:
        fold_values: The study's metric on each of these folds, at the best step.
        row_scores: How good the outputs of each of their rows are, fold after fold: the probability of the true label,
            or what the task kind has in its place.
    """

    fold_values: tuple[float, ...]
    row_scores: tuple[float, ...]

    @property
    def value(self) -> float:
        """The mean over the folds."""
        return mean(self.fold_values)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A trial was evaluated.

    Attributes:
        step: Updates done; see `objectives.trial.Evaluation`.
        fold: The fold.
        scores: How it did on the folds so far, at the end of each.
        value: The study's metric on validation rows.
        metrics: All validation metrics.
        confusion: True labels (rows) against predicted ones (columns); empty in task kinds without such a table.
        source_loss: Mean L_s since the report before, in nats.
        target_loss: The same for L_t.
        example: A validation row as the model sees it, demonstrations included, with its label in brackets.
        figures: What was measured of its candidate before it was trained.
        cost: What the trial took and what the store of stages saved it, up to now.
        summary: What the trial leaves, if it is over.
    """

    step: int
    value: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    confusion: list[list[int]] = field(default_factory=list)
    source_loss: float | None = None
    target_loss: float | None = None
    example: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    summary: TrialSummary | None = None
    fold: int = 0
    scores: FoldScores | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A job failed.

    Attributes:
        cause: Why.
        interrupted: Whether the job is not to blame, so that it may run again.
    """

    cause: str
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class SideJobDone:
    """A side job is over.

    Attributes:
        found: What it found: a round's growth, or a repeat's outcome.
    """

    found: Growth | Outcome


Message: TypeAlias = Evaluated | StageProgress | Failed | SideJobDone


def cause_of(error: Exception) -> str:
    """Say why something failed: our own errors speak for themselves."""
    return masked(str(error) if isinstance(error, PromptgraftError) else f"{type(error).__name__}: {error}")

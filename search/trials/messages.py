"""What workers tell the driver; imports neither Ray nor torch."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from promptgraft.spaces import PromptgraftError

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker says of its trial: an evaluation or a failure.

    Attributes:
        step: Updates done.
        value: The study's metric on validation rows.
        metrics: All validation metrics.
        confusion: True labels (rows) against predicted ones (columns).
        source_loss: Mean L_s since the report before, in nats.
        target_loss: The same for L_t.
        final: Whether the trial is over.
        failure: Why it failed, if it did.
        example: A validation row as the model sees it, demonstrations included, with its label in brackets.
        interrupted: Whether the trial is not to blame for its failure, so that it may run again.
        figures: Of its candidate, known before it is trained.
        cost: What the trial took and what the store of stages saved it, up to now.
        summary: Figures of a finished trial, for the study.
        found: What an errand found, where that was run rather than a trial; see `search.side_jobs.base`.
    """

    step: int = 0
    value: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    confusion: list[list[int]] = field(default_factory=list)
    source_loss: float | None = None
    target_loss: float | None = None
    final: bool = False
    failure: str | None = None
    interrupted: bool = False
    example: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    found: dict[str, Any] | None = None


def cause_of(error: Exception) -> str:
    """Say why something failed: our own errors speak for themselves."""
    return str(error) if isinstance(error, PromptgraftError) else f"{type(error).__name__}: {error}"

"""What workers tell the driver; imports neither Ray nor torch."""

from dataclasses import dataclass, field
from typing import Any

DELTA_FILE = "delta.safetensors"
LOGITS_FILE = "validation_logits.safetensors"
FLOAT32_LOGITS_FILE = "validation_logits_float32.safetensors"


def trial_file(number: int, name: str) -> str:
    """Return where a trial's file is in the study's files."""
    return f"artifacts/trial-{number}/{name}"


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
        growth: What a round of growth found, where that was run rather than a trial.
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
    growth: dict[str, Any] | None = None

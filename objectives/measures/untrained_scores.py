"""What prompts score before any training; imports no torch, since drivers read it, too."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UntrainedScore:
    """What a template and a verbalizer do without training.

    Attributes:
        template: Id of the template.
        verbalizer: Id of the verbalizer.
        score: Mean log-likelihood of the right label, in nats, each label's mean logit taken off (batch
            calibration; Zhou et al. 2023, arXiv:2309.17249): what training mends first is not counted.
        accuracy: Share of rows whose label is the likeliest, likewise.
        rows: Rows that it was scored on before the race was decided.
    """

    template: str
    verbalizer: str
    score: float
    accuracy: float
    rows: int

"""Measurements that a study stores; imports no torch, since drivers and commands read them, too."""

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


@dataclass(frozen=True, slots=True)
class PromptAsTokens:
    """A soft prompt read as tokens.

    Attributes:
        tokens: The nearest token of each vector.
        similarities: Their cosines.
        value: The study's metric on the validation rows, as trained.
        as_tokens: The same with the embedding of the nearest token in place of each vector.
        as_random: The same with tokens drawn at random; mean over some draws.
        rows: Number of validation rows.
    """

    tokens: tuple[str, ...]
    similarities: tuple[float, ...]
    value: float
    as_tokens: float
    as_random: float
    rows: int

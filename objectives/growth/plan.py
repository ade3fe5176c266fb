"""What a round of growth is asked for, and what it finds; imports no torch, since drivers read it, too."""

from dataclasses import dataclass, replace

from promptgraft.objectives.measures import UntrainedScore
from promptgraft.spaces import Template, Verbalizer


@dataclass(frozen=True, slots=True)
class WriterSpec:
    """A model that writes, where the study's own backbone can't.

    Attributes:
        path: Local folder or hub id.
        family: `causal_lm` or `masked_lm`.
    """

    path: str
    family: str


@dataclass(frozen=True, slots=True)
class GrowthPlan:
    """How a pool of templates grows.

    Attributes:
        sources: Names of template sources.
        size: Templates to keep of a round.
        writer: The model that writes; the backbone, if it can, where None.
        verbalizers: Verbalizers to keep of a round, drafted for the best template.
        label_words: Words of each label in them.
        verbalizer_sources: Names of their sources.
    """

    sources: tuple[str, ...]
    size: int
    writer: WriterSpec | None = None
    verbalizers: int = 0
    label_words: int = 1
    verbalizer_sources: tuple[str, ...] = ("likelihood",)

    def of_size(self, size: int) -> "GrowthPlan":
        """Return the plan for fewer templates."""
        return replace(self, size=size)


@dataclass(frozen=True, slots=True)
class Growth:
    """What a round has found.

    Attributes:
        templates: Those that are new to the pool.
        verbalizers: Likewise.
        scores: How all templates of the pool, old and new, do untrained, the best first.
        drafted: Source -> templates that were raced.
    """

    templates: tuple[Template, ...]
    verbalizers: tuple[Verbalizer, ...]
    scores: tuple[UntrainedScore, ...]
    drafted: dict[str, int]

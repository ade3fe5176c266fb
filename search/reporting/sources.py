"""Which source promises most, before any trial: a study's sources, ranked."""

from dataclasses import asdict, dataclass

from rich.markup import escape
from rich.table import Table

from promptgraft.search.study import Study
from promptgraft.spaces import InvalidInputError

MEANING = (
    "transfer: nats a row by which a linear classifier of the source makes the target's labels likelier (LogME; 0: it "
    "tells nothing), with its standard error; prompt similarity: cosine of the mean features of both tasks' prompts. "
    "Neither is a result: only training rows were looked at, nothing was trained, and the search doesn't use it."
)


@dataclass(frozen=True, slots=True)
class RankedSource:
    """What a source promises.

    Attributes:
        source: Its name; None for a single one without a name.
        rows: Its training rows.
        labels: Its labels.
        transfer: How much likelier its classifier makes the target's labels, in nats a row; 0 if it tells nothing.
        standard_error: That of `transfer`.
        prompt_similarity: Cosine of the mean features of both tasks' rendered prompts.
    """

    source: str | None
    rows: int
    labels: tuple[str, ...]
    transfer: float
    standard_error: float
    prompt_similarity: float


@dataclass(frozen=True, slots=True)
class RankedSources:
    """A study's sources.

    Attributes:
        sources: All of them, the most promising first.
    """

    sources: tuple[RankedSource, ...]


def ranked_sources(study: Study) -> RankedSources:
    """Rank a study's sources; see `objectives.measures.source_transfer`.

    Raises:
        InvalidInputError: If it names none.
    """
    if not study.sources:
        raise InvalidInputError(f"study {study.name!r} names no source; name several under `sources`")
    from promptgraft.objectives.measures import rank_sources
    from promptgraft.objectives.runtime import quiet_transformers
    from promptgraft.objectives.trial import Objective

    quiet_transformers()
    found = rank_sources(Objective(study.objective))
    return RankedSources(tuple(RankedSource(**asdict(score) | {"source": score.source or None}) for score in found))


def source_table(ranked: RankedSources) -> Table:
    """Lay out what `ranked_sources` returned."""
    table = Table(title="sources, the most promising first", title_justify="left")
    for name in ("source", "rows", "labels", "transfer", "prompt similarity"):
        table.add_column(name, justify="left" if name in ("source", "labels") else "right")
    for entry in ranked.sources:
        scores = (f"{entry.transfer:.3f} ± {entry.standard_error:.3f}", f"{entry.prompt_similarity:.2f}")
        table.add_row(escape(entry.source or "source"), str(entry.rows), escape(", ".join(entry.labels)), *scores)
    return table

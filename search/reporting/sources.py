"""Which source promises most, before any trial: a study's sources, ranked."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from promptgraft.search.study import Study
from promptgraft.spaces import InvalidInputError

MEANING = (
    "transfer: nats a row by which a linear classifier of the source makes the target's labels likelier (LogME; 0: it "
    "tells nothing), with its standard error; prompt similarity: cosine of the mean features of both tasks' prompts. "
    "Neither is a result: only training rows were looked at, nothing was trained, and the search is not told."
)


def ranked_sources(study: Study) -> list[dict[str, Any]]:
    """Rank a study's sources; see `objectives.measures.source_transfer`.

    Returns:
        `source` (null for a single one without a name), `rows`, `labels`, `transfer`, `standard_error` and
        `prompt_similarity` of each, the most promising first.

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
    return [asdict(score) | {"source": score.source or None, "labels": list(score.labels)} for score in found]


def source_table(ranked: Sequence[dict[str, Any]]) -> Table:
    """Lay out what `ranked_sources` returned."""
    table = Table(title="sources, the most promising first", title_justify="left")
    for name in ("source", "rows", "labels", "transfer", "prompt similarity"):
        table.add_column(name, justify="left" if name in ("source", "labels") else "right")
    for entry in ranked:
        scores = (f"{entry['transfer']:.3f} ± {entry['standard_error']:.3f}", f"{entry['prompt_similarity']:.2f}")
        table.add_row(entry["source"] or "source", str(entry["rows"]), ", ".join(entry["labels"]), *scores)
    return table

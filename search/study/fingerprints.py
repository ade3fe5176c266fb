"""What decides the meaning of a study's results: hashes of its rows and weights, and its settings."""

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from promptgraft.objectives.backbones import weights_hash
from promptgraft.objectives.data import rows_hash
from promptgraft.search.study.loading import Study, load_study
from promptgraft.spaces import SearchSpace

logger = logging.getLogger(__name__)

# These decide what is tried next and for how long, not what a result means.
_FREE = (
    "study",
    "effort",
    "space",
    "baselines",
    "constraints",
    "sampler",
    "pruner",
    "budget",
    "judging",
    "resources",
    "checkpoint",
    "cache",
    "track",
    "notify",
)
# Paths may move: the rows and weights behind them are compared by their hashes.
_PATHS = ("backbone.path", "source.train", "target.train", "target.test", "target.unlabelled")
_NAMED_PATH = re.compile(r"sources\..+\.train|backbones\..+\.path")


def row_hashes(study: Study) -> dict[str, str | dict[str, str] | None]:
    """Hash the rows of a study: `target rows`, `source rows`, by name if there are several, and `test rows`.

    Where there are any, `unlabelled rows`, too.
    """
    unlabelled = study.target.unlabelled
    return {
        "target rows": rows_hash(study.target.labelled),
        "source rows": _source_rows(study),
        "test rows": rows_hash(study.target.test),
        **({"unlabelled rows": rows_hash(unlabelled)} if unlabelled else {}),
    }


def with_recorded_rows(study: Study, recorded: Mapping[str, Any]) -> Study:
    """Return a study with the rows that it was started with, if near duplicates were found otherwise then.

    Args:
        study: The study, as its file is read today.
        recorded: The identity of the stored study; empty if there is none yet.
    """
    if not recorded or _same_rows(study, recorded):
        return study
    earlier = load_study(study.path, study.name, comparison="words")
    if not _same_rows(earlier, recorded):
        return study
    logger.info("study %s goes on with the rows of an earlier version", study.name)
    return earlier


def _same_rows(study: Study, recorded: Mapping[str, Any]) -> bool:
    return all(recorded.get(part) == found for part, found in row_hashes(study).items())


def study_identity(study: Study, definition: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must stay the same for results to be comparable, as JSON types.

    Args:
        study: The checked study.
        definition: Its file's content.
    """
    settings = {
        name: value
        for name, value in flattened({name: part for name, part in definition.items() if name not in _FREE})
        if name not in _PATHS and not _NAMED_PATH.fullmatch(name)
    }
    space, backbones = study.objective.space, study.objective.backbones
    own = {name: weights_hash(spec.backbone.path) for name, spec in backbones.items()}
    return {
        "settings": settings,
        "backbone weights": own or weights_hash(study.objective.backbone.path),
        **row_hashes(study),
        "space": {
            "fingerprint": space.fingerprint,
            "template": _ids(space, "templates"),
            "verbalizer": _ids(space, "verbalizers"),
        },
    }


def _ids(space: SearchSpace, pool: str) -> dict[str, str]:
    """Return the ids of templates or verbalizers by name; each of several backbones has its own, as `BACKBONE.NAME`."""
    own = {
        f"{backbone}.{name}": id_
        for backbone, on_it in space.backbones.items()
        for name, id_ in _ids(on_it, pool).items()
    }
    return own or {entry.name: entry.id for entry in getattr(space, pool)}


def _source_rows(study: Study) -> str | dict[str, str] | None:
    hashes = {name: rows_hash(task.train) for name, task in study.sources.items()}
    return hashes if study.file.sources else hashes.get("")


def flattened(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the entries of nested mappings, their keys joined by dots."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

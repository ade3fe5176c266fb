"""`promptgraft sources`, as a user types it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from promptgraft.search.reporting import MEANING, ranked_sources
from promptgraft.search.study import load_study
from promptgraft.spaces import InvalidInputError
from tests.support.commands import promptgraft, typed
from tests.support.outputs import printed


def test_sources_are_ranked_for_people_and_for_scripts(write_study: Callable[..., Path], data: Path) -> None:
    movie = {"train": str(data / "movie.csv"), "text": "text", "label": "label", "train_rows": 40}
    path = str(write_study(source=None, sources={"movie": movie, "fewer": movie | {"train_rows": 20}}))
    assert f"2 sources; rank them with: promptgraft sources {path}" in typed("validate", path).stdout
    shown = promptgraft("sources", path, absent="ray,optuna_dashboard")
    assert shown.returncode == 0, shown.stderr
    ranked = printed("sources", typed("sources", path, "--json").stdout)["sources"]
    assert {entry["source"]: entry["rows"] for entry in ranked} == {"movie": 40, "fewer": 20}
    assert ranked == sorted(ranked, key=lambda entry: -entry["transfer"])
    places = [shown.stdout.index(f" {entry['source']} ") for entry in ranked]
    assert places == sorted(places)
    assert " ".join(shown.stdout.split()).endswith(MEANING)


def test_a_single_source_needs_no_name(write_study: Callable[..., Path]) -> None:
    (only,) = ranked_sources(load_study(write_study())).sources
    assert (only.source, only.labels) == (None, ("negative", "positive"))


def test_without_a_source_there_is_nothing_to_rank(write_study: Callable[..., Path]) -> None:
    with pytest.raises(InvalidInputError, match="names no source"):
        ranked_sources(load_study(write_study(source=None)))

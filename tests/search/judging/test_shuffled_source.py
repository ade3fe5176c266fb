"""A source whose items have changed places must not be said to help; the same one as it is does."""

import csv
from collections.abc import Iterable
from pathlib import Path
from random import Random

import pytest

from promptgraft.objectives.data import Outputs, PriorRows, all_labels
from promptgraft.objectives.kinds.histories.recommendation import Recommendation
from promptgraft.search.judging import RowMetric
from promptgraft.search.judging.intervals import Interval, gain_on_rows
from tests.support.histories import spec_of_histories

METRIC = "ndcg_at_10"
TOPICS, ITEMS = 6, 8
Rating = tuple[str, str, int]


def ratings(users: int, seed: int, name: str) -> list[Rating]:
    """Return five items of one topic each user has, in any order."""
    drawn = Random(seed)
    return [
        (f"{name}{user}", f"{user % TOPICS}-{item}", when)
        for user in range(users)
        for when, item in enumerate(drawn.sample(range(ITEMS), 5))
    ]


def write(path: Path, header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def gain_by(folder: Path, *, shuffled: bool) -> Interval:
    """Return what counts of a source with many users are worth for few users, on their test rows."""
    names = [f"{topic}-{item}" for topic in range(TOPICS) for item in range(ITEMS)]
    others = dict(zip(names, Random(0).sample(names, len(names)), strict=True))
    items = write(folder / "items.csv", ("item", "title"), [(name, f"item {name}") for name in names])
    own = write(folder / "own.csv", ("user", "item", "when"), ratings(24, 0, "u"))
    rows = [(user, others[item] if shuffled else item, when) for user, item, when in ratings(300, 1, "v")]
    theirs = write(folder / "theirs.csv", ("user", "item", "when"), rows)
    spec = spec_of_histories(own, items, least=2)
    target = Recommendation.load_target(spec, 0)
    source = Recommendation.load_source(spec_of_histories(theirs, items), 0, target)
    labels = all_labels(target, [source])

    def scored(alpha: float) -> Outputs:
        fitted = target.fit_prior(
            "neighbours", 1.0, PriorRows(target.train, source.train, source.labels, alpha, labels)
        )
        features = [target.prior_features("neighbours", row.fields, labels) for row in target.test]
        return target.prior_logits("neighbours", 1.0, fitted, features)

    metric = RowMetric(target, METRIC, target.test)
    ours, theirs_too = metric.of(scored(0.0)), metric.of(scored(0.5))
    return gain_on_rows([theirs_too], [ours], metric.measure, 0.05, bootstrap=True)


@pytest.mark.parametrize("shuffled", [True, False], ids=["shuffled", "as it is"])
def test_a_source_helps_if_it_says_what_goes_with_what(tmp_path: Path, shuffled: bool) -> None:
    found = gain_by(tmp_path, shuffled=shuffled)
    if shuffled:
        assert found.low <= 0, "hurt, or no difference"
    else:
        assert found.low > 0, "helped"

"""Which knobs mattered: found where there is something to find, and told apart from chance."""

from typing import Any

import numpy as np
import optuna
import pytest

from promptgraft.search.reporting.importances import measure_importances

TRIALS = 24


@pytest.fixture(scope="module")
def knobs() -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    return [
        {
            "template": "ab"[n % 2],
            "learning_rate": float(10 ** random.uniform(-5, -1)),
            "same": 1,
            "soft_prompt.length": (0, 4, 8)[n % 3],
            **({"soft_prompt.place": ("prefix", "suffix")[n % 5 % 2]} if n % 3 else {}),
            "adapter.rank": None if n % 4 else 8 + n,
        }
        for n in range(TRIALS)
    ]


def test_the_knob_that_matters_is_found(knobs: list[dict[str, Any]]) -> None:
    values = [0.5 + 0.3 * (n % 2) + 0.001 * (n % 7) for n in range(TRIALS)]
    before = optuna.logging.get_verbosity()
    found = measure_importances(knobs, values)
    assert optuna.logging.get_verbosity() == before
    first, *others = found.knobs
    assert (first.name, found.reason, found.trials) == ("template", None, TRIALS)
    assert first.low > 0.8
    assert first.importance > first.by_chance
    assert {entry.name for entry in others} == {
        "learning_rate",
        "soft_prompt.length",
        "soft_prompt.place",
        "adapter.rank",
    }
    assert all(entry.importance < entry.by_chance for entry in others)
    assert sum(entry.importance for entry in found.knobs) == pytest.approx(1.0)
    assert measure_importances(knobs, values) == found


def test_noise_is_not_taken_for_more_than_chance(knobs: list[dict[str, Any]]) -> None:
    values = np.random.default_rng(1).normal(size=TRIALS).tolist()
    found = measure_importances(knobs, values).knobs
    assert sum(entry.importance > entry.by_chance for entry in found) <= 1


@pytest.mark.parametrize(
    ("count", "values", "reason"),
    [
        (5, list(range(5)), "it takes 10 COMPLETE trials with hyperparameters, and there are 5"),
        (0, [], "it takes 10 COMPLETE trials with hyperparameters, and there are 0"),
        (TRIALS, [0.5] * TRIALS, "all trials have the same value"),
    ],
)
def test_why_nothing_is_measured(knobs: list[dict[str, Any]], count: int, values: list[float], reason: str) -> None:
    assert measure_importances(knobs[:count], values) == measure_importances(knobs[:count], values)
    found = measure_importances(knobs[:count], values)
    assert (found.reason, found.knobs) == (reason, ())


def test_knobs_that_never_varied() -> None:
    assert measure_importances([{"steps": 8}] * 12, [n / 12 for n in range(12)]).reason == "no hyperparameter varied"


def test_a_single_trial_that_differs() -> None:
    """Most resamples then have one value, of which no variance can be explained."""
    found = measure_importances([{"steps": 8 + n % 2} for n in range(12)], [0.5] * 11 + [0.6])
    (entry,) = found.knobs
    assert 0 <= entry.low <= entry.high <= 1

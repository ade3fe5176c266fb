"""The fixed part of a study over the real pair, for each family."""

from collections.abc import Callable

import pytest

from promptgraft.objectives.specs import ObjectiveSpec


@pytest.fixture(scope="module", params=["encoder", "recurrent", "masked_lm", "causal_lm", "seq2seq"])
def spec(
    request: pytest.FixtureRequest, make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str]
) -> ObjectiveSpec:
    return make_spec(tiny_models[request.param], request.param)


# All families pass through every contract test; where these take longest, the gate runs two of them, `make test-slow`
# the others.
_LONG = ("test_activations.py", "test_checkpoints.py", "test_calibration.py", "test_each_candidate_uses_its_own_source")
_LATER = ("recurrent", "masked_lm", "seq2seq")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long contract tests of most families among the slow ones."""
    for item in items:
        family = getattr(item, "callspec", None) and item.callspec.params.get("spec")  # type: ignore[attr-defined]
        if family in _LATER and any(name in item.nodeid for name in _LONG):
            item.add_marker(pytest.mark.slow)

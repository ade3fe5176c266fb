"""The fixed part of a study over the real pair, for each family."""

from collections.abc import Callable

import pytest

from promptgraft.objectives.specs import ObjectiveSpec


@pytest.fixture(scope="module", params=["encoder", "recurrent", "masked_lm", "causal_lm", "seq2seq"])
def spec(
    request: pytest.FixtureRequest, make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str]
) -> ObjectiveSpec:
    return make_spec(tiny_models[request.param], request.param)

"""A soft prompt is read as its nearest tokens, and scored with these in its place."""

from collections.abc import Callable

import pytest
import torch

from promptgraft.objectives.measures import prompt_as_tokens
from promptgraft.objectives.prompting import SOFT_PROMPT
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Candidate, SoftPrompt
from tests.support.models import TINY_LAYERS
from tests.support.specs import TEMPLATES, VERBALIZERS

MakeSpec = Callable[..., ObjectiveSpec]


def candidate(soft: SoftPrompt) -> Candidate:
    return Candidate(
        TEMPLATES[0].id, VERBALIZERS[0].id, soft_prompt=soft, frozen_layers=TINY_LAYERS, steps=3, batch_size=4
    )


@pytest.mark.parametrize("place", ["prefix", "suffix", "layer 0"])
@pytest.mark.parametrize("parametrization", ["direct", "mlp"])
@pytest.mark.parametrize("family", ["encoder", "causal_lm"])
def test_a_trained_prompt_is_scored_as_it_is(
    make_spec: MakeSpec, tiny_models: dict[str, str], family: str, place: str, parametrization: str
) -> None:
    """Its value is the trial's own; through a network, the vectors that it makes are read."""
    objective = Objective(make_spec(tiny_models[family], family, metric="loss"))
    chosen = candidate(SoftPrompt(2, place=place, parametrization=parametrization))
    result = objective.evaluate(chosen, 1)
    reading = prompt_as_tokens(objective, chosen, result.delta, 1)
    assert reading is not None
    assert reading.value == pytest.approx(result.value, abs=1e-5)
    assert (len(reading.tokens), reading.rows) == (2, len(objective.target.validation))
    assert reading.as_random != reading.value


def test_a_prompt_of_tokens_is_read_as_these(make_spec: MakeSpec, tiny_models: dict[str, str]) -> None:
    objective = Objective(make_spec(tiny_models["causal_lm"], "causal_lm", metric="loss"))
    chosen = candidate(SoftPrompt(2, place="suffix"))
    delta = dict(objective.evaluate(chosen, 1).delta)
    words = objective.backbone.tokenizer.encode("good bad", add_special_tokens=False)[:2]
    delta[f"{SOFT_PROMPT}weight"] = 3 * objective.backbone.embeddings[torch.tensor(words)].detach().clone()
    reading = prompt_as_tokens(objective, chosen, delta, 1)
    assert reading is not None
    assert list(reading.tokens) == [objective.backbone.tokenizer.decode([word]) for word in words]
    assert reading.similarities == pytest.approx((1.0, 1.0), abs=1e-4)


@pytest.mark.parametrize("soft", [SoftPrompt(), SoftPrompt(2, place="layer 1"), SoftPrompt(2, place="deep")])
def test_where_no_tokens_are_there_is_nothing_to_read(
    make_spec: MakeSpec, tiny_models: dict[str, str], soft: SoftPrompt
) -> None:
    objective = Objective(make_spec(tiny_models["encoder"], "encoder"))
    assert prompt_as_tokens(objective, candidate(soft), {}, 1) is None

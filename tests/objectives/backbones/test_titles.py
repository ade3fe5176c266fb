"""Titles of a short list under a causal model: the prior says which, the model how likely each is."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from promptgraft.objectives.backbones.causal_lm import TitleScorer
from promptgraft.objectives.data import TaskSpec
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec, SourceTraining
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Adapter, Candidate, Constant, InvalidInputError, SearchSpace, SoftPrompt, StudyFacts
from promptgraft.spaces import Template as PromptTemplate
from tests.support.histories import spec_of_histories, write_histories
from tests.support.models import TINY_LAYERS, TinyModels

TEMPLATE = PromptTemplate("three", "{{ history.split('\n')[:3] | reverse | join('; ') }}; {{ label }}")
PLAIN = Candidate(TEMPLATE.id, "", head="titles", prior="neighbours", steps=0)
LISTED = 5


@pytest.fixture
def spec(tmp_path: Path) -> TaskSpec:
    return spec_of_histories(*write_histories(tmp_path), validation_rows=12, test_rows=12)


@pytest.fixture
def build(spec: TaskSpec, tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Objective]:
    """Make the objective of a small shop, where five items are listed."""
    monkeypatch.setattr(TitleScorer, "listed", LISTED)

    def make(source: TaskSpec | None = None, **backbone: object) -> Objective:
        facts = StudyFacts(TINY_LAYERS, has_head=False, has_source=source is not None)
        parameters = (Constant("head", "titles"), Constant("prior", "neighbours"))
        own: dict[str, Any] = {"max_tokens": 40, **backbone}
        model = BackboneSpec(tiny_models["causal_lm"], "causal_lm", **own)
        space = SearchSpace((TEMPLATE,), (), parameters, facts)
        training = SourceTraining(4, 3e-3)
        return Objective(
            ObjectiveSpec(model, spec, source, space, "ndcg_at_5", evaluate_every=4, source_training=training)
        )

    return make


def short_list(objective: Objective, candidate: Candidate = PLAIN) -> tuple[PromptedModel, torch.Tensor]:
    """Return an untrained model, and what the prior says of the validation rows."""
    counts = objective.score(replace(candidate, text_weight=0.0), {}, objective.target.validation)
    (model,) = objective.untrained([candidate])
    return model, torch.from_numpy(counts)


def test_titles_have_the_mean_log_probability_of_their_tokens(build: Callable[..., Objective]) -> None:
    """As transformers computes it on prompt and title; the others follow in the order of the prior."""
    objective = build()
    task, found = objective.target, torch.from_numpy(objective.score(PLAIN, {}, objective.target.validation))
    model, counts = short_list(objective)
    fresh = AutoModelForCausalLM.from_pretrained(objective.spec.backbone.path).eval()
    first = counts.sort(dim=1, descending=True, stable=True).indices[:, :LISTED]
    tokenizer = model.backbone.tokenizer
    for own, places, prior, row in zip(found - counts, first, counts, model.encode(task.validation), strict=True):
        scores = []
        for place in places.tolist():
            title = tokenizer.encode(f" {task.labels[place]}", add_special_tokens=False)
            ids = torch.tensor([[*row.ids, *title]])
            with torch.no_grad():
                logits = fresh(input_ids=ids).logits[0, len(row.ids) - 1 : -1]
            scores.append(-float(functional.cross_entropy(logits, ids[0, len(row.ids) :])))
        assert own[places] == pytest.approx(np.array(scores), abs=1e-4)
        others = np.setdiff1d(np.arange(len(prior)), places.numpy())
        assert own[others].numpy() == pytest.approx(min(scores), abs=1e-4)
        together = own + prior
        assert together[places].min() >= together[others].max()
        assert np.array_equal(np.argsort(together[others]), np.argsort(prior[others]))


def test_what_came_is_not_put_on_the_list(build: Callable[..., Objective]) -> None:
    """Where the prior has it behind the list, no weight of the text brings it forward."""
    objective = build()
    task = objective.target
    _, counts = short_list(objective)
    (ranks, heavy) = (
        task.blame(outputs, task.validation)
        for outputs in (counts.numpy(), objective.score(replace(PLAIN, text_weight=1e3), {}, task.validation))
    )
    behind = ranks > LISTED
    assert behind.any()
    assert (~behind).any()
    assert np.array_equal(heavy[behind], ranks[behind])
    assert (heavy[~behind] <= LISTED).all()


@pytest.mark.parametrize(
    ("soft", "frozen"),
    [
        (SoftPrompt(), 0),
        (SoftPrompt(), 2),
        (SoftPrompt(), TINY_LAYERS),
        (SoftPrompt(3, place="suffix"), 1),
        (SoftPrompt(3, place="layer 1"), 2),
        (SoftPrompt(3, place="prefix"), 0),
        (SoftPrompt(3, place="deep"), 0),
    ],
    ids=str,
)
def test_keys_of_a_prompt_are_computed_once_to_the_same_effect(
    build: Callable[..., Objective], soft: SoftPrompt, frozen: int
) -> None:
    candidate = replace(PLAIN, soft_prompt=soft, frozen_layers=frozen, steps=4, learning_rate=1e-3)
    shared, alone = build(), build(attn_implementation="eager")
    result, rows = shared.evaluate(candidate, 1), shared.target.validation
    (model,) = alone.untrained([candidate])
    model.load(result.delta)
    assert isinstance(model.scorer, TitleScorer)
    model.scorer._shares = False
    found = model.score(model.encode(rows), alone.target.labels, 8).numpy()
    assert result.logits == pytest.approx(found, abs=1e-4)
    assert shared.score(candidate, result.delta, rows, 1) == pytest.approx(found, abs=1e-4)


def test_the_loss_is_that_of_the_next_tokens(build: Callable[..., Objective]) -> None:
    """A mean over rows, whether or not a batch is run in parts."""
    objective = build()
    candidate = replace(PLAIN, steps=1, batch_size=1000)
    (model,) = objective.untrained([candidate])
    rows = model.encode(objective.target.train)
    expected = np.mean([float(model.title_loss([row], objective.target.labels).detach()) for row in rows])
    for micro in (None, 7):
        _, last = build(micro_batch_size=micro).run(candidate, 0)
        assert last.target_loss == pytest.approx(expected, abs=1e-4)


def test_it_learns_and_no_trial_depends_on_others(
    build: Callable[..., Objective], spec: TaskSpec, tmp_path: Path
) -> None:
    """Source stage, source in the loss and adapters among them; what is saved and loaded computes the same."""
    (tmp_path / "other").mkdir()
    source = spec_of_histories(*write_histories(tmp_path / "other", seed=1))
    table = Path(source.train)
    table.write_text(table.read_text().replace("\nu", "\nv"))
    objective = build(source)
    trained = replace(PLAIN, steps=60, learning_rate=3e-3, alpha=0.3, source_steps=8)
    others = [PLAIN, replace(PLAIN, steps=2, adapter=Adapter("lora", 2), soft_prompt=SoftPrompt(2, place="suffix"))]
    first, *found = (objective.evaluate(own, seed=1) for own in (trained, *others))
    *again, last = (objective.evaluate(own, seed=1) for own in (*others, trained))
    assert np.array_equal(first.logits, last.logits)
    assert all(np.array_equal(a.logits, b.logits) for a, b in zip(found, again, strict=True))
    assert first.value > max(found[0].value, 0.3)
    save_file({name: own.contiguous() for name, own in first.delta.items()}, tmp_path / "delta.safetensors")
    scored = objective.score(trained, load_file(tmp_path / "delta.safetensors"), objective.target.validation, seed=1)
    assert np.array_equal(scored, first.logits)


def test_what_it_cannot_do_is_refused(build: Callable[..., Objective], spec: TaskSpec, tiny_models: TinyModels) -> None:
    with pytest.raises(InvalidInputError, match="prior is 'none'; use popularity or neighbours or ease"):
        build().evaluate(replace(PLAIN, prior="none"), 0)
    positions = AutoConfig.from_pretrained(tiny_models["causal_lm"]).max_position_embeddings
    with pytest.raises(InvalidInputError, match=f"leave none of the backbone's {positions} positions for titles"):
        build(max_tokens=positions).evaluate(PLAIN, 0)
    facts = StudyFacts(TINY_LAYERS, has_head=False, has_source=False)
    with pytest.raises(InvalidInputError, match="prior may be 'none'; give priors alone"):
        SearchSpace((TEMPLATE,), (), (Constant("head", "titles"),), facts)
    assert PLAIN.canonical(facts) == replace(PLAIN, label_smoothing=0.1, verbalizer="names").canonical(facts)
    space = SearchSpace((TEMPLATE,), (), (Constant("head", "titles"), Constant("prior", "ease")), facts)
    masked = BackboneSpec(tiny_models["masked_lm"], "masked_lm", max_tokens=32)
    with pytest.raises(InvalidInputError, match="family 'masked_lm' can't; use causal_lm, or head label_words"):
        Objective(ObjectiveSpec(masked, spec, None, space, "ndcg_at_5")).evaluate(PLAIN, 0)

"""Answers that are texts: the loss is transformers' own, texts are those of its generation, wherever prompts stand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from promptgraft.objectives.backbones import answers
from promptgraft.objectives.data import Split
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Adapter, Candidate, Categorical, Constant, Decoding, Demonstrations, SoftPrompt
from tests.support.answers import PLAIN, objective_of_pairs, spec_of_pairs, write_pairs, writing_model
from tests.support.models import TinyModels

MODELS = ["t5", "marian", "llama"]
# One of each family, where the architecture makes no difference.
FAMILIES = pytest.mark.parametrize("objective", ["t5", "llama"], indirect=True)
ONE = pytest.mark.parametrize("objective", ["llama"], indirect=True)


@pytest.fixture(params=MODELS)
def objective(request: pytest.FixtureRequest, tmp_path: Path, tiny_models: TinyModels) -> Objective:
    path, family = writing_model(request.param, tmp_path, tiny_models)
    source = spec_of_pairs(write_pairs(tmp_path / "source.csv", seed=1), train_rows=30, test_rows=None)
    spec = objective_of_pairs(write_pairs(tmp_path / "pairs.csv"), path, family, source, evaluate_every=1)
    found = Objective(spec)
    found.use_split(Split(0, 0))
    return found


def padded(rows: list[list[int]], filler: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=filler)


def reference_loss(objective: Objective, prompts: list[list[int]], labels: list[list[int]]) -> float:
    """Compute the loss as transformers does for labels, on a fresh copy of the model."""
    backbone = objective.backbone
    if backbone.family == "causal_lm":
        model: Any = AutoModelForCausalLM.from_pretrained(backbone.spec.path)
        whole = [prompt + own for prompt, own in zip(prompts, labels, strict=True)]
        hidden = [[-100] * len(prompt) + own for prompt, own in zip(prompts, labels, strict=True)]
        mask = padded([[1] * len(row) for row in whole], 0)
        return float(model(input_ids=padded(whole, 0), attention_mask=mask, labels=padded(hidden, -100)).loss)
    model = AutoModelForSeq2SeqLM.from_pretrained(backbone.spec.path)
    mask = padded([[1] * len(row) for row in prompts], 0)
    return float(model(input_ids=padded(prompts, 0), attention_mask=mask, labels=padded(labels, -100)).loss)


def test_the_loss_is_that_of_transformers(objective: Objective) -> None:
    (model,) = objective.untrained([PLAIN])
    rows = model.encode(objective.target.train)
    prompts, labels = [list(row.ids) for row in rows], [list(row.answer) for row in rows]  # type: ignore[arg-type]
    assert len({len(own) for own in labels}) > 1, "some answers are padded"
    expected = reference_loss(objective, prompts, labels)
    everything = replace(PLAIN, batch_size=len(rows), steps=1)
    _, last = objective.run(everything, objective.spec.split_seed)
    assert last.target_loss == pytest.approx(expected, abs=1e-5)
    outputs = objective.score(PLAIN, {}, objective.target.train)
    assert objective.target.measure(outputs, objective.target.train)["loss"] == pytest.approx(expected, abs=1e-5)


@ONE
def test_a_batch_in_parts_has_the_same_loss(objective: Objective) -> None:
    everything = replace(PLAIN, batch_size=len(objective.target.train), steps=1)
    _, whole = objective.run(everything, 0)
    parts = replace(objective.spec, backbone=replace(objective.spec.backbone, micro_batch_size=3))
    other = Objective(parts)
    other.use_split(Split(0, 0))
    _, cut = other.run(everything, 0)
    assert cut.target_loss == pytest.approx(whole.target_loss, abs=1e-5)


def test_texts_are_those_of_transformers(objective: Objective) -> None:
    rows = objective.target.test[:6]
    for beams in (1, 3):
        candidate = replace(PLAIN, decoding=Decoding(beams, max_new_tokens=8))
        (model,) = objective.untrained([candidate])
        backbone, expected = objective.backbone, []
        for row in model.encode(rows):
            ids = torch.tensor([row.ids])
            with torch.no_grad():
                found = backbone.model.generate(
                    ids, attention_mask=torch.ones_like(ids), num_beams=beams, max_new_tokens=8, do_sample=False
                )[0]
            own = found[ids.shape[1] :] if backbone.family == "causal_lm" else found
            expected.append(backbone.tokenizer.decode(own, skip_special_tokens=True).strip())
        assert objective.target.predict(objective.score(candidate, {}, rows).astype(float), ()) == expected


@FAMILIES
@pytest.mark.parametrize("place", ["prefix", "suffix", "layer 1", "deep"])
def test_soft_prompts_write_at_every_place(objective: Objective, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if place == "layer 1" and objective.backbone.family == "seq2seq":
        pytest.skip("its encoder runs only as a whole")
    prompted = replace(PLAIN, soft_prompt=SoftPrompt(3, place=place), steps=0, decoding=Decoding(2, max_new_tokens=6))
    rows, task = objective.target.test[:8], objective.target
    found = objective.score(prompted, {}, rows)
    for scorer in (answers.CausalAnswers, answers.Seq2SeqAnswers):
        monkeypatch.setattr(scorer, "write", scorer.write_again)  # Without keys and values that are kept.
    assert np.array_equal(found, objective.score(prompted, {}, rows))
    plain = objective.score(replace(prompted, soft_prompt=SoftPrompt()), {}, rows)
    assert task.distances(found, plain).max() == 1.0


@FAMILIES
@pytest.mark.parametrize(
    "candidate",
    [
        replace(PLAIN, source_steps=2, alpha=0.5),
        replace(PLAIN, soft_prompt=SoftPrompt(2, place="prefix"), frozen_layers=2),
        replace(PLAIN, soft_prompt=SoftPrompt(2, place="deep"), frozen_layers=2),
        replace(PLAIN, adapter=Adapter("lora", 2)),
        replace(PLAIN, frozen_layers=1, decoding=Decoding(2, 0.5, 2, 6)),
        replace(PLAIN, demonstrations=Demonstrations(2, "nearest", "nearest_last")),
    ],
    ids=["source", "prefix", "deep", "lora", "beams", "demonstrations"],
)
def test_the_order_of_trials_does_not_matter(objective: Objective, candidate: Candidate) -> None:
    if candidate.demonstrations.count and objective.backbone.family == "seq2seq":
        pytest.skip("only causal LMs take demonstrations")
    first = objective.evaluate(candidate, 0)
    objective.evaluate(PLAIN, 0)
    again = objective.evaluate(candidate, 0)
    assert np.array_equal(first.logits, again.logits)
    scored = objective.score(candidate, again.delta, objective.target.validation, 0)
    assert objective.target.distances(scored, again.logits).max() == 0.0


@FAMILIES
def test_training_learns_to_write(objective: Objective) -> None:
    tuned = replace(PLAIN, steps=20, batch_size=8, learning_rate=1e-2)
    before, *_, after = objective.run(tuned, 0)
    assert after.metrics["loss"] < before.metrics["loss"] - 0.5


@ONE
def test_a_sample_is_written_in_a_search_and_everything_in_the_end(objective: Objective) -> None:
    spec = replace(objective.spec, evaluation_sample=5)
    sampling = Objective(spec)
    sampling.use_split(Split(0, 0))
    rows = len(sampling.target.validation)
    first, *_ = sampling.run(PLAIN, 0)
    assert (sampling.evaluate(PLAIN, 0).logits[:, 2] >= 0).sum() == 5
    assert (sampling.evaluate(PLAIN, 0, at=2).logits[:, 2] >= 0).sum() == rows
    assert first.metrics["loss"] > 0


@ONE
def test_what_differs_in_writing_alone_is_trained_once(objective: Objective, tmp_path: Path) -> None:
    space = replace(
        objective.spec.space, parameters=(Constant("head", "answer"), Categorical("decoding.beams", (1, 2)))
    )
    plain = replace(PLAIN, steps=5)
    alone = Objective(replace(objective.spec, evaluate_every=2)).evaluate(plain, 0)
    sharing = Objective(replace(objective.spec, space=space, evaluate_every=2, files=str(tmp_path / "files")))
    first = sharing.evaluate(plain, 0)
    assert np.array_equal(first.logits, alone.logits)
    other = sharing.evaluate(replace(plain, decoding=Decoding(2, max_new_tokens=8)), 0)
    trained = 2 * 3  # Folds, and segments of each.
    assert other.stages.hits - first.stages.hits >= trained
    assert other.stages.misses == 0
    assert other.metrics["loss"] == pytest.approx(first.metrics["loss"], abs=1e-6)
    again = sharing.evaluate(plain, 0)
    assert np.array_equal(again.logits, alone.logits)


@ONE
def test_demonstrations_show_answers(objective: Objective) -> None:
    candidate = replace(PLAIN, demonstrations=Demonstrations(1, "nearest"))
    cycle = objective.run(candidate, 0)
    next(cycle)
    shown, own = cycle.example().split("\n\n")
    text, answer = shown.removeprefix("translate: ").split(" = ")
    assert any((row.fields["text"], row.answer) == (text, answer) for row in objective.target.train)
    assert own.endswith(f"= [{objective.target.validation[0].answer}]")

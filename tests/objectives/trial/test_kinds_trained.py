"""Other kinds of task are trained on their own loss, on source and target, and go on from a checkpoint."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from transformers import AutoModelForTokenClassification, AutoTokenizer

from promptgraft.objectives.data import TASK_KINDS, Split
from promptgraft.objectives.file_store import FileStore
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec, SourceSpec
from promptgraft.objectives.trial import Checkpoint, Objective, checkpoints
from promptgraft.spaces import Candidate, Constant, InvalidInputError, SearchSpace, StudyFacts, Template
from tests.support.kinds import spec_of_kind, write_kinds
from tests.support.models import TINY_LAYERS, TinyModels

TEMPLATE = Template("plain", "{{ text }} {{ label }}")
LINEAR = Candidate(TEMPLATE.id, "", head="linear", frozen_layers=TINY_LAYERS, steps=2, batch_size=64)
KINDS = ["multi_label", "regression", "token_classification"]


@pytest.fixture(params=KINDS)
def spec(request: pytest.FixtureRequest, tmp_path: Path, tiny_models: TinyModels) -> ObjectiveSpec:
    target = spec_of_kind(write_kinds(tmp_path / "target.csv"), request.param, folds=2)
    source = spec_of_kind(write_kinds(tmp_path / "source.csv", seed=1), request.param, train_rows=80, test_rows=None)
    facts = StudyFacts(TINY_LAYERS, has_head=True, has_source=True)
    space = SearchSpace((TEMPLATE,), (), (Constant("head", "linear"),), facts)
    metric = TASK_KINDS[request.param].default_metric
    backbone = BackboneSpec(tiny_models["encoder"], "encoder", 32)
    return ObjectiveSpec(backbone, target, source, space, metric=metric, evaluate_every=1)


def test_the_loss_is_that_of_the_reference_libraries(spec: ObjectiveSpec) -> None:
    objective = Objective(spec)
    objective.use_split(Split(0, 0))
    task = objective.target
    outputs = objective.score(LINEAR, {}, task.train)  # The head as it is before the first update, not scaled.
    _, first, _ = objective.run(LINEAR, spec.split_seed)
    if task.words() is not None:
        expected = loss_of_transformers(objective)
    elif task.has_labels:
        true = np.array([[label in row.answer for label in range(3)] for row in task.train])  # type: ignore[operator]
        chances = 1 / (1 + np.exp(-outputs.astype(np.float64)))
        expected = np.mean([log_loss(true[:, label], chances[:, label]) for label in range(3)])
    else:
        numbers = np.array([row.answer for row in task.train], dtype=np.float64)
        standardised = torch.from_numpy((numbers - numbers.mean()) / numbers.std())
        gaussian = torch.nn.GaussianNLLLoss()(
            torch.from_numpy(outputs[:, 0]).double(), standardised, torch.ones(len(numbers), dtype=torch.float64)
        )
        expected = float(gaussian)
    assert first.target_loss == pytest.approx(expected, abs=1e-5)
    assert first.source_loss is None


def loss_of_transformers(objective: Objective) -> float:
    """Return the loss of transformers' own model, its labels aligned by `word_ids` as its documentation does."""
    task, path = objective.target, objective.spec.backbone.path
    (model,) = objective.untrained([LINEAR])
    head = {name.removeprefix("reader."): weight for name, weight in model.attached().items()}
    tokenizer = AutoTokenizer.from_pretrained(path)
    reference = AutoModelForTokenClassification.from_pretrained(path, num_labels=len(task.labels)).eval()
    reference.classifier.load_state_dict(head)
    batch = tokenizer(
        [row.fields["text"].split() for row in task.train], is_split_into_words=True, padding=True, return_tensors="pt"
    )
    labels = torch.full(batch["input_ids"].shape, -100)
    for place, row in enumerate(task.train):
        words = batch.word_ids(place)
        for token, word in enumerate(words):
            if word is not None and word != words[token - 1]:
                labels[place, token] = row.answer[word]  # type: ignore[index]
    with torch.no_grad():
        return float(reference(**batch, labels=labels).loss)


def test_source_and_target_are_mixed_and_the_order_does_not_matter(spec: ObjectiveSpec) -> None:
    objective = Objective(spec)
    both = replace(LINEAR, source_steps=3, alpha=0.5, steps=3, frozen_layers=0)
    probe = Candidate(TEMPLATE.id, "", head="probe", steps=0, alpha=0.5, probe_c=10.0)
    results = [objective.evaluate(candidate, 0) for candidate in (both, probe, LINEAR, both, probe)]
    assert np.array_equal(results[0].logits, results[3].logits)
    assert np.array_equal(results[1].logits, results[4].logits)
    *_, last = objective.run(both, 0)
    assert last.source_loss is not None
    assert last.target_loss is not None


def test_one_of_several_sources_is_trained_on(spec: ObjectiveSpec, tmp_path: Path) -> None:
    assert spec.source is not None
    alone = Objective(spec).evaluate(replace(LINEAR, source_steps=3, alpha=0.5, frozen_layers=0), 0)
    other = replace(spec.source, train=str(write_kinds(tmp_path / "other.csv", seed=2)))
    sources = {"one": SourceSpec(spec.source, spec.source_training), "two": SourceSpec(other)}
    space = replace(spec.space, facts=replace(spec.space.facts, sources=tuple(sources)))
    several = Objective(replace(spec, source=None, sources=sources, space=space))
    first, second = (
        several.evaluate(replace(LINEAR, source_steps=3, alpha=0.5, frozen_layers=0, source=name), 0)
        for name in sources
    )
    assert np.array_equal(first.logits, alone.logits)
    assert not np.array_equal(first.logits, second.logits)


def test_training_learns_the_words_that_decide(spec: ObjectiveSpec) -> None:
    objective = Objective(replace(spec, metric="loss", evaluate_every=50))
    tuned = replace(LINEAR, frozen_layers=0, steps=50, batch_size=16, learning_rate=3e-3)
    rows = objective.target.scored()
    found, constant = objective.evaluate(tuned, 0), objective.target.constant(rows)
    assert found.metrics["loss"] < objective.target.measure(constant, rows)["loss"] - 0.05


def test_it_goes_on_from_a_checkpoint_bit_for_bit(
    spec: ObjectiveSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_SPARING", 0)
    candidate = replace(LINEAR, steps=5, batch_size=8)
    whole = Objective(spec).evaluate(candidate, 0)

    def checkpoint() -> Checkpoint:
        return Checkpoint(FileStore(str(tmp_path)), "key-0.safetensors", every_s=0.0)

    cycle = Objective(spec).run(candidate, 0, checkpoint())
    for _ in range(4):
        next(cycle)
    *_, last = Objective(spec).run(candidate, 0, checkpoint())
    assert last.result is not None
    assert last.result.resumed_at > 0
    assert np.array_equal(last.result.logits, whole.logits)


def test_candidates_that_need_one_label_are_refused(spec: ObjectiveSpec) -> None:
    with pytest.raises(InvalidInputError, match="needs rows with exactly one label each"):
        Objective(spec).evaluate(replace(LINEAR, calibration="batch"), 0)
    with pytest.raises(InvalidInputError, match="use tables of one kind"):
        Objective(replace(spec, source=replace(spec.source, kind="text_classification")))  # type: ignore[type-var]

"""The whole cycle, on real data and small random models of both families."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from promptgraft.objectives.data import TaskSpec
from promptgraft.objectives.spec import ObjectiveSpec, SourceSpec
from promptgraft.objectives.trial import Objective, Result
from promptgraft.spaces import InvalidInputError, SoftPrompt, TrialError
from tests.support.models import TINY_LAYERS
from tests.support.prompted_models import is_refused
from tests.support.specs import TEMPLATES, TRAINED, VERBALIZERS

OTHERS = [
    replace(TRAINED, frozen_layers=0, soft_prompt=SoftPrompt(3, "vocabulary", "prefix"), learning_rate=0.1),
    replace(TRAINED, alpha=0.0, source_steps=0, soft_prompt=SoftPrompt(2, "vocabulary", "layer 2")),
    replace(TRAINED, template=TEMPLATES[1].id, alpha=1.0),
    replace(TRAINED, verbalizer=VERBALIZERS[0].id, soft_prompt=SoftPrompt()),
    replace(TRAINED, frozen_layers=TINY_LAYERS, steps=2, soft_prompt=SoftPrompt(2, "label_words", "suffix", "lstm")),
    replace(TRAINED, soft_prompt=SoftPrompt(2, "source", "deep", "mlp")),
]


@pytest.fixture(scope="module")
def objective(spec: ObjectiveSpec) -> Objective:
    return Objective(spec)


def difference(first: Result, second: Result) -> float:
    return float(np.abs(first.logits - second.logits).max())


def same_delta(first: Result, second: Result) -> bool:
    return first.delta.keys() == second.delta.keys() and all(
        torch.equal(value, second.delta[name]) for name, value in first.delta.items()
    )


def test_a_result_does_not_depend_on_the_trials_before_it(spec: ObjectiveSpec, tmp_path: Path) -> None:
    """Alone with an empty store, with another one, and after six other candidates: equal to the bit."""
    stored = replace(spec, files=str(tmp_path))
    worker = Objective(stored)
    first = worker.evaluate(TRAINED, 0)
    alone = Objective(replace(spec, files=str(tmp_path / "other"))).evaluate(TRAINED, 0)
    for other in OTHERS:
        if not is_refused(spec.backbone.family, other.soft_prompt):
            worker.evaluate(other, 0)
    half_done = worker.run(OTHERS[0], 0)
    next(half_done)
    next(half_done)  # A pruned trial leaves its weights half trained.
    after = worker.evaluate(TRAINED, 0)
    for other_result in (alone, after):
        assert difference(first, other_result) == 0.0
        assert same_delta(first, other_result)
    ended, other = (worker.evaluate(TRAINED, seed, at=TRAINED.steps) for seed in (0, 1))
    assert difference(ended, other) > 0


def test_other_seeds_start_from_the_study_s_source_stage(spec: ObjectiveSpec, tmp_path: Path) -> None:
    """In whatever order, and in an empty store: repeats judge what is built on that very stage."""
    one, two = (Objective(replace(spec, files=str(tmp_path / name))) for name in ("one", "two"))
    one.evaluate(TRAINED, 0)
    after = one.evaluate(TRAINED, 1, at=TRAINED.steps)
    alone = two.evaluate(TRAINED, 1, at=TRAINED.steps)
    assert difference(after, alone) == 0.0
    assert same_delta(after, alone)
    stages = [list((tmp_path / name / "stages").glob("*.safetensors")) for name in ("one", "two")]
    sources = [{entry.name for entry in own if key_of(entry)["stage"] == "source"} for own in stages]
    assert sources[0] == sources[1]
    assert len(sources[0]) == 1
    elsewhere = Objective(replace(spec, split_seed=1)).evaluate(TRAINED, 1, at=TRAINED.steps)
    assert difference(after, elsewhere) > 0


def key_of(stage: Path) -> dict[str, object]:
    with safe_open(stage, framework="pt") as file:
        return dict(json.loads(file.metadata()["key"]))


def test_each_candidate_uses_its_own_source(spec: ObjectiveSpec, data: Path, tmp_path: Path) -> None:
    """Two sources in one worker and store: each gives what it gives alone, in any order, without a store as well."""
    rows = {"small": 20, "large": 40}
    task = replace(spec.source or spec.target, train=str(data / "movie.csv"))
    sources = {
        "large": SourceSpec(task, spec.source_training),
        "small": SourceSpec(replace(task, train_rows=20), replace(spec.source_training, frozen_layers=1)),
    }
    facts = replace(spec.space.facts, sources=tuple(sources))
    several = replace(spec, source=None, sources=sources, space=replace(spec.space, facts=facts))
    worker = Objective(replace(several, files=str(tmp_path)))
    assert {name: len(source.train) for name, source in worker.sources.items()} == rows
    found = {name: worker.evaluate(replace(TRAINED, source=name), 0) for name in sources}
    none = worker.evaluate(replace(TRAINED, alpha=0.0, source_steps=0), 0)
    again = {name: worker.evaluate(replace(TRAINED, source=name), 0) for name in reversed(sources)}
    alone = Objective(several)
    for name, source in sources.items():
        single = Objective(replace(spec, source=source.task, source_training=source.training))
        for other in (again[name], alone.evaluate(replace(TRAINED, source=name), 0), single.evaluate(TRAINED, 0)):
            assert difference(found[name], other) == 0.0
            assert same_delta(found[name], other)
        assert again[name].stages.misses == 0
    assert difference(found["large"], found["small"]) > 0
    assert difference(none, alone.evaluate(replace(TRAINED, alpha=0.0, source_steps=0, source="small"), 0)) == 0.0
    with pytest.raises(InvalidInputError, match="source 'lagre' is not among the study's; did you mean 'large'"):
        alone.evaluate(replace(TRAINED, source="lagre"), 0)


def test_a_soft_prompt_starts_where_it_is_told_to(objective: Objective) -> None:
    """Nothing is trained on the target, so that the prompt is still what it started as."""
    starts = {}
    for init in ("vocabulary", "label_words", "template", "source"):
        result = objective.evaluate(replace(TRAINED, soft_prompt=SoftPrompt(3, init, "suffix"), steps=0), 0)
        starts[init] = result.delta["soft_prompt.weight"]
        assert ("soft_prompt.weight" in result.load_report.loaded) is (init == "source")
    embeddings, encode = objective.backbone.embeddings, objective.backbone.tokenizer.encode
    words = encode(TEMPLATES[0].words, add_special_tokens=False)
    assert torch.equal(starts["template"], embeddings[[words[i % len(words)] for i in range(3)]])
    assert len({tuple(start.flatten().tolist()) for start in starts.values()}) == 4
    again = objective.evaluate(replace(TRAINED, soft_prompt=SoftPrompt(3, "source", "suffix"), source_steps=0), 0)
    same = objective.evaluate(replace(TRAINED, soft_prompt=SoftPrompt(3, "vocabulary", "suffix"), source_steps=0), 0)
    assert difference(again, same) == 0.0, "without a source stage there is nothing to start from"


def test_an_interrupted_cycle_cannot_go_on_with_another_one_s_weights(objective: Objective) -> None:
    old = objective.run(TRAINED, 0)
    next(old)
    next(objective.run(OTHERS[0], 0))
    with pytest.raises(TrialError, match="another cycle was started"):
        next(old)


def test_every_trained_weight_comes_back_and_frozen_ones_stay(objective: Objective) -> None:
    pristine = {f"backbone.{n}": p.clone() for n, p in objective.backbone.weights.pristine.items()}
    result = objective.evaluate(replace(TRAINED, source_steps=0, frozen_layers=2), 0)
    changed = {
        name for name in result.delta if name in pristine and not torch.equal(result.delta[name], pristine[name])
    }
    weights = {f"backbone.{n}": p for n, p in objective.backbone.model.named_parameters()}
    for name, value in weights.items():
        if name not in result.delta:
            assert torch.equal(value, pristine[name]), name
    if result.step:
        assert changed
    assert result.trainable_parameters < sum(p.numel() for p in weights.values())


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_alpha_s_endpoints_equal_training_on_one_task_alone(spec: ObjectiveSpec, data: Path, alpha: float) -> None:
    """At alpha 0 the source may be another one, and at alpha 1 the target's training rows may be: nothing changes."""
    candidate = replace(TRAINED, alpha=alpha, source_steps=0)
    last = candidate.steps  # Whether or not training helped.
    both = Objective(spec).evaluate(candidate, 0, at=last)
    if alpha == 0.0:
        other = replace(spec, source=None, space=replace(spec.space, facts=replace(spec.space.facts, has_source=False)))
        alone = Objective(other)
    else:
        alone = Objective(spec)
        object.__setattr__(alone.target, "train", alone.target.train[:2])
    result = alone.evaluate(candidate, 0, at=last)
    assert difference(both, result) == 0.0
    assert same_delta(both, result)
    assert difference(both, Objective(spec).evaluate(replace(candidate, alpha=0.5), 0, at=last)) > 0


def test_losses_are_reported_apart(objective: Objective) -> None:
    mixed = list(objective.run(TRAINED, 0))
    assert [evaluation.step for evaluation in mixed] == [0, 2, 4, 5]
    assert all(e.source_loss is not None and e.target_loss is not None for e in mixed[1:])
    target_only = list(objective.run(replace(TRAINED, alpha=0.0), 0))
    assert all(e.source_loss is None and e.target_loss is not None for e in target_only[1:])
    source_only = list(objective.run(replace(TRAINED, alpha=1.0), 0))
    assert all(e.source_loss is not None and e.target_loss is None for e in source_only[1:])


def test_the_best_state_is_kept_and_not_the_last(objective: Objective) -> None:
    """With a step size that ruins the model, the kept state is the best evaluation's."""
    *_, last = evaluations = list(objective.run(replace(TRAINED, steps=8, learning_rate=0.5, frozen_layers=0), 0))
    assert last.result is not None
    best = max(evaluations, key=lambda e: (e.value, -e.metrics["loss"]))
    assert last.result.value == best.value
    assert last.result.step == best.step
    assert last.result.metrics == best.metrics
    measured = objective.target.measure(last.result.logits, objective.target.validation)
    assert measured == last.result.metrics


def test_a_loss_that_is_not_finite_fails_the_trial(objective: Objective) -> None:
    with pytest.raises(TrialError, match=r"loss became nan|not finite|loss became inf"):
        objective.evaluate(replace(TRAINED, learning_rate=1e38, frozen_layers=0, steps=8), 0)
    assert np.isfinite(objective.evaluate(TRAINED, 0).logits).all()


def test_the_load_report_accounts_for_every_weight(objective: Objective) -> None:
    report = objective.evaluate(TRAINED, 0).load_report
    weights = [f"backbone.{name}" for name, _ in objective.backbone.model.named_parameters()]
    assert set(weights) <= set(report.loaded) | set(report.pretrained)
    assert "soft_prompt.weight" in report.fresh
    assert set(report.loaded) >= set(weights)
    fresh = objective.evaluate(replace(TRAINED, source_steps=0), 0).load_report
    assert not fresh.loaded
    assert set(fresh.pretrained) == set(weights)


def test_a_damaged_stage_is_computed_again(spec: ObjectiveSpec, tmp_path: Path) -> None:
    stages = tmp_path / "stages"
    worker = Objective(replace(spec, files=str(tmp_path)))
    first = worker.evaluate(TRAINED, 0)
    sizes = {entry: entry.stat().st_size for entry in stages.glob("*.safetensors")}
    assert len(sizes) > 3
    for index, entry in enumerate(sizes):
        content = bytearray(entry.read_bytes())
        content[-1] ^= 1  # A single bit.
        entry.write_bytes(content if index % 3 else content[:100])
    again = Objective(replace(spec, files=str(tmp_path))).evaluate(TRAINED, 0)
    assert difference(first, again) == 0.0
    assert again.stages.misses == first.stages.misses == len(sizes), "none is trusted"
    assert Objective(replace(spec, files=str(tmp_path))).evaluate(TRAINED, 0).stages.misses == 0


def test_the_source_may_have_other_labels(spec: ObjectiveSpec, tmp_path: Path) -> None:
    """Labels are matched by name: those of the source alone get rows and words of their own."""
    rows = [(f"story {i} about {'sport' if i % 2 else 'trade'}", ("sport", "trade")[1 - i % 2]) for i in range(20)]
    path = tmp_path / "topics.csv"
    path.write_text("text,label\n" + "\n".join(f"{text},{label}" for text, label in rows))
    words = {**VERBALIZERS[0].words, "sport": ("sports",), "trade": ("business",)}
    verbalizer = replace(VERBALIZERS[0], words=words)
    changed = replace(
        spec,
        source=TaskSpec(str(path), {"text": "text"}, "label"),
        space=replace(spec.space, verbalizers=(verbalizer,)),
    )
    worker = Objective(changed)
    assert worker.labels == ("negative", "positive", "sport", "trade")
    result = worker.evaluate(replace(TRAINED, verbalizer=verbalizer.id), 0)
    assert result.logits.shape[1] == 2


def test_a_candidate_with_nothing_to_train_is_evaluated_once(objective: Objective) -> None:
    frozen = replace(TRAINED, frozen_layers=TINY_LAYERS, soft_prompt=SoftPrompt(), source_steps=0)
    evaluations = list(objective.run(frozen if not objective.backbone.has_head else replace(frozen, steps=0), 0))
    assert [evaluation.step for evaluation in evaluations] == [0]
    assert evaluations[0].result is not None


def test_micro_batches_change_nothing_but_the_last_bits(spec: ObjectiveSpec) -> None:
    """A batch's parts count by their rows: two rows at once or four, the same gradient."""
    # Nothing has dropout, which would draw other numbers for other parts.
    candidate = replace(TRAINED, frozen_layers=TINY_LAYERS, source_steps=0)
    whole = Objective(spec).evaluate(candidate, 0)
    for rows in (1, 2, 3):
        small = replace(spec, backbone=replace(spec.backbone, micro_batch_size=rows))
        assert difference(whole, Objective(small).evaluate(candidate, 0)) <= 1e-5

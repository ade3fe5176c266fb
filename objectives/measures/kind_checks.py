"""The contract of task kinds, as checks that a kind's author can run on a table of its own."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.torch import load_file, save_file

from promptgraft.objectives.backbones import FAMILIES, count_layers, used_layers
from promptgraft.objectives.data import TASK_KINDS, Outputs, Split, Task, TaskSpec, rows_hash
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import DIMENSIONS, Candidate, Categorical, Decoding, SearchSpace, StudyFacts, Template

# Largest difference of a loss that is computed in two ways.
CLOSE = 1e-4
# Two candidates that train little, by whether answers are read by a head or written.
READING = ({"head": "linear", "steps": 2}, {"head": "probe", "steps": 0})
WRITING = (
    {"head": "answer", "steps": 2, "decoding": Decoding(max_new_tokens=8)},
    {"head": "answer", "steps": 0, "decoding": Decoding(beams=2, max_new_tokens=8)},
)
# In place of the probe, where a kind has none.
LINEAR = (READING[0], {"head": "linear", "steps": 1, "frozen_layers": 1})


def check_task_kind(spec: TaskSpec, backbone: BackboneSpec) -> None:
    """Check that a registered kind of task keeps to the contract of `Task`, on a table of some dozens of rows.

    Args:
        spec: A target task of the kind, with folds where it can have them.
        backbone: An encoder, or where answers are texts a language model; it may be tiny and random.

    Raises:
        AssertionError: With the first rule that the kind breaks.
    """
    kind = TASK_KINDS[spec.kind]
    assert kind.default_metric in kind.metrics, "default_metric must be one of metrics"
    assert kind.metrics.get("loss") == "minimize", "metrics must hold `loss`, which is minimised"
    task = kind.load_target(spec, seed=0)
    assert task == kind.load_target(spec, seed=0), "the same table and seed must give the same task"
    _check_splits(task)
    _check_augmentations(task)
    computed = _check_trials(spec, backbone)
    noise = np.random.default_rng(0).normal(size=computed.shape).astype(np.float32)
    for outputs in [computed] if _writes(kind) else [computed, noise]:  # Noise is no text.
        _check_outputs(task, outputs)
        _check_outputs(task.decided(outputs, task.test), outputs)


def _writes(kind: type[Task]) -> bool:
    return "answer" in kind.heads


def _check_splits(task: Task) -> None:
    rows = [*task.labelled, *task.test]
    assert len({(row.group, rows_hash([row])) for row in rows}) == len(rows), "no row may be in two parts"
    assert (task.folds > 1) == task.has_folds, "give a table with rows enough for folds, if the kind has them"
    parts = [task.on(Split(0, fold)) for fold in range(task.folds)]
    for part in parts:
        held_out = {(row.group, rows_hash([row])) for row in part.validation}
        assert held_out.isdisjoint((row.group, rows_hash([row])) for row in part.train)
        assert len(part.strata(part.train)) == len(part.train), "strata must number every row"
    scored = sorted(rows_hash([row]) for row in task.scored())
    assert not task.has_folds or scored == sorted(rows_hash([row]) for row in task.labelled), (
        "each labelled row is scored once over the folds"
    )


def _check_augmentations(task: Task) -> None:
    assert task.augmentations[0] == "none", "rows may always stay as they are"
    for name in DIMENSIONS["augmentation"].options:
        assert (task.refuses("augmentation", name) is None) == (name in task.augmentations), "refuse what isn't listed"
    if "flip" in task.augmentations:
        once = [task.mirrored(row.answer) for row in task.train]
        assert [task.labels_of(own) for own in once] == [task.labels_of(row.answer) for row in task.train]
        twice = [replace(row, answer=task.mirrored(own)) for row, own in zip(task.train, once, strict=True)]
        first, second = (task.row_losses(task.expected(task.constant(rows)), rows) for rows in (task.train, twice))
        assert np.allclose(first, second), "an answer that is mirrored twice is the answer"


def _check_outputs(task: Task, outputs: Outputs) -> None:
    rows, expected = task.test, task.expected(outputs)
    found = task.measure(outputs, rows)
    assert found.keys() == task.metrics.keys(), "measure must give every metric, and no other"
    assert all(np.isfinite(list(found.values()))), "metrics must be finite"
    losses = task.row_losses(expected, rows)
    assert losses.shape == task.row_scores(outputs, rows).shape == (len(rows),)
    assert abs(losses.mean() - found["loss"]) < CLOSE, "the metric `loss` must be the mean of row_losses"
    again = task.measure(task.outputs_of(expected), rows)
    assert abs(again["loss"] - found["loss"]) < CLOSE, "outputs_of must undo expected"
    assert task.combine([outputs], [1.0]) is outputs, "a single model's outputs stay as they are"
    both = task.measure(task.combine([outputs, outputs], [0.25, 0.75]), rows)
    assert abs(both["loss"] - found["loss"]) < CLOSE, "the mean of a model with itself is the model"
    texts = [row.fields for row in rows]
    (_, cells), *_ = task.columns(expected, texts).items()
    assert len(task.predict(expected, texts)) == len(cells) == len(rows), "each row has a prediction"
    assert all(map(task.show, rows)), "each answer can be shown"
    assert task.complete(outputs).all(), "outputs of a model are complete"
    assert not task.distances(outputs, outputs).any(), "outputs are no distance from themselves"
    assert task.predict(task.expected(task.without_answers(outputs)), texts) == task.predict(expected, texts), (
        "predictions must not depend on the answers"
    )
    constant = task.measure(task.constant(rows), rows)
    assert constant.keys() == task.metrics.keys(), "the best constant must have every metric"
    if not _writes(type(task)):  # Copies of texts have no loss of their own.
        assert found["loss"] > constant["loss"] - 1, "the best constant must not be far worse than chance"


def _check_trials(spec: TaskSpec, backbone: BackboneSpec) -> Outputs:
    """Run two small candidates: the order must not matter, and what is saved must compute the same.

    Returns:
        The first one's outputs of the test rows.
    """
    kind = TASK_KINDS[spec.kind]
    fields = " ".join(f"{{{{ {field} }}}}" for field in spec.fields)
    template = Template("plain", f"{fields} {{{{ label }}}}")
    layers = used_layers(backbone.family, backbone.layers, count_layers(backbone.path, backbone.family))
    facts = StudyFacts(layers, FAMILIES[backbone.family].has_head, has_source=False)
    tried = WRITING if _writes(kind) else READING if "probe" in kind.heads else LINEAR
    one, two = (Candidate(template.id, "", **own) for own in tried)  # type: ignore[arg-type]
    one = replace(one, augmentation=kind.augmentations[-1])
    space = SearchSpace((template,), (), (Categorical("head", tuple({one.head: 1, two.head: 1})),), facts)
    objective = Objective(
        ObjectiveSpec(
            backbone,
            replace(spec, folds=2) if kind.has_folds else spec,
            None,
            space,
            kind.default_metric,
            evaluate_every=2,
        )
    )
    objective.use_split(Split(0, 0))
    first, second = (objective.evaluate(candidate, seed=1) for candidate in (one, two))
    other, again = (objective.evaluate(candidate, seed=1) for candidate in (two, one))
    assert np.array_equal(first.logits, again.logits), "a trial must not depend on those before it"
    assert np.array_equal(second.logits, other.logits), "a trial must not depend on those before it"
    with TemporaryDirectory() as folder:
        file = Path(folder) / "delta.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in first.delta.items()}, file)
        delta = load_file(file)
        scored = objective.score(one, delta, objective.target.validation, seed=1)
        assert np.array_equal(scored, first.logits), "what is saved and loaded must compute the same"
        return objective.score(one, delta, objective.target.test, seed=1)

"""The contract of task kinds, as checks that a kind's author can run on a table of its own."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.torch import load_file, save_file

from promptgraft.objectives.backbones import FAMILIES, count_layers
from promptgraft.objectives.data import TASK_KINDS, Outputs, Split, Task, TaskSpec, rows_hash
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Candidate, Categorical, SearchSpace, StudyFacts, Template

# Largest difference of a loss that is computed in two ways.
CLOSE = 1e-4


def check_task_kind(spec: TaskSpec, backbone: BackboneSpec) -> None:
    """Check that a registered kind of task keeps to the contract of `Task`, on a table of some dozens of rows.

    Args:
        spec: A target task of the kind, with folds.
        backbone: An encoder, which may be tiny and random.

    Raises:
        AssertionError: With the first rule that the kind breaks.
    """
    kind = TASK_KINDS[spec.kind]
    assert kind.default_metric in kind.metrics, "default_metric must be one of metrics"
    assert kind.metrics.get("loss") == "minimize", "metrics must hold `loss`, which is minimised"
    task = kind.load_target(spec, seed=0)
    assert task == kind.load_target(spec, seed=0), "the same table and seed must give the same task"
    _check_splits(task)
    outputs = np.random.default_rng(0).normal(size=task.constant(task.test).shape).astype(np.float32)
    _check_outputs(task, outputs)
    _check_outputs(task.decided(outputs, task.test), outputs)
    _check_trials(spec, backbone)


def _check_splits(task: Task) -> None:
    rows = [*task.labelled, *task.test]
    assert len({rows_hash([row]) for row in rows}) == len(rows), "no row may be in two parts"
    assert task.folds > 1, "give a table with rows enough for folds"
    parts = [task.on(Split(0, fold)) for fold in range(task.folds)]
    for part in parts:
        assert {rows_hash([row]) for row in part.train}.isdisjoint(rows_hash([row]) for row in part.validation)
        assert len(part.strata(part.train)) == len(part.train), "strata must number every row"
    scored = sorted(rows_hash([row]) for row in task.scored())
    assert scored == sorted(rows_hash([row]) for row in task.labelled), (
        "each labelled row is scored once over the folds"
    )


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
    constant = task.measure(task.constant(rows), rows)
    assert found["loss"] > constant["loss"] - 1, "the best constant must not be far worse than chance"


def _check_trials(spec: TaskSpec, backbone: BackboneSpec) -> None:
    """Run two small candidates: the order must not matter, and what is saved must compute the same."""
    n_layers = count_layers(backbone.path, backbone.family)
    fields = " ".join(f"{{{{ {field} }}}}" for field in spec.fields)
    template = Template("plain", f"{fields} {{{{ label }}}}")
    facts = StudyFacts(n_layers, FAMILIES[backbone.family].has_head, has_source=False)
    space = SearchSpace((template,), (), (Categorical("head", ("linear", "probe")),), facts)
    metric = TASK_KINDS[spec.kind].default_metric
    objective = Objective(ObjectiveSpec(backbone, replace(spec, folds=2), None, space, metric, evaluate_every=2))
    linear = Candidate(template.id, "", head="linear", steps=2)
    probe = Candidate(template.id, "", head="probe", steps=0)
    objective.use_split(Split(0, 0))
    first, second = (objective.evaluate(candidate, seed=1) for candidate in (linear, probe))
    other, again = (objective.evaluate(candidate, seed=1) for candidate in (probe, linear))
    assert np.array_equal(first.logits, again.logits), "a trial must not depend on those before it"
    assert np.array_equal(second.logits, other.logits), "a trial must not depend on those before it"
    with TemporaryDirectory() as folder:
        file = Path(folder) / "delta.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in first.delta.items()}, file)
        scored = objective.score(linear, load_file(file), objective.target.validation, seed=1)
    assert np.array_equal(scored, first.logits), "what is saved and loaded must compute the same"

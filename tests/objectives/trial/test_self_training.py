"""Self-training: a candidate labels unlabelled rows, and is trained on these, too."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from promptgraft.objectives.data import WHOLE, Split, rows_hash
from promptgraft.objectives.file_store import FileStore
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial import Checkpoint, Objective, checkpoint_name
from promptgraft.objectives.trial.trial_data import StudyTasks, certain
from promptgraft.spaces import Candidate, InvalidInputError, SoftPrompt
from tests.support.models import TINY_LAYERS, TinyModels
from tests.support.specs import TRAINED, small_spec
from tests.support.tables import small_tables

LEAST = 0.5  # All rows, of two labels.
PLAIN = replace(TRAINED, soft_prompt=SoftPrompt(), head="probe", verbalizer="", contrastive_steps=2, steps=4)
TUNED = replace(PLAIN, self_training=LEAST)
FROZEN = replace(TUNED, frozen_layers=TINY_LAYERS, contrastive_steps=0, source_steps=0)
CANDIDATES = (TUNED, FROZEN, PLAIN)


@pytest.fixture(scope="module")
def spec(tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> ObjectiveSpec:
    """A study of 16 labelled rows in two folds; the unlabelled table has the rows of the labelled one, and others."""
    path = tmp_path_factory.mktemp("unlabelled") / "rows.csv"
    with (small_tables() / "amazon.csv").open(newline="") as table, path.open("w") as written:
        rows = [{"text": row["text"]} for row in csv.DictReader(table)][:70]
        out = csv.DictWriter(written, ["text"])
        out.writeheader()
        out.writerows([*rows, {"text": ""}, {"text": rows[0]["text"].upper()}])
    found = small_spec(tiny_models["encoder"], "encoder")
    return replace(
        found, target=replace(found.target, train_rows=16, validation_rows=None, folds=2, unlabelled=str(path))
    )


def test_labelled_and_held_out_rows_are_not_among_the_unlabelled(spec: ObjectiveSpec) -> None:
    target = StudyTasks.load(spec).target
    known = {row.fields["text"].casefold() for row in (*target.labelled, *target.test)}
    report = target.unlabelled_cleaning
    assert (report.read, report.missing_text, report.duplicate) == (72, 1, 1)
    assert report.overlap > 0
    assert len(target.unlabelled) == 70 - report.overlap - report.near_duplicate > 20
    assert not known & {row.fields["text"].casefold() for row in target.unlabelled}


def test_a_fold_trains_on_its_own_rows_and_on_unlabelled_ones(spec: ObjectiveSpec) -> None:
    tasks = StudyTasks.load(spec)
    chances = np.random.default_rng(0).dirichlet([1, 1], size=len(tasks.target.unlabelled))
    held_out: list[str] = []
    for fold in tasks.folds():
        more = fold.labelling(certain(chances, 0.9))
        assert more.target.train[: len(fold.target.train)] == fold.target.train
        added = more.target.train[len(fold.target.train) :]
        assert [row.label for row in added] == [int(own.argmax()) for own in chances if own.max() >= 0.9]
        assert {row.label for row in added} == {0, 1}
        assert {row.fields["text"] for row in added} <= {row.fields["text"] for row in tasks.target.unlabelled}
        assert more.target.validation == fold.target.validation
        assert more.hashes(TUNED)["target"] == rows_hash(more.target.train) != fold.hashes(TUNED)["target"]
        held_out += [row.fields["text"] for row in fold.target.validation]
    assert not set(held_out) & {row.fields["text"] for row in tasks.target.unlabelled}


def test_rows_are_labelled_from_a_probability_on() -> None:
    chances = np.array([[0.8, 0.2], [0.0, 1.0], [0.6, 0.4], [0.1, 0.9], [0.5, 0.5]])
    assert certain(chances, 0.8) == {0: 0, 1: 1, 3: 1}
    assert list(certain(chances, 0.5)) == [0, 1, 2, 3, 4]
    assert certain(chances, 1.0) == {1: 1}
    assert certain(chances[:1], 0.9) == {}


def test_a_result_depends_neither_on_other_trials_nor_on_what_is_stored(spec: ObjectiveSpec, tmp_path: Path) -> None:
    def evaluated(candidates: tuple[Candidate, ...], files: str | None) -> dict[str, bytes]:
        objective = Objective(replace(spec, files=files))
        return {own.key: objective.evaluate(own, 1).logits.tobytes() for own in candidates}

    fresh = evaluated(CANDIDATES, None)
    assert len(set(fresh.values())) == len(CANDIDATES)
    stored = str(tmp_path)
    assert evaluated((PLAIN, TUNED, FROZEN, TUNED), stored) == fresh


def test_the_plain_candidate_shares_its_stages(spec: ObjectiveSpec, tmp_path: Path) -> None:
    """The labels come from what the same candidate is without self-training; that one's stages keep their keys."""
    with_table = Objective(replace(spec, files=str(tmp_path)))
    with_table.evaluate(PLAIN, 1)
    without = Objective(replace(spec, target=replace(spec.target, unlabelled=None), files=str(tmp_path)))
    assert without.evaluate(PLAIN, 1).stages.misses == 0
    again = Objective(replace(spec, files=str(tmp_path)))
    assert again.evaluate(TUNED, 1).stages.misses > 0
    assert again.evaluate(TUNED, 1).stages.misses == 0


def test_all_labels_teach_what_ships(spec: ObjectiveSpec) -> None:
    objective = Objective(spec)
    objective.use_split(WHOLE)
    plain, tuned = (objective.evaluate(candidate, 1, at=4) for candidate in (PLAIN, TUNED))
    logits = objective.score(PLAIN, plain.delta, objective.target.unlabelled, 1)
    labels = certain(objective.target.expected(logits), LEAST)
    expected = objective._resources.tasks.labelling(labels)
    objective._resources = replace(objective._resources, tasks=expected)
    assert np.array_equal(objective.evaluate(PLAIN, 1, at=4).logits, tuned.logits)
    assert not np.array_equal(plain.logits, tuned.logits)


def test_a_trial_goes_on_from_its_checkpoint(spec: ObjectiveSpec, tmp_path: Path) -> None:
    whole = Objective(spec).evaluate(TUNED, 1)
    files = FileStore(str(tmp_path))
    place = (files, checkpoint_name(TUNED.key, 1), 0.0)
    cut = Objective(replace(spec, files=str(tmp_path))).run(TUNED, 1, Checkpoint(*place))
    for _ in range(4):  # Up to the first evaluation in the second fold.
        next(cut)
    cut.close()
    *_, last = Objective(replace(spec, files=str(tmp_path))).run(TUNED, 1, Checkpoint(*place))
    assert last.result is not None
    assert np.array_equal(last.result.logits, whole.logits)
    assert last.result.resumed_at == TUNED.steps


def test_a_candidate_without_unlabelled_rows_is_refused(spec: ObjectiveSpec) -> None:
    objective = Objective(replace(spec, target=replace(spec.target, unlabelled=None)))
    objective.use_split(Split(0, 0))
    with pytest.raises(InvalidInputError, match=r"self_training needs unlabelled rows; name .* target\.unlabelled"):
        objective.evaluate(TUNED, 1)

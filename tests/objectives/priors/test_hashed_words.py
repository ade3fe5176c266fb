"""TF-IDF of words and of characters as a prior of labels: as scikit-learn's, but for hashing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.torch import load_file, save_file
from sklearn.feature_extraction.text import TfidfVectorizer

from promptgraft.objectives.data import TASK_KINDS, PriorRows, Row, Task
from promptgraft.objectives.priors import check_word_prior, fit_word_prior, hashed, hashed_words, word_logits
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec, SourceTraining
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Candidate, Constant, InvalidInputError, SearchSpace, StudyFacts, Template
from tests.support.kinds import spec_of_kind, write_kinds
from tests.support.models import TinyModels

VECTORIZERS = {
    "words": {"ngram_range": (1, 2)},
    "characters": {"analyzer": "char_wb", "ngram_range": (2, 5)},
}
TEMPLATE = Template("plain", "{{ text }} {{ label }}")
FACTS = StudyFacts(2, has_head=True, has_source=True)
WORDS = Candidate(TEMPLATE.id, "", head="linear", steps=0, prior="words", text_weight=0.0)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kinds(tmp_path_factory.mktemp("kinds") / "table.csv")


def task_of(table: Path, kind: str, **changes: object) -> Task:
    return TASK_KINDS[kind].load_target(spec_of_kind(table, kind, **changes), 0)


def chances(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), np.float64)


def logits_of(rows: PriorRows, target_labels: tuple[str, ...], asked: tuple[Row, ...]) -> npt.NDArray[np.float32]:
    tensors = fit_word_prior("words", rows, target_labels, one_label=True)
    check_word_prior(tensors, len(rows.labels))
    return word_logits(tensors, [hashed("words", row.fields) for row in asked])


@pytest.mark.parametrize("name", VECTORIZERS)
@pytest.mark.parametrize("labels", [None, ("food", "sport")])
@pytest.mark.parametrize("most_compact", [0, hashed_words.MOST_COMPACT])
def test_it_is_scikit_learn_s_tf_idf(
    table: Path, monkeypatch: pytest.MonkeyPatch, name: str, labels: tuple[str, ...] | None, most_compact: int
) -> None:
    monkeypatch.setattr(hashed_words, "MOST_COMPACT", most_compact)
    monkeypatch.setattr(hashed_words, "BUCKETS", 2**19)  # No two features share a number.
    monkeypatch.setattr(hashed_words, "_runs", hashed_words._runs.__wrapped__)  # Which remembers the usual ones.
    task = task_of(table, "text_classification", train_rows=40, labels=labels)
    vectorizer = TfidfVectorizer(sublinear_tf=True, **VECTORIZERS[name])
    known = vectorizer.fit_transform([row.fields["text"] for row in task.train])
    others = vectorizer.transform([row.fields["text"] for row in task.test])
    expected = task.fit_linear(known, task.train, others, c=hashed_words.C)
    tensors = fit_word_prior(name, PriorRows(task.train, (), (), 0.0, task.labels), task.labels, one_label=True)
    found = word_logits(tensors, [hashed(name, row.fields) for row in task.test])
    assert chances(found) == pytest.approx(chances(expected), abs=2e-3)
    assert len(task.labels) == len(labels or ("food", "none", "sport", "tech"))


def test_a_row_has_the_same_logits_whatever_rows_are_beside_it(table: Path) -> None:
    task = task_of(table, "text_classification")
    tensors = fit_word_prior("characters", PriorRows(task.train, (), (), 0.0, task.labels), task.labels, one_label=True)
    features = [hashed("characters", row.fields) for row in task.test]
    alone = np.concatenate([word_logits(tensors, [own]) for own in reversed(features)])[::-1]
    assert np.array_equal(word_logits(tensors, features), alone)
    assert word_logits(tensors, [hashed("characters", {"text": "…"})]).shape == (1, len(task.labels))


def test_a_label_without_rows_is_unlikely_but_not_ruled_out(table: Path) -> None:
    task = task_of(table, "text_classification")
    tech = task.labels.index("tech")
    without = [row for row in task.train if row.label != tech]
    found = chances(logits_of(PriorRows(without, (), (), 0.0, task.labels), task.labels, task.test))
    assert (found[:, tech] > 0).all()
    assert found[:, tech].max() < 0.05
    single = [row for row in task.train if row.label == 0]
    found = chances(logits_of(PriorRows(single, (), (), 0.0, task.labels), task.labels, task.test))
    assert (found.argmax(axis=1) == 0).all()


def test_the_source_counts_as_alpha_says(table: Path) -> None:
    """Its rows count alpha / (1 - alpha) times, those with labels of its own not at all; with alpha 1 it is alone."""
    task = task_of(table, "text_classification")
    half = task.train[::2], task.train[1::2]
    both = logits_of(PriorRows(task.train, (), (), 0.0, task.labels), task.labels, task.test)
    shared = logits_of(PriorRows(half[0], half[1], task.labels, 0.5, task.labels), task.labels, task.test)
    assert shared == pytest.approx(both, abs=1e-3)
    alone = logits_of(PriorRows(half[1], (), (), 0.0, task.labels), task.labels, task.test)
    source_only = logits_of(PriorRows(half[0], half[1], task.labels, 1.0, task.labels), task.labels, task.test)
    assert source_only == pytest.approx(alone, abs=1e-3)
    others = tuple(f"other {label}" for label in task.labels)
    target_only = logits_of(PriorRows(half[0], (), (), 0.0, task.labels), task.labels, task.test)
    foreign = logits_of(PriorRows(half[0], half[1], others, 0.5, (*task.labels, *others)), task.labels, task.test)
    assert foreign[:, : len(task.labels)] == pytest.approx(target_only, abs=1e-3)


@pytest.mark.parametrize("kind", ["text_classification", "multi_label"])
def test_a_trial_does_not_depend_on_those_before_it(
    table: Path, tiny_models: TinyModels, tmp_path: Path, kind: str
) -> None:
    space = SearchSpace((TEMPLATE,), (), (Constant("head", "linear"),), FACTS)
    spec = ObjectiveSpec(
        BackboneSpec(tiny_models["encoder"], "encoder", max_tokens=32),
        spec_of_kind(table, kind, validation_rows=16),
        spec_of_kind(write_kinds(tmp_path / "source.csv", seed=1), kind, test_rows=None),
        space,
        TASK_KINDS[kind].default_metric,
        evaluate_every=2,
        source_training=SourceTraining(batch_size=8),
    )
    text = replace(WORDS, steps=2, prior="none", text_weight=1.0)
    candidates = [
        WORDS,
        replace(WORDS, prior="characters"),
        text,
        replace(text, prior="words", text_weight=0.3),
        replace(WORDS, alpha=0.5),
        replace(text, prior="characters", source_steps=2, alpha=0.5),
    ]
    stored = Objective(replace(spec, files=str(tmp_path / "files")))
    first = [stored.evaluate(candidate, 1) for candidate in candidates]
    again = [stored.evaluate(candidate, 1).logits for candidate in reversed(candidates)]
    fresh = [Objective(spec).evaluate(candidate, 1).logits for candidate in candidates]
    for one, two, three in zip(first, reversed(again), fresh, strict=True):
        assert np.abs(one.logits - two).max() == np.abs(one.logits - three).max() == 0.0
    alone, joined = (stored.evaluate(own, 1, at=2).logits for own in candidates[2:4])
    assert joined == pytest.approx(0.3 * alone + first[0].logits, abs=1e-5)
    assert not np.array_equal(first[0].logits, first[4].logits), "the source counts, too"
    rows = stored.target.validation
    assert first[0].metrics["loss"] < stored.target.measure(stored.target.constant(rows), rows)["loss"]
    file = tmp_path / "delta.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in first[3].delta.items()}, file)
    assert np.array_equal(stored.score(candidates[3], load_file(file), rows, seed=1), first[3].logits)


def test_damaged_tensors_are_refused(table: Path) -> None:
    task = task_of(table, "text_classification")
    rows = PriorRows(task.train, (), (), 0.0, task.labels)
    tensors = fit_word_prior("words", rows, task.labels, one_label=True)
    with pytest.raises(InvalidInputError, match=r"prior\.idf is missing"):
        check_word_prior({name: own for name, own in tensors.items() if name != "prior.idf"}, len(task.labels))
    with pytest.raises(InvalidInputError, match=r"prior\.weights has shape \(32768, 4\), expected"):
        check_word_prior(tensors, 3)

"""Searched label words: what they are made of, and that they are the best of those looked at."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
import torch

from promptgraft.objectives.data import Row
from promptgraft.objectives.growth import label_word_search as label_words
from promptgraft.objectives.growth.label_word_search import search_label_words
from promptgraft.objectives.measures import calibrated_likelihoods
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Candidate, InvalidInputError, Template, Verbalizer
from tests.support.models import real_model
from tests.support.specs import TEMPLATES, VERBALIZERS

LABELS = ("negative", "positive")


@pytest.fixture(scope="module")
def objective(spec: ObjectiveSpec) -> Objective:
    if spec.backbone.family == "seq2seq":
        pytest.skip("label words can't be searched with a seq2seq model; a test of its own says so")
    return Objective(spec)


def test_a_seq2seq_model_is_refused(tiny_models: dict[str, str], make_spec: Callable[..., ObjectiveSpec]) -> None:
    objective = Objective(make_spec(tiny_models["seq2seq"], "seq2seq"))
    with pytest.raises(InvalidInputError, match="can't be searched with a backbone of family 'seq2seq'"):
        search_label_words(objective, TEMPLATES[0], objective.target.train, 1)


@pytest.fixture(autouse=True)
def _few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_words, "LISTED_WORDS", 60)


def scores(
    objective: Objective, template: Template, verbalizer: Verbalizer, rows: Sequence[Row]
) -> npt.NDArray[np.float64]:
    """Score rows as a trial with this verbalizer would before training."""
    space = replace(objective.spec.space, templates=(template,), verbalizers=(verbalizer,))
    objective.untrained([])
    candidate = Candidate(template.id, verbalizer.id, steps=0).canonical(space.facts)
    model = PromptedModel(objective.backbone, candidate, template, verbalizer, LABELS, 0)
    return model.score(model.encode(rows), LABELS, 8).double().numpy()


def likelihood(objective: Objective, template: Template, verbalizer: Verbalizer, rows: Sequence[Row]) -> float:
    logits = scores(objective, template, verbalizer, rows)
    return float(calibrated_likelihoods(logits, np.array([row.label for row in rows]))[0].mean())


@pytest.mark.parametrize("words", [1, 2])
def test_the_best_come_first_by_what_a_trial_sees(objective: Objective, words: int) -> None:
    """Scored anew through the backbone's own scorer, the order is the same; the search is deterministic."""
    rows = objective.target.train
    template = Template("verdict", "{{ text }} In short: {{ label }}")  # Not in the study's space.
    found = search_label_words(objective, template, rows, 6, words=words)
    assert [verbalizer.name for verbalizer in found] == [f"searched-{number}" for number in range(1, 7)]
    assert all(tuple(verbalizer.words) == LABELS for verbalizer in found)
    assert all(len(own) == words for verbalizer in found for own in verbalizer.words.values())
    assert len({verbalizer.id.split("-")[-1] for verbalizer in found}) == 6
    values = [likelihood(objective, template, verbalizer, rows) for verbalizer in found]
    np.testing.assert_allclose(values, sorted(values, reverse=True), atol=1e-5)
    assert values[0] > likelihood(objective, template, VERBALIZERS[0], rows)
    assert search_label_words(objective, template, rows[::-1][::-1], 6, words=words) == found


def test_beam_search_finds_the_best_pair(objective: Objective, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all pairs of the few words that are proposed, by trying each."""
    monkeypatch.setattr(label_words, "TOP_WORDS", 4)
    rows = objective.target.train
    everything = search_label_words(objective, TEMPLATES[0], rows, 10**6)
    pools = [list(dict.fromkeys(v.words[label][0] for v in everything)) for label in LABELS]
    pairs = [Verbalizer("pair", {LABELS[0]: (a,), LABELS[1]: (b,)}) for a, b in product(*pools)]
    values = [likelihood(objective, TEMPLATES[0], pair, rows) for pair in pairs]
    best = likelihood(objective, TEMPLATES[0], everything[0], rows)
    assert len(pairs) == 16
    assert best == pytest.approx(max(values), abs=1e-5)


def test_words_are_the_likeliest_of_their_label(objective: Objective, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the whole vocabulary, scored for all rows at once, for language models: LM-BFF's rule."""
    if objective.backbone.has_head:
        pytest.skip("an encoder has no vocabulary to predict")
    monkeypatch.setattr(label_words, "TOP_WORDS", 3)
    rows, template = objective.target.train, TEMPLATES[0]
    found = search_label_words(objective, template, rows, 10**6)
    objective.untrained([])
    model = PromptedModel(objective.backbone, Candidate(template.id, "", steps=0), template, VERBALIZERS[0], LABELS, 0)
    with torch.inference_mode():
        whole = model.scorer.vocabulary(model.stack, model.batch(model.encode(rows))).double().numpy()  # type: ignore[operator]
    np.testing.assert_allclose(np.exp(whole).sum(1), 1.0, atol=1e-4)
    y = np.array([row.label for row in rows])
    means = np.stack([whole[y == label].mean(0) for label in (0, 1)])
    tokenizer = objective.backbone.tokenizer
    for index, label in enumerate(LABELS):
        chosen = {verbalizer.words[label][0] for verbalizer in found}
        tokens = [tokenizer.encode(" " + word, add_special_tokens=False) for word in sorted(chosen)]
        assert len(tokens) == 3
        assert all(len(each) == 1 for each in tokens)
        assert all(means[index, each[0]] >= means[1 - index, each[0]] for each in tokens)
        worst = min(means[index, each[0]] for each in tokens)
        better = np.flatnonzero((means[index] > worst + 1e-4) & (means.argmax(0) == index))
        seen = {word.casefold() for word in chosen}
        for token in better:
            word = tokenizer.decode([token]).strip()
            is_whole = len(word) > 1 and word.isalpha()
            round_trip = tokenizer.encode(" " + word, add_special_tokens=False) == [token]
            assert word.casefold() in seen or not (is_whole and round_trip), word


@pytest.mark.parametrize("text", ["{{ text }}\nVerdict:{{ label }}", "{{ text }} Verdict: {{ label }}"])
def test_words_round_trip_wherever_the_label_stands(objective: Objective, text: str) -> None:
    template = Template("verdict", text)
    for verbalizer in search_label_words(objective, template, objective.target.train, 3):
        tokens = objective.backbone.words_behind(template, verbalizer, LABELS)
        for label in LABELS:
            (word,) = verbalizer.words[label]
            assert word.isalpha()
            assert len(word) > 1
            if not objective.backbone.has_head:
                assert [len(entry) for entry in tokens[label]] == [1]
                assert objective.backbone.tokenizer.decode(tokens[label][0]).strip() == word


def test_an_encoder_s_words_come_from_the_training_texts(
    make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str]
) -> None:
    objective = Objective(make_spec(tiny_models["encoder"], "encoder"))
    tasks = (objective.target, *objective.sources.values())
    texts = " ".join(row.fields["text"] for task in tasks for row in task.train)
    for verbalizer in search_label_words(objective, TEMPLATES[0], objective.target.train, 5, words=3):
        for word in (word for own in verbalizer.words.values() for word in own):
            assert word in texts.casefold()


def test_nothing_is_left_behind(objective: Objective) -> None:
    """A trial before and after the search, and the words after a trial: equal."""
    candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, frozen_layers=1, steps=2, batch_size=4, learning_rate=0.1)
    words = search_label_words(objective, TEMPLATES[0], objective.target.train, 3)
    before = objective.evaluate(candidate, 0)
    assert search_label_words(objective, TEMPLATES[0], objective.target.train, 3) == words
    assert np.array_equal(before.logits, objective.evaluate(candidate, 0).logits)


def test_what_can_t_be_searched_is_refused(objective: Objective) -> None:
    rows = objective.target.train
    with pytest.raises(InvalidInputError, match="no row has the label 'positive'"):
        search_label_words(objective, TEMPLATES[0], [row for row in rows if row.label == 0], 1)
    with pytest.raises(InvalidInputError, match=r"n must be at least 1 .*, got 0 and 1"):
        search_label_words(objective, TEMPLATES[0], rows, 0)
    with pytest.raises(InvalidInputError, match=r"words lie in \[1, 20\], got 1 and 21"):
        search_label_words(objective, TEMPLATES[0], rows, 1, words=21)


@pytest.mark.slow
def test_real_words_of_a_real_model(make_spec: Callable[..., ObjectiveSpec]) -> None:
    """SmolLM2 on 32 reviews: words that tell held-out reviews apart, better than chance by three standard errors."""
    spec = make_spec(real_model("causal_lm"), "causal_lm", source=False, rows=32)
    objective = Objective(replace(spec, target=replace(spec.target, test_rows=256)))
    found = search_label_words(objective, TEMPLATES[0], objective.target.train, 4, words=3)
    rows = objective.target.test
    logits = scores(objective, TEMPLATES[0], found[0], rows)
    labels = np.array([row.label for row in rows])
    accuracy = calibrated_likelihoods(logits, labels)[1].mean()
    assert accuracy > 0.5 + 3 * (0.25 / len(rows)) ** 0.5

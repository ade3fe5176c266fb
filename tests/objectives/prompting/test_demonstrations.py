"""Demonstrations: which rows are shown to which, in which words, and what becomes of long prompts."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from promptgraft.objectives.backbones import BACKBONES
from promptgraft.objectives.data import Row
from promptgraft.objectives.file_store import FileStore
from promptgraft.objectives.prompting import DemonstrationPool, PromptedModel
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec
from promptgraft.objectives.trial import Checkpoint, Objective, Result, checkpoint_name, checkpoints
from promptgraft.spaces import Adapter, Candidate, Demonstrations, InvalidInputError, SoftPrompt, Template, Verbalizer
from tests.support.models import TINY_LAYERS
from tests.support.specs import TEMPLATES, VERBALIZERS

REVIEW, OPINION = TEMPLATES[0], VERBALIZERS[1]
LABELS = ("negative", "positive")
CHOICES, ORDERS = ("random", "balanced", "nearest"), ("random", "alternating", "nearest_last")
SETTINGS = [Demonstrations(count, choice, order) for count, choice, order in product((1, 2, 3), CHOICES, ORDERS)]
BASE = Candidate(REVIEW.id, OPINION.id, frozen_layers=1, steps=3, batch_size=4, learning_rate=1e-2)
ROWS = [
    Row({"text": text}, label)
    for text, label in (
        ("The camera is great", 1),
        ("The phone broke at once", 0),
        ("Great sound, {{ label }}!", 1),
        ("The battery broke", 0),
        ("It works", 1),
        ("A camera that broke", 0),
    )
]


def pool_of(
    settings: Demonstrations, rows: list[Row] = ROWS, template: Template = REVIEW, seed: int = 0
) -> DemonstrationPool:
    return DemonstrationPool.draw(settings, rows, LABELS, template, OPINION, seed)


def whole(pool: DemonstrationPool, row: Row) -> str:
    return pool.text(pool.choose(row.fields)) + pool.template.render(row.fields).before


@pytest.fixture(scope="module")
def spec(make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str]) -> ObjectiveSpec:
    return make_spec(tiny_models["causal_lm"], "causal_lm")


@pytest.fixture(scope="module")
def objective(spec: ObjectiveSpec) -> Objective:
    return Objective(spec)


def with_(settings: Demonstrations, **changes: object) -> Candidate:
    return replace(BASE, demonstrations=settings, **changes)  # type: ignore[arg-type]


def model_of(objective: Objective, candidate: Candidate) -> PromptedModel:
    return objective.untrained([candidate])[0]


def test_the_prompt_is_what_one_would_write_by_hand(objective: Objective) -> None:
    """Nearest last; a value that looks like a template is shown as it is."""
    settings = Demonstrations(2, "nearest", "nearest_last")
    expected = (
        "Review: The camera is great\nSentiment: great\n\n"
        "Review: Great sound, {{ label }}!\nSentiment: great\n\n"
        "Review: great sound! {{ text }}\nSentiment: "
    )
    prompt = model_of(objective, with_(settings)).render({"text": "great sound! {{ text }}"}, pool_of(settings))
    assert prompt.before == expected
    assert prompt.after == ""


def test_white_space_at_a_template_s_end_does_not_widen_the_gap() -> None:
    template = Template("block", "{{ text }} All in all, it was {{ label }}\n")
    text = whole(pool_of(Demonstrations(1, "nearest"), template=template), Row({"text": "it works fine"}, 0))
    assert text == "It works All in all, it was great\n\nit works fine All in all, it was "


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_row_is_never_shown_itself(settings: Demonstrations) -> None:
    copies = [Row({"text": row.fields["text"].upper() + " "}, 1 - row.label) for row in ROWS]
    for seed, row in product(range(5), [*ROWS, *copies]):
        pool = pool_of(settings, seed=seed)
        shown = [pool.rows[entry.place].fields["text"].casefold() for entry in pool.choose(row.fields)]
        assert len(set(shown)) == settings.count
        assert row.fields["text"].casefold().strip() not in shown


def test_rows_that_look_the_same_in_the_template_are_one_row() -> None:
    """A field that the template doesn't show can't make a row another one."""
    rows = [Row({"text": f"text {number % 4}", "id": str(number)}, number % 2) for number in range(8)]
    for settings in SETTINGS:
        pool = pool_of(settings, rows)
        for row in rows:
            texts = [pool.rows[entry.place].fields for entry in pool.choose(row.fields)]
            assert row.fields["text"] not in [fields["text"] for fields in texts]
            assert all(fields.keys() == {"text"} for fields in texts)
    with pytest.raises(InvalidInputError, match=r"there are 4 training rows of different text, .* in \[0, 3\]"):
        pool_of(Demonstrations(4), rows)


@pytest.mark.parametrize("settings", [s for s in SETTINGS if s.choice != "nearest"], ids=str)
def test_a_pool_without_what_is_never_shown_shows_the_same(settings: Demonstrations) -> None:
    for seed in range(20):
        shuffled = [ROWS[index] for index in np.random.default_rng(seed).permutation(len(ROWS))]
        full = DemonstrationPool(settings, shuffled, LABELS, REVIEW, OPINION)
        drawn = pool_of(settings, seed=seed)
        again = DemonstrationPool(settings, drawn.rows, LABELS, REVIEW, OPINION)
        assert len(drawn.rows) <= settings.count + 2 or drawn.compares
        for row in [*ROWS, Row({"text": "another camera"}, 0)]:
            assert whole(full, row) == whole(drawn, row) == whole(again, row)


def test_balanced_ones_have_labels_by_turns_and_tell_nothing_of_the_row_s_own() -> None:
    for seed in range(20):
        pool = pool_of(Demonstrations(3, "balanced"), seed=seed)
        mixes = {tuple(sorted(entry.label for entry in pool.choose(row.fields))) for row in ROWS}
        assert len(mixes) == 1
        assert mixes <= {(0, 0, 1), (0, 1, 1)}
        alternating = pool_of(Demonstrations(3, "balanced", "alternating"), seed=seed)
        words = whole(alternating, Row({"text": "new"}, 0)).split("\n\n")[:3]
        assert [word.endswith("great") for word in words] in ([True, False, True], [False, True, False])
    few = [row for row in ROWS if row.label][:3] + [row for row in ROWS if not row.label][:1]
    labels = [entry.label for entry in pool_of(Demonstrations(3, "balanced"), few).choose({"text": "new"})]
    assert sorted(labels) == [0, 1, 1], "where a label has run out, the others fill in"


def test_the_seed_draws_and_the_row_does_not() -> None:
    for choice in ("random", "balanced"):
        texts = [whole(pool_of(Demonstrations(3, choice), seed=seed), Row({"text": "new"}, 0)) for seed in range(8)]
        assert len(set(texts)) > 4
        again = [whole(pool_of(Demonstrations(3, choice), seed=seed), Row({"text": "new"}, 0)) for seed in range(8)]
        assert texts == again
    shown = {
        text: sorted(entry.text for entry in pool_of(Demonstrations(2, "nearest")).choose({"text": text}))
        for text in ("the battery broke again", "great camera")
    }
    assert "Review: The battery broke\nSentiment: terrible" in shown["the battery broke again"]
    assert "Review: The camera is great\nSentiment: great" in shown["great camera"]


def test_texts_without_any_word_have_a_nearest_row_too() -> None:
    rows = [Row({"text": text}, index % 2) for index, text in enumerate(("!!!", ":-)", "???", "¡¡¡"))]
    assert len(pool_of(Demonstrations(2, "nearest"), rows).choose({"text": "!?"})) == 2


def candidates() -> Iterator[Candidate]:
    """All choices and orders, with every place of a soft prompt, adapters, several depths and both tasks."""
    places = ["none", "prefix", "suffix", "layer 1"]
    for number, (choice, order) in enumerate(product(CHOICES, ORDERS)):
        place = places[number % 4]
        yield with_(
            Demonstrations(1 + number % 3, choice, order),
            verbalizer=VERBALIZERS[number % 2].id,
            soft_prompt=SoftPrompt() if place == "none" else SoftPrompt(2, "vocabulary", place),
            adapter=Adapter("lora", 2) if number == 4 else Adapter(),
            frozen_layers=(1, 2, TINY_LAYERS)[number % 3] if place != "none" else number % TINY_LAYERS,
            source_steps=(0, 2)[number // 2 % 2],
            alpha=(0.0, 0.4)[number // 3 % 2],
        )
    for count in (0, 2, 3):  # These share all but the demonstrations.
        yield with_(Demonstrations(count), source_steps=2, alpha=0.4, soft_prompt=SoftPrompt(2, "vocabulary", "suffix"))


def difference(first: Result, second: Result) -> float:
    return float(np.abs(first.logits - second.logits).max())


@pytest.mark.slow
def test_results_depend_on_neither_a_store_nor_the_order_of_trials(
    spec: ObjectiveSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = list(candidates())[::2]
    fresh = [Objective(spec).evaluate(candidate, 0) for candidate in chosen]
    one = Objective(replace(spec, files=str(tmp_path)))
    forwards = [one.evaluate(candidate, 0) for candidate in chosen]
    other = Objective(replace(spec, files=str(tmp_path / "other")))
    backwards = [other.evaluate(candidate, 0) for candidate in chosen[::-1]][::-1]
    warm = Objective(replace(spec, files=str(tmp_path)))
    again = [warm.evaluate(candidate, 0) for candidate in chosen]
    for results in (forwards, backwards, again):
        for candidate, first, second in zip(chosen, fresh, results, strict=True):
            assert difference(first, second) == 0.0, candidate
            assert all(torch.equal(value, second.delta[name]) for name, value in first.delta.items())
    assert all(result.stages.misses == 0 for result in again)
    for candidate, result in zip(chosen, fresh, strict=True):
        scored = one.score(candidate, result.delta, one.target.validation)
        assert np.abs(scored - result.logits).max() <= 1e-5 * max(1.0, np.abs(result.logits).max()), candidate
    monkeypatch.setattr(PromptedModel, "reuse", lambda self: None)
    for candidate, result in zip(chosen, fresh, strict=True):
        assert difference(Objective(spec).evaluate(candidate, 0), result) <= 1e-5, candidate
    different = {tuple(result.logits.round(4).flatten()) for result in fresh}
    assert len(different) == len(fresh)


def test_a_cycle_goes_on_from_a_checkpoint(
    objective: Objective, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_SPARING", 0)
    candidate = with_(Demonstrations(2, "nearest"), steps=6, source_steps=2, alpha=0.4)
    expected = objective.evaluate(candidate, 0)

    def checkpoint() -> Checkpoint:
        return Checkpoint(FileStore(str(tmp_path)), checkpoint_name(candidate.key, 0), every_s=0.0)

    stopped = objective.run(candidate, 0, checkpoint())
    for _ in range(3):
        next(stopped)
    *_, last = objective.run(candidate, 0, checkpoint())
    assert last.result is not None
    assert last.result.resumed_at > 0
    assert difference(last.result, expected) == 0.0
    assert last.result.demonstrations == expected.demonstrations


def test_only_training_rows_of_the_same_task_are_shown(objective: Objective) -> None:
    source = objective.sources[""]
    allowed = {
        "target": {REVIEW.render(row.fields).before for row in objective.target.train},
        "source": {REVIEW.render(row.fields).before for row in source.train},
    }
    rows = {
        "target": (*objective.target.train, *objective.target.validation, *objective.target.test),
        "source": source.train,
    }
    for settings, part in product(SETTINGS, ("target", "source")):
        pool = objective._resources.demonstrations.get(with_(settings), part, 0)
        assert pool is not None
        for row in rows[part]:
            texts = [entry.text for entry in pool.choose(row.fields)]
            befores = {text.removesuffix("great").removesuffix("terrible") for text in texts}
            assert befores <= allowed[part] - {REVIEW.render(row.fields).before}
            assert len(befores) == settings.count


def test_long_prompts_lose_demonstrations_first(spec: ObjectiveSpec, objective: Objective) -> None:
    """A row's own text is cut only where it does not fit alone; what fits is shown, in the order of the choice."""
    settings = Demonstrations(3, "nearest", "nearest_last")
    long = Row({"text": "The camera broke " + "and was very bad " * 30}, 0)
    fitting = Row({"text": "The camera broke and it was not great at all, what a waste of money"}, 0)
    pool = pool_of(settings, [*ROWS, long])
    counts = {}
    for limit in (200, 64, 48, 40, 32, 26, 12):
        backbone = BACKBONES["causal_lm"](replace(spec.backbone, max_tokens=limit), torch.device("cpu"))
        model = PromptedModel(backbone, with_(settings), REVIEW, OPINION, LABELS, 0)
        (row,) = model.encode([fitting], pool)
        prompt = model.render(fitting.fields, pool)
        assert len(row.ids) <= limit
        assert len(backbone.tokenizer(prompt.before.rstrip(" "))["input_ids"]) == len(row.ids)
        own = prompt.before.split("\n\n")[-1]
        assert (own == REVIEW.render(fitting.fields).before) is (limit > 12)
        assert prompt.before.count("\n\n") == row.demonstrations
        counts[limit] = row.demonstrations
        plain = PromptedModel(backbone, BASE, REVIEW, OPINION, LABELS, 0).encode([fitting])[0]
        assert row.demonstration_tokens == len(row.ids) - len(plain.ids)
        if not row.demonstrations:
            assert row.ids == plain.ids
    assert counts[200] == 3, "with the long one"
    assert counts[64] == 2, "without the long one, which is the nearest"
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert counts[26] == counts[12] == 0
    assert 1 in counts.values()


def test_what_is_left_of_a_long_prompt_is_what_was_chosen_first(spec: ObjectiveSpec) -> None:
    """Of three demonstrations of equal length two fit: those of a candidate with two."""
    rows = [Row({"text": f"the {word} thing"}, index % 2) for index, word in enumerate(("red", "blue", "green", "old"))]
    new = Row({"text": "a new thing"}, 0)
    backbone = BACKBONES["causal_lm"](BackboneSpec(spec.backbone.path, "causal_lm", 64), torch.device("cpu"))
    for choice, order in product(CHOICES, ORDERS):
        three, two = (pool_of(Demonstrations(count, choice, order), rows) for count in (3, 2))
        model = PromptedModel(backbone, with_(three.settings), REVIEW, OPINION, LABELS, 0)
        (row,) = model.encode([new], three)
        assert row.demonstrations == 3
        backbone.spec = replace(spec.backbone, max_tokens=len(row.ids) - 1)
        assert model.render(new.fields, three).before == whole(two, new)
        backbone.spec = spec.backbone


def test_the_result_counts_what_was_shown(objective: Objective) -> None:
    none = objective.evaluate(with_(Demonstrations()), 0)
    assert none.demonstrations == 0.0
    candidate = with_(Demonstrations(2, "nearest"))
    cycle = objective.run(candidate, 0)
    *_, last = cycle
    shown, prompts = last.result, cycle.example()
    assert shown is not None
    assert prompts.endswith(f"Sentiment: [{LABELS[objective.target.validation[0].label]}]")
    pool = objective._resources.demonstrations.get(candidate, "validation", 0)
    rows = model_of(objective, candidate).encode(objective.target.validation, pool)
    plain = model_of(objective, BASE).encode(objective.target.validation)
    assert shown.demonstrations == np.mean([row.demonstrations for row in rows])
    assert prompts.count("\n\n") == rows[0].demonstrations
    added = np.mean([len(row.ids) for row in rows]) - np.mean([len(row.ids) for row in plain])
    assert shown.prompt_tokens == none.prompt_tokens + round(added)
    assert added > 10


def test_another_seed_draws_others(objective: Objective) -> None:
    first, second = (objective.evaluate(with_(Demonstrations(2), steps=0, frozen_layers=3), seed) for seed in (0, 1))
    assert difference(first, second) > 0
    rows = objective.target.validation
    for seed, result in enumerate((first, second)):
        assert np.abs(objective.score(with_(Demonstrations(2)), {}, rows, seed) - result.logits).max() < 1e-4


@pytest.mark.parametrize("family", ["encoder", "masked_lm"])
def test_other_families_take_none(family: str, tiny_models: dict[str, str]) -> None:
    backbone = BACKBONES[family](BackboneSpec(tiny_models[family], family, 64), torch.device("cpu"))
    with pytest.raises(InvalidInputError, match="only causal LMs take demonstrations"):
        PromptedModel(backbone, with_(Demonstrations(1)), REVIEW, OPINION, LABELS, 0)


def test_the_first_word_of_a_label_is_shown() -> None:
    words = Verbalizer("v", {"negative": ("a waste", "bad"), "positive": ("worth it", "good")})
    pool = DemonstrationPool.draw(Demonstrations(2), ROWS, LABELS, REVIEW, words, 0)
    shown = pool.text(pool.choose({"text": "new"}))
    assert "Sentiment: a waste\n\n" in shown
    assert "Sentiment: worth it\n\n" in shown

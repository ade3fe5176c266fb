from dataclasses import replace

import optuna
import pytest

from promptgraft.spaces import (
    DIMENSIONS,
    Categorical,
    Condition,
    Constant,
    Float,
    InvalidInputError,
    SearchSpace,
    StudyFacts,
    Template,
    Verbalizer,
)

FACTS = StudyFacts(n_layers=6, has_head=True, has_source=True)
TEMPLATES = (Template("a", "{{ text }} {{ label }}"), Template("b", "It was {{ label }}: {{ text }}"))
VERBALIZERS = (Verbalizer("v", {"no": ("bad",), "yes": ("good",)}),)


def space(*parameters: object, facts: StudyFacts = FACTS) -> SearchSpace:
    return SearchSpace(TEMPLATES, VERBALIZERS, tuple(parameters), facts)  # type: ignore[arg-type]


LENGTH = Categorical("soft_prompt.length", (0, 8))
INIT = Categorical("soft_prompt.init", ("vocabulary", "label_words"), Condition("soft_prompt.length", above=0))


def test_a_conditional_parameter_exists_only_where_its_condition_holds() -> None:
    study = optuna.create_study()
    searched = space(LENGTH, INIT, Float("alpha", 0, 1))
    for length, expected in ((0, False), (8, True)):
        study.enqueue_trial({"soft_prompt.length": length})
        trial = study.ask()
        candidate = searched.suggest(trial)  # type: ignore[arg-type]
        assert candidate.soft_prompt.length == length
        assert ("soft_prompt.init" in trial.params) is expected


def test_an_order_is_suggested_only_where_there_is_something_to_order() -> None:
    study = optuna.create_study()
    names = ("demonstrations.count", "demonstrations.choice", "demonstrations.order")
    searched = space(
        DIMENSIONS[names[0]].parameter([0, 1, 4], None, None, None, False, None),
        DIMENSIONS[names[1]].parameter(["balanced", "nearest"], None, None, None, False, None),
        DIMENSIONS[names[2]].parameter(["random", "nearest_last"], None, None, None, False, None),
    )
    for count, expected in ((0, names[:1]), (1, names[:2]), (4, names)):
        study.enqueue_trial({names[0]: count})
        trial = study.ask()
        assert searched.suggest(trial).demonstrations.count == count  # type: ignore[arg-type]
        assert tuple(name for name in trial.params if name in names) == expected


def test_an_lstm_makes_no_keys_and_values() -> None:
    """Unless it can't be drawn together with them."""
    place = Categorical("soft_prompt.place", ("prefix", "deep"))
    networks = ("direct", "mlp", "lstm")
    for when in (None, Condition("soft_prompt.place", choices=("deep",))):
        with pytest.raises(
            InvalidInputError, match=r"'lstm' is not supported at soft_prompt\.place 'deep'.*use direct or mlp"
        ):
            space(LENGTH, place, Categorical("soft_prompt.parametrization", networks, when))
    elsewhere = Condition("soft_prompt.place", choices=("prefix",))
    assert space(LENGTH, place, Categorical("soft_prompt.parametrization", networks, elsewhere))
    assert space(LENGTH, place, Categorical("soft_prompt.parametrization", networks[:2]))


def test_a_template_without_words_starts_no_soft_prompt() -> None:
    study = optuna.create_study()
    searched = space(Constant("soft_prompt.length", 4), Constant("soft_prompt.init", "template"))
    for template, init in ((TEMPLATES[0], "vocabulary"), (TEMPLATES[1], "template")):
        study.enqueue_trial({"template": template.id})
        assert searched.suggest(study.ask()).soft_prompt.init == init  # type: ignore[arg-type]


def test_pools_are_stored_as_ids_and_single_choices_are_not_suggested() -> None:
    trial = optuna.create_study().ask()
    candidate = space().suggest(trial)  # type: ignore[arg-type]
    assert trial.params == {"template": candidate.template}
    assert candidate.template in {template.id for template in TEMPLATES}
    assert candidate.verbalizer == VERBALIZERS[0].id


def test_the_fingerprint_follows_every_part() -> None:
    prints = {
        space().fingerprint,
        space(Float("alpha", 0, 1)).fingerprint,
        space(Float("alpha", 0, 0.5)).fingerprint,
        space(Constant("alpha", 0.5)).fingerprint,
        space(LENGTH, INIT).fingerprint,
        space(facts=StudyFacts(5, True, True)).fingerprint,
        space(facts=replace(FACTS, sources=("movie", "tweets"))).fingerprint,
        SearchSpace(TEMPLATES[:1], VERBALIZERS, (), FACTS).fingerprint,
    }
    assert len(prints) == 8
    assert space(LENGTH).fingerprint == space(LENGTH).fingerprint


@pytest.mark.parametrize(
    ("parameters", "facts", "message"),
    [
        ([Float("alpha", 0, 1)], StudyFacts(6, True, False), "no source task"),
        ([Constant("soft_prompt.init", "source")], StudyFacts(6, True, False), "no source task"),
        ([Constant("source", "movei")], replace(FACTS, sources=("movie", "tweets")), "did you mean 'movie'"),
        ([Constant("source", "movie")], FACTS, "name several under `sources`"),
        ([INIT, LENGTH], FACTS, "not suggested before it"),
        ([Constant("alhpa", 1)], FACTS, "did you mean 'alpha'"),
    ],
)
def test_what_the_study_cannot_serve_is_refused(parameters: list[object], facts: StudyFacts, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        space(*parameters, facts=facts)


def test_the_same_template_twice_is_refused() -> None:
    twice = (TEMPLATES[0], Template("copy", TEMPLATES[0].text))
    with pytest.raises(InvalidInputError, match="same text"):
        SearchSpace(twice, VERBALIZERS, (), FACTS)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("alpha", 1.5, r"must be in \[0, 1\], got 1.5"),
        ("alpha", "half", "must be a number"),
        ("steps", 1.5, "must be an integer"),
        ("learning_rate", 0, r"\(0, ∞\)"),
        ("layer_decay", float("nan"), r"must be a finite number in \(0, 1\], got nan"),
        ("steps", float("inf"), r"must be a finite number in \[0, ∞\), got inf"),
        ("learning_rate", 10**400, "must be a finite number"),
        ("soft_prompt.init", "vocab", "did you mean 'vocabulary'"),
        ("soft_prompt.place", "above", "expected 'prefix'"),
        ("soft_prompt.parametrization", "mpl", "did you mean 'mlp'"),
        ("demonstrations.count", -1, r"must be in \[0, 1000\], got -1"),
        ("demonstrations.choice", "closest", "expected one of: random, balanced, nearest"),
        ("demonstrations.order", "nearest_first", "did you mean 'nearest_last'"),
    ],
)
def test_dimensions_check_values(name: str, value: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        DIMENSIONS[name].parameter([value], None, None, None, False, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, 0.5, 0.1, None, False, None), "low"),
        ((None, 0.0, 1.0, None, True, None), "low must be positive"),
        ((None, 0.5, None, None, False, None), "both low and high"),
        (([0.1], 0.0, 1.0, None, False, None), "not both"),
    ],
)
def test_contradictory_ranges_are_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        DIMENSIONS["alpha"].parameter(*arguments)  # type: ignore[arg-type]

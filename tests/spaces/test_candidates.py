from collections.abc import Iterator
from dataclasses import replace

import pytest

from promptgraft.spaces import (
    CUSTOM_PARAMETERS,
    Adapter,
    Candidate,
    Demonstrations,
    InvalidInputError,
    SoftPrompt,
    StudyFacts,
)
from promptgraft.spaces.custom_parameters import custom_parameter

ENCODER = StudyFacts(n_layers=6, has_head=True, has_source=True)
CAUSAL = StudyFacts(n_layers=6, has_head=False, has_source=True)
SEVERAL = StudyFacts(n_layers=6, has_head=True, has_source=True, sources=("movie", "tweets"))
BASE = Candidate("t", "v", soft_prompt=SoftPrompt(4, "label_words", "suffix"), frozen_layers=2, alpha=0.5)


@pytest.mark.parametrize(
    ("facts", "first", "second"),
    [
        # No soft prompt: where it would start from and stand can't matter.
        (
            ENCODER,
            replace(BASE, soft_prompt=SoftPrompt(0, "label_words", "suffix")),
            replace(BASE, soft_prompt=SoftPrompt()),
        ),
        # All frozen: the backbone's step size can't matter.
        (ENCODER, replace(BASE, frozen_layers=6, learning_rate=1.0), replace(BASE, frozen_layers=6)),
        # Nothing attached: the step size of what is attached can't matter.
        (
            CAUSAL,
            replace(BASE, soft_prompt=SoftPrompt(), prompt_learning_rate=1.0),
            replace(BASE, soft_prompt=SoftPrompt()),
        ),
        # Nothing to train at all: neither the number of steps nor the batch size matters.
        (
            CAUSAL,
            replace(BASE, soft_prompt=SoftPrompt(), frozen_layers=6, steps=9, batch_size=2, alpha=0.1),
            replace(BASE, soft_prompt=SoftPrompt(), frozen_layers=6, steps=0),
        ),
        # A linear head without a soft prompt from label words reads no label words.
        (
            ENCODER,
            replace(BASE, head="linear", soft_prompt=SoftPrompt(4, "vocabulary")),
            replace(BASE, head="linear", soft_prompt=SoftPrompt(4, "vocabulary"), verbalizer="other"),
        ),
        # No source stage: no soft prompt was trained there.
        (
            ENCODER,
            replace(BASE, soft_prompt=SoftPrompt(4, "source")),
            replace(BASE, soft_prompt=SoftPrompt(4, "vocabulary")),
        ),
        # No soft prompt: what would make it can't matter.
        (
            CAUSAL,
            replace(BASE, soft_prompt=SoftPrompt(0, "vocabulary", "deep", "mlp")),
            replace(BASE, soft_prompt=SoftPrompt()),
        ),
        # Keys and values start as no row of the embeddings.
        (
            ENCODER,
            replace(BASE, head="linear", soft_prompt=SoftPrompt(4, "label_words", "deep")),
            replace(BASE, head="linear", soft_prompt=SoftPrompt(4, "vocabulary", "deep"), verbalizer="other"),
        ),
        (
            ENCODER,
            replace(BASE, soft_prompt=SoftPrompt(4, "source", "deep", "mlp")),
            replace(BASE, soft_prompt=SoftPrompt(4, "template", "deep", "mlp")),
        ),
        # No demonstrations: their choice and order can't matter; of one, the order can't.
        (CAUSAL, replace(BASE, demonstrations=Demonstrations(0, "nearest", "alternating")), BASE),
        (
            CAUSAL,
            replace(BASE, demonstrations=Demonstrations(1, "nearest", "nearest_last")),
            replace(BASE, demonstrations=Demonstrations(1, "nearest")),
        ),
        # No source has any part in it, or there is but one: which one can't matter.
        (SEVERAL, replace(BASE, alpha=0.0, source="tweets"), replace(BASE, alpha=0.0)),
        (SEVERAL, replace(BASE, steps=0, source="tweets"), replace(BASE, steps=0, source="movie")),
        (ENCODER, replace(BASE, source="tweets"), BASE),
        # Where none is said, it is the first.
        (SEVERAL, BASE, replace(BASE, source="movie")),
        # Nothing is trained: images don't change.
        (
            ENCODER,
            replace(BASE, head="probe", verbalizer="", soft_prompt=SoftPrompt(), steps=0, augmentation="flip"),
            replace(BASE, head="probe", verbalizer="", soft_prompt=SoftPrompt(), steps=0),
        ),
        # No source task.
        (replace(ENCODER, has_source=False), replace(BASE, alpha=0.9, source_steps=5), replace(BASE, alpha=0.0)),
    ],
)
def test_equivalent_candidates_are_one(facts: StudyFacts, first: Candidate, second: Candidate) -> None:
    assert first != second
    assert first.canonical(facts) == second.canonical(facts)
    assert first.canonical(facts).key == second.canonical(facts).key


def test_knobs_that_matter_survive() -> None:
    assert BASE.canonical(ENCODER) == BASE
    assert replace(BASE, alpha=0.25).key != BASE.key
    prompts = [SoftPrompt(4, "label_words", "suffix", network) for network in ("direct", "mlp", "lstm")]
    prompts += [SoftPrompt(4, place="deep", parametrization=network) for network in ("direct", "mlp")]
    found = [replace(BASE, soft_prompt=soft) for soft in prompts]
    from_source = replace(BASE, soft_prompt=SoftPrompt(4, "source", "deep", "mlp"), source_steps=2)
    assert len({candidate.canonical(ENCODER).key for candidate in (*found, from_source)}) == 6
    for candidate in (*found, from_source):
        assert candidate.canonical(ENCODER) == candidate
        assert Candidate.from_values(candidate.to_dict()) == candidate  # type: ignore[arg-type]


def test_a_key_is_made_of_what_is_not_at_its_default() -> None:
    """So that a field which comes later leaves the keys of stored candidates as they are."""
    assert BASE.key == "cdff2998647ac376"
    assert Candidate("t", "v", adapter=Adapter("none", 8)).key == Candidate("t", "v").key == "f615c133bf573381"


def test_another_source_makes_another_candidate() -> None:
    movie, tweets = (replace(BASE, source=name) for name in SEVERAL.sources)
    assert len({BASE.key, movie.key, tweets.key}) == 3
    for candidate in (movie, tweets, replace(tweets, alpha=0.0, source_steps=8)):
        assert candidate.canonical(SEVERAL) == candidate
        assert Candidate.from_values(candidate.to_dict()) == candidate  # type: ignore[arg-type]


def test_demonstrations_make_another_candidate() -> None:
    settings = [Demonstrations(2), Demonstrations(2, "nearest"), Demonstrations(2, "nearest", "nearest_last")]
    found = [replace(BASE, demonstrations=entry).canonical(CAUSAL) for entry in settings]
    assert len({BASE.key, *(candidate.key for candidate in found)}) == 4
    for candidate in found:
        assert Candidate.from_values(candidate.to_dict()) == candidate  # type: ignore[arg-type]


def test_canonical_is_idempotent() -> None:
    once = replace(BASE, frozen_layers=6, soft_prompt=SoftPrompt()).canonical(CAUSAL)
    assert once.canonical(CAUSAL) == once


def test_round_trip() -> None:
    assert Candidate.from_values(BASE.to_dict()) == BASE  # type: ignore[arg-type]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="alhpa"):
        Candidate.from_values({"template": "t", "verbalizer": "v", "alhpa": 1.0})


@pytest.mark.parametrize(("place", "layer"), [("prefix", None), ("suffix", None), ("deep", None), ("layer 3", 3)])
def test_places(place: str, layer: int | None) -> None:
    assert SoftPrompt(1, "vocabulary", place).layer == layer


def test_an_unknown_place_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="'prefix', 'suffix', 'deep', 'frame' or 'layer K'"):
        _ = SoftPrompt(1, "vocabulary", "middle").layer


@pytest.fixture
def momentum() -> Iterator[None]:
    with CUSTOM_PARAMETERS.temporarily():
        custom_parameter("momentum", neutral=0.0, low=0.0, high=1.0)(lambda settings, value: settings)
        custom_parameter("beta", neutral="none", options=("none", "some"))(lambda settings, value: settings)
        yield


@pytest.mark.usefixtures("momentum")
def test_parameters_of_plugins_are_part_of_a_candidate_where_they_matter() -> None:
    values = {**BASE.to_dict(), "custom.momentum": 0.5, "custom.beta": "some"}
    both = Candidate.from_values(values)  # type: ignore[arg-type]
    assert both.custom == (("beta", "some"), ("momentum", 0.5))
    assert both.canonical(ENCODER) == both
    assert both.to_dict() == values
    assert both.key != BASE.key != replace(both, custom=both.custom[1:]).key
    neutral = Candidate.from_values({**values, "custom.momentum": 0.0})  # type: ignore[arg-type]
    assert neutral.canonical(ENCODER).custom == (("beta", "some"),)
    assert replace(neutral, custom=neutral.custom[1:]).canonical(ENCODER) == BASE
    assert replace(both, steps=0).canonical(ENCODER) == replace(BASE, steps=0).canonical(ENCODER)


def test_a_parameter_that_no_package_brings_is_refused() -> None:
    with pytest.raises(
        InvalidInputError, match="unknown custom parameter 'momentum'; no installed package provides any"
    ):
        replace(BASE, custom=(("momentum", 0.5),)).canonical(ENCODER)


def test_candidates_without_augmentation_have_the_keys_and_records_of_before() -> None:
    assert "augmentation" not in BASE.to_dict()
    flipped = replace(BASE, augmentation="flip")
    assert flipped.key != BASE.key
    assert flipped.canonical(ENCODER) == flipped == Candidate.from_values(flipped.to_dict())  # type: ignore[arg-type]

import pytest

from promptgraft.spaces import InvalidInputError, Verbalizer


def test_every_label_needs_words() -> None:
    with pytest.raises(InvalidInputError, match="no words for label 'negative'"):
        Verbalizer("v", {"negative": (), "positive": ("good",)})
    with pytest.raises(InvalidInputError, match="no words for label 'neutral'"):
        Verbalizer("v", {"negative": ("bad",), "positive": ("good",)}).check_labels(["neutral"])


def test_a_word_stands_for_one_label() -> None:
    with pytest.raises(InvalidInputError, match="'fine' for 'negative' and for 'positive'"):
        Verbalizer("v", {"negative": ("fine",), "positive": ("good", "fine")})


def test_a_word_that_ends_with_white_space_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="the word 'good ' for 'positive', which ends with white space"):
        Verbalizer("v", {"negative": ("bad",), "positive": ("good ",)})

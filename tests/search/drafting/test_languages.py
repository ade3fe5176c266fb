"""Which language a table is in, and the models that are named for it."""

import pytest

from promptgraft.search.drafting import suggested_models
from promptgraft.search.drafting.languages import language_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The battery died after a week, and nobody answers.", "English"),
        ("Der Akku ist nach einer Woche leer und niemand antwortet.", "German"),
        ("La batterie est morte et personne ne répond dans la boutique.", "French"),
        ("La batería no dura y nadie contesta en la tienda.", "Spanish"),
        ("La batteria non dura e il negozio non risponde.", "Italian"),
        ("A bateria não dura e o suporte não responde, uma pena.", "Portuguese"),
        ("De batterij is na een week leeg en niemand antwoordt op het bericht.", "Dutch"),
        ("电池一周后就坏了。", "Chinese"),
        ("電池は一週間で切れた。", "Japanese"),
        ("배터리가 일주일 만에 나갔어요.", "Korean"),
        ("Батарея умерла через неделю.", "Cyrillic"),
        ("نفدت البطارية بعد أسبوع", "Arabic"),
        ("12345 :-)", "unknown"),
    ],
)
def test_a_sentence_shows_its_language(text: str, language: str) -> None:
    assert language_of([text] * 3 + ["???"]) == language


def test_models_for_english_and_for_the_others() -> None:
    assert "multilingual" not in suggested_models("English")[0]
    assert suggested_models("Thai") == suggested_models("unknown")
    assert "multilingual" in suggested_models("Thai")[0]

"""Scores of texts are sacreBLEU's, and those of their definitions."""

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from promptgraft.objectives.kinds.text_metrics import rouge_l, score_texts, signatures

TEXTS = ["the cat sat on the mat", "hello there", "", "über allen Gipfeln ist Ruh", "a b c d e f"]
REFERENCES = ["the cat sat on a mat", "hello there", "nothing", "Über allen Gipfeln ist Ruh'", "a b x d e f g"]


@pytest.mark.parametrize("kept", [range(5), [0, 1], [3], [4, 4, 0, 2]])
def test_they_are_those_of_sacrebleu(kept: list[int]) -> None:
    texts, references = [TEXTS[i] for i in kept], [REFERENCES[i] for i in kept]
    found = score_texts(texts, references)
    assert found["bleu"] == pytest.approx(BLEU().corpus_score(texts, [references]).score, abs=1e-9)
    assert found["chrf"] == pytest.approx(CHRF(word_order=2).corpus_score(texts, [references]).score, abs=1e-9)
    assert found["exact_match"] == np.mean([a == b for a, b in zip(texts, references, strict=True)])


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        # The examples of Lin (2004), ROUGE: A Package for Automatic Evaluation of Summaries, section 3.
        ("police kill the gunman", "police killed the gunman", 3 / 4),
        ("the gunman kill police", "police killed the gunman", 2 / 4),
        ("a", "a b c", 2 * 1 * (1 / 3) / (1 + 1 / 3)),
        ("", "a", 0.0),
        ("!", "?", 1.0),
    ],
)
def test_rouge_is_that_of_its_paper(text: str, reference: str, expected: float) -> None:
    assert rouge_l(text, reference) == pytest.approx(expected)


def test_signatures_say_how_they_were_computed() -> None:
    found = signatures()
    assert "version:" in found["bleu"]
    assert "nw:2" in found["chrf"]

"""Scores of texts against their references: sacreBLEU's BLEU and chrF++, ROUGE-L, and exact match.

What a corpus score needs of each pair is computed once, so that resampling rows costs little.
"""

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import regex

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+")


@cache
def _bleu() -> "BLEU":
    from sacrebleu.metrics.bleu import BLEU

    return BLEU()


@cache
def _chrf() -> "CHRF":
    from sacrebleu.metrics.chrf import CHRF

    return CHRF(word_order=2)


def signatures() -> dict[str, str]:
    """Return sacreBLEU's signature of each of its metrics, by which scores can be compared (Post 2018)."""
    score_texts(["x"], ["x"])
    metrics: dict[str, Any] = {"bleu": _bleu(), "chrf": _chrf()}
    for metric in metrics.values():
        metric.corpus_score(["x"], [["x"]])  # The number of references is part of it.
    return {name: str(metric.get_signature()) for name, metric in metrics.items()}


def score_texts(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Score texts.

    Args:
        texts: Of each row.
        references: What is right for it.

    Returns:
        `bleu` and `chrf` as sacreBLEU has them, in [0, 100]; `rouge_l`, the mean F1 of the longest common subsequence
        of words (Lin 2004), and `exact_match`, both in [0, 1]. All are 0 without rows.
    """
    if not texts:
        return {"chrf": 0.0, "bleu": 0.0, "rouge_l": 0.0, "exact_match": 0.0}
    pairs = list(zip(texts, references, strict=True))
    statistics = np.array([_statistics(*pair) for pair in pairs]).sum(axis=0)
    split = len(_chrf_statistics(*pairs[0]))
    return {
        "chrf": float(_chrf()._compute_score_from_stats(statistics[:split].tolist()).score),
        "bleu": float(_bleu()._compute_score_from_stats(statistics[split:].tolist()).score),
        "rouge_l": float(np.mean([rouge_l(*pair) for pair in pairs])),
        "exact_match": float(np.mean([text.strip() == reference.strip() for text, reference in pairs])),
    }


@lru_cache(maxsize=200_000)
def _statistics(text: str, reference: str) -> npt.NDArray[np.int64]:
    bleu = _bleu()._extract_corpus_statistics([text], [[reference]])[0]
    return np.array([*_chrf_statistics(text, reference), *bleu], dtype=np.int64)


def _chrf_statistics(text: str, reference: str) -> list[int]:
    found: list[int] = _chrf()._extract_corpus_statistics([text], [[reference]])[0]
    return found


def row_chrf(text: str, reference: str) -> float:
    """Return chrF++ of a single row, in [0, 100]."""
    return float(_chrf()._compute_score_from_stats(_chrf_statistics(text, reference)).score)


@lru_cache(maxsize=200_000)
def rouge_l(text: str, reference: str) -> float:
    """Return F1 of the longest common subsequence of words, whatever their case; 1 where neither has any."""
    ours, theirs = _WORD.findall(text.casefold()), _WORD.findall(reference.casefold())
    if not ours or not theirs:
        return float(ours == theirs)
    row = [0] * (len(theirs) + 1)
    for word in ours:
        before = row
        row = [0]
        for place, other in enumerate(theirs):
            row.append(before[place] + 1 if word == other else max(before[place + 1], row[place]))
    return 2 * row[-1] / (len(ours) + len(theirs))

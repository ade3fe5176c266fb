"""Which language texts are in, well enough to name a model that knows it."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

# Words that every longer text of a language has, and few texts of the others.
_WORDS = {
    "English": "the and is to of it in that was for with this not are have you",
    "German": "der die und ist das nicht ein eine mit ich zu den auf für sich war",
    "French": "le la les et est des une dans pas que pour je ce vous sur avec",
    "Spanish": "el la los y es de que no una por con para se las muy está",
    "Italian": "il che di è non una per con sono del della gli mi questo più molto",
    "Portuguese": "o de que não uma para com os do da em muito foi você mais é",
    "Dutch": "de het een en van is niet ik dat op voor met zijn er ook maar",
}
# Begin of a letter's Unicode name -> what is written with it.
_SCRIPTS = {
    "CJK": "Chinese",
    "HIRAGANA": "Japanese",
    "KATAKANA": "Japanese",
    "HANGUL": "Korean",
    "CYRILLIC": "Cyrillic",
    "ARABIC": "Arabic",
    "GREEK": "Greek",
    "HEBREW": "Hebrew",
    "THAI": "Thai",
    "DEVANAGARI": "Devanagari",
}
UNKNOWN = "unknown"
_SAMPLE, _CHARACTERS = 400, 300

# Models to try first, on a CPU: small and well known, by the languages that they read.
_ENGLISH = ("sentence-transformers/all-MiniLM-L6-v2", "BAAI/bge-small-en-v1.5", "answerdotai/ModernBERT-base")
_OTHERS = (
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
    "intfloat/multilingual-e5-small",
    "FacebookAI/xlm-roberta-base",
)


def language_of(texts: Iterable[str]) -> str:
    """Return the language or the script that most texts are in; `unknown` where neither shows."""
    votes = Counter(_of(text[:_CHARACTERS].lower()) for text in islice(texts, _SAMPLE))
    votes.pop(UNKNOWN, None)
    return votes.most_common(1)[0][0] if votes else UNKNOWN


def suggested_models(language: str) -> Sequence[str]:
    """Return hub ids of small encoders that read a language; those for many languages where it isn't English."""
    return _ENGLISH if language == "English" else _OTHERS


def _of(text: str) -> str:
    letters = [unicodedata.name(letter, "") for letter in text if letter.isalpha()]
    scripts = Counter(next((name for start, name in _SCRIPTS.items() if own.startswith(start)), "") for own in letters)
    latin = scripts.pop("", 0)
    # A sentence in Japanese has Chinese characters, too.
    if scripts["Japanese"]:
        scripts["Japanese"] += scripts.pop("Chinese", 0)
    if scripts and scripts.total() > latin:
        return scripts.most_common(1)[0][0]
    words = Counter(re.findall(r"\w+", text))
    hits = {name: sum(words[word] for word in own.split()) for name, own in _WORDS.items()}
    best = max(hits, key=lambda name: hits[name])
    return best if hits[best] else UNKNOWN

"""False positives and negatives of near duplicates, on real rows of the quality benchmark's domains.

    python -m tests.bench.near_duplicates FOLDER      # that `python -m tests.bench.quality` wrote its domains to

Copies are rows with an edit that reposts have: other case and punctuation, a mention, an added or a missing word at the
end, a typing error. Changed rows have an edit that may decide a label: an emoticon, a number, a question mark, another
second text beside the same first one, a negated verb. Each is compared with the row that it is made of. Of unedited
rows, pairs that are found are listed, to be judged by eye.
"""

import argparse
import csv
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import get_args

from promptgraft.objectives.data import Comparison, Row
from promptgraft.objectives.data.near_duplicates import find_near_duplicates

Edit = Callable[[str, random.Random], str | None]
DOMAINS = ("tweets", "movie", "nyt", "hotel", "computer", "citations", "restaurants")
ROWS = 200
CHINESE = ("hotel", "computer")


def _typo(text: str, draw: random.Random) -> str | None:
    place = draw.randrange(len(text) - 1)
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]


def _number(text: str, draw: random.Random) -> str | None:
    digits = [place for place, char in enumerate(text) if char in "0123456789"]
    if not digits:
        return None
    place = draw.choice(digits)
    return text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :]


def _negated(text: str, _: random.Random) -> str | None:
    for verb, other in ((" is ", " is not "), (" was ", " was not "), ("很", "不"), ("好", "不好")):
        if verb in text:
            return text.replace(verb, other, 1)
    return None


COPIES: dict[str, Edit] = {
    "case and punctuation": lambda text, _: text.upper().replace(",", " -").rstrip(".!。！") + "!",
    "a mention": lambda text, _: f"RT @someone: {text}",
    "a word more": lambda text, _: f"{text} indeed",
    "a word less": lambda text, _: " ".join(text.split()[:-1]) if len(text.split()) > 8 else None,
    "a typing error": _typo,
}
CHANGES: dict[str, Edit] = {
    "an emoticon": lambda text, _: f"{text} :(",
    "an emoji": lambda text, _: f"{text} 😡",
    "a number": _number,
    "a question mark": lambda text, _: None if "?" in text else f"{text}?",
    "a negation": _negated,
}


def read(folder: Path, domain: str) -> list[Row]:
    """Read a domain's first rows that have at least 8 words, or characters in Chinese."""
    with (folder / f"{domain}.csv").open(newline="", encoding="utf-8") as table:
        rows = [Row({"text": r["text"], "other": r["other"]}, 0) for r in csv.DictReader(table)]
    rows = [replace(row, fields={name: value for name, value in row.fields.items() if value}) for row in rows]
    long = (row for row in rows if len(row.fields["text"].split()) >= 8 or domain in CHINESE)
    return list(islice(long, ROWS))


def share(rows: list[Row], edit: Edit, comparison: Comparison, draw: random.Random) -> tuple[int, int]:
    """Return how many edited rows are found to be nearly the same as the row that they are made of, and of how many."""
    found = count = 0
    for row in rows:
        text = edit(row.fields["text"], draw)
        if text is not None:
            count += 1
            found += bool(find_near_duplicates([replace(row, fields={**row.fields, "text": text})], [row], comparison))
    return found, count


def main() -> None:
    """Print a table: edit, domain, and the share of pairs that each comparison finds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for domain in DOMAINS:
        rows = read(folder, domain)
        for kind, edits in (("copy", COPIES), ("changed", CHANGES)):
            for name, edit in edits.items():
                counts = [share(rows, edit, own, random.Random(0)) for own in get_args(Comparison)]
                print(domain, kind, name, *(f"{found}/{count}" for found, count in counts), sep="\t")
        if "other" in rows[0].fields:
            others = [
                replace(row, fields={**row.fields, "other": rows[i - 1].fields["other"]}) for i, row in enumerate(rows)
            ]
            pairs = [(row, other) for row, other in zip(rows, others, strict=True) if row != other]
            found = [sum(bool(find_near_duplicates([a], [b], own)) for a, b in pairs) for own in get_args(Comparison)]
            print(domain, "changed", "the second text", *(f"{n}/{len(pairs)}" for n in found), sep="\t")
        half = len(rows) // 2
        for own in get_args(Comparison):
            for row, other in find_near_duplicates(rows[:half], rows[half:], own).items():
                print(domain, own, rows[row].fields, rows[half + other].fields, sep="\t")


if __name__ == "__main__":
    main()

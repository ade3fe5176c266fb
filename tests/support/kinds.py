"""Small tables of each kind of task, in which words decide the answer."""

import csv
import json
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

from promptgraft.objectives.data import TaskSpec

TOPICS = {"food": ("bread", "soup", "cake"), "sport": ("ball", "goal", "team"), "tech": ("chip", "code", "laptop")}
PLAIN = ["red", "blue", "green", "old", "new", "tall", "wide", "thin", "round", "flat"]
KINDS = ("text_classification", "multi_label", "regression", "token_classification")
# Column of the answer by kind, as `write_kinds` names it.
COLUMNS = {
    "text_classification": "topic",
    "multi_label": "tags",
    "regression": "score",
    "token_classification": "spans",
}
TOPIC_OF = {word: topic for topic, words in TOPICS.items() for word in words}


def write_kinds(path: Path, rows: int = 120, seed: int = 0) -> Path:
    """Write a CSV file with texts, the first topic, all topics, a number that counts their words, and their places."""
    random = Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["text", "topic", "tags", "score", "spans"])
        for number in range(rows):
            topics = [topic for topic in TOPICS if random.random() < 0.5]
            words = [word for topic in topics for word in random.sample(TOPICS[topic], 2)]
            first = topics[0] if topics else "none"
            text = [*words, *random.choices(PLAIN, k=5), f"item{number}"]
            random.shuffle(text)
            score = f"{len(words) + random.random() / 4:.3f}"
            table.writerow([" ".join(text), first, "|".join(topics) or "[]", score, json.dumps(spans_of_topics(text))])
    return path


def spans_of_topics(words: Sequence[str]) -> list[list[Any]]:
    """Return start, end and topic of the words that have one, in a text with spaces between words."""
    ends = list(accumulate(len(word) + 1 for word in words))
    return [
        [end - len(word) - 1, end - 1, TOPIC_OF[word]]
        for word, end in zip(words, ends, strict=True)
        if word in TOPIC_OF
    ]


def spec_of_kind(table: Path, kind: str, **changes: Any) -> TaskSpec:
    """Describe the target task of a kind over such a table."""
    values = {"train_rows": 64, "test_rows": 40} | changes
    return TaskSpec(str(table), {"text": "text"}, COLUMNS[kind], kind=kind, **values)

"""A small table of users who go round the topics of a shop: what they had last says what comes next."""

import csv
from pathlib import Path
from random import Random
from typing import Any

from promptgraft.objectives.data import HistorySpec, TaskSpec

ITEMS = {
    f"{topic}{number}": f"{word} {topic}"
    for topic in ("bread", "ball", "chip", "rose")
    for number, word in enumerate(("red", "blue", "green", "old", "new", "tall"))
}


def write_histories(folder: Path, users: int = 30, seed: int = 0) -> tuple[Path, Path]:
    """Write interactions and items; users take eight of eleven items that follow each other."""
    random, ids = Random(seed), list(ITEMS)
    interactions, items = folder / "interactions.csv", folder / "items.csv"
    with interactions.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["user", "item", "when"])
        for user in range(users):
            start = random.randrange(len(ids))
            for step in sorted(random.sample(range(11), 8)):
                table.writerow([f"u{user}", ids[(start + step) % len(ids)], 1000 + 10 * step + user])
    with items.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["item", "title"])
        table.writerows(ITEMS.items())
    return interactions, items


def write_users(folder: Path, users: int = 30) -> Path:
    """Write what is to be predicted of such users."""
    path = folder / "users.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["user", "age", "job"])
        table.writerows(
            [f"u{user}", "old" if user % 2 else "young", ("cook", "clerk", "nurse")[user % 3]] for user in range(users)
        )
    return path


def section_of_histories(folder: Path, kind: str, users: int = 30, seed: int = 0) -> dict[str, Any]:
    """Write such tables into a new folder, and describe a task over them as a study file does."""
    folder.mkdir()
    interactions, items = write_histories(folder, users, seed)
    histories: dict[str, Any] = {"user": "user", "time": "when", "items": str(items), "text": ["title"]}
    if kind == "user_profile":
        histories |= {"users": str(write_users(folder, users)), "attributes": ["age", "job"]}
    rows = {"train": str(interactions), "text": {"history": "history"}, "label": "item"}
    return {"kind": kind, **rows, "histories": histories}


def spec_of_histories(interactions: Path, items: Path, **changes: Any) -> TaskSpec:
    """Describe the target task over such tables."""
    own = {name: changes.pop(name) for name in ("positions", "least") if name in changes}
    histories = HistorySpec("user", "when", str(items), ("title",), **own)
    return TaskSpec(
        str(interactions), {"history": "history"}, "item", kind="recommendation", histories=histories, **changes
    )

"""A study that an earlier version started goes on with the rows that it had then."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from promptgraft.search.study import load_study, row_hashes, with_recorded_rows


def test_a_study_of_an_earlier_version_keeps_its_rows(write_study: Callable[..., Path], tmp_path: Path) -> None:
    """Pairs that only differ in an emoticon: near duplicates then, and none today."""
    texts = [
        f"just got my lamp from the shop in {' '.join('abcdefgh'[int(c)] * 3 for c in f'{i:o}')}" for i in range(8, 48)
    ]
    rows = [{"text": f"{text} today, look {mood}", "label": mood} for text in texts for mood in (":)", ":(")]
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    target = {"train": str(tmp_path / "t.csv"), "text": "text", "label": "label", "train_rows": 16, "test_rows": 16}
    space = {"templates": {"a": "{{ text }} {{ label }}"}, "verbalizers": {"v": {":)": "good", ":(": "bad"}}}
    path = write_study(source=None, target=target, space=space)
    today, then = load_study(path), load_study(path, comparison="words")
    assert (today.target.cleaning.near_duplicate, then.target.cleaning.near_duplicate > 0) == (0, True)
    assert row_hashes(today) != row_hashes(then)
    assert row_hashes(with_recorded_rows(today, row_hashes(then))) == row_hashes(then)
    assert with_recorded_rows(today, row_hashes(then)).objective.target.comparison == "words"  # Workers read it again.
    assert with_recorded_rows(today, row_hashes(today)) is today
    assert with_recorded_rows(today, {}) is today
    assert with_recorded_rows(today, {**row_hashes(then), "test rows": "others"}) is today

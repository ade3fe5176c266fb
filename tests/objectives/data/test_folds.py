"""Folds: every labelled row is scored once by a model that has not seen it, or one like it."""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from promptgraft.objectives.data import WHOLE, Row, Split, Task, TaskSpec
from promptgraft.objectives.kinds.text_classification import TextClassification
from promptgraft.spaces import InvalidInputError

WORDS = [f"{start}{end}" for start in ("am", "bi", "ce", "de") for end in ("ber", "rch", "dar", "lta")]


def texts(count: int) -> list[str]:
    """Make texts of five words, none of them like another."""
    return [" ".join(words) for words in list(combinations(WORDS, 5))[:: max(1, 4368 // count)][:count]]


def load(folder: Path, rows: Sequence[dict[str, Any]], **changes: Any) -> TextClassification:
    table = folder / "table.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {"test_rows": 20, **changes}
    return TextClassification.load_target(TaskSpec(str(table), {"text": "text"}, "label", **values), 0)


def parts(task: Task, repeat: int = 0) -> list[tuple[set[str], set[str]]]:
    splits = [task.on(Split(repeat, fold)) for fold in range(task.folds)]
    return [(names(own.train), names(own.validation)) for own in splits]


def names(rows: Sequence[Row]) -> set[str]:
    return {row.fields["text"] for row in rows}


def plain(count: int = 120) -> list[dict[str, Any]]:
    return [{"text": text, "label": "ab"[i % 3 == 0]} for i, text in enumerate(texts(count))]


def test_every_labelled_row_is_in_one_fold(tmp_path: Path) -> None:
    task = load(tmp_path, plain(), train_rows=60)
    assert (task.folds, len(task.labelled)) == (4, 60)
    folds = parts(task)
    assert Counter(name for _, own in folds for name in own) == Counter(names(task.labelled))
    for train, own in folds:
        assert train == names(task.labelled) - own
        assert not (train | own) & names(task.test)
    assert task.scored() == tuple(row for fold in range(4) for row in task.on(Split(0, fold)).validation)
    for fold in range(4):
        counts = Counter(row.label for row in task.on(Split(0, fold)).validation)
        assert counts[0] == pytest.approx(Counter(row.label for row in task.labelled)[0] / 4, abs=1)


def test_another_repeat_is_another_partition_of_the_same_rows(tmp_path: Path) -> None:
    task = load(tmp_path, plain(), train_rows=60)
    assert parts(task, 1) != parts(task)
    assert set.union(*(own for _, own in parts(task, 1))) == names(task.labelled)


def test_the_model_that_ships_is_trained_on_all_of_them(tmp_path: Path) -> None:
    task = load(tmp_path, plain(), train_rows=60)
    assert task.on(WHOLE).train == task.labelled


def test_rows_that_are_nearly_the_same_are_in_one_fold(tmp_path: Path) -> None:
    """A planted leak: each text comes twice, once with a full stop, so that a model could know the answer."""
    rows = plain(60)
    twins = [{**row, "text": f"{row['text']} !"} for row in rows]
    task = load(tmp_path, [*rows, *twins], test_rows=20)
    for train, own in parts(task):
        assert not {name.removesuffix(" !") for name in train} & {name.removesuffix(" !") for name in own}


def test_a_group_is_in_one_fold(tmp_path: Path) -> None:
    rows = [{**row, "author": f"a{i // 6}"} for i, row in enumerate(plain(240))]
    task = load(tmp_path, rows, group="author", test_rows=48)
    author = {row["text"]: row["author"] for row in rows}
    for train, own in parts(task):
        assert not {author[name] for name in train} & {author[name] for name in own}


def test_with_a_time_each_fold_is_newer_than_what_is_trained_on(tmp_path: Path) -> None:
    rows = [{**row, "when": i // 2} for i, row in enumerate(plain(200))]
    task = load(tmp_path, rows, time="when", test_rows=40)
    when = {row["text"]: row["when"] for row in rows}
    oldest_of_test = min(when[name] for name in names(task.test))
    for train, own in parts(task):
        assert max(when[name] for name in train) < min(when[name] for name in own)
        assert max(when[name] for name in own) < oldest_of_test
    assert names(task.scored()) < names(task.labelled)


def test_there_are_no_more_folds_than_rows_of_a_label(tmp_path: Path) -> None:
    rows = [{"text": text, "label": "a" if i < 3 else "b"} for i, text in enumerate(texts(60))]
    test = tmp_path / "test.jsonl"
    test.write_text("".join(json.dumps({"text": f"x{i} y{i}", "label": "ab"[i % 2]}) + "\n" for i in range(20)))
    assert load(tmp_path, rows, test=str(test)).folds == 3


def test_a_label_that_occurs_once_is_refused(tmp_path: Path) -> None:
    rows = [{"text": text, "label": "a" if i < 1 else "b"} for i, text in enumerate(texts(60))]
    test = tmp_path / "test.jsonl"
    test.write_text("".join(json.dumps({"text": f"x{i} y{i}", "label": "ab"[i % 2]}) + "\n" for i in range(20)))
    with pytest.raises(InvalidInputError, match="only one labelled row has the label 'a'"):
        load(tmp_path, rows, test=str(test))


def test_it_is_refused_by_its_name_before_test_rows_are_split_off(tmp_path: Path) -> None:
    rows = [{"text": text, "label": "rare" if i < 1 else "b"} for i, text in enumerate(texts(60))]
    with pytest.raises(InvalidInputError, match="only one labelled row has the label 'rare'"):
        load(tmp_path, rows)


def test_a_sample_to_train_on_misses_no_label(tmp_path: Path) -> None:
    rows = [{"text": text, "label": "rare" if i < 3 else "ab"[i % 2]} for i, text in enumerate(texts(400))]
    task = load(tmp_path, rows, train_rows=20, validation_rows=20)
    assert len(task.train) == 20
    assert Counter(row.label for row in task.train)[task.labels.index("rare")] == 1
    assert names(task.train).isdisjoint(names(task.validation))


def test_the_only_row_of_a_label_is_trained_on_in_every_rerun(tmp_path: Path) -> None:
    rows = [{"text": text, "label": "rare" if i < 2 else "ab"[i % 2]} for i, text in enumerate(texts(400))]
    task = load(tmp_path, rows, train_rows=40, validation_rows=40, test_rows=200)
    rare = task.labels.index("rare")
    assert sum(row.label == rare for row in task.labelled) == 1
    for repeat in range(4):
        own = task.on(Split(repeat))
        assert [row.label for row in own.train].count(rare) == 1
        assert len(own.validation) == 40


@pytest.mark.parametrize(("count", "folds"), [(900, 4), (1500, 3), (5600, 1)])
def test_the_more_rows_the_fewer_folds(tmp_path: Path, count: int, folds: int) -> None:
    rows = [{"text": f"{i} {i * 7} {i * 13}", "label": "ab"[i % 2]} for i in range(count)]
    task = load(tmp_path, rows, test_rows=40)
    assert task.folds == folds
    assert len(task.on(Split()).validation) == pytest.approx((count - 40) / (folds if folds > 1 else 5), abs=2)


def test_a_table_to_choose_by_takes_the_place_of_folds(tmp_path: Path) -> None:
    rows = plain()
    chosen_by = tmp_path / "validation.jsonl"
    chosen_by.write_text("".join(json.dumps({**row, "text": row["text"][::-1]}) + "\n" for row in rows[:30]))
    task = load(tmp_path, rows, validation=str(chosen_by))
    assert (task.folds, len(task.validation)) == (1, 30)
    assert names(task.validation) == {row["text"][::-1] for row in rows[:30]}
    assert task.on(Split(1)) == task

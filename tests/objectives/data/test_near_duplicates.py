"""What is nearly the same and what is not: pairs of real kinds."""

import random
from pathlib import Path

import pandas as pd
import pytest

from promptgraft.objectives.data import Row, TaskSpec
from promptgraft.objectives.data.near_duplicates import clusters, find_near_duplicates
from promptgraft.objectives.kinds.text_classification import TextClassification
from promptgraft.spaces import InvalidInputError

LONG = " ".join(f"{start}{end}" for start in ("am", "bi", "ce", "de", "fi", "go") for end in "bcdfghklmnprstvwz")
OWN = ("lamp", "chair", "broke", "late", "red", "blue", "sent", "back", "again", "shop", "door")


def alike(one: str | dict[str, str], other: str | dict[str, str]) -> bool:
    first, second = (Row({"text": own} if isinstance(own, str) else own, 0) for own in (one, other))
    found = bool(find_near_duplicates([first], [second]))
    assert found == bool(find_near_duplicates([second], [first]))
    return found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Just got my new lamp, number 0, from the shop.", "just got my new lamp number 0 from the shop!!"),
        ("I love this so much, really 😀", "i love this -- so much really 😀😀"),
        ("RT @bob: what a day in the city http://t.co/1a2", "what a day in the city http://t.co/9zz"),
        ("这部电影真的很好看，我非常喜欢它的音乐和演员", "这部电影真的很好看。我非常喜欢它的音乐和演员！"),
        ("この映画は本当に面白いのでまた見たいと思う", "この映画は本当に面白いので、また見たいと思う。"),
        ("यह फिल्म बहुत अच्छी है और मुझे पसंद आई", "यह फिल्म बहुत अच्छी है, और मुझे पसंद आई।"),
        ("หนังเรื่องนี้สนุกมากและฉันชอบมันมาก", "หนังเรื่องนี้สนุกมากและฉันชอบมันมาก!"),
        ("👍", "👍👍"),
        (f"{LONG} and paid 20 for it", f"{LONG} and paid 25 for it"),  # One number among 106 words.
        (
            {"premise": "A man rides his horse along the shore.", "hypothesis": "The man is riding a horse today."},
            {"premise": "a man rides his horse along the shore", "hypothesis": "the man is riding a horse today"},
        ),
    ],
)
def test_copies(one: str | dict[str, str], other: str | dict[str, str]) -> None:
    assert alike(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("just got my new lamp number 0 from the shop :)", "just got my new lamp number 0 from the shop :("),
        ("just got my new lamp from the shop today :-D", "just got my new lamp from the shop today"),
        ("just got my new lamp from the shop today ^_^", "just got my new lamp from the shop today T_T"),
        ("I love this so much, really 😀", "I love this so much, really 😡"),
        ("You are coming to the party tonight with us", "You are coming to the party tonight with us?"),
        ("The test of the new model scored 3 of 5 points", "The test of the new model scored 4 of 5 points"),
        ("set the value of x if a < b in the loop", "set the value of x if a > b in the loop"),
        ("这部电影真的很好看", "这部电影真的不好看"),
        ("この映画は面白い", "この映画は面白くない"),
        ("यह फिल्म बहुत अच्छी है", "यह फिल्म बहुत बुरी है"),
        ("👍", "👎"),
        (f"{LONG[:200]} and it is worth it", f"{LONG[:200]} and it isn't worth it"),
        (
            "房间很干净，离地铁站也不远，前台的服务态度非常好，早餐的种类很多，下次来这里出差的时候还会再住😀",
            "房间很干净，离地铁站也不远，前台的服务态度非常好，早餐的种类很多，下次来这里出差的时候还会再住😡",
        ),
        ("http://a.b/c", "http://x.y/z"),
        ("I do like this movie at all costs", "I do not like this movie at all costs"),
        (
            {"premise": LONG, "hypothesis": "The man is riding a horse."},
            {"premise": LONG, "hypothesis": "Nobody rides anything at all."},
        ),
        ({"question": "is it safe", "passage": LONG}, {"question": "who wrote it", "passage": LONG}),
    ],
)
def test_rows_that_only_look_alike(one: str | dict[str, str], other: str | dict[str, str]) -> None:
    assert not alike(one, other)


def test_the_words_of_a_form_are_not_compared() -> None:
    """Each text is a form of 20 words with a few of its own; two of them say the same."""
    form = "This message was sent to our service by a customer who has filled in the form on the page: {}. Thank you"
    draw = random.Random(0)
    own = [" ".join(draw.choices(OWN, k=6)) for _ in range(60)]
    rows = [Row({"text": form.format(words)}, 0) for words in own]
    assert len(set(clusters(rows))) == len(set(own))
    copy = Row({"text": form.format(own[7].upper() + "!")}, 0)
    assert find_near_duplicates([copy], rows) == {0: own.index(own[7])}


def test_labels_are_reported_and_nothing_else(tmp_path: Path) -> None:
    """Half of the twins of test rows have the other label: they are dropped all the same, and counted."""
    draw = random.Random(1)
    words = [" ".join(draw.choices(OWN, k=9)) for _ in range(40)]
    first = [{"text": text, "label": "yn"[i % 2]} for i, text in enumerate(words)]
    twins = [{"text": f"{text}!", "label": "yn"[i // 2 % 2]} for i, text in enumerate(words)]
    pd.DataFrame(first).to_csv(tmp_path / "test.csv", index=False)
    others = [{"text": f"own {i * 7} words {i * 3}", "label": "yn"[i % 2]} for i in range(40)]
    pd.DataFrame(twins + others).to_csv(tmp_path / "train.csv", index=False)
    spec = TaskSpec(str(tmp_path / "train.csv"), {"text": "text"}, "label", test=str(tmp_path / "test.csv"))
    report = TextClassification.load_target(spec, 0).cleaning
    assert report.near_duplicate == 40
    assert report.near_duplicate_of_other_label == 20
    assert str(report) == (
        "120 rows read; dropped: 40 near duplicate (20 near duplicates have another label than the held-out row)"
    )


def test_an_error_says_why_so_few_rows_are_left(tmp_path: Path) -> None:
    rows = [{"text": f"{LONG} {'well ' * (i % 4)}", "label": "yn"[i % 2]} for i in range(4)]
    rows += [{"text": f"{LONG} !" + "." * i, "label": "yn"[i % 4 % 2]} for i in range(40)]
    rows += [{"text": f"own {i * 7} words {i * 3}", "label": "yn"[i % 2]} for i in range(20)]
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    spec = TaskSpec(str(tmp_path / "t.csv"), {"text": "text"}, "label", train_rows=40, test_rows=10)
    with pytest.raises(InvalidInputError, match=r"rows are left for it .*64 rows read; dropped: .*near duplicate"):
        TextClassification.load_target(spec, 0)


def test_rows_that_are_all_alike_cannot_be_divided(tmp_path: Path) -> None:
    rows = [{"text": f"{LONG} " + "!" * i, "label": "yn"[i % 2]} for i in range(20)]
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    held = [{"text": f"own {i * 7} words {i * 3}", "label": "yn"[i % 2]} for i in range(20)]
    pd.DataFrame(held).to_csv(tmp_path / "test.csv", index=False)
    spec = TaskSpec(str(tmp_path / "t.csv"), {"text": "text"}, "label", test=str(tmp_path / "test.csv"))
    with pytest.raises(InvalidInputError, match="all 20 labelled rows are nearly the same, or of one group"):
        TextClassification.load_target(spec, 0)

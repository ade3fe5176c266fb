"""Which columns of a table are taken for its texts and its label."""

import csv
import json
import re
from pathlib import Path

import pytest

from promptgraft.search.drafting import view_table
from promptgraft.spaces import InvalidInputError

TEXTS = [
    f"the {noun} was {word} all day" for noun in ("room", "food", "staff", "pool") for word in ("fine", "bad", "so")
]


def write(folder: Path, rows: list[dict[str, object]], delimiter: str = ",") -> str:
    path = folder / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        table.writeheader()
        table.writerows(rows)
    return str(path)


def rows(**more: object) -> list[dict[str, object]]:
    """Texts with a label; `more` are further columns: a list of cells, or one for all."""
    found = []
    for n, text in enumerate(TEXTS):
        extra = {name: cells[n % len(cells)] if isinstance(cells, list) else cells for name, cells in more.items()}
        found.append({"id": n, "text": text, "label": "yes" if n % 2 else "no", **extra})
    return found


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_text_and_label_are_found_whatever_the_delimiter(tmp_path: Path, delimiter: str) -> None:
    view = view_table(write(tmp_path, rows(), delimiter))
    assert (view.text, view.label, view.rows, view.doubts) == (("text",), "label", 12, ())
    assert view.labels == {"no": 6, "yes": 6}


def test_numbers_dates_addresses_and_constants_are_neither(tmp_path: Path) -> None:
    more = {
        "score": [str(n) for n in range(12)],
        "day": [f"2026-01-{n:02d}" for n in range(1, 13)],
        "posted": [f"May {n}, 2011" for n in range(1, 13)],
        "page": [f"https://example.org/{n} a b c" for n in range(12)],
        "language": "en",
    }
    view = view_table(write(tmp_path, rows(**more)))
    assert (view.text, view.label) == (("text",), "label")


def test_a_label_without_a_usual_name(tmp_path: Path) -> None:
    table = [{"comment": row["text"], "spam": row["label"]} for row in rows()]
    assert view_table(write(tmp_path, table)).label == "spam"


def test_two_possible_labels_are_a_doubt(tmp_path: Path) -> None:
    table = [
        {"comment": row["text"], "spam": row["label"], "shop": ["a", "b", "c"][n % 3]} for n, row in enumerate(rows())
    ]
    view = view_table(write(tmp_path, table))
    assert view.label == "spam"
    assert "shop may be meant" in view.doubts[0]


def test_the_user_knows_better(tmp_path: Path) -> None:
    path = write(tmp_path, rows(shop=["a", "b", "c"], answer=[f"thank you for reason {n}" for n in range(12)]))
    assert view_table(path).text == ("text", "answer")
    view = view_table(path, ["answer"], "shop")
    assert (view.text, view.label, view.doubts) == (("answer",), "shop", ())


def test_pairs_of_texts_are_both_taken_and_said(tmp_path: Path) -> None:
    view = view_table(write(tmp_path, rows(other=[f"an answer of sort {n}" for n in range(12)])))
    assert view.text == ("text", "other")
    assert "text and other" in view.doubts[0]


def test_codes_are_no_texts_if_there_are_others(tmp_path: Path) -> None:
    """As in ISO's table of languages: a code and a name for each, most names of one word."""
    kinds = {"living": ["Ghotuo", "Alumu-Tesu", "Ari", "Amal"], "extinct": ["Abipon", "Old Kentish", "Acatec"]}
    rows = [(kind, f"{name}{number}") for kind, names in kinds.items() for number in range(9) for name in names]
    table = tmp_path / "languages.csv"
    lines = [f"a{number:02},{kind},{name}" for number, (kind, name) in enumerate(rows)]
    table.write_text("\n".join(["code,kind,name", *lines]))
    seen = view_table(str(table))
    assert (seen.text, seen.label) == (("name",), "kind")
    assert seen.doubts == ("name is taken for the text; code may be meant: --text NAME",)
    table.write_text("\n".join(["code,kind", *(line.rpartition(",")[0] for line in lines)]))
    assert view_table(str(table)).text == ("code",)


def test_short_and_chinese_texts_and_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    texts = ["房间很干净，服务也好", "不好", "早餐很差，不会再来了", "很好"] * 3
    lines = [{"review": f"{text}{n}", "stars": n % 2} for n, text in enumerate(texts)]
    path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
    view = view_table(str(path))
    assert (view.text, view.label, set(view.labels)) == (("review",), "stars", {"0", "1"})


def test_where_no_column_is_a_label_the_columns_are_listed(tmp_path: Path) -> None:
    table = [{"id": row["id"], "text": row["text"]} for row in rows()]
    with pytest.raises(InvalidInputError, match=r"--label; the columns are id \(12 values\), text \(12 values\)"):
        view_table(write(tmp_path, table))


def test_where_no_column_is_a_text_too(tmp_path: Path) -> None:
    table = [{"id": row["id"], "label": row["label"]} for row in rows()]
    with pytest.raises(InvalidInputError, match="--text"):
        view_table(write(tmp_path, table))


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no column 'txt'"):
        view_table(write(tmp_path, rows()), ["txt"])


def test_repeated_texts_are_counted(tmp_path: Path) -> None:
    assert view_table(write(tmp_path, rows() + rows()[:3])).repeated == 3


def test_a_column_that_nearly_always_says_the_same_is_the_label_only_if_there_is_no_other(tmp_path: Path) -> None:
    table = [
        {"note": f"note {n} of the day", "priority": "high" if n in (3, 30) else "low", "part": "abcd"[n % 4]}
        for n in range(60)
    ]
    assert view_table(write(tmp_path, table)).label == "part"
    assert view_table(write(tmp_path, [{**row, "part": "a"} for row in table])).label == "priority"


def test_labels_of_few_different_texts_are_rare_unless_nearly_all_are(tmp_path: Path) -> None:
    more = [{"id": 0, "text": "the same text again", "label": "seldom"}] * 9
    assert view_table(write(tmp_path, rows() + more)).rare == {"seldom": 1}
    assert view_table(write(tmp_path, rows()[:4] + more)).rare == {}


def test_columns_of_one_name_and_a_table_without_names(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    lines = [f"{row['text']},{row['text']} again,{row['label']}" for row in rows()]
    path.write_text("\n".join(["text,text,label", *lines]))
    with pytest.raises(InvalidInputError, match="2 columns are named 'text', so it isn't known which one is meant"):
        view_table(str(path))
    path.write_text("\n".join(f"{row['text']},{row['label']}" for row in rows()))
    with pytest.raises(InvalidInputError, match="the first line seems to be a row, not the columns' names: 'no' is"):
        view_table(str(path))
    assert view_table(str(path), label="no").rows == 11


def test_numbers_of_many_values_are_predicted_as_such_and_few_are_classes(tmp_path: Path) -> None:
    table = [{"text": f"{text} {n}", "price": (n * 7) % 40 + n % 2 / 2} for n, text in enumerate(TEXTS * 5)]
    seen = view_table(write(tmp_path, table))
    assert (seen.label, seen.kind, seen.rare, seen.doubts) == ("price", "regression", {}, ())
    stars = write(tmp_path, [{**row, "price": n % 5} for n, row in enumerate(table)])
    seen = view_table(stars)
    assert (seen.label, seen.kind) == ("price", "text_classification")
    assert "--kind regression" in seen.doubts[0]
    seen = view_table(stars, kind="regression")
    assert (seen.kind, seen.doubts) == ("regression", ())


def test_a_label_that_is_no_number_and_a_kind_that_is_not_drafted(tmp_path: Path) -> None:
    path = write(tmp_path, rows())
    with pytest.raises(InvalidInputError, match="column 'label' holds 'no', which is no number"):
        view_table(path, kind="regression")
    with pytest.raises(InvalidInputError, match="got 'translation'; write the study file"):
        view_table(path, kind="translation")


def several(path: Path, name: str, cells: list[object]) -> str:
    """Write a table of JSON lines whose column `name` has these cells in turn."""
    own = [{"text": f"some long words in row {n} here", name: cells[n % len(cells)]} for n in range(30)]
    path.write_text("\n".join(map(json.dumps, own)))
    return str(path)


@pytest.mark.parametrize("cells", [[["a", "b"], ["a"], []], ["a|b", "a", "b|c", "c"]], ids=["lists", "joined"])
@pytest.mark.parametrize(("name", "label"), [("labels", None), ("tags", "tags"), ("tags", None)])
def test_several_labels_a_row_are_seen(tmp_path: Path, cells: list[object], name: str, label: str | None) -> None:
    seen = view_table(several(tmp_path / "rows.jsonl", name, cells), label=label)
    assert (seen.label, seen.kind, seen.text, seen.doubts, seen.rare) == (name, "multi_label", ("text",), (), {})
    counts = {"a": 20, "b": 10} if cells[-1] == [] else {"a": 16, "b": 15, "c": 14}
    assert seen.labels == counts


@pytest.mark.parametrize(
    "cells", [["red|large", "blue|small"], ["a|b", "c|d"], ["a,b", "a", "b"], ["a", "b"]], ids=lambda own: own[0]
)
def test_other_labels_are_one_a_row(tmp_path: Path, cells: list[object]) -> None:
    seen = view_table(several(tmp_path / "rows.jsonl", "label", cells))
    assert (seen.kind, dict(seen.labels)) == ("text_classification", dict.fromkeys(map(str, cells), 30 // len(cells)))
    assert view_table(several(tmp_path / "b.jsonl", "label", cells), kind="multi_label").kind == "multi_label"


@pytest.mark.parametrize("between", [";", ", "])
def test_labels_that_are_joined_otherwise_are_said_where_there_is_no_label(tmp_path: Path, between: str) -> None:
    cells: list[object] = [
        between.join(f"{own}{n}" for own in ("a", "b", "a")[k:]) for n in range(10) for k in range(3)
    ]
    said = f"if 'a0{between}b0{between}a0' in column 'tags' is several labels, write | between them"
    with pytest.raises(InvalidInputError, match=re.escape(said)):
        view_table(several(tmp_path / "rows.jsonl", "tags", cells))


def test_lists_of_another_kind_and_multi_hot_vectors_are_refused(tmp_path: Path) -> None:
    lists = several(tmp_path / "rows.jsonl", "labels", [["a", "b"], ["a"]])
    for kind in ("text_classification", "regression"):
        with pytest.raises(InvalidInputError, match=f"which only the kind multi_label reads; leave out --kind {kind}"):
            view_table(lists, kind=kind)
    joined = several(tmp_path / "joined.jsonl", "labels", ["a|b", "a", "b"])
    assert view_table(joined, kind="text_classification").labels == dict.fromkeys(["a", "a|b", "b"], 10)
    with pytest.raises(InvalidInputError, match=r"holds multi-hot vectors, such as \[1, 0, 0\], which don't"):
        view_table(several(tmp_path / "hot.jsonl", "labels", [[1, 0, 0], [0, 1, 1]]))


def test_dates_beside_short_texts_are_no_doubt(tmp_path: Path) -> None:
    """As in a table of films: titles of a word or two, and when they came out."""
    table = [{"title": f"film {n}", "out": f"Jan {n % 28 + 1} 19{50 + n}", "label": "ab"[n % 2]} for n in range(40)]
    seen = view_table(write(tmp_path, table))
    assert (seen.text, seen.doubts) == (("title",), ())


def test_short_texts_beside_a_longer_one_are_a_doubt(tmp_path: Path) -> None:
    table = [
        {**row, "name": f"{str(row['text']).split()[1]} {n}", "key": f"{'x' * n}{n}"} for n, row in enumerate(rows())
    ]
    seen = view_table(write(tmp_path, table))
    assert seen.text == ("text",)
    assert seen.doubts == ("the text is text; name may belong to it: --text NAME, once for each column",)


def test_tables_of_images_are_refused_with_the_target_to_write(tmp_path: Path) -> None:
    def images(**more: object) -> list[dict[str, object]]:
        return [{"photo": f"shots/{own['id']}.JPG", **own} for own in rows(**more)]

    def without_text(found: list[dict[str, object]], *names: str) -> str:
        return write(tmp_path, [{name: own[name] for name in ("photo", *names)} for own in found])

    with pytest.raises(InvalidInputError, match=r"'photo' names images.*kind: image_classification.*label: label\}"):
        view_table(without_text(images(), "label"))
    with pytest.raises(InvalidInputError, match=r"kind: semantic_segmentation.*label: mask\}"):
        view_table(without_text(images(mask=[f"masks/{n}.png" for n in range(12)]), "mask", "label"))
    with pytest.raises(InvalidInputError, match=r"kind: object_detection.*label: boxes\}"):
        view_table(without_text(images(boxes=['[{"box": [1, 2, 3, 4]}]', "[]"]), "boxes"))
    assert view_table(write(tmp_path, images())).text == ("text",)
    (tmp_path / "folder" / "cat").mkdir(parents=True)
    (tmp_path / "folder" / "cat" / "1.png").write_bytes(b"")
    with pytest.raises(InvalidInputError, match=r"holds images.*text: \{image: image\}, label: label\}"):
        view_table(str(tmp_path / "folder"))

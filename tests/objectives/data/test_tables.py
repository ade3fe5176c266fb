"""Tables as people have them: what is read is what was written, or the file is refused with a remedy."""

import csv
import datetime
import gzip
import io
import json
import os
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptgraft.objectives.data import has_text, read_frame, read_rows, read_table
from promptgraft.spaces import InvalidInputError

COLUMNS = ["text", "label"]
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
AWKWARD = st.one_of(
    TEXTS, st.sampled_from([",", ";", "\t", '"', '""', "a\nb", "\r\n", "\u2028", "\x85", "\ufeff", "NA"])
)
LINES = [["a\u2028b\x85c", "True"], [None, None]]
ROWS = st.lists(st.tuples(AWKWARD, AWKWARD), min_size=1, max_size=6)


def written(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def cells(path: str, columns: Sequence[str] = COLUMNS) -> list[list[str | None]]:
    found: list[list[str | None]] = read_table(path, columns).to_numpy().tolist()
    return found


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("bom.csv", "\ufefftext,label\r\nx,y\r\n", [["x", "y"]]),
        ("UPPER.CSV", "text,label\nx,y\n", [["x", "y"]]),
        ("semicolon.csv", "text;label\nx,1;y\n", [["x,1", "y"]]),
        ("tab.csv", "text\tlabel\nx,1\ty\n", [["x,1", "y"]]),
        ("pipe.csv", "id|text|label\n1|x, y; z|y\n", [["x, y; z", "y"]]),
        ("excel.csv", "sep=;\r\ntext;label\r\nx,1;y\r\n", [["x,1", "y"]]),
        ("excel16.csv", '"sep=\t"\ntext\tlabel\nx;1\ty\n'.encode("utf-16"), [["x;1", "y"]]),
        ("real.tsv", 'text\tlabel\n"x\ty"\ty\n', [["x\ty", "y"]]),
        ("utf16.csv", "text,label\ncafé,y\n".encode("utf-16"), [["café", "y"]]),
        ("utf32.jsonl", '{"text": "é", "label": 1}\n'.encode("utf-32"), [["é", "1"]]),
        ("mac.csv", "text,label\rx,y\rz,w\r", [["x", "y"], ["z", "w"]]),
        ("trailing.csv", "user,label,text\na,y,shop,\nb,n,film,\n", [["shop", "y"], ["film", "n"]]),
        ("short.csv", "text,label\nx\nz,w\n", [["x", None], ["z", "w"]]),
        ("blank.csv", "text,label\n\nx,y\n\n", [["x", "y"]]),
        ("long.csv", f"text,label\n{'x' * 200_000},y\n", [["x" * 200_000, "y"]]),
        ("null.csv", 'text,label\nNA,null\n"",x\n', [["NA", "null"], [None, "x"]]),
        ("bom.jsonl", '\ufeff{"text": "a\u2028b\x85c", "label": true}\r\n\n{"label": null}', LINES),
        ("list.json", '[{"text": "a", "label": 1},\n {"label": null, "text": "b"}]', [["a", "1"], ["b", None]]),
        ("lines.json", '{"text": "a", "label": 1}\n{"text": "b", "label": 2}', [["a", "1"], ["b", "2"]]),
        ("nan.ndjson", '{"text": "a", "label": NaN, "tags": ["x"]}', [["a", None]]),
    ],
)  # fmt: skip
def test_valid_tables_are_read(tmp_path: Path, name: str, content: str | bytes, expected: list[list[str]]) -> None:
    assert cells(written(tmp_path, name, content)) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("latin.csv", "text,label\nx,y\ncafé,y\n".encode("latin-1"), "line 3 is not utf-8 .*0xe9; as WIN.* 'café,y'"),
        ("gbk.jsonl", '{"text": "很好", "label": 1}'.encode("gbk"), "line 1 is not utf-8 text"),
        ("cp1252.csv", "text,label\n5 €,y\n".encode("cp1252"), r"line 2 is not .* iconv -f WINDOWS-1252 -t UTF-8"),
        ("sjis.csv", "text;label\nとても良い;y\n".encode("shift-jis"), "line 2 is not .* SHIFT_JIS"),
        ("gb.tsv", "text\tlabel\n很好看\ty\n".encode("gb18030"), "line 2 is not utf-8 text"),
        ("koi8.csv", "text|label\nОчень хороший|y\n".encode("koi8-r"), "line 2 is not utf-8 text"),
        ("jis.csv", "text,label\nx,y\n良い,y\n".encode("iso-2022-jp"), "line 3 is ISO-2022 text, .*; save the file as"),
        ("utf16le.csv", "text,label\nx,y\n".encode("utf-16-le"), "line 1 holds a NUL character"),
        ("twice.csv", "text,text,label\na,b,c\n", "2 columns are named 'text', so it isn't known which one is meant"),
        ("twice.jsonl", '{"text": "a", "text": "b", "label": 1}', "line 1: two values are named 'text'"),
        ("shifted.csv", "text,label\nx,y\nx, z,y\n", "line 3 has 3 cells, but the header has 2; put cells"),
        ("open.csv", 'text,label\n"x,y\nz,w\n', "line 3: unexpected end of data; within a cell in quotation marks"),
        ("quote.csv", 'text,label\n"Great" he said,y\n', "line 2: ',' expected after '\"'"),
        ("backslash.csv", 'text,label\n"a \\"b\\" c",y\n', "in quotation marks, write each of them twice"),
        ("swallowed.tsv", 'text\tlabel\n"Great film\tpos\nbad film"\tneg\n', "a quotation mark is probably part"),
        ("list.jsonl", '{"text": "a", "label": 1}\n{"text": ["a"], "label": 1}', "holds, in row 2, a list"),
        ("object.jsonl", '{"text": {"body": "a"}, "label": 1}', "column 'text' holds, in row 1, an object; write its"),
        ("labels.jsonl", '{"text": "a", "label": ["x", "y"]}', "column 'label' holds, in row 1, a list"),
        ("array.jsonl", '[{"text": "a", "label": 1}]', "line 1 is not an object; write one JSON object in each line"),
        ("texts.json", '["a", "b"]', "can't be read as json: expected a list of objects, such as"),
        ("cut.json", '[{"text": "a"', "can't be read as json: Expecting"),
        ("pretty.jsonl", '{\n "text": "a"}', "line 1: .*; write one JSON object in each line"),
        ("columns.json", '{"text": {"0": "a"}, "label": {"0": "b"}}', "one object, with 'text', 'label', .* orient="),
        ("columns.jsonl", '{"text": {"0": "a"}, "label": {"0": "b"}}', "one object, .*; write an object for each row"),
        ("lists.json", '{"text": ["a", "b"], "label": ["x", "y"]}', "one object, with 'text', 'label', that holds"),
        ("data.json", '{"data": [{"text": "a", "label": "b"}]}', "the whole table; write the list under 'data' alone"),
        ("version.json", '{\n "version": "1",\n "data": [{"text": "a"}]\n}', "write the list under 'data'"),
        ("gzip.csv", gzip.compress(b"text,label\na,b\n", mtime=0), r"it is compressed; name it .*gzip\.csv\.gz"),
        ("zstd.jsonl", b"\x28\xb5\x2f\xfd", r"by its first bytes it is compressed; name it .*zstd.jsonl.zst"),
        ("parquet.csv", b"PAR1", r"by its first bytes it is a .parquet file; name it so, or save it as text"),
        ("excel.csv", b"PK\x03\x04", r"by its first bytes it is a .xlsx file; name it so, or save it as text"),
        ("headless.csv", "I loved it,y\nI hated it,n\n", "no column 'text'; expected one of: I loved it, y"),
        ("forged.csv", '"a\nerror: b",label\nx,y\n', r"expected one of: 'a\\nerror: b', label"),
        ("folder.csv", None, "is a folder"),
        ("book.xls", b"PK", "unknown kind of table '.xls'; expected one of .csv, .tsv, .json, .jsonl"),
        ("book.xlsx", b"PK", "can't be read as xlsx"),
        ("half.csv.gz", b"\x1f\x8b\x08", "no whole gzip file"),
    ],
)  # fmt: skip
def test_others_are_refused_with_the_place_and_a_remedy(
    tmp_path: Path, name: str, content: str | bytes | None, message: str
) -> None:
    if content is None:
        (tmp_path / name).mkdir()
    path = str(tmp_path / name) if content is None else written(tmp_path, name, content)
    with pytest.raises(InvalidInputError, match=message) as caught:
        read_table(path, COLUMNS)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([1, None], pa.int8()), ["1", None]),
        (pa.array([1.5, float("nan")]), ["1.5", None]),
        (pa.array(["a", None]).dictionary_encode(), ["a", None]),
        (pa.array([datetime.datetime(2024, 1, 2, 3), None]), ["2024-01-02 03:00:00", None]),
        (pa.array([True, None]), ["True", None]),
        (pa.array([b"a", None]), "bytes; decode them to text, or write images to files"),
        (pa.array([{"bytes": None, "path": "a.png"}] * 2), "an image; write images to files, and their names"),
        (pa.array([["a"], None]), "a list"),
        (pa.array([{"a": 1}, None]), "an object"),
    ],
)
def test_parquet_types(tmp_path: Path, values: pa.Array, expected: list[str | None] | str) -> None:
    path = str(tmp_path / "t.parquet")
    pq.write_table(pa.table({"text": values, "label": ["x", "y"]}), path)
    if isinstance(expected, str):
        with pytest.raises(InvalidInputError, match=f"column 'text' holds, in row 1, {expected}"):
            read_table(path, COLUMNS)
    else:
        assert [row[0] for row in cells(path)] == expected


def test_parquet_with_an_index_or_two_columns_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    read_table_index = pa.table({"text": ["a"], "label": ["x"]}).to_pandas().set_index("label")
    read_table_index.to_parquet(path)
    assert cells(str(path)) == [["a", "x"]]
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array(["c"])]
    pq.write_table(pa.Table.from_arrays(columns, names=["text", "text", "label"]), path)
    with pytest.raises(InvalidInputError, match="2 columns are named 'text'"):
        read_table(str(path), COLUMNS)


def as_csv(rows: list[tuple[str, str]], delimiter: str) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([COLUMNS, *rows])
    return out.getvalue().encode()


def as_jsonl(rows: list[tuple[str, str]], ascii_only: bool) -> bytes:
    lines = (json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=ascii_only) for row in rows)
    return "\n".join(lines).encode()


def as_parquet(rows: list[tuple[str, str]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({name: [row[i] for row in rows] for i, name in enumerate(COLUMNS)}), out)
    return out.getvalue()


WRITERS: dict[str, Callable[[list[tuple[str, str]]], bytes]] = {
    "a.csv": lambda rows: as_csv(rows, ","),
    "b.csv": lambda rows: as_csv(rows, ";"),
    "c.csv": lambda rows: as_csv(rows, "|"),
    "d.csv": lambda rows: as_csv(rows, "\t"),
    "e.tsv": lambda rows: as_csv(rows, "\t"),
    "f.jsonl": lambda rows: as_jsonl(rows, ascii_only=True),
    "g.jsonl": lambda rows: as_jsonl(rows, ascii_only=False),
    "h.parquet": as_parquet,
}


@settings(max_examples=150, deadline=None)
@given(ROWS, st.sampled_from(sorted(WRITERS)), st.sampled_from(["", "utf-8-sig", "utf-16"]))
def test_what_is_read_is_what_was_written_or_the_file_is_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], name: str, encoding: str
) -> None:
    content = WRITERS[name](rows)
    if encoding and not name.endswith("parquet"):
        content = content.decode().encode(encoding)
    path = written(tmp_path_factory.mktemp("t"), name, content)
    try:
        found = cells(path)
    except InvalidInputError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert "holds several lines and tabs" in refused  # Only such a cell of a tab-separated file is in doubt.
        return
    missing = None if name.endswith(("csv", "tsv")) else ""
    assert found == [[cell or missing for cell in row] for row in rows]


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.parquet"]))
def test_whatever_bytes_a_file_holds(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    path = written(tmp_path_factory.mktemp("t"), name, b"text,label\n" + content if "csv" in name else content)
    try:
        frame = read_table(path, COLUMNS)
    except InvalidInputError:
        return
    assert list(frame.columns) == COLUMNS


def test_rows_to_predict_keep_all_columns_and_every_row(tmp_path: Path) -> None:
    lines = [
        {"id": 7, "text": "a", "tags": ["x", "é"]},
        {"id": 8, "text": ["a"], "tags": None},
        {"id": 9, "text": None},
        {"id": 10, "text": 5, "tags": {"a": 1}},
    ]
    path = written(tmp_path, "t.jsonl", "\n".join(map(json.dumps, lines)))
    wanted, whole = read_rows(path, ["text"])
    assert wanted["text"].tolist() == ["a", None, None, "5"]
    assert whole.columns.tolist() == ["id", "text", "tags"]
    assert whole["id"].tolist() == ["7", "8", "9", "10"]
    assert whole["tags"].tolist() == ['["x", "é"]', None, None, '{"a": 1}']


@pytest.mark.parametrize(
    "content",
    [
        as_csv([("a", "b")], ";"),
        as_jsonl([("a", "b")], True),
        as_parquet([("a", "b")]),
        b'[{"text": "a", "label": "b"}]',
    ],
)
def test_rows_to_predict_come_through_a_pipe_or_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    assert read_rows(str(pipe), ["text"])[0].to_numpy().tolist() == [["a"]]
    writer.join()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert read_rows("-", ["label"])[0].to_numpy().tolist() == [["b"]]
    with pytest.raises(InvalidInputError, match="no such file"):
        read_table(str(pipe), COLUMNS)  # Each worker reads a study's tables again.
    with pytest.raises(InvalidInputError, match="no such file"):
        read_table("/dev/zero", COLUMNS)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", True),
        ("\U0001f44d", True),
        ("", False),
        (" \n", False),
        ("\u200b\u200d\ufeff", False),
        ("\u2060\u00ad", False),
        ("\ufe0f", False),
        ("\u3164", False),
        ("a\ud83d", False),
        (None, False),
        (5, False),
        (float("nan"), False),
    ],
)
def test_a_text_is_one_of_which_something_shows(value: Any, expected: bool) -> None:
    assert has_text(value) is expected


@pytest.mark.parametrize("cell", [np.array(["a", "b"]), ("a", "b"), {"a"}, pd.Series(["a"])], ids=repr)
def test_cells_with_several_values_are_refused_in_frames(cell: object) -> None:
    """As pandas reads lists of a Parquet file."""
    frame = pd.DataFrame({"text": pd.Series([cell, "x"], dtype=object)})
    with pytest.raises(InvalidInputError, match="column 'text' holds, in row 1, a list; write one text"):
        read_frame(frame, ["text"])
    odd = uuid.UUID(int=1)
    assert read_frame(pd.DataFrame({"text": pd.Series([odd, Decimal(2)], dtype=object)}), ["text"])[
        "text"
    ].tolist() == [
        str(odd),
        "2",
    ]


@pytest.mark.parametrize(
    "cell", [{"bytes": b"\x89PNG\r\n", "path": "a.png"}, b"\xff\xd8\xff\xe0"], ids=["object", "bytes"]
)
def test_images_within_a_table_are_to_be_files(cell: object, tmp_path: Path) -> None:
    pd.DataFrame({"image": [cell], "label": ["cat"]}).to_parquet(tmp_path / "images.parquet")
    with pytest.raises(InvalidInputError, match="holds, in row 1, an image; write images to files, and their names"):
        read_table(str(tmp_path / "images.parquet"), ["image", "label"])

"""Reading tables of any kind as text: what is read is what was written, or the file is refused."""

import codecs
import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptgraft.objectives.data.table_files import (
    COMPRESSIONS,
    LFS_POINTER,
    decompressed,
    fetch,
    is_url,
    read_arrow,
    read_conll,
    read_excel,
    read_folder,
    read_parquet,
    shown_path,
    suffixes_of,
    tables_in,
)
from promptgraft.spaces import InvalidInputError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

STANDARD_INPUT = ("-", "/dev/stdin")
# Of these, the first with which a header has the wanted columns.
_DELIMITERS = (",", ";", "\t", "|")
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Marks of ISO-2022-JP and its kin, whose bytes are all ASCII; and the line by which Excel names a delimiter.
_ESCAPES = re.compile(r"\x1b\$(?:[@AB]|\([A-D]|\)[ACG])")
_NAMED_DELIMITER = re.compile('"?sep=(.)"?\r?\n', re.IGNORECASE)
# Characters that show nothing: white space, control characters, and what Unicode calls default ignorable.
INVISIBLE = (
    r"\s\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    r"\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
)
_SAVE_AS_UTF_8 = (
    "save the file as UTF-8: in Excel as 'CSV UTF-8', elsewhere with iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW, or with "
    "another encoding of the program that wrote it, such as SHIFT_JIS, GB18030 or KOI8-R"
)
_SHOWN_BYTES = 20
_VISIBLE = re.compile(f"[^{INVISIBLE}\U000e0000-\U000e0fff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_REMEDIES: dict[type, str] = {
    list: "a list; write one text or one label in each cell, for instance its words joined by spaces; several labels "
    "a row are of the task kind multi_label",
    dict: "an object; write its text in a column of its own",
    bytes: "bytes; decode them to text",
}


def read_table(path: str, columns: Sequence[str], lists: Sequence[str] = ()) -> "pd.DataFrame":
    """Read columns of a table, every value as text.

    Args:
        path: A `.csv`, `.tsv`, `.json`, `.jsonl`, `.ndjson`, `.parquet`, `.arrow`, `.feather`, `.xlsx` or `.conll`
            file, also with `.gz` or `.zst` behind that; a URL of one; a folder that `datasets` has saved; or one with a
            folder of `.txt` files for each class.
        columns: The columns to read.
        lists: Those of them that may hold lists, which become JSON.

    Returns:
        A frame of shape (rows, columns) of strings, with None where a value is missing. In a CSV file only
        an empty value is missing: "NA" and "null" are words like any other.

    Raises:
        InvalidInputError: If the file is missing, empty, damaged, or lacks a column; if a cell holds a list, an object
            or bytes; or if it isn't known which of two columns is meant.
    """
    return _as_texts(path, _read_path(path, columns), columns, lists)


def read_frame(frame: "pd.DataFrame", columns: Sequence[str]) -> "pd.DataFrame":
    """Take columns of a frame as `read_table` takes those of a file, such as numbers as texts."""
    table = _Table([str(name) for name in frame.columns], [frame.iloc[:, n].tolist() for n in range(frame.shape[1])])
    _check_columns("the frame", table, columns)
    return _as_texts("the frame", table, columns)


def _as_texts(path: str, table: "_Table", columns: Sequence[str], lists: Sequence[str] = ()) -> "pd.DataFrame":
    import pandas as pd

    values: dict[str, list[str | None]] = {}
    for name in columns:
        try:
            values[name] = [
                _shown(value) if name in lists and isinstance(value, list) else _text(value)
                for value in table.column(name)
            ]
        except TypeError as error:
            row = next(row for row, value in enumerate(table.column(name), 1) if _kind_of(value) is not None)
            raise InvalidInputError(f"{path}: column {name!r} holds, in row {row}, {error}") from error
    return pd.DataFrame(values, dtype=object)


def read_rows(path: str, columns: Sequence[str]) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Read a table to predict its rows: as `read_table`, but with all its columns, and a cell for every row.

    Args:
        path: A file as for `read_table`; or a pipe, or `-` for standard input, of any of these kinds.
        columns: The columns to read.

    Returns:
        The wanted columns, with None where a cell holds no text; and the whole table as text, with lists and objects as
        JSON.

    Raises:
        InvalidInputError: As `read_table`, but for what single cells hold.
    """
    import pandas as pd

    if path in STANDARD_INPUT or Path(path).is_fifo():
        content = sys.stdin.buffer.read() if path in STANDARD_INPUT else Path(path).read_bytes()
        table = _read(path, content, _looks_like(content), columns)
    else:
        table = _read_path(path, columns)
    wanted = {name: [None if _kind_of(v) else _text(v) for v in table.column(name)] for name in columns}
    whole = pd.DataFrame(dict(enumerate([_shown(v) for v in column] for column in table.columns)), dtype=object)
    whole.columns = pd.Index(table.names)
    return pd.DataFrame(wanted, dtype=object), whole


def has_text(value: object) -> bool:
    """Whether a value is text of which something shows; half of a surrogate pair is no text."""
    return isinstance(value, str) and _VISIBLE.search(value) is not None and not is_broken(value)


def is_broken(text: str) -> bool:
    """Whether a text holds half of a surrogate pair, which no tokenizer takes."""
    return _SURROGATE.search(text) is not None


@dataclass(frozen=True, slots=True)
class _Table:
    """A table as it was read: column by column, with Python's values."""

    names: list[str]
    columns: list[Sequence[object]]

    def column(self, name: str) -> Sequence[object]:
        return self.columns[self.names.index(name)]


def _read_path(path: str, columns: Sequence[str]) -> _Table:
    """Read a file, a URL, or a folder that is a table."""
    kind = "".join(suffixes_of(path))
    if is_url(path):
        _check_kind(path)
        return _read(shown_path(path), fetch(path), kind, columns)
    if Path(path).is_dir():
        found = read_folder(path)
        if found is None:
            tables = tables_in(path, list(_READERS))
            hint = f"name one of its tables: {', '.join(tables)}" if tables else "expected one table"
            raise InvalidInputError(
                f"{path}: is a folder; {hint}, or one that `datasets` has saved, or with a folder of .txt files for "
                "each class"
            )
        return _checked(path, _Table(*found), columns)
    if not Path(path).is_file():
        raise InvalidInputError(f"{path}: no such file")
    _check_kind(path)
    return _read(path, Path(path).read_bytes(), kind, columns)


def _check_kind(path: str) -> None:
    kind = suffixes_of(path)[0]
    if kind not in _READERS:
        raise InvalidInputError(
            f"{shown_path(path)}: unknown kind of table {kind!r}; expected one of {', '.join(_READERS)}, or one of "
            f"them with {' or '.join(COMPRESSIONS)} behind it; convert the file"
        )


def _read(path: str, content: bytes, kind: str, columns: Sequence[str]) -> _Table:
    if not content:
        wanted = f" with the columns {', '.join(columns)}" if columns else ""
        raise InvalidInputError(f"{path}: the file is empty; expected a table{wanted}")
    if content.startswith(LFS_POINTER):
        raise InvalidInputError(f"{path}: is a Git LFS pointer, not the file itself; fetch it with: git lfs pull")
    compression = next((name for name in COMPRESSIONS if kind.endswith(name)), "")
    kind = kind.removesuffix(compression)
    try:
        content = decompressed(content, compression)
        table = _READERS[kind or _looks_like(content)](content, columns)
    except (ValueError, OSError, csv.Error, RecursionError, NotImplementedError) as error:  # Arrow's are some of these.
        raise InvalidInputError(f"{path}: can't be read as {kind[1:] or 'a table'}: {error}") from error
    return _checked(path, table, columns)


def _checked(path: str, table: _Table, columns: Sequence[str]) -> _Table:
    """Return a table that has rows, and each of the columns once."""
    if not table.columns or not len(table.columns[0]):
        raise InvalidInputError(f"{path}: the table has no rows")
    _check_columns(path, table, columns)
    return table


def _check_columns(path: str, table: _Table, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in table.names:
            raise InvalidInputError(f"{path}: no column {column!r}; {did_you_mean(column, table.names)}")
        if table.names.count(column) > 1:
            raise InvalidInputError(
                f"{path}: {table.names.count(column)} columns are named {column!r}, so it isn't known which one is "
                "meant; rename them"
            )


def _looks_like(content: bytes) -> str:
    """Return the kind of a table that its first characters show; of a compressed one, the compression alone."""
    for kind, mark in {".parquet": b"PAR1", ".arrow": b"ARROW1", ".xlsx": b"PK\x03\x04", **COMPRESSIONS}.items():
        if content.startswith(mark):
            return kind
    text = content.removeprefix(codecs.BOM_UTF8).lstrip()
    return ".json" if re.match(rb"\{|\[\s*\{", text) else ".csv"


def _decoded(content: bytes) -> str:
    """Decode a text file: UTF-8, or what its byte order mark says.

    Raises:
        ValueError: If it is neither.
    """
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line} is not {encoding} text (byte 0x{content[error.start]:02x}; as WINDOWS-1252 it would read "
            f"{_as_windows_1252(content, error.start)!r}); {_SAVE_AS_UTF_8}"
        ) from error
    escape = _ESCAPES.search(text)
    if escape is not None:
        line = text.count("\n", 0, escape.start()) + 1
        raise ValueError(f"line {line} is ISO-2022 text, as mail programs write it; {_SAVE_AS_UTF_8}")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"line {line} holds a NUL character, as in UTF-16 or a damaged file; save it as UTF-8")
    return text


def _as_windows_1252(content: bytes, place: int) -> str:
    """Show the text at a byte as most old files have it, so that a reader sees whether it makes sense."""
    before = content[max(0, place - _SHOWN_BYTES) : place].rpartition(b"\n")[2]
    behind = content[place : place + _SHOWN_BYTES].partition(b"\n")[0]
    return (before + behind).decode("windows-1252", errors="replace").strip()


def _read_csv(content: bytes, columns: Sequence[str]) -> _Table:
    text = _decoded(content)
    if named := _NAMED_DELIMITER.match(text):
        return _parse(text[named.end() :], named[1])
    headers = {delimiter: _header(text, delimiter) for delimiter in _DELIMITERS}
    fitting = [delimiter for delimiter, names in headers.items() if columns and set(columns) <= set(names)]
    return _parse(text, fitting[0] if fitting else max(headers, key=lambda delimiter: len(headers[delimiter])))


def _read_tsv(content: bytes, _: Sequence[str]) -> _Table:
    return _parse(_decoded(content), "\t")


def _header(text: str, delimiter: str) -> list[str]:
    """Return the names in the first line that isn't blank; none if it can't be read with this delimiter."""
    try:
        return next((cells for _, cells in _records(text, delimiter)), [])
    except ValueError:
        return []


def _parse(text: str, delimiter: str) -> _Table:
    """Read delimited text; a row may have fewer cells than the header, and empty ones behind its last.

    Raises:
        ValueError: If quotation marks aren't those of CSV, or a row has more cells than the header.
    """
    records = _records(text, delimiter)
    _, names = next(records, (0, []))
    rows: list[list[str]] = []
    for line, cells in records:
        if any(cells[len(names) :]):
            raise ValueError(
                f"the row that ends in line {line} has {len(cells)} cells, but the header has {len(names)}; put cells "
                f"that hold {delimiter!r} into quotation marks"
            )
        if delimiter == "\t" and any("\t" in cell and "\n" in cell for cell in cells):
            raise ValueError(
                f"a cell that ends in line {line} holds several lines and tabs: a quotation mark is probably part of "
                "the text; double it, and put the cell into quotation marks"
            )
        rows.append([*cells[: len(names)], *[""] * (len(names) - len(cells))])
    return _Table(names, [[cell or None for cell in column] for column in zip(*rows, strict=True)])


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the last line of each record and its cells, without blank lines.

    Raises:
        ValueError: If quotation marks aren't those of CSV.
    """
    before = csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise ValueError(
            f"line {reader.line_num}: {error}; within a cell in quotation marks, write each of them twice"
        ) from error
    finally:
        csv.field_size_limit(before)


def _read_jsonl(content: bytes, _: Sequence[str]) -> _Table:
    rows: list[dict[str, Any]] = []
    # Only a line feed ends a line: strings may hold other separators of lines, such as U+2028.
    for number, line in enumerate(_decoded(content).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}; write one JSON object in each line") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not an object; write one JSON object in each line")  # noqa: TRY004
        rows.append(row)
    return _of_objects(rows)


def _read_json(content: bytes, columns: Sequence[str]) -> _Table:
    """Read a list of objects; a file that isn't one is read line by line."""
    text = _decoded(content)
    if not text.lstrip("\ufeff \t\r\n").startswith("["):
        return _read_jsonl(content, columns)
    rows = json.loads(text, object_pairs_hook=_object)
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError('expected a list of objects, such as [{"text": "...", "label": "..."}, ...]')
    return _of_objects(rows)


def _of_objects(rows: Sequence[Mapping[str, Any]]) -> _Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return _Table(names, [[row.get(name) for row in rows] for name in names])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two values are named {twice!r}, so it isn't known which one is meant")
    return found


_READERS: Mapping[str, Callable[[bytes, Sequence[str]], _Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".parquet": lambda content, _: _Table(*read_parquet(content)),
    ".arrow": lambda content, _: _Table(*read_arrow(content)),
    ".feather": lambda content, _: _Table(*read_arrow(content)),
    ".xlsx": lambda content, _: _Table(*read_excel(content)),
    ".conll": lambda content, _: _Table(*read_conll(_decoded(content))),
}


def _kind_of(value: object) -> type | None:
    """Return the type of a list, an object or bytes; None if a value is a text, a number or the like."""
    return next((kind for kind in _REMEDIES if isinstance(value, kind)), None)


def _text(value: object) -> str | None:
    """Write a value as text; None if it is missing.

    Raises:
        TypeError: If it is a list, an object or bytes.
    """
    if isinstance(value, str):
        return value
    kind = _kind_of(value)
    if kind is not None:
        raise TypeError(_REMEDIES[kind])
    import pandas as pd

    return None if pd.isna(value) else str(value)  # type: ignore[call-overload]


def _shown(value: object) -> str | None:
    """Write any value as text, for a table that is written again."""
    if _kind_of(value) is None:
        return _text(value)
    return str(value) if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False, default=str)

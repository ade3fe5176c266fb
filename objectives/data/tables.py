"""Reading tables of any kind as text: what is read is what was written, or the file is refused."""

import codecs
import csv
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from promptgraft.objectives.data.table_files import (
    COMPRESSIONS,
    LFS_POINTER,
    Columns,
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
from promptgraft.objectives.data.text_files import decoded, read_csv, read_json, read_jsonl, read_tsv
from promptgraft.spaces import InvalidInputError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

STANDARD_INPUT = ("-", "/dev/stdin")
# Characters that show nothing: white space, control characters, and what Unicode calls default ignorable.
INVISIBLE = (
    r"\s\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    r"\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
)
_VISIBLE = re.compile(f"[^{INVISIBLE}\U000e0000-\U000e0fff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_REMEDIES: dict[type, str] = {
    list: "a list; write one text or one label in each cell, for instance its words joined by spaces; several labels "
    "a row are of the task kind multi_label",
    dict: "an object; write its text in a column of its own",
    bytes: "bytes; decode them to text, or write images to files, and their names in the column",
}
# Kind of a file, or its compression -> how it begins; and the kinds that are text.
_MARKS = {".parquet": b"PAR1", ".arrow": b"ARROW1", ".xlsx": b"PK\x03\x04", **COMPRESSIONS}
_TEXT_KINDS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".conll")
# Of images within a table: objects with these keys, as `datasets` writes them, or bytes that begin like JPEG, PNG, GIF
# and WebP.
_IMAGE = "an image; write images to files, and their names in the column"
_IMAGE_KEYS = {"bytes", "path"}
_IMAGE_BYTES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF")


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
    if not compression and kind in _TEXT_KINDS and (found := _marked_kind(content)):
        what = f"compressed; name it {path}{found}" if found in COMPRESSIONS else f"a {found} file; name it so"
        raise InvalidInputError(
            f"{path}: can't be read as {kind[1:]}: by its first bytes it is {what}, or save it as text"
        )
    try:
        content = decompressed(content, compression)
        table = _Table(*_READERS[kind or _looks_like(content)](content, columns))
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
    if kind := _marked_kind(content):
        return kind
    text = content.removeprefix(codecs.BOM_UTF8).lstrip()
    return ".json" if re.match(rb"\{|\[\s*\{", text) else ".csv"


def _marked_kind(content: bytes) -> str | None:
    """Return the kind of a table, or its compression, that the first bytes of a file name; None if it may be text."""
    return next((kind for kind, mark in _MARKS.items() if content.startswith(mark)), None)


_READERS: Mapping[str, Callable[[bytes, Sequence[str]], Columns]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".json": read_json,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".parquet": lambda content, _: read_parquet(content),
    ".arrow": lambda content, _: read_arrow(content),
    ".feather": lambda content, _: read_arrow(content),
    ".xlsx": lambda content, _: read_excel(content),
    ".conll": lambda content, _: read_conll(decoded(content)),
}


def _kind_of(value: object) -> type | None:
    """Return the type of a list or the like, an object or bytes; None if a value is a text, a number or the like."""
    if isinstance(value, str):
        return None
    others = list if hasattr(value, "__iter__") else None  # Arrays, tuples and sets.
    return next((kind for kind in _REMEDIES if isinstance(value, kind)), others)


def _text(value: object) -> str | None:
    """Write a value as text; None if it is missing.

    Raises:
        TypeError: If it is a list, an object or bytes.
    """
    if isinstance(value, str):
        return value
    kind = _kind_of(value)
    if kind is not None:
        is_image = isinstance(value, bytes) and value.startswith(_IMAGE_BYTES)
        is_image |= isinstance(value, dict) and set(value) == _IMAGE_KEYS
        raise TypeError(_IMAGE if is_image else _REMEDIES[kind])
    import pandas as pd

    return None if pd.isna(value) else str(value)  # type: ignore[call-overload]


def _shown(value: object) -> str | None:
    """Write any value as text, for a table that is written again."""
    if _kind_of(value) is None:
        return _text(value)
    return str(value) if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False, default=str)

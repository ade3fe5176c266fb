"""Tables that are text: delimited, or in JSON. What is read is what was written, or the file is refused."""

import codecs
import csv
import io
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from promptgraft.objectives.data.table_files import Columns

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
_SAVE_AS_UTF_8 = (
    "save the file as UTF-8: in Excel as 'CSV UTF-8', elsewhere with iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW, or with "
    "another encoding of the program that wrote it, such as SHIFT_JIS, GB18030 or KOI8-R"
)
_SHOWN_BYTES = 20


def decoded(content: bytes) -> str:
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


def read_csv(content: bytes, columns: Sequence[str]) -> Columns:
    """Read delimited text: by the delimiter that it names, or the one with which its header fits the columns best."""
    text = decoded(content)
    if named := _NAMED_DELIMITER.match(text):
        return _parse(text[named.end() :], named[1])
    headers = {delimiter: _header(text, delimiter) for delimiter in _DELIMITERS}
    fitting = [delimiter for delimiter, names in headers.items() if columns and set(columns) <= set(names)]
    return _parse(text, fitting[0] if fitting else max(headers, key=lambda delimiter: len(headers[delimiter])))


def read_tsv(content: bytes, _: Sequence[str]) -> Columns:
    """Read text with tabs."""
    return _parse(decoded(content), "\t")


def _header(text: str, delimiter: str) -> list[str]:
    """Return the names in the first line that isn't blank; none if it can't be read with this delimiter."""
    try:
        return next((cells for _, cells in _records(text, delimiter)), [])
    except ValueError:
        return []


def _parse(text: str, delimiter: str) -> Columns:
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
    return (names, [[cell or None for cell in column] for column in zip(*rows, strict=True)])


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


def read_jsonl(content: bytes, _: Sequence[str]) -> Columns:
    """Read an object a line."""
    rows: list[dict[str, Any]] = []
    text = decoded(content)
    _check_is_no_nest(text)
    # Only a line feed ends a line: strings may hold other separators of lines, such as U+2028.
    for number, line in enumerate(text.split("\n"), 1):
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


def read_json(content: bytes, columns: Sequence[str]) -> Columns:
    """Read a list of objects; a file that isn't one is read line by line."""
    text = decoded(content)
    if not text.lstrip("\ufeff \t\r\n").startswith("["):
        return read_jsonl(content, columns)
    rows = json.loads(text, object_pairs_hook=_object)
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError('expected a list of objects, such as [{"text": "...", "label": "..."}, ...]')
    return _of_objects(rows)


def _check_is_no_nest(text: str) -> None:
    """Refuse a file that is one object with all rows in it, as pandas writes tables by default.

    Raises:
        ValueError: If it is such.
    """
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return  # Of several objects, or none: what is wrong with a line is said where it is read.
    nested = [name for name, value in whole.items() if isinstance(value, dict | list)] if type(whole) is dict else []
    if not nested or (len(nested) < len(whole) and "\n" not in text.strip()):
        return
    listed = [name for name in nested if isinstance(whole[name], list) and all(type(v) is dict for v in whole[name])]
    names = ", ".join(map(repr, list(whole)[:3]))
    how = f"write the list under {listed[0]!r} alone" if listed else "write an object for each row"
    raise ValueError(
        f"it is one object, with {names}, that holds the whole table; {how}, as pandas does with "
        '`to_json(PATH, orient="records", lines=True)`'
    )


def _of_objects(rows: Sequence[Mapping[str, Any]]) -> Columns:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return (names, [[row.get(name) for row in rows] for name in names])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two values are named {twice!r}, so it isn't known which one is meant")
    return found

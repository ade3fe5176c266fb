"""Reading CSV, JSONL and Parquet files as text."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from promptgraft.spaces import InvalidInputError, did_you_mean

SUFFIXES = (".csv", ".jsonl", ".parquet")


def read_table(path: str, columns: Sequence[str]) -> pd.DataFrame:
    """Read columns of a table, every value as text.

    Args:
        path: A `.csv`, `.jsonl` or `.parquet` file.
        columns: The columns to read.

    Returns:
        A frame of shape (rows, columns) of strings, with None where a value is missing. In a CSV file only
        an empty value is missing: "NA" and "null" are words like any other.

    Raises:
        InvalidInputError: If the file is missing, empty, damaged, or lacks a column.
    """
    file = Path(path)
    if not file.is_file():
        raise InvalidInputError(f"{path}: no such file")
    if file.suffix not in _READERS:
        raise InvalidInputError(f"{path}: unknown kind of table {file.suffix!r}; expected one of {', '.join(SUFFIXES)}")
    if file.stat().st_size == 0:
        raise InvalidInputError(f"{path}: the file is empty; expected a table with the columns {', '.join(columns)}")
    try:
        frame = _READERS[file.suffix](file)
    except (ValueError, OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path}: can't be read as {file.suffix[1:]}: {error}") from error
    for column in columns:
        if column not in frame.columns:
            raise InvalidInputError(f"{path}: no column {column!r}; {did_you_mean(column, frame.columns)}")
    if frame.empty:
        raise InvalidInputError(f"{path}: the table has no rows")
    values = {name: [None if pd.isna(value) else str(value) for value in frame[name]] for name in columns}
    return pd.DataFrame(values, dtype=object)


def _read_csv(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, dtype=str, keep_default_na=False, na_values=[""])


def _read_jsonl(file: Path) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number}: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not an object")  # noqa: TRY004
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def _read_parquet(file: Path) -> pd.DataFrame:
    return pd.read_parquet(file, dtype_backend="numpy_nullable")


_READERS = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}

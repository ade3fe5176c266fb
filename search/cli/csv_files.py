"""Writing CSV files of predictions: whole or not at all, and never over what was read."""

import base64
import os
import re
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

from promptgraft.search.cli.checks import check_file
from promptgraft.spaces import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

STANDARD_OUTPUT = "-"
# Suffixes that promise another format, or a compressed file.
_TABLES = (".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".feather", ".xlsx", ".xls", ".ods", ".conll")
_OTHER_FORMATS = (*_TABLES, ".gz", ".zst", ".zip", ".bz2", ".xz")
# What pictures are called: the number of their row.
_PICTURE = re.compile(r"\d{5,}\.png")
# What spreadsheets take for a formula (OWASP, CSV injection), unless it is a number.
_FORMULA = re.compile(r"(?![+-]?\d+([.,]\d+)*$)[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")


def check_output(output: str, *inputs: str) -> None:
    """Refuse a file that can't be written, or that is also read.

    Args:
        output: The file to write; `-` for standard output.
        inputs: The files that are read.

    Raises:
        InvalidInputError: If it is a folder or an image, its suffix is that of another format, its folder can't be
            made, or it is one of the inputs.
    """
    if output == STANDARD_OUTPUT:
        return
    from promptgraft.objectives.data import is_image_file

    path = Path(output)
    check_file(path, "--output")
    if is_image_file(path):
        raise InvalidInputError(f"--output {output} is an image, and would be lost; name a CSV file")
    if path.suffix.lower() in _OTHER_FORMATS:
        raise InvalidInputError(
            f"--output {output} ends with {path.suffix}, but only CSV is written; name a file that ends with .csv"
        )
    for name in inputs:
        if path.exists() and Path(name).exists() and path.samefile(name):
            raise InvalidInputError(f"--output {output} is the file that is read; name another one")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"--output {output}: {path.parent} can't be made: {error.strerror}") from error


def write_csv(frame: "pd.DataFrame", output: str, *, escape_formulas: bool = False) -> None:
    """Write a table as CSV in UTF-8; a file is written aside and then put in place.

    Args:
        frame: The table.
        output: The file, checked before; `-` for standard output.
        escape_formulas: Whether to put `'` before cells that a spreadsheet would take for formulas.
    """
    if escape_formulas:
        frame = frame.map(_escaped).rename(columns=_escaped)
    if output == STANDARD_OUTPUT:
        _write(frame, sys.stdout)
        return
    path = Path(output)
    if path.exists() and not path.is_file():  # A pipe, or a device.
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
            _write(frame, stream)
        return
    path = path.resolve()  # A link stays, and what it leads to is replaced.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("x", encoding="utf-8", errors="backslashreplace", newline="") as stream:
            if path.exists():
                partial.chmod(path.stat().st_mode & 0o777)
            _write(frame, stream)
        partial.replace(path)
    except OSError as error:
        if error.errno is not None:  # Of a full disk, it doesn't say which.
            error.filename = output
        raise
    finally:
        partial.unlink(missing_ok=True)


def check_pictures(output: str, table: str, column: str) -> None:
    """Refuse a CSV file beside which pictures would be written over what they aren't, or into what is read.

    Args:
        output: The CSV file.
        table: What is read: a table, an image or a folder of images.
        column: That of the pictures' paths.

    Raises:
        InvalidInputError: If their folder holds anything but pictures that the CSV file names, or is read.
    """
    folder, source = _folder_of_pictures(output), Path(table).resolve()
    what = f"--output {output}: its pictures would be written into {folder}"
    known = _earlier_pictures(output, column)
    others = folder.iterdir() if folder.is_dir() else ()
    if any(own not in known and not own.name.startswith(".") for own in others):
        raise InvalidInputError(f"{what}, which holds other files; name another CSV file")
    is_within = source.is_dir() and folder.resolve().is_relative_to(source)
    if is_within or (source.exists() and source.is_relative_to(folder.resolve())):
        raise InvalidInputError(f"{what}, from which {table} is read; name another CSV file")


def _earlier_pictures(output: str, column: str) -> set[Path]:
    """Return the pictures that an earlier prediction wrote, as far as its CSV file is still there."""
    import pandas as pd

    try:
        names = pd.read_csv(output, dtype=str)[column].dropna()
    except (OSError, ValueError, KeyError):
        return set()
    folder = _folder_of_pictures(output)
    paths = {folder.parent / name for name in names if name.startswith(f"{folder.name}/")}
    return {path for path in paths if path.parent == folder and _PICTURE.fullmatch(path.name)}


def _folder_of_pictures(output: str) -> Path:
    path = Path(output)
    return path.with_suffix("") if path.suffix else path.with_name(f"{path.name}_files")


def write_pictures(cells: "Sequence[object]", output: str, column: str) -> list[str | None]:
    """Write pictures to a folder beside a CSV file, which has the file's name without its suffix.

    Those of an earlier prediction that no row has any longer are removed.

    Args:
        cells: Of each row a PNG file as a data URI; anything but a text where there is no picture.
        output: The CSV file, checked before by `check_pictures`.
        column: That of the pictures' paths.

    Returns:
        Path of each picture, relative to the CSV file's folder.

    Raises:
        InvalidInputError: If the folder can't be made, or is a file.
    """
    folder, found = _folder_of_pictures(output), list[str | None]()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InvalidInputError(
            f"--output {output}: {folder}, the folder of its pictures, can't be made: {error.strerror}"
        ) from error
    for place, cell in enumerate(cells):
        path = folder / f"{place:05d}.png"
        if isinstance(cell, str):
            path.write_bytes(base64.b64decode(cell.partition(",")[2]))
        found.append(f"{folder.name}/{path.name}" if isinstance(cell, str) else None)
    for path in _earlier_pictures(output, column) - {folder.parent / name for name in found if name}:
        path.unlink(missing_ok=True)
    return found


def _write(frame: "pd.DataFrame", stream: IO[str]) -> None:
    frame.to_csv(stream, index=False, lineterminator="\n")


def _escaped(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value

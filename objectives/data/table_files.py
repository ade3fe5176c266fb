"""Where tables come from: files, compressed or not, URLs, and folders that are tables."""

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from promptgraft.spaces import InvalidInputError, masked, masked_url

if TYPE_CHECKING:
    import pyarrow as pa

# Compression -> how its files begin.
COMPRESSIONS = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}
_NAMES = {".gz": "gzip", ".zst": "zstd"}
# Of a folder that `datasets.Dataset.save_to_disk` wrote, and of one with several such folders.
_DATASET_FILE, _STATE_FILE, _SPLITS_FILE = "dataset_info.json", "state.json", "dataset_dict.json"
_SHOWN = 8
# A word's tag in a file of words: B, I and O, or with E (or L) for the last and S (or U) for an only one.
_TAG = re.compile(r"O|(?P<part>[BIESLU])-(?P<label>.+)")

Columns = tuple[list[str], list[Sequence[object]]]


def is_url(path: str) -> bool:
    """Whether a table is elsewhere: `https://`, `s3://`, `hf://datasets/...`, or what else fsspec knows."""
    return "://" in path


def shown_path(path: str) -> str:
    """Return a table's path for messages, without the passwords in a URL."""
    return masked_url(path) if is_url(path) else path


def suffixes_of(path: str) -> tuple[str, str]:
    """Return the kind of a table and its compression by its name: `.csv` and `.gz`, or `.csv` and nothing."""
    name = Path(path.partition("?")[0] if is_url(path) else path)
    kind = name.suffix.lower()
    return (name.with_suffix("").suffix.lower(), kind) if kind in COMPRESSIONS else (kind, "")


def fetch(path: str) -> bytes:
    """Read a file at a URL through fsspec.

    Raises:
        InvalidInputError: If it can't be reached, or a package is missing for it; the message says which.
    """
    import fsspec

    try:
        with fsspec.open(path, "rb") as stream:
            return bytes(stream.read())
    except ImportError as error:
        raise InvalidInputError(f"{shown_path(path)}: {masked(str(error))}") from error
    except Exception as error:  # Each file system has errors of its own.
        reason = masked(str(error)).strip().splitlines() or [type(error).__name__]
        raise InvalidInputError(
            f"{shown_path(path)}: can't be read ({reason[0]}); check the address, the network and your credentials"
        ) from error


def decompressed(content: bytes, compression: str) -> bytes:
    """Return what a compressed file holds.

    Raises:
        ValueError: If it is damaged.
    """
    import pyarrow as pa

    if not compression:
        return content
    try:
        with pa.CompressedInputStream(pa.BufferReader(content), _NAMES[compression]) as stream:
            return bytes(stream.read())
    except OSError as error:
        raise ValueError(f"it is no whole {_NAMES[compression]} file: {error}") from error


def read_excel(content: bytes) -> Columns:
    """Read the one sheet of an Excel file that has cells; its first row is the header.

    Raises:
        ValueError: If openpyxl is missing, or several sheets have cells.
    """
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise ValueError(
            "it needs openpyxl: pip install 'promptgraft[excel]'; or save the sheet as CSV UTF-8"
        ) from error
    try:
        book = load_workbook(io.BytesIO(content), read_only=True, data_only=True)
    except (BadZipFile, KeyError) as error:
        raise ValueError(f"it is no whole Excel file: {error}") from error
    sheets = {
        sheet.title: [row for row in sheet.iter_rows(values_only=True) if any(map(_is_filled, row))] for sheet in book
    }
    filled = {title: rows for title, rows in sheets.items() if rows}
    if len(filled) > 1:
        raise ValueError(f"{len(filled)} sheets have cells ({', '.join(filled)}); keep one, or save it as CSV UTF-8")
    header, *rows = next(iter(filled.values()), [()])
    names = ["" if name is None else str(name) for name in header]
    return names, [list(column) for column in zip(*rows, strict=True)]


def _is_filled(value: object) -> bool:
    return value is not None and value != ""


def read_arrow(content: bytes) -> Columns:
    """Read an Arrow file, Feather's second version among them, or an Arrow stream, as `datasets` writes it."""
    import pyarrow as pa

    source = pa.BufferReader(content)
    is_file = content.startswith(b"ARROW1")
    with (pa.ipc.open_file if is_file else pa.ipc.open_stream)(source) as reader:
        table = reader.read_all()
    described = (table.schema.metadata or {}).get(b"huggingface")
    return _columns(table, json.loads(described)["info"]["features"] if described else {})


def read_folder(path: str) -> Columns | None:
    """Read a folder that is a table: `datasets` saved it there, or each of its folders holds the texts of a class.

    Returns:
        Names and columns; of folders of texts `text` and `label`. None if it is no such folder.

    Raises:
        InvalidInputError: If it holds several tables, or is damaged.
    """
    folder = Path(path)
    if (folder / _SPLITS_FILE).is_file():
        splits = json.loads((folder / _SPLITS_FILE).read_text(encoding="utf-8"))["splits"]
        raise InvalidInputError(
            f"{path}: it holds the tables {', '.join(splits)}; name one, such as {path}/{splits[0]}"
        )
    if (folder / _DATASET_FILE).is_file():
        return _read_dataset(folder)
    texts = sorted(file for file in folder.glob("*/*.txt") if file.is_file())
    if not texts:
        return None
    return ["text", "label"], [[_text_of(file) for file in texts], [file.parent.name for file in texts]]


def _read_dataset(folder: Path) -> Columns:
    """Read what `datasets.Dataset.save_to_disk` wrote, without `datasets`."""
    import pyarrow as pa

    try:
        state = json.loads((folder / _STATE_FILE).read_text(encoding="utf-8"))
        parts = []
        for file in state["_data_files"]:
            with pa.ipc.open_stream(pa.memory_map(str(folder / file["filename"]))) as reader:
                parts.append(reader.read_all())
        info = json.loads((folder / _DATASET_FILE).read_text(encoding="utf-8"))
        return _columns(pa.concat_tables(parts), info.get("features") or {})
    except (OSError, ValueError, KeyError, TypeError) as error:  # Arrow's own errors are ValueErrors, too.
        raise InvalidInputError(
            f"{folder}: can't be read as a dataset of `datasets`: {error}; save it again"
        ) from error


def _columns(table: "pa.Table", features: dict[str, Any]) -> Columns:
    """Return a table's columns; classes, which `datasets` stores as numbers, by their names."""
    columns: list[Sequence[object]] = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        names = features.get(name, {}).get("names") if isinstance(features.get(name), dict) else None
        values = column.to_pylist()
        columns.append(
            [names[value] if value is not None and value >= 0 else None for value in values] if names else values
        )
    return list(table.column_names), columns


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{file}: is not UTF-8 text (byte {error.start}); convert it, for instance with iconv"
        ) from error


def tables_in(path: str, kinds: Sequence[str]) -> list[str]:
    """List some tables in a local folder, for messages."""
    return sorted(file.name for file in Path(path).iterdir() if suffixes_of(str(file))[0] in kinds)[:_SHOWN]


def read_conll(text: str) -> Columns:
    """Read sentences whose words stand in lines of their own: the word in the first column, its tag in the last.

    Tags are `O`, or a letter of the BIO or BIOES scheme, `-` and a label, as in `B-PER`. Blank lines stand between
    sentences; lines that begin with `#` or `-DOCSTART-` and have no such tag are left out.

    Returns:
        The columns `text`, the words with spaces between them, and `spans`, as `token_classification` reads them.

    Raises:
        ValueError: If a line has no word and tag.
    """
    texts: list[str] = []
    spans: list[list[dict[str, Any]]] = []
    words: list[str] = []
    is_open = False  # Whether the word before is in the last span.
    for number, line in enumerate([*text.splitlines(), ""], 1):
        cells = line.split("\t") if "\t" in line else line.split()
        if not line.strip():
            texts += [" ".join(words)] * bool(words)
            words, is_open = [], False
            continue
        tag = _TAG.fullmatch(cells[-1].strip()) if len(cells) > 1 else None
        if line.startswith(("#", "-DOCSTART-")) and (tag is None or cells[0] == "-DOCSTART-"):
            continue
        if tag is None or not cells[0].strip():
            raise ValueError(
                f"line {number} is {line!r}; expected a word, and in the last column its tag, such as O, B-PER or I-PER"
            )
        if not words:
            spans.append([])
        start = len(" ".join(words)) + bool(words)
        words.append(cells[0].strip())
        end, label = len(" ".join(words)), tag["label"]
        if label and is_open and tag["part"] in "IEL" and spans[-1][-1]["label"] == label:
            spans[-1][-1]["end"] = end
        elif label:
            spans[-1].append({"start": start, "end": end, "label": label})
        is_open = bool(label)
    return ["text", "spans"], [texts, spans]

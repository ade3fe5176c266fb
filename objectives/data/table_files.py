"""Where tables come from: files, compressed or not, URLs, and folders that are tables."""

import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptgraft.spaces import InvalidInputError, masked, masked_url

if TYPE_CHECKING:
    import pyarrow as pa

# Compression -> how its files begin.
COMPRESSIONS = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}
_NAMES = {".gz": "gzip", ".zst": "zstd"}
# How a file begins that git keeps elsewhere, and hasn't fetched.
LFS_POINTER = b"version https://git-lfs"
# Of a folder that `datasets.Dataset.save_to_disk` wrote, and of one with several such folders.
_DATASET_FILE, _STATE_FILE, _SPLITS_FILE = "dataset_info.json", "state.json", "dataset_dict.json"
_SHOWN = 8
# Folders and files of programs, such as those of macOS in an archive; those that begin with a point are none of the
# user's either.
_NOBODYS = "__MACOSX"
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
        ValueError: If openpyxl is missing, several sheets have cells, or a formula has no value.
    """
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise ValueError(
            "it needs openpyxl: pip install 'promptgraft[excel]'; or save the sheet as CSV UTF-8"
        ) from error
    try:
        sheets = {name: rows for name, rows in _sheets(load_workbook, content, values=True).items() if _lines(rows)}
        written = _sheets(load_workbook, content, values=False) if sheets else {}
    except Exception as error:  # Over a damaged file, openpyxl raises what its parsers do.
        raise ValueError(f"it is no whole Excel file: {error}") from error
    if len(sheets) > 1:
        raise ValueError(f"{len(sheets)} sheets have cells ({', '.join(sheets)}); keep one, or save it as CSV UTF-8")
    for name, rows in sheets.items():
        for cells, formulas in zip(rows, written[name], strict=True):
            for cell, formula in zip(cells, formulas, strict=True):
                if formula.data_type == "f" and cell.value is None:
                    raise ValueError(
                        f"cell {formula.coordinate} holds a formula without its value; open the file in a spreadsheet "
                        "program and save it, or save the sheet as CSV UTF-8"
                    )
    header, *lines = _lines(next(iter(sheets.values()), [])) or [[]]
    width = max(len(header), *map(len, lines)) if lines else len(header)
    names = ["" if name is None else str(name) for name in header] + [""] * (width - len(header))
    return names, [[line[place] if place < len(line) else None for line in lines] for place in range(width)]


def _sheets(load: Callable[..., Any], content: bytes, *, values: bool) -> dict[str, list[Any]]:
    """Return the rows of each sheet of an Excel file: cells with their values, or with their formulas."""
    book = load(io.BytesIO(content), read_only=True, data_only=values)
    for sheet in book.worksheets:
        sheet.reset_dimensions()  # Some programs write a size that is too small.
    return {sheet.title: list(sheet.iter_rows()) for sheet in book.worksheets}


def _lines(rows: Sequence[Any]) -> list[list[object]]:
    """Return the values of the rows that have some; errors such as #N/A are none."""
    found = [[None if cell.data_type == "e" else cell.value for cell in row] for row in rows]
    return [line for line in found if any(value is not None and value != "" for value in line)]


def read_arrow(content: bytes) -> Columns:
    """Read an Arrow file, Feather's second version among them, or an Arrow stream, as `datasets` writes it."""
    import pyarrow as pa

    source = pa.BufferReader(content)
    is_file = content.startswith(b"ARROW1")
    with (pa.ipc.open_file if is_file else pa.ipc.open_stream)(source) as reader:
        return _described_columns(reader.read_all())


def read_parquet(content: bytes) -> Columns:
    """Read a Parquet file."""
    from pyarrow.parquet import ParquetFile

    return _described_columns(ParquetFile(io.BytesIO(content)).read())


def _described_columns(table: "pa.Table") -> Columns:
    """Return the columns of a table in which `datasets` may have described them."""
    described = (table.schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(described)["info"]["features"] if described else None
    except (ValueError, KeyError, TypeError):
        features = None  # Another program's.
    return _columns(table, features)


def is_saved_dataset(folder: Path) -> bool:
    """Whether `datasets` has saved a table, or several, as a folder."""
    return any((folder / name).is_file() for name in (_DATASET_FILE, _SPLITS_FILE))


def read_folder(path: str) -> Columns | None:
    """Read a folder that is a table: `datasets` saved it there, or each of its folders holds the texts of a class.

    Returns:
        Names and columns; of folders of texts `text` and `label`. None if it is no such folder.

    Raises:
        InvalidInputError: If it holds several tables, is damaged, or texts are elsewhere than in a class's folder.
    """
    folder = Path(path)
    if (folder / _SPLITS_FILE).is_file():
        try:
            splits = [str(name) for name in json.loads((folder / _SPLITS_FILE).read_text(encoding="utf-8"))["splits"]]
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInputError(f"{folder / _SPLITS_FILE}: names no `splits`: {error}; save it again") from error
        raise InvalidInputError(
            f"{path}: it holds the tables {', '.join(splits)}; name one, such as {path}/{(splits or ['train'])[0]}"
        )
    if (folder / _DATASET_FILE).is_file():
        return _read_dataset(folder)
    classes = [own for own in sorted(folder.iterdir()) if own.is_dir() and is_the_users(own)]
    texts = {own: [file for file in sorted(own.iterdir()) if _is_text(file)] for own in classes}
    if not any(texts.values()):
        return None
    deeper = next((file for own in classes for file in sorted(own.glob("*/*")) if _is_text(file, own)), None)
    if deeper is not None:
        raise InvalidInputError(
            f"{path}: {deeper.relative_to(folder)} lies deeper than in a folder of its class; name the folder that "
            f"holds one folder for each class, such as {deeper.parent.parent}, or move it"
        )
    if empty := [own.name for own in classes if not texts[own]]:
        raise InvalidInputError(
            f"{path}: no .txt file is in {', '.join(empty)}, beside folders of the texts of a class; put some there, "
            "or move the folder away"
        )
    files = [file for own in classes for file in texts[own]]
    return ["text", "label"], [[_text_of(file) for file in files], [file.parent.name for file in files]]


def _is_text(file: Path, folder: Path | None = None) -> bool:
    is_users = is_the_users(file) and (folder is None or is_the_users(file.parent))
    return is_users and file.suffix.lower() == ".txt" and not file.is_dir()


def is_the_users(path: Path) -> bool:
    """Whether a file or folder isn't one that programs leave behind: hidden, or of macOS in an archive."""
    return not path.name.startswith(".") and path.name != _NOBODYS


def _read_dataset(folder: Path) -> Columns:
    """Read what `datasets.Dataset.save_to_disk` wrote, without `datasets`."""
    import pyarrow as pa

    try:
        state = json.loads((folder / _STATE_FILE).read_text(encoding="utf-8"))
        if state.get("_indices_data_files"):
            raise ValueError("its rows are chosen by a list of indices, as old versions of `datasets` wrote it")
        parts = []
        for file in state["_data_files"]:
            with pa.ipc.open_stream(pa.memory_map(str(folder / file["filename"]))) as reader:
                parts.append(reader.read_all())
        info = json.loads((folder / _DATASET_FILE).read_text(encoding="utf-8"))
        return _columns(pa.concat_tables(parts), info.get("features"))
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:  # Arrow's own errors are ValueErrors, too.
        raise InvalidInputError(
            f"{folder}: can't be read as a dataset of `datasets`: {error}; save it again"
        ) from error


def _columns(table: "pa.Table", features: Any) -> Columns:
    """Return a table's columns; classes, which `datasets` stores as numbers, by their names.

    Raises:
        ValueError: If a number stands for no class.
    """
    known = features if isinstance(features, dict) else {}
    columns: list[Sequence[object]] = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        classes, values = _class_names(known.get(name)), column.to_pylist()
        try:
            columns.append([_named(value, classes) for value in values] if classes else values)
        except IndexError as error:
            raise ValueError(f"column {name!r} has a class beyond the {len(classes)} that are named") from error
    return list(table.column_names), columns


def _class_names(feature: Any) -> list[str]:
    """Return the names of the classes of a column, or of those that its lists hold; none if it has none."""
    while isinstance(feature, list) or (isinstance(feature, dict) and "feature" in feature):
        feature = next(iter(feature), None) if isinstance(feature, list) else feature["feature"]
    return (feature.get("names") or []) if isinstance(feature, dict) else []


def _named(value: Any, classes: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_named(inner, classes) for inner in value]
    return classes[value] if isinstance(value, int) and value >= 0 else None


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{file}: is not UTF-8 text (byte {error.start}); convert it, for instance with iconv"
        ) from error
    except OSError as error:
        raise InvalidInputError(f"{file}: can't be read: {error.strerror}; mend or remove it") from error


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
    # Only a line feed ends a line: words may hold other separators of lines, such as U+2028.
    for number, line in enumerate([*text.replace("\r\n", "\n").split("\n"), ""], 1):
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

"""Tables that are compressed, elsewhere, or of other programs: each is read as the plain one is."""

import gzip
import json
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from pyarrow import feather

from promptgraft.objectives.data import read_rows, read_table
from promptgraft.spaces import InvalidInputError

COLUMNS = ["text", "label"]
ROWS = [["good phone", "pos"], ["it broke, twice", "neg"], ["für immer", "pos"]]
CSV = 'text,label\ngood phone,pos\n"it broke, twice",neg\nfür immer,pos\n'.encode()
TABLE = pa.table({name: [row[place] for row in ROWS] for place, name in enumerate(COLUMNS)})


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Address of a server of the folder."""
    found = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()
    thread.join()
    found.server_close()


def write_excel(path: Path, *more: str) -> None:
    from openpyxl import Workbook

    book = Workbook()
    for name in more:
        book.create_sheet(name).append(["x"])
    for row in (COLUMNS, *ROWS):
        book.worksheets[0].append(row)
    book.create_sheet("empty")
    book.save(path)


def write_dataset(folder: Path, table: pa.Table, features: dict[str, object]) -> None:
    """Write a folder as `datasets.Dataset.save_to_disk` does, in two parts."""
    folder.mkdir(parents=True)
    files = []
    for number, part in enumerate((table.slice(0, 1), table.slice(1))):
        files.append({"filename": f"data-0000{number}-of-00002.arrow"})
        with pa.ipc.new_stream(str(folder / files[-1]["filename"]), table.schema) as writer:
            writer.write_table(part)
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_split": "train"}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


def cells(path: object) -> list[list[str | None]]:
    return [list(row) for row in read_table(str(path), COLUMNS).to_numpy()]


def test_each_kind_is_read_as_the_plain_table_is(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(CSV))
    with pa.CompressedOutputStream(str(tmp_path / "t.CSV.ZST"), "zstd") as stream:
        stream.write(CSV)
    feather.write_feather(TABLE, tmp_path / "t.feather")
    with pa.ipc.new_stream(str(tmp_path / "t.arrow"), TABLE.schema) as writer:
        writer.write_table(TABLE)
    write_excel(tmp_path / "t.xlsx")
    kinds = sorted(tmp_path.iterdir())
    assert [cells(path) for path in kinds] == [ROWS] * 5
    assert [read_rows(str(path), COLUMNS)[1].to_numpy().tolist() for path in kinds] == [ROWS] * 5


def test_a_compressed_table_on_standard_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(gzip.compress(CSV))
    with (tmp_path / "t").open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert read_rows("-", COLUMNS)[0].to_numpy().tolist() == ROWS


def test_a_dataset_saved_to_disk_has_the_names_of_its_classes(tmp_path: Path) -> None:
    numbered = pa.table({"text": TABLE["text"], "label": pa.array([1, 0, -1])})
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"names": ["neg", "pos"], "_type": "ClassLabel"},
    }
    write_dataset(tmp_path / "all" / "train", numbered, features)
    assert cells(tmp_path / "all" / "train") == [*ROWS[:2], ["für immer", None]]
    (tmp_path / "all" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(InvalidInputError, match=r"holds the tables train, test; name one, such as .*/all/train"):
        read_table(str(tmp_path / "all"), COLUMNS)
    (tmp_path / "all" / "train" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(InvalidInputError, match="can't be read as a dataset of `datasets`"):
        read_table(str(tmp_path / "all" / "train"), COLUMNS)
    state = tmp_path / "all" / "train" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"_indices_data_files": [{"filename": "i.arrow"}]}))
    with pytest.raises(InvalidInputError, match="its rows are chosen by a list of indices"):
        read_table(str(tmp_path / "all" / "train"), COLUMNS)


def test_a_folder_of_texts_for_each_class(tmp_path: Path) -> None:
    for name, (text, label) in enumerate(ROWS):
        (tmp_path / label).mkdir(exist_ok=True)
        (tmp_path / label / f"{name}.txt").write_text(text, encoding="utf-8")
    assert sorted(cells(tmp_path)) == sorted(ROWS)
    (tmp_path / "pos" / "9.txt").write_bytes(b"f\xfcr immer")
    with pytest.raises(InvalidInputError, match=r"9.txt: is not UTF-8 text"):
        read_table(str(tmp_path), COLUMNS)


def test_a_folder_that_is_no_table_names_those_in_it(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_bytes(CSV)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(CSV))
    with pytest.raises(InvalidInputError, match=r"is a folder; name one of its tables: a.csv.gz, b.csv, or"):
        read_table(str(tmp_path), COLUMNS)


def test_a_book_of_several_sheets_is_refused(tmp_path: Path) -> None:
    write_excel(tmp_path / "t.xlsx", "notes")
    with pytest.raises(InvalidInputError, match=r"2 sheets have cells \(Sheet, notes\); keep one"):
        read_table(str(tmp_path / "t.xlsx"), COLUMNS)


def test_without_openpyxl_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (tmp_path / "t.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(InvalidInputError, match=r"pip install 'promptgraft\[excel\]'; or save the sheet as CSV"):
        read_table(str(tmp_path / "t.xlsx"), COLUMNS)


def test_tables_at_urls(server: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(CSV))
    assert cells(f"{server}/t.csv.gz?download=true") == ROWS
    fsspec.filesystem("memory").pipe_file("/t.csv", CSV)
    assert cells("memory://t.csv") == ROWS
    with pytest.raises(InvalidInputError, match=r"gone.csv: can't be read \(.*\); check the address"):
        read_table(f"{server}/gone.csv", COLUMNS)
    with pytest.raises(InvalidInputError, match=r"unknown kind of table '.html'"):
        read_table(f"{server}/t.html", COLUMNS)
    with pytest.raises(InvalidInputError, match=r"nothing://t.csv: can't be read"):
        read_table("nothing://t.csv", COLUMNS)


def huggingface(features: dict[str, object]) -> dict[bytes, bytes]:
    """Metadata by which `datasets` describes columns."""
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_classes_have_their_names_in_lists_too(tmp_path: Path, kind: str) -> None:
    from pyarrow import parquet

    classes = {"names": ["neg", "pos"], "_type": "ClassLabel"}
    features = {"label": classes, "all": {"feature": classes, "_type": "List"}, "old": [classes]}
    lists = pa.array([[1, 0], [], None])
    table = pa.table({"label": pa.array([1, 0, -1]), "all": lists, "old": lists})
    path = tmp_path / f"t.{kind}"

    def written(metadata: dict[bytes, bytes]) -> str:
        described = table.replace_schema_metadata(metadata)
        if kind == "parquet":
            parquet.write_table(described, path)
        else:
            feather.write_feather(described, path)
        return str(path)

    found = read_table(written(huggingface(features)), list(features), ["all", "old"])
    assert found["label"].tolist() == ["pos", "neg", None]
    assert found["all"].tolist() == found["old"].tolist() == ['["pos", "neg"]', "[]", None]
    with pytest.raises(InvalidInputError, match="column 'label' has a class beyond the 1 that are named"):
        read_table(written(huggingface({"label": {"names": ["neg"]}})), ["label"])


def test_texts_that_are_in_no_class_are_not_read_as_one(tmp_path: Path) -> None:
    """What programs leave behind counts for nothing; what a user may have meant is refused."""
    for name in ("pos/1.txt", "neg/2.TXT", ".ipynb_checkpoints/1.txt", "__MACOSX/._1.txt", "pos/._1.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert sorted(cells(tmp_path)) == [["neg/2.TXT", "neg"], ["pos/1.txt", "pos"]]
    (tmp_path / "neutral").mkdir()
    with pytest.raises(InvalidInputError, match=r"no \.txt file is in neutral, beside folders of the texts of a class"):
        cells(tmp_path)
    (tmp_path / "neutral" / "2023").mkdir()
    (tmp_path / "neutral" / "2023" / "3.txt").write_text("so so")
    with pytest.raises(InvalidInputError, match=r"neutral/2023/3.txt lies deeper than in a folder of its class"):
        cells(tmp_path)


def test_cells_of_a_book_that_hold_no_value(tmp_path: Path) -> None:
    """Errors are missing; a formula that was never computed would be missing in silence, so it is refused."""
    from openpyxl import Workbook

    book = Workbook()
    for row in (COLUMNS, *ROWS):
        book.active.append(row)
    book.active["B2"] = "#N/A"
    book.active["B2"].data_type = "e"
    book.save(tmp_path / "t.xlsx")
    assert [label for _, label in cells(tmp_path / "t.xlsx")] == [None, "neg", "pos"]
    book.active["B3"] = '=IF(A3="", "pos", "neg")'
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(InvalidInputError, match="cell B3 holds a formula without its value; open the file"):
        cells(tmp_path / "t.xlsx")


def test_a_book_is_read_whole_whatever_size_it_claims_and_refused_if_it_is_damaged(tmp_path: Path) -> None:
    from zipfile import ZipFile

    write_excel(tmp_path / "t.xlsx")
    with ZipFile(tmp_path / "t.xlsx") as whole:
        parts = {name: whole.read(name) for name in whole.namelist()}
    sheet = "xl/worksheets/sheet1.xml"

    def written(content: bytes) -> Path:
        with ZipFile(tmp_path / "other.xlsx", "w") as other:
            for name in parts:
                other.writestr(name, content if name == sheet else parts[name])
        return tmp_path / "other.xlsx"

    assert b'ref="A1:B4"' in parts[sheet]
    assert cells(written(parts[sheet].replace(b'ref="A1:B4"', b'ref="A1"'))) == ROWS
    with pytest.raises(InvalidInputError, match="it is no whole Excel file"):
        cells(written(parts[sheet][: len(parts[sheet]) // 2]))


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.csv.gz"])
def test_a_table_that_git_has_not_fetched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(InvalidInputError, match="is a Git LFS pointer, not the file itself; fetch it with: git lfs pu"):
        cells(tmp_path / name)

"""`predict` and `compare` on people's tables: nothing of theirs is lost, overwritten or run."""

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from promptgraft.bundles import Predictor
from promptgraft.bundles.formats.mlflow import BundleModel
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.search.cli.csv_files import write_csv
from tests.support.bundles import export_small
from tests.support.commands import typed


@pytest.fixture(scope="module")
def bundle(
    tmp_path_factory: pytest.TempPathFactory, make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str]
) -> Path:
    return export_small(tmp_path_factory.mktemp("b") / "bundle", make_spec(tiny_models["encoder"], "encoder"), steps=1)


def lines(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_other_columns_stay_and_rows_without_a_text_are_counted(bundle: Path, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"id": "a-1", "text": "good", "label": "mine"},
        {"id": "a-2", "text": None, "label": "mine"},
        {"id": "a-3", "text": ["bad"], "label": "mine"},
        {"id": "a-4", "text": "\u200b", "label": "mine"},
        {"id": "a-5", "text": "half \ud83d", "label": "mine"},
        {"id": "a-6", "text": "bad", "label": None},
    ]
    output = tmp_path / "out" / "p.csv"
    said = typed("predict", str(bundle), "--input", lines(tmp_path / "t.jsonl", rows), "--output", str(output))
    assert said.exit_code == 0, said.output
    assert said.stdout == (f"6 rows -> {output}; 4 rows have no prediction, since a text is missing or is no text\n")
    found = pd.read_csv(output)
    labels = Predictor(bundle).labels
    assert found.columns.tolist() == ["id", "text", "input_label", "label", *(f"probability_{name}" for name in labels)]
    assert found["id"].tolist() == [row["id"] for row in rows]
    assert found["label"].notna().tolist() == [True, False, False, False, False, True]
    assert found["input_label"].tolist()[:5] == ["mine"] * 5
    predicted = Predictor(bundle).predict(["good", "bad"])
    assert found["label"].dropna().tolist() == predicted


def test_standard_input_and_output(bundle: Path) -> None:
    said = typed("predict", str(bundle), "--input", "-", "--output", "-", stdin="id;text\n7;good, really\n")
    assert said.exit_code == 0, said.output
    first, second = said.stdout.splitlines()
    assert first.startswith("id,text,label,")
    assert second.startswith('7,"good, really",')
    assert "1 rows -> -" in said.stderr


def test_half_a_surrogate_pair_is_escaped_on_standard_output(bundle: Path, tmp_path: Path) -> None:
    table = lines(tmp_path / "t.jsonl", [{"text": "good \ud83d"}, {"text": "bad"}])
    said = typed("predict", str(bundle), "--input", table, "--output", "-")
    assert said.exit_code == 0, said.output
    assert said.stdout.splitlines()[1].startswith("good \\ud83d,")
    assert len(said.stdout.splitlines()) == 3


@pytest.mark.parametrize("name", ["o.jsonl", "o.parquet", "o.TSV", "o.csv.gz", "o.xlsx"])
def test_no_other_format_than_csv_is_promised(bundle: Path, tmp_path: Path, name: str) -> None:
    table = lines(tmp_path / "t.jsonl", [{"text": "good"}])
    said = typed("predict", str(bundle), "--input", table, "--output", str(tmp_path / name))
    assert (said.exit_code, "but only CSV is written; name a file that ends with .csv" in said.stderr) == (2, True)
    assert not (tmp_path / name).exists()


def test_an_input_is_never_written_over(bundle: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("text\ngood\n")
    (tmp_path / "link.csv").symlink_to(table)
    for output in (table, tmp_path / "link.csv"):
        said = typed("predict", str(bundle), "--input", str(table), "--output", str(output))
        assert (said.exit_code, "is the file that is read" in said.stderr) == (2, True)
    said = typed("compare", str(bundle), str(bundle), "--data", str(table), "--output", str(table))
    assert (said.exit_code, "is the file that is read" in said.stderr) == (2, True)
    assert table.read_text() == "text\ngood\n"
    said = typed("predict", str(bundle), "--input", str(table), "--output", str(tmp_path))
    assert (said.exit_code, "is a folder; name a file" in said.stderr) == (2, True)
    said = typed("predict", str(bundle), "--input", str(table), "--output", str(table / "p.csv"))
    assert (said.exit_code, "so nothing can be written below it" in said.stderr) == (2, True)


def test_an_earlier_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    output = tmp_path / "p.csv"
    output.write_text("before")

    class Broken:
        def __str__(self) -> str:
            raise OSError(errno.ENOSPC, "no space left")

    with pytest.raises(OSError, match="no space left") as caught:
        write_csv(pd.DataFrame({"a": ["x" * 10**6, Broken()]}), str(output))
    assert caught.value.filename == str(output)
    assert output.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]
    output.chmod(0o640)
    write_csv(pd.DataFrame({"a": ["half \ud83d", "é"]}, dtype=object), str(output))
    assert output.read_text() == "a\nhalf \\ud83d\né\n"
    assert output.stat().st_mode & 0o777 == 0o640


def test_formulas_are_escaped_where_that_is_wanted(tmp_path: Path) -> None:
    cells = ["=1+1", "@SUM(A1)", "+49 30 1", "-x", "-1.5", "+1,5", "a=b", "\t=1", "＝1"]
    frame = pd.DataFrame({"text": cells, "=x": 1.5})
    output = tmp_path / "p.csv"
    write_csv(frame, str(output), escape_formulas=True)
    escaped = ["'=1+1", "'@SUM(A1)", "'+49 30 1", "'-x", "-1.5", "+1,5", "a=b", "'\t=1", "'＝1"]
    assert pd.read_csv(output, dtype=str).to_dict("list") == {"text": escaped, "'=x": ["1.5"] * len(cells)}
    write_csv(frame, str(output))
    assert pd.read_csv(output, dtype=str)["text"].tolist() == cells


def test_texts_cannot_pass_for_lines_of_compare(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    rows = [{"text": f"{'good' if i % 2 else 'bad'}\nchallenger: better {i}", "label": "[/red]x"} for i in range(4)]
    said = typed("compare", str(bundle), str(bundle), "--data", lines(tmp_path / "t.jsonl", rows))
    assert (said.exit_code, "the labels '[/red]x' are known to neither bundle" in said.stderr) == (2, True)
    assert not other.exists()


def test_mlflow_predicts_the_other_rows_of_a_frame(bundle: Path) -> None:
    found = BundleModel(Predictor(bundle)).predict(pd.DataFrame({"text": ["good", None, float("nan"), "", "bad"]}))
    assert found["label"].notna().tolist() == [True, False, False, False, True]
    assert found["label"].dropna().tolist() == Predictor(bundle).predict(["good", "bad"])


def test_a_huge_cell_is_cut_before_it_is_tokenized(bundle: Path) -> None:
    predictor = Predictor(bundle)
    seen: list[int] = []
    scorer = predictor.members[0].model.scorer
    encode = scorer.encode
    scorer.encode = lambda prompt: (seen.append(len(prompt.before)), encode(prompt))[1]  # type: ignore[method-assign]
    text = "broke after two days. "
    whole, cut = predictor.predict_proba([text * 5_000_000, text * 1000])
    assert whole == pytest.approx(cut, abs=1e-5)
    assert max(seen) < 100_000

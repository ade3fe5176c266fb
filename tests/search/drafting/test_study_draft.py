"""`promptgraft init`: from a table to a study file that runs."""

import gzip
from pathlib import Path

import fsspec
import pytest
from typer.testing import CliRunner

from promptgraft.objectives.backbones import guess_family
from promptgraft.search.cli.studies import app
from promptgraft.search.study import load_study
from tests.support.models import TinyModels


def init(*arguments: object) -> "tuple[int, str]":
    found = CliRunner().invoke(app, ["init", *map(str, arguments)])
    return found.exit_code, found.output


def test_what_it_writes_is_a_study_that_runs(tmp_path: Path, data: Path, tiny_models: TinyModels) -> None:
    file = tmp_path / "first.yaml"
    model = tiny_models["encoder"]
    code, output = init(
        data / "amazon.csv", "--source", data / "movie.csv", "--backbone", model, "--output", file, "--effort", "quick"
    )
    assert code == 0, output
    assert "label: label" in output
    assert f"next: promptgraft run {file}" in output
    study = load_study(file)
    assert study.drafted == "space"
    assert study.file.backbone.family == "encoder"
    assert set(study.target.labels) == {"negative", "positive"}
    assert study.file.budget.trials == 14


def write_large(path: Path, words: int) -> None:
    """Write a table with two labels of 2,000 rows each, and one of a single row."""
    lines = [f'"{" ".join(f"w{n}-{m}" for m in range(words))}",{"ab"[n % 2]}\n' for n in range(4000)]
    path.write_text(f"note,label\n{''.join(lines)}one of its kind,c\n")


def test_a_quick_search_takes_a_part_of_a_large_table_and_leaves_out_labels_that_cannot_be_split(
    tmp_path: Path, tiny_models: TinyModels
) -> None:
    table, file = tmp_path / "large.csv", tmp_path / "first.yaml"
    write_large(table, words=4)
    code, output = init(table, "--backbone", tiny_models["encoder"], "--output", file, "--effort", "quick")
    assert code == 0, output
    assert "1000 of the other rows are trained on, and 500 chosen by" in output
    assert "left out of `labels`: c (1)" in output
    study = load_study(file)
    assert study.file.target.labels == ("a", "b")
    assert (len(study.target.train), len(study.target.validation), len(study.target.test)) == (1000, 500, 800)


@pytest.mark.parametrize("rare", ["", "odd,c\n"], ids=["all labels", "labels are listed"])
def test_labels_that_look_like_missing_values_are_said(tmp_path: Path, tiny_models: TinyModels, rare: str) -> None:
    table = tmp_path / "rows.csv"
    lines = [f"own{n} words{n * 7} of row {n},{('a', 'b', 'NaN')[n % 3]}\n" for n in range(90)]
    table.write_text(f"note,label\n{''.join(lines)}{rare}")
    code, output = init(table, "--backbone", tiny_models["encoder"], "--output", tmp_path / "first.yaml")
    assert code == 0, output
    said = " ".join(output.split())
    assert ("NaN in `labels` looks like a missing value" if rare else "like missing values: 'NaN' (30 rows)") in said


def test_a_quick_search_cuts_long_texts_and_says_so(tmp_path: Path, tiny_models: TinyModels) -> None:
    table = tmp_path / "long.csv"
    table.write_text("note,label\n" + "".join(f"{n} {'word ' * 150},{'ab'[n % 2]}\n" for n in range(40)))
    for effort, tokens in (("quick", 128), ("balanced", 256)):
        file = tmp_path / f"{effort}.yaml"
        _, output = init(table, "--backbone", tiny_models["encoder"], "--output", file, "--effort", effort)
        assert f"max_tokens: {tokens}" in file.read_text(), output
        assert ("longer texts are cut to 128 tokens, about 85 words" in output) == (effort == "quick")


def test_a_file_that_exists_stays(tmp_path: Path, data: Path, tiny_models: TinyModels) -> None:
    file = tmp_path / "first.yaml"
    file.write_text("study: mine\n")
    code, output = init(data / "amazon.csv", "--backbone", tiny_models["encoder"], "--output", file)
    assert code == 2
    assert "exists" in output
    assert file.read_text() == "study: mine\n"


def test_paths_below_the_file_are_relative_and_the_folder_can_move(
    tmp_path: Path, data: Path, tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old" / "data").mkdir(parents=True)
    (tmp_path / "old" / "data" / "mine.csv").write_bytes((data / "amazon.csv").read_bytes())
    monkeypatch.chdir(tmp_path / "old")
    code, output = init("data/mine.csv", "--backbone", tiny_models["encoder"])
    assert code == 0, output
    (tmp_path / "old").rename(tmp_path / "new")
    study = load_study(tmp_path / "new" / "mine.yaml")
    assert study.file.target.train == "data/mine.csv"


@pytest.mark.parametrize("family", ["encoder", "masked_lm", "causal_lm", "seq2seq", "recurrent"])
def test_the_family_is_what_the_config_says(tiny_models: TinyModels, family: str) -> None:
    assert guess_family(str(tiny_models[family])) == family


def test_a_model_that_is_not_there(tmp_path: Path, data: Path) -> None:
    code, output = init(data / "amazon.csv", "--backbone", tmp_path / "nowhere", "--output", tmp_path / "first.yaml")
    assert code == 2
    assert "no such folder" in output
    assert not (tmp_path / "first.yaml").exists()


def test_it_says_what_the_search_will_cost(tmp_path: Path, data: Path, tiny_models: TinyModels) -> None:
    file = tmp_path / "first.yaml"
    arguments = (data / "amazon.csv", "--backbone", tiny_models["encoder"], "--output", file, "--time", "8h")
    code, output = init(*arguments, "--effort", "quick")
    assert code == 0, output
    # One finalist thrice, and twice the baseline that isn't a trial; without a source there is none to leave out.
    assert "cost: 14 trials of 4 folds, then up to 5 reruns to judge the winner, " in output
    assert "at most 8h 00m" in output
    assert load_study(file).file.budget.timeout == 8 * 3600


def test_a_missing_model_is_an_error_that_names_some(tmp_path: Path, data: Path) -> None:
    for more in ((), ("--yes",)):
        code, output = init(data / "amazon.csv", "--output", tmp_path / "first.yaml", *more)
        assert code == 2
        assert "error: --backbone is missing" in output
        assert "texts in English: sentence-transformers/all-MiniLM-L6-v2" in output


def test_in_a_terminal_it_asks_for_what_it_cannot_know(
    tmp_path: Path, tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"Das Zimmer war gut und das Essen kalt, sagt Gast {n}" for n in range(30)]
    lines = "".join(f'"{text}",A{n % 2},\n' for n, text in enumerate(texts))
    (tmp_path / "rooms.csv").write_text(f"notiz,sorte,leer\n{lines}")
    monkeypatch.setattr("promptgraft.search.cli.drafting.is_terminal", lambda: True)
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, ["init", "rooms.csv", "--effort", "quick"], input=f"{tiny_models['encoder']}\n")
    assert found.exit_code == 0, found.output
    assert "The texts are in German." in found.output
    assert "paraphrase-multilingual-MiniLM-L12-v2" in found.output
    assert "next: promptgraft run rooms.yaml" in found.output
    assert load_study(tmp_path / "rooms.yaml").file.backbone.path == tiny_models["encoder"]


def test_it_asks_which_column_is_the_label(
    tmp_path: Path, tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "".join(f"the room was fine on day {n},{n}\n" for n in range(20))
    (tmp_path / "rooms.csv").write_text(f"note,number\n{lines}")
    monkeypatch.setattr("promptgraft.search.cli.drafting.is_terminal", lambda: True)
    monkeypatch.chdir(tmp_path)
    arguments = ["init", "rooms.csv", "--backbone", tiny_models["encoder"]]
    found = CliRunner().invoke(app, arguments, input="nothing\n")
    assert found.exit_code == 2
    assert "Which column is the label?" in found.output
    assert "no column 'nothing'" in found.output
    assert "Which column" not in CliRunner().invoke(app, [*arguments, "--yes"]).output


def test_a_compressed_table_and_a_url_make_studies(
    tmp_path: Path, data: Path, tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (data / "amazon.csv").read_bytes()
    (tmp_path / "reviews.2026.csv.gz").write_bytes(gzip.compress(content))
    fsspec.filesystem("memory").pipe_file("/shop/reviews.csv", content)
    monkeypatch.chdir(tmp_path)
    for table, output in (("reviews.2026.csv.gz", "reviews.yaml"), ("memory://shop/reviews.csv", "other.yaml")):
        code, shown = init(table, "--backbone", tiny_models["encoder"], "--output", output)
        assert code == 0, shown
        study = load_study(tmp_path / output)
        assert (study.name, study.file.target.train) == ("reviews", table)


def test_numbers_make_a_regression(tmp_path: Path, tiny_models: TinyModels) -> None:
    lines = "".join(f"the flat has {n} rooms and a view,{n * 9.5}\n" for n in range(60))
    (tmp_path / "flats.csv").write_text(f"note,rent\n{lines}")
    (tmp_path / "houses.csv").write_text(f"note,price\n{lines}")
    tables = (tmp_path / "flats.csv", "--source", tmp_path / "houses.csv")
    code, output = init(*tables, "--backbone", tiny_models["encoder"], "--output", tmp_path / "flats.yaml")
    assert code == 0, output
    assert "numbers: 0 to 560.5, 60 different ones" in output
    assert "the source's numbers have another name (price, rent)" in output
    study = load_study(tmp_path / "flats.yaml")
    assert (study.file.target.kind, study.file.metric) == ("regression", "rmse")
    assert study.file.space is not None
    assert "probe" in str(study.file.space.head)


def test_several_labels_a_row_are_drafted_and_said(tmp_path: Path, tiny_models: TinyModels) -> None:
    table, file = tmp_path / "films.csv", tmp_path / "films.yaml"
    genres = ("Action", "Drama", "Action|Drama", "Comedy|Drama", "Comedy")
    table.write_text("title,genres\n" + "".join(f"a film of number {n} or so,{genres[n % 5]}\n" for n in range(60)))
    code, output = init(table, "--label", "genres", "--backbone", tiny_models["encoder"], "--output", file)
    assert code == 0, output
    assert "several labels a row, 1.4 on average (kind: multi_label): Drama (36), Action (24), Comedy (24)" in output
    assert "caution" not in output
    study = load_study(file)
    assert (study.file.target.kind, study.target.labels) == ("multi_label", ("Action", "Comedy", "Drama"))
    file.unlink()
    code, output = init(
        table,
        "--label",
        "genres",
        "--kind",
        "text_classification",
        "--backbone",
        tiny_models["encoder"],
        "--output",
        file,
    )
    assert code == 0, output
    assert "Action|Drama (12)" in output

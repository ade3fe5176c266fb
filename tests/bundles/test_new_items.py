"""Items that came after the export are recommended by their texts."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from optuna.trial import create_trial

from promptgraft.bundles import Predictor, read_manifest, verify
from promptgraft.bundles.formats import convert
from promptgraft.bundles.new_items import read_new_items
from promptgraft.bundles.serving import ServingLimits, create_app
from promptgraft.objectives.backbones import Encoder
from promptgraft.objectives.trial import Objective
from promptgraft.search.cli.studies import app
from promptgraft.search.exporting import export_winner
from promptgraft.search.reporting import collect_facts, render_page
from promptgraft.search.running.compatibility import record_study
from promptgraft.search.storage import RunFolder, keep_result
from promptgraft.search.study import Study, load_study
from promptgraft.spaces import Candidate, InvalidInputError
from tests.support.histories import ITEMS, write_histories
from tests.support.models import TinyModels
from tests.support.studies import write_study_file

HISTORY = "\n".join(list(ITEMS.values())[3:6])
NEW = {"n1": "wooden ball", "n2": "sweet bread", "bread0": "red bread", "n3": ""}

HEADS: dict[str, dict[str, list[str]]] = {
    "encoder": {"head": ["label_words", "linear"], "prior": ["none", "ease"]},
    "causal_lm": {"head": ["titles"], "prior": ["ease", "neighbours"]},
}
TITLES: dict[str, Any] = {"family": "causal_lm", "head": "titles", "prior": "ease"}


@dataclass(frozen=True)
class Shop:
    """A small study whose one trial is exported."""

    study: Study
    stored: optuna.Study
    run: RunFolder
    bundle: Path


def exported(folder: Path, tiny_models: TinyModels, family: str = "encoder", **own: Any) -> Shop:
    """Export a trial of a small shop."""
    interactions, items = write_histories(folder)
    histories = {"user": "user", "time": "when", "items": str(items), "text": "title"}
    file = write_study_file(
        folder / "study.yaml",
        {"path": tiny_models[family], "family": family, "max_tokens": 32},
        source=None,
        target={
            **{"kind": "recommendation", "train": str(interactions), "text": {"history": "history"}, "label": "item"},
            "histories": histories,
        },
        space={
            "templates": {"last": "{{ history.split('\n')[0] }} {{ label }}"},
            **HEADS[family],
            "text_weight": [0.0, 0.3],
            "steps": [4],
        },
        judging={"finalists": 0},
    )
    study, run = load_study(file, rehearsed=True), RunFolder(folder / "run")
    stored = optuna.create_study(direction=study.objective.direction)
    record_study(stored, study, 1)
    space = study.objective.space
    candidate = Candidate(space.templates[0].id, space.first_verbalizer, steps=4, **own).canonical(space.facts)
    result = Objective(study.objective).evaluate(candidate, study.file.seed)
    keep_result(run.files(), 0, result)
    attrs = {f"validation_{name}": value for name, value in result.metrics.items()}
    stored.add_trial(
        create_trial(
            value=result.value, user_attrs={**attrs, "candidate": candidate.to_dict(), "best_step": result.step}
        )
    )
    return Shop(study, stored, run, export_winner(study, stored, run).folder)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, tiny_models: TinyModels) -> Shop:
    return exported(tmp_path_factory.mktemp("shop"), tiny_models, prior="ease", text_weight=0.3)


@pytest.fixture
def bundle(shop: Shop) -> Path:
    return shop.bundle


@pytest.fixture
def items(tmp_path: Path) -> Path:
    return write_items(tmp_path / "new.csv", NEW)


def write_items(path: Path, items: dict[str, str], columns: tuple[str, str] = ("item", "title")) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *items.items()])
    return path


def test_known_items_keep_their_scores_and_new_ones_get_those_of_their_texts(bundle: Path, items: Path) -> None:
    """A new item has no counts, and its row of the head is its text's embedding by the pretrained model."""
    usual, wider = Predictor(bundle), Predictor(bundle, items=str(items))
    assert (wider.new_items.names, wider.new_items.known, wider.new_items.without_text) == (
        ("wooden ball", "sweet bread"),
        1,
        1,
    )
    assert wider.labels == (*usual.labels, "wooden ball", "sweet bread")
    before, found = usual.logits([HISTORY]), wider.logits([HISTORY])
    assert np.array_equal(found[:, :-2], before)
    model = wider.members[0].model
    head = model.weights()["reader.weight"].detach()
    pretrained = Predictor(bundle).members[0].model.backbone
    assert isinstance(pretrained, Encoder)
    pretrained.restore()
    alone = pretrained._embed(["wooden ball"], pretrained.pool)
    assert head[-2].numpy() == pytest.approx(alone[0].numpy(), abs=1e-5)
    text = model.logits(model.batch(model.encode_fields([{"history": HISTORY}])), wider.labels).detach().numpy()
    assert found[0, -2:] == pytest.approx(0.3 * text[0, -2:], abs=1e-5)


def test_the_catalogue_is_not_encoded_again(bundle: Path, items: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded: list[str] = []
    embed = Encoder._embed

    def noted(self: Encoder, texts: list[str], pool: Any) -> Any:
        embedded.extend(texts)
        return embed(self, texts, pool)

    monkeypatch.setattr(Encoder, "_embed", noted)
    Predictor(bundle)
    assert embedded == []
    Predictor(bundle, items=str(items))
    assert embedded == ["wooden ball", "sweet bread"]


def test_new_items_are_recommended_by_the_command_line_and_the_server(
    bundle: Path, items: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, said = tmp_path / "histories.csv", tmp_path / "said.csv"
    everything = "\r\n".join(ITEMS.values())
    pd.DataFrame({"history": [everything, "12\n7"]}).to_csv(table, index=False)
    command = ["predict", str(bundle), "--input", str(table), "--output", str(said), "--items", str(items)]
    app(command, standalone_mode=False)
    printed = capsys.readouterr()
    assert "2 new items, 1 known already; 1 rows are left out" in printed.err
    assert "no item of 1 histories is known: write the texts of items, one a line, the newest first" in printed.out
    recommended = json.loads(pd.read_csv(said)["recommended"][0])
    assert {name for name, _ in recommended} == {"wooden ball", "sweet bread"}, "what is left"
    predictor = Predictor(bundle, items=str(items))
    application = create_app([predictor], ["history"], predictor.manifest.origin, ServingLimits())
    with TestClient(application) as client:
        answer = client.post("/predict", json={"history": everything}).json()
        assert "wooden ball" in client.get("/about").json()["labels"]
    assert [own["item"] for own in answer["recommended"]] == [name for name, _ in recommended]
    assert answer["item"] == recommended[0][0]


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ({"bread0": "red bread"}, ("item", "title"), "no row is a new item"),
        ({"n1": "wooden ball"}, ("item", "name"), "no column 'title'"),
    ],
)
def test_tables_without_new_items_are_refused(
    bundle: Path, tmp_path: Path, rows: dict[str, str], columns: tuple[str, str], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Predictor(bundle, items=str(write_items(tmp_path / "odd.csv", rows, columns)))


def test_items_with_the_text_of_others_are_told_apart_as_far_as_the_bundle_does(bundle: Path, tmp_path: Path) -> None:
    """A bundle knows its items by their texts, with ids behind them where two had the same."""

    def added(rows: dict[str, str]) -> tuple[tuple[str, ...], int]:
        columns = tuple(read_manifest(bundle).item_columns)
        found = Predictor(bundle, items=str(write_items(tmp_path / "more.csv", rows, columns))).new_items  # type: ignore[arg-type]
        return found.names, found.known

    item, text = next(iter(ITEMS.items()))
    assert added({item: text, "n9": text}) == ((f"{text} (n9)",), 1)
    assert added({item: text, "n7": "blue hat", "n8": "blue hat"}) == (("blue hat (n7)", "blue hat (n8)"), 1)


@pytest.mark.parametrize(
    ("rows", "names", "known"),
    [
        ({"bread0": "red bread", "n1": "red bread"}, ("red bread (n1)",), 1),
        ({"n1": "red bread", "bread0": "red bread"}, ("red bread (n1)",), 1),
        ({"n1": "red bread"}, ("red bread (n1)",), 0),
        ({"bread0": "another text", "n1": "wooden ball"}, ("wooden ball",), 1),
        ({"n1": "wooden ball", "n2": "wooden ball"}, ("wooden ball (n1)", "wooden ball (n2)"), 0),
    ],
    ids=[
        "a remake beside its original",
        "before it",
        "a remake alone",
        "a known item with another text",
        "two new ones",
    ],
)
def test_items_are_known_by_their_ids(
    bundle: Path, tmp_path: Path, rows: dict[str, str], names: tuple[str, ...], known: int
) -> None:
    found = Predictor(bundle, items=str(write_items(tmp_path / "new.csv", rows)))
    assert (found.new_items.names, found.new_items.known) == (names, known)
    assert found.labels[-len(names) :] == names


def test_items_are_known_by_their_texts_where_a_bundle_has_no_ids(bundle: Path, tmp_path: Path) -> None:
    """As those of older versions; names of items that shared a text hold their ids."""
    whole = read_manifest(bundle)
    assert whole.labels == tuple(ITEMS[item] for item in whole.item_ids)
    old = whole.model_copy(update={"labels": ("red hat (1)", "red hat (3)", "coat"), "item_ids": ()})
    table = write_items(tmp_path / "new.csv", {"1": "red hat", "2": "red hat", "4": "coat", "5": "scarf"})
    found = read_new_items(str(table), old)
    assert (found.names, found.known) == (("red hat", "scarf"), 2)
    found = read_new_items(str(table), old.model_copy(update={"item_ids": ("1", "3", "9")}))
    assert (found.names, found.known) == (("red hat", "coat (4)", "scarf"), 1)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"head": "linear"}, "head 'linear' of trial 0 has learnt"),
        ({"prior": "ease", "text_weight": 0.0}, "counts"),
        (TITLES, "trial 0 ranks those that a prior lists"),
    ],
    ids=["a head that learns items", "counts alone", "a short list"],
)
def test_models_that_read_no_texts_of_items_take_none(
    tmp_path: Path, tiny_models: TinyModels, items: Path, own: dict[str, Any], message: str
) -> None:
    (tmp_path / "shop").mkdir()
    found = exported(tmp_path / "shop", tiny_models, **own)
    with pytest.raises(InvalidInputError, match=message):
        Predictor(found.bundle, items=str(items))
    assert verify(found.bundle).passed


@pytest.mark.slow
def test_other_formats_hold_it_or_say_why_not(shop: Shop, tmp_path: Path, tiny_models: TinyModels) -> None:
    """MLflow's is the bundle itself; a graph has the embeddings of items in it, but no counts."""
    assert convert(shop.bundle, tmp_path / "mlflow", "mlflow") == 0.0
    with pytest.raises(InvalidInputError, match=r"adds a prior \('ease'\)"):
        convert(shop.bundle, tmp_path / "counts", "onnx")
    (tmp_path / "texts").mkdir()
    texts = exported(tmp_path / "texts", tiny_models)
    difference = convert(texts.bundle, tmp_path / "onnx", "onnx")
    assert difference is not None
    assert difference < 1e-5


def test_the_report_shows_histories_and_cold_start(shop: Shop) -> None:
    """From the best to the worst, each with what came and what was recommended; there is no table of all items."""
    facts = collect_facts(shop.stored, shop.study, shop.run.files())
    assert len(facts.predictions) == 2
    for found in facts.predictions:
        assert (list(found.confusion), found.classes, found.calibration) == ([], (), None)
        ranks = [row.loss for row in found.worst]
        assert ranks == sorted(ranks)
        assert all(row.answer in ITEMS.values() and row.predicted.count("; ") == 2 for row in found.worst)
        assert sum(part.rows for part in found.parts if part.name.startswith("users")) == found.count
        assert set(found.parts[0].metrics) == set(shop.study.target.metrics)
    page = render_page(facts)
    assert "Histories, what came, and what was recommended" in page
    assert "Cold start" in page
    test = dict(facts.predictions[0].metrics)
    assert test == pytest.approx(read_manifest(shop.bundle).metrics["test"], abs=1e-6)

"""Models that write answers ship as classifiers do: exported, verified, predicted, served, reported."""

from pathlib import Path

import mlflow.pyfunc
import optuna
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from mlflow.types import DataType
from optuna.trial import create_trial
from sacrebleu.metrics import BLEU, CHRF

from promptgraft.bundles import Predictor, read_manifest, verify
from promptgraft.bundles.formats import convert
from promptgraft.bundles.serving import ServingLimits, create_app
from promptgraft.objectives.trial import Objective
from promptgraft.search.cli.studies import app
from promptgraft.search.exporting import export_winner
from promptgraft.search.reporting import collect_facts, render_page
from promptgraft.search.running.compatibility import record_study
from promptgraft.search.storage import RunFolder, keep_result
from promptgraft.search.study import load_study
from promptgraft.spaces import Adapter, Candidate, Decoding, InvalidInputError, SoftPrompt
from tests.support.answers import write_pairs
from tests.support.models import TinyModels
from tests.support.studies import write_study_file


class Shipped:
    """A study of translations whose two trials have run and whose winner is exported; no Ray is needed for that."""

    def __init__(self, family: str, folder: Path, model: str) -> None:
        target = {
            **{"kind": "translation", "train": str(write_pairs(folder / "pairs.csv")), "text": "en", "label": "es"},
            **{"source_language": "English", "target_language": "Spanish"},
            **{"train_rows": 40, "test_rows": 20, "folds": 2},
        }
        file = write_study_file(
            folder / "study.yaml",
            {"path": model, "family": family, "max_tokens": 48},
            source=None,
            target=target,
            space={
                "templates": {"plain": "{{ text }} = {{ label }}"},
                "steps": [0, 8],
                "decoding": {"max_new_tokens": 8},
            },
            evaluation={"every": 8, "sample": 6},
        )
        self.study, self.folder = load_study(file, rehearsed=True), RunFolder(folder / "run")
        self.stored = optuna.create_study(direction=self.study.objective.direction)
        record_study(self.stored, self.study, 2)
        objective, template = Objective(self.study.objective), self.study.objective.space.templates[0].id
        plain = Candidate(template, "", head="answer", steps=8, batch_size=8, decoding=Decoding(2, max_new_tokens=8))
        tried = (
            Candidate.from_values({**plain.to_dict(), "adapter.method": "lora", "learning_rate": 1e-3}),
            Candidate.from_values({**plain.to_dict(), "soft_prompt.length": 2, "steps": 0}),
        )
        assert tried[0].adapter == Adapter("lora")
        assert tried[1].soft_prompt == SoftPrompt(2)
        for number, own in enumerate(tried):
            candidate = own.canonical(self.study.objective.space.facts)
            result = objective.evaluate(candidate, self.study.file.seed)
            keep_result(self.folder.files(), number, result)
            attrs = {f"validation_{name}": value for name, value in result.metrics.items()}
            attrs |= {"candidate": candidate.to_dict(), "best_step": result.step, "fold_values": result.fold_values}
            self.stored.add_trial(create_trial(value=result.value, user_attrs=attrs))
        self.export = export_winner(self.study, self.stored, self.folder)


@pytest.fixture(scope="module", params=["seq2seq", "causal_lm"])
def shipped(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_models: TinyModels
) -> Shipped:
    return Shipped(request.param, tmp_path_factory.mktemp(request.param), tiny_models[request.param])


def test_the_bundle_writes_what_was_scored(shipped: Shipped) -> None:
    found = verify(shipped.export.folder)
    assert found.passed
    assert found.agreeing == found.rows > 0
    manifest, rows = read_manifest(shipped.export.folder), shipped.study.target.test
    said = Predictor(shipped.export.folder).predict([row.fields for row in rows])
    references = [str(row.answer) for row in rows]
    assert manifest.metrics["test"]["bleu"] == pytest.approx(BLEU().corpus_score(said, [references]).score)
    assert manifest.metrics["test"]["chrf"] == pytest.approx(CHRF(word_order=2).corpus_score(said, [references]).score)
    assert "nw:2" in manifest.signatures["chrf"]
    assert manifest.languages == ("English", "Spanish")
    low, high = shipped.export.interval or (0.0, 0.0)
    assert low <= manifest.metrics["test"]["chrf"] <= high
    names = [entry.name for entry in shipped.export.held_out]
    assert names[1:] == [
        "copy of the text",
        "answer of the nearest row by TF-IDF, all labelled rows (40 rows)",
        "zero-shot, template plain",
    ]


def test_a_table_gets_the_answers(shipped: Shipped, tmp_path: Path) -> None:
    table, output = tmp_path / "new.csv", tmp_path / "said.csv"
    texts = ["red dog 1", "blue cat tree 2", ""]
    pd.DataFrame({"en": texts}).to_csv(table, index=False)
    command = ["predict", str(shipped.export.folder), "--input", str(table), "--output", str(output)]
    app(command, standalone_mode=False)
    said = pd.read_csv(output, keep_default_na=False)
    predictor = Predictor(shipped.export.folder)
    assert [*predictor.predict(texts[:2]), ""] == said["answer"].tolist()
    with pytest.raises(InvalidInputError, match="predicts texts, which have no probabilities"):
        predictor.predict_proba(texts[:2])


def test_mlflow_holds_it(shipped: Shipped, tmp_path: Path) -> None:
    assert convert(shipped.export.folder, tmp_path / "mlflow", "mlflow") == 0
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "mlflow"))
    assert loaded.predict(pd.DataFrame({"text": ["red dog 1"]}))["answer"].tolist() == Predictor(
        shipped.export.folder
    ).predict(["red dog 1"])
    (answer,) = loaded.metadata.get_output_schema()
    assert (answer.name, answer.type) == ("answer", DataType.string)


def test_it_is_served(shipped: Shipped) -> None:
    predictor, texts = Predictor(shipped.export.folder), ["red dog 1", "blue cat tree 2"]
    with TestClient(create_app([predictor], ["text"], predictor.manifest.origin, ServingLimits())) as client:
        answers = client.post("/predict/batch", json={"rows": [{"text": text} for text in texts]}).json()["predictions"]
        one = client.post("/predict", json={"text": texts[0]}).json()
    assert [answer["answer"] for answer in answers] == predictor.predict(texts)
    assert one == answers[0]


def test_the_report_shows_examples_beside_their_references(shipped: Shipped) -> None:
    facts = collect_facts(shipped.stored, shipped.study, shipped.folder.files())
    assert {found.rows for found in facts.predictions} == {"test", "validation"}
    for found in facts.predictions:
        assert found.worst
        assert found.worst[0].answer != found.worst[0].predicted
        assert sum(part.rows for part in found.parts) == found.count
        assert all(part.metrics.keys() == found.metrics.keys() for part in found.parts)
    page = render_page(facts)
    assert "The worst rows, side by side" in page
    assert "Scores by length" in page

"""Other kinds of task ship as classification does: exported, verified, predicted, served, reported."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from optuna.study import StudyDirection
from optuna.trial import create_trial

from promptgraft.bundles import TOLERANCE, Predictor, read_examples, read_manifest, verify
from promptgraft.bundles.formats import convert
from promptgraft.bundles.serving import ServingLimits, create_app
from promptgraft.objectives.data import Row, Span, Task
from promptgraft.objectives.kinds.multi_label import labels_in
from promptgraft.objectives.trial import Objective
from promptgraft.search.cli.studies import app
from promptgraft.search.exporting import export_winner
from promptgraft.search.judging import compare_by_metric, rows_of_kind
from promptgraft.search.judging.ensemble import choose_ensemble
from promptgraft.search.reporting import collect_facts, render_page
from promptgraft.search.running.compatibility import record_study
from promptgraft.search.storage import RunFolder, keep_result
from promptgraft.search.study import load_study
from promptgraft.spaces import Candidate, InvalidInputError
from tests.support.commands import typed
from tests.support.kinds import COLUMNS, write_kinds
from tests.support.models import TinyModels
from tests.support.outputs import printed
from tests.support.studies import write_study_file

KINDS = ["multi_label", "regression", "token_classification"]


class Shipped:
    """A study of one kind whose two trials have run and whose winner is exported; no Ray is needed for that."""

    def __init__(self, kind: str, folder: Path, encoder: str, offset: float = 0.0) -> None:
        table = write_kinds(folder / "rows.csv")
        if offset:
            frame = pd.read_csv(table)
            frame.assign(score=frame["score"] + offset).to_csv(table, index=False)
        target = {
            "kind": kind,
            "train": str(table),
            "text": "text",
            "label": COLUMNS[kind],
            "train_rows": 48,
            "test_rows": 40,
            "folds": 2,
        }
        file = write_study_file(
            folder / "study.yaml",
            {"path": encoder, "family": "encoder", "max_tokens": 48},
            source=None,
            target=target,
            space={"templates": {"plain": "{{ text }} {{ label }}"}, "head": ["linear", "probe"], "steps": [0, 8]},
            judging={"finalists": 0, "ensemble": 2},
        )
        self.study, self.folder = load_study(file, rehearsed=True), RunFolder(folder / "run")
        self.stored = optuna.create_study(direction=self.study.objective.direction)
        record_study(self.stored, self.study, 2)
        objective, template = Objective(self.study.objective), self.study.objective.space.templates[0].id
        tried = (
            Candidate(template, "", head="probe", steps=0, probe_c=10.0),
            Candidate(template, "", head="linear", steps=8, batch_size=16, learning_rate=1e-3),
        )
        for number, own in enumerate(tried):
            candidate = own.canonical(self.study.objective.space.facts)
            result = objective.evaluate(candidate, self.study.file.seed)
            keep_result(self.folder.files(), number, result)
            attrs = {f"validation_{name}": value for name, value in result.metrics.items()}
            attrs |= {"candidate": candidate.to_dict(), "best_step": result.step, "fold_values": result.fold_values}
            self.stored.add_trial(create_trial(value=result.value, user_attrs=attrs))
        self.export = export_winner(self.study, self.stored, self.folder)


@pytest.fixture(scope="module", params=KINDS)
def shipped(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_models: TinyModels
) -> Shipped:
    return Shipped(request.param, tmp_path_factory.mktemp(request.param), tiny_models["encoder"])


def test_the_bundle_predicts_what_was_scored(shipped: Shipped) -> None:
    found = verify(shipped.export.folder)
    assert found.passed
    assert found.agreeing == found.rows > 0
    rows = shipped.study.target.test
    predictor = Predictor(shipped.export.folder)
    outputs = predictor.logits([row.fields for row in rows])
    decided = predictor.manifest.task
    metrics = read_manifest(shipped.export.folder).metrics["test"]
    own = decided.measure(outputs, rows) if decided.has_labels else shipped.study.target.measure(outputs, rows)
    assert own == pytest.approx(metrics, abs=1e-5)
    names = [entry.name for entry in shipped.export.held_out]
    assert not any(name.startswith("zero-shot") for name in names)
    assert shipped.export.interval is not None
    again = Predictor(shipped.export.folder).logits([row.fields for row in rows])
    assert np.array_equal(outputs, again)
    (said,) = predictor.predict([{**rows[0].fields, "other": "column"}])
    assert said == predictor.predict([rows[0].fields["text"]])[0]


def test_numbers_far_from_0_are_told_apart(tmp_path: Path, tiny_models: TinyModels) -> None:
    """Times in milliseconds, of which float32 holds the first seven digits."""
    shipped = Shipped("regression", tmp_path, tiny_models["encoder"], offset=1.7e12)
    task = shipped.study.target
    assert shipped.export.members == ()
    assert verify(shipped.export.folder).passed
    examples, spread = read_examples(shipped.export.folder), np.std([row.answer for row in task.labelled])
    assert examples is not None
    moved = tuple((number + 0.01 * spread,) for (number,) in examples.logits)
    other = verify(shipped.export.folder, examples=examples.model_copy(update={"logits": moved}))
    assert not other.passed
    assert other.difference == pytest.approx(0.01, rel=0.01)
    predictor = Predictor(shipped.export.folder)
    outputs = predictor.logits([row.fields for row in task.test])
    found, metrics = task.measure(outputs, task.test), read_manifest(shipped.export.folder).metrics
    assert found == pytest.approx(metrics["test"], abs=1e-3)
    assert min(found["r2"], metrics["validation"]["r2"]) > 0
    assert len(np.unique(outputs)) > 20
    halves = task.combine([outputs, outputs + 2], [0.5, 0.5])
    assert halves == pytest.approx(outputs + 1, abs=1e-3, rel=0)
    mean = np.mean([row.answer for row in task.train])
    assert task.constant(task.test)[:, 0] == pytest.approx(mean, abs=1e-3, rel=0)
    linear = task.fit_linear(np.eye(len(task.train)), task.train, np.eye(len(task.train)), 1e6)
    assert linear[:, 0] == pytest.approx([row.answer for row in task.train], abs=1e-2, rel=0)


def test_thresholds_are_chosen_on_rows_out_of_their_folds(shipped: Shipped) -> None:
    manifest, task = read_manifest(shipped.export.folder), shipped.study.target
    if manifest.kind != "multi_label":
        assert manifest.thresholds == ()
        return
    logits = shipped.folder.files().read_tensors(f"artifacts/trial-{manifest.trial}/validation_logits.safetensors")
    assert manifest.thresholds == task.decided(logits["logits"].numpy(), task.scored()).thresholds
    first, second, *_ = shipped.export.held_out
    assert first.name.endswith("thresholds as shipped")
    assert first.metrics["average_precision"] == second.metrics["average_precision"]


def test_a_table_gets_the_answers(shipped: Shipped, tmp_path: Path) -> None:
    table, output = tmp_path / "new.csv", tmp_path / "said.csv"
    texts = ["bread soup item", "ball goal chip code", ""]
    pd.DataFrame({"text": texts}).to_csv(table, index=False)
    command = ["predict", str(shipped.export.folder), "--input", str(table), "--output", str(output)]
    app(command, standalone_mode=False)
    said = pd.read_csv(output, keep_default_na=False)
    predictor = Predictor(shipped.export.folder)
    expected = predictor.predict(texts[:2])
    if predictor.manifest.kind == "token_classification":
        assert [
            [(own["start"], own["end"], own["label"]) for own in json.loads(cell)] for cell in said["spans"][:2]
        ] == [[(own.start, own.end, own.label) for own in spans] for spans in expected]  # type: ignore[union-attr]
        assert said["spans"][2] == ""
    elif predictor.task.has_labels:
        assert [tuple(labels_in(cell) or ()) for cell in said["labels"][:2]] == expected
        assert said["probability_food"].tolist()[2] == said["labels"].tolist()[2] == ""
    else:
        assert said["value"][:2].astype(float).tolist() == pytest.approx(expected)
        assert said["value"][2] == ""
        with pytest.raises(InvalidInputError, match="have no probabilities"):
            predictor.predict_proba(texts[:2])
    with pytest.raises(InvalidInputError, match="no single label"):
        predictor.predict_rows([{"text": "bread"}], abstain_below=0.5)


def test_it_is_served(shipped: Shipped) -> None:
    predictor = Predictor(shipped.export.folder)
    about, limits = predictor.manifest.origin, ServingLimits()
    texts = ["bread soup item", "ball goal chip code"]
    with TestClient(create_app([predictor], ["text"], about, limits)) as client:
        answers = client.post("/predict/batch", json={"rows": [{"text": text} for text in texts]}).json()["predictions"]
        one = client.post("/predict", json={"text": texts[0]}).json()
    first = next(iter(one))
    assert one == pytest.approx(answers[0]) if first == "value" else one[first] == answers[0][first]
    if first == "spans":
        said = [tuple(Span(own["start"], own["end"], own["label"]) for own in answer["spans"]) for answer in answers]
        assert said == predictor.predict(texts)
        assert all(own["text"] == texts[0][own["start"] : own["end"]] for own in one["spans"])
    elif predictor.task.has_labels:
        assert [tuple(answer["labels"]) for answer in answers] == predictor.predict(texts)
        assert set(one["probabilities"]) == set(predictor.labels)
    else:
        assert [answer["value"] for answer in answers] == pytest.approx(predictor.predict(texts))
    with pytest.raises(InvalidInputError, match="no single label"):
        create_app([predictor], ["text"], about, limits, abstain_below=0.5)


def test_the_report_shows_the_worst_rows_in_place_of_confusion(shipped: Shipped) -> None:
    facts = collect_facts(shipped.stored, shipped.study, shipped.folder.files())
    assert len(facts.predictions) == 2
    for found in facts.predictions:
        assert (list(found.confusion), found.calibration) == ([], None)
        losses = [row.loss for row in found.worst]
        assert losses == sorted(losses, reverse=True)
        assert bool(found.classes) == shipped.study.target.has_labels
    page = render_page(facts)
    assert "The worst rows" in page
    assert "Is it as sure as it should be?" not in page


def test_an_ensemble_is_chosen_by_the_rows_out_of_their_folds(shipped: Shipped) -> None:
    found = choose_ensemble(shipped.study, shipped.stored, shipped.folder.files())
    assert found is not None
    assert sum(found.weights) == pytest.approx(1.0)
    sign = 1 if shipped.stored.directions[0] == StudyDirection.MAXIMIZE else -1
    assert found.chosen == (len(found.members) > 1 and sign * (found.value - found.alone) >= -found.error)


def test_a_pipeline_compares_bundles_by_the_metric_of_the_kind(shipped: Shipped, tmp_path: Path) -> None:
    folder, table = str(shipped.export.folder), str(write_kinds(tmp_path / "new.csv", seed=2))
    column = COLUMNS[shipped.study.file.target.kind]
    result = typed("compare", folder, folder, "--data", table, "--label", column, "--json")
    found = printed("compare", result.stdout)
    assert (result.exit_code, found["outcome"], found["disagreements"]) == (4, "no difference shown", [])
    assert (found["low"], found["high"]) == (0.0, 0.0)
    task = read_manifest(shipped.export.folder).task
    rows, _ = rows_of_kind(task, table, {"text": "text"}, column)
    outputs = Predictor(shipped.export.folder).logits([row.fields for row in rows])
    own = replace(task, labelled=tuple(rows))
    assert found["champion"] == own.measure(outputs, rows)[found["metric"]]
    assert (
        "no difference shown (jackknife" in typed("compare", folder, folder, "--data", table, "--label", column).stdout
    )

    class Answers:
        """Knows the answers, but for noise."""

        def __init__(self, noise: float) -> None:
            self.task = task
            self.noise = noise

        def logits(self, texts: Sequence[Mapping[str, str]]) -> npt.NDArray[np.float32]:
            assert len(texts) == len(rows)
            random = np.random.default_rng(0).normal(size=outputs.shape)
            return (known_outputs(task, rows, outputs.shape) + self.noise * random).astype(np.float32)

    good, bad = Answers(0.1), Answers(9.0)
    better, worse = (compare_by_metric(*pair, rows, 0.05) for pair in ((bad, good), (good, bad)))
    assert (better.outcome, worse.outcome) == ("better", "worse")
    assert better.low == pytest.approx(-worse.high)


def known_outputs(task: Task, rows: Sequence[Row], shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return outputs that say what is right."""
    found = np.zeros(shape)
    for place, row in enumerate(rows):
        if isinstance(row.answer, float):
            found[place] = row.answer
        elif task.words() is None:
            found[place] = [1 if label in task.labels_of(row.answer) else -1 for label in range(len(task.labels))]
        else:
            assert isinstance(row.answer, tuple)
            found[place, np.arange(len(row.answer)), list(row.answer)] = 3
    return found


def test_mlflow_holds_it_and_other_formats_are_refused(shipped: Shipped, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="which of other formats only mlflow holds"):
        convert(shipped.export.folder, tmp_path / "onnx", "onnx")
    difference = convert(shipped.export.folder, tmp_path / "mlflow", "mlflow")
    assert difference is not None
    assert difference <= TOLERANCE
    rows = pd.DataFrame({"text": ["bread soup item", ""]})
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "mlflow"))
    expected = Predictor(shipped.export.folder).predict_rows(rows.to_dict("records"))  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(loaded.predict(rows), expected)
    assert loaded.metadata.get_output_schema().input_names() == list(expected.columns)

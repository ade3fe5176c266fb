"""A winner with a prior ships: exported, verified, predicted, for users and items that the search never saw."""

import json
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import create_trial
from safetensors.torch import load_file, save_file

from promptgraft.bundles import Predictor, verify
from promptgraft.objectives.trial import Objective
from promptgraft.search.cli.studies import app
from promptgraft.search.exporting import export_winner
from promptgraft.search.running.compatibility import record_study
from promptgraft.search.storage import RunFolder, keep_result
from promptgraft.search.study import load_study
from promptgraft.spaces import Candidate, InvalidInputError
from tests.support.histories import ITEMS, write_histories
from tests.support.models import TinyModels
from tests.support.studies import write_study_file


@pytest.fixture(scope="module", params=[0.3, 0.0], ids=["with text", "alone"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_models: TinyModels) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    interactions, items = write_histories(folder)
    histories = {"user": "user", "time": "when", "items": str(items), "text": "title"}
    target = {"kind": "recommendation", "train": str(interactions), "text": {"history": "history"}, "label": "item"}
    file = write_study_file(
        folder / "study.yaml",
        {"path": tiny_models["encoder"], "family": "encoder", "max_tokens": 32},
        source=None,
        target={**target, "histories": histories},
        space={
            "templates": {"last": "{{ history.split('\n')[0] }} {{ label }}"},
            "head": "linear",
            "prior": ["none", "ease"],
            "prior_recency": 0.5,
            "text_weight": [0.0, 0.3],
            "steps": [0, 4],
        },
        judging={"finalists": 0},
    )
    study, run = load_study(file, rehearsed=True), RunFolder(folder / "run")
    stored = optuna.create_study(direction=study.objective.direction)
    record_study(stored, study, 1)
    own = Candidate(
        study.objective.space.templates[0].id, "", "linear", prior="ease", prior_recency=0.5, text_weight=request.param
    ).canonical(study.objective.space.facts)
    result = Objective(study.objective).evaluate(own, study.file.seed)
    keep_result(run.files(), 0, result)
    attrs = {f"validation_{name}": value for name, value in result.metrics.items()}
    stored.add_trial(
        create_trial(value=result.value, user_attrs={**attrs, "candidate": own.to_dict(), "best_step": result.step})
    )
    return export_winner(study, stored, run).folder


def test_the_bundle_is_what_was_scored(bundle: Path, tmp_path: Path) -> None:
    found = verify(bundle)
    assert found.passed
    assert found.agreeing == found.rows > 0
    predictor = Predictor(bundle)
    names = list(ITEMS.values())
    histories = ["\n".join(names[3:6]), "a film that nobody has had", f"a film that nobody has had\n{names[0]}"]
    outputs = predictor.logits(histories)
    assert np.isfinite(outputs).all()
    alone = np.concatenate([Predictor(bundle).logits([own]) for own in histories])
    assert outputs == pytest.approx(alone, abs=1e-5)
    table = tmp_path / "new.csv"
    pd.DataFrame({"history": histories}).to_csv(table, index=False)
    app(["predict", str(bundle), "--input", str(table), "--output", str(tmp_path / "said.csv")], standalone_mode=False)
    said = pd.read_csv(tmp_path / "said.csv")
    assert said["item"].tolist() == predictor.predict(histories)
    for history, cell in zip(histories, said["recommended"], strict=True):
        assert not {name for name, _ in json.loads(cell)} & set(history.split("\n"))


def test_a_damaged_prior_is_refused(bundle: Path, tmp_path: Path) -> None:
    predictor = Predictor(bundle)
    file = tmp_path / "delta.safetensors"
    delta = load_file(bundle / "delta.safetensors")
    save_file({name: value for name, value in delta.items() if name != "prior.popularity"}, file)
    with pytest.raises(InvalidInputError, match=r"prior\.popularity is missing"):
        predictor.members[0].model.load_all(load_file(file), len(predictor.labels))

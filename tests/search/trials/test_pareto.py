"""Several objectives: what is recorded, who is pruned, which trials are on the front, and whose weights stay."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from promptgraft.objectives.measures import CostMeter
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.search.cli.studies import app
from promptgraft.search.running import SearchSettings, StudyLedger
from promptgraft.search.running.compatibility import record_study
from promptgraft.search.storage import DELTA_FILE, RunFolder, load_existing, open_storage, trial_file
from promptgraft.search.study import EngineSection, build_pruner, load_study
from promptgraft.search.study.engines import PRUNERS
from promptgraft.search.study.yaml_lines import StudyFileError
from promptgraft.search.trials import costs_of, pareto_front, ranked_trials
from promptgraft.spaces import Adapter, Candidate, Float, InvalidInputError, SearchSpace, SoftPrompt
from tests.support.models import TINY_LAYERS
from tests.support.specs import TEMPLATES, VERBALIZERS
from tests.support.studies import FACTS

WriteStudy = Callable[..., Path]
COSTS = ["prompt_tokens", "trainable_parameters"]
MEDIAN = {"name": "median", "n_startup_trials": 3}


def open_ledger(folder: Path, pruner: dict[str, Any], sampler: str = "random") -> StudyLedger:
    storage = open_storage(f"sqlite:///{folder / 'study.db'}")
    directions = ["maximize", *("minimize" for _ in COSTS)]
    study = optuna.create_study(storage=storage, study_name="s", directions=directions, load_if_exists=True)
    study.set_metric_names(["accuracy", *COSTS])
    space = SearchSpace(TEMPLATES, VERBALIZERS, (Float("learning_rate", 1e-5, 1e-2), Float("alpha", 0, 1)), FACTS)
    engine = EngineSection.model_validate({"name": sampler})
    return StudyLedger(study, storage, space, SearchSettings(engine, EngineSection.model_validate(pruner), 0))


def run_trial(book: StudyLedger, curve: list[float], costs: tuple[float, float]) -> FrozenTrial:
    """Report a curve until its end or until the pruner stops it, as the scheduler does."""
    asked = book.ask()
    assert asked is not None
    book.set_attrs(asked.number, dict(zip(COSTS, costs, strict=True)))
    for step, value in enumerate(curve):
        final = step == len(curve) - 1
        if book.report(asked.number, step, value, compared=not final):
            book.prune(asked.number, value)
            break
    else:
        book.complete(asked.number, max(curve))
    return book.study.get_trials()[asked.number]


def test_all_values_are_recorded_of_complete_and_pruned_trials(tmp_path: Path) -> None:
    book = open_ledger(tmp_path, MEDIAN)
    for _ in range(3):
        assert run_trial(book, [0.5, 0.9], (10, 100)).values == [0.9, 10, 100]
    pruned = run_trial(book, [0.1, 0.95], (10, 100))
    assert (pruned.state, pruned.intermediate_values) == (TrialState.PRUNED, {0: 0.1})
    assert costs_of(pruned, COSTS) == [10, 100]
    # A driver that comes later learns from all of them, and goes on.
    later = open_ledger(tmp_path, MEDIAN, sampler="tpe")
    assert later.finished == 4
    assert run_trial(later, [0.7, 0.8], (10, 100)).state == TrialState.COMPLETE


@pytest.mark.parametrize(
    ("costs", "state"),
    [
        ((10, 100), TrialState.PRUNED),  # Costs as much.
        ((30, 300), TrialState.PRUNED),  # Costs more, for less.
        ((9, 300), TrialState.COMPLETE),  # Costs less of one thing: no one dominates it.
        ((30, 99), TrialState.COMPLETE),
        ((1, 1), TrialState.COMPLETE),
    ],
)
def test_a_trial_is_compared_with_those_that_cost_no_more(
    costs: tuple[float, float], state: TrialState, tmp_path: Path
) -> None:
    book = open_ledger(tmp_path, MEDIAN)
    for _ in range(3):
        run_trial(book, [0.8, 0.9], (10, 100))
    assert run_trial(book, [0.3, 0.4], costs).state == state


@pytest.mark.parametrize("name", sorted(PRUNERS))
def test_every_pruner_decides_as_it_would_on_those_trials_alone(name: str, tmp_path: Path) -> None:
    """One that costs no less than all others sees all: the same decisions as in a study of the metric alone."""
    options: dict[str, dict[str, Any]] = {
        "percentile": {"percentile": 60.0},
        "threshold": {"lower": 0.3},
        "hyperband": {"max_resource": 6},
    }
    engine = {"name": name, **options.get(name, {})}
    curves = [[(7 * number + 3 * step) % 11 / 11 for step in range(6)] for number in range(24)]
    expected = optuna.create_study(study_name="s", direction="maximize")
    expected.pruner = build_pruner(name, options.get(name, {}))
    book = open_ledger(tmp_path, engine)
    for number, curve in enumerate(curves):
        trial = expected.ask()
        for step, value in enumerate(curve):
            trial.report(value, step)
            if step < len(curve) - 1 and trial.should_prune():
                expected.tell(trial, state=TrialState.PRUNED)
                break
        else:
            expected.tell(trial, max(curve))
        found, alone = run_trial(book, curve, (number, 100)), expected.get_trials()[number]
        assert (found.state, found.intermediate_values) == (alone.state, alone.intermediate_values)
    assert (TrialState.PRUNED in {trial.state for trial in expected.get_trials()}) == (name != "none")


def test_the_front_and_the_winner(tmp_path: Path) -> None:
    book = open_ledger(tmp_path, {"name": "none"})
    for value, costs in ((0.7, (9, 5)), (0.9, (30, 9)), (0.9, (20, 9)), (0.6, (9, 6)), (0.5, (1, 9)), (0.7, (9, 4))):
        run_trial(book, [value], costs)
    assert [trial.number for trial in pareto_front(book.study)] == [2, 5, 4]
    assert [trial.number for trial in ranked_trials(book.study)] == [2, 1, 5, 0, 3, 4]


def test_costs_are_those_of_the_trial(
    make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str], tmp_path: Path
) -> None:
    """Latency is measured once for what differs in training alone, and grows with the prompt."""
    plain = make_spec(tiny_models["encoder"], "encoder", minimize=(*COSTS, "latency_ms"), files=str(tmp_path))
    objective = Objective(plain)
    meter = CostMeter(objective)
    short = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, steps=2, batch_size=4, frozen_layers=1)
    found = meter.measure(short)
    result = objective.evaluate(short, 0)
    assert found["prompt_tokens"] == result.prompt_tokens
    assert found["trainable_parameters"] == result.trainable_parameters
    assert 0 < found["latency_ms"] < 1000
    other = meter.measure(replace(short, learning_rate=1e-3, frozen_layers=2))
    assert other["latency_ms"] == found["latency_ms"]
    assert other["trainable_parameters"] < found["trainable_parameters"]
    long = replace(short, soft_prompt=SoftPrompt(400, place="suffix"))
    assert meter.measure(long)["latency_ms"] > 2 * found["latency_ms"]
    with_adapter = meter.measure(replace(short, adapter=Adapter("lora", 2)))
    assert with_adapter["trainable_parameters"] != found["trainable_parameters"]
    again = CostMeter(Objective(replace(plain, minimize=())))
    assert again.measure(short) == {}


def test_the_result_is_the_same_with_and_without_costs(
    make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str]
) -> None:
    spec = make_spec(tiny_models["encoder"], "encoder", minimize=("latency_ms",))
    candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, soft_prompt=SoftPrompt(2), steps=2, batch_size=4)
    measured = Objective(spec)
    CostMeter(measured).measure(replace(candidate, adapter=Adapter("lora", 2)))
    CostMeter(measured).measure(candidate)
    logits = measured.evaluate(candidate, 0).logits
    assert (logits == Objective(replace(spec, minimize=())).evaluate(candidate, 0).logits).all()


def test_study_files_name_costs(write_study: WriteStudy) -> None:
    assert load_study(write_study(minimize="latency_ms")).objective.directions == ["maximize", "minimize"]
    with pytest.raises(StudyFileError, match=r"minimize.*'prompt_tokens', 'trainable_parameters' or 'latency_ms'"):
        load_study(write_study(minimize=["accuracy"]))
    with pytest.raises(StudyFileError, match="must name each cost once"):
        load_study(write_study(minimize=["latency_ms", "latency_ms"]))


def test_other_objectives_are_another_study(write_study: WriteStudy) -> None:
    stored = optuna.create_study()
    study = load_study(write_study())
    record_study(stored, study, 4)
    with pytest.raises(InvalidInputError, match="minimize"):
        record_study(stored, load_study(write_study(minimize="prompt_tokens")), 4)


@pytest.mark.slow
def test_a_whole_search(write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over real workers: costs, pruned trials, the front in `status`, `best` and note, its weights on disk."""
    file = write_study(
        minimize=["prompt_tokens", "latency_ms"],
        pruner={"name": "median", "n_startup_trials": 2},
        budget={"trials": 20},
        space={
            "templates": {template.name: template.text for template in TEMPLATES},
            "verbalizers": {v.name: {k: list(w) for k, w in v.words.items()} for v in VERBALIZERS},
            "soft_prompt": {"length": [0, 2, 16, 64], "place": ["prefix", "suffix"]},
            "frozen_layers": {"low": 0, "high": TINY_LAYERS},
            "steps": 8,
            "learning_rate": [1e-4, 1e-3],
        },
    )
    where = ["--workdir", str(tmp_path / "run")]
    app(["run", str(file), *where], standalone_mode=False)
    folder = RunFolder(tmp_path / "run")
    study = load_existing("tiny", folder.storage_url())
    finished = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    assert len(finished) == 20
    assert {trial.state for trial in finished} == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in finished:
        assert trial.values[1:] == costs_of(trial, ["prompt_tokens", "latency_ms"])
    front = pareto_front(study)
    assert len(front) > 1
    assert all((folder.path / trial_file(trial.number, DELTA_FILE)).is_file() for trial in front)
    capsys.readouterr()
    app(["status", "tiny", "--json", *where], standalone_mode=False)
    shown = json.loads(capsys.readouterr().out)["front"]
    assert [entry["number"] for entry in shown] == [trial.number for trial in front]
    app(["best", "tiny", *where], standalone_mode=False)
    assert "Pareto front; export any of these trials with --trial N" in capsys.readouterr().out
    notes = study._storage.get_study_system_attrs(study._study_id)
    assert "Pareto front" in "".join(str(note) for name, note in notes.items() if name.startswith("dashboard:note"))

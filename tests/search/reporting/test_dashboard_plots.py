"""What the dashboard is given beside its own plots."""

import json
import time
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects

from promptgraft.search.judging import FRESH
from promptgraft.search.reporting import DashboardPlots
from promptgraft.search.storage import REPEAT, control_attr
from promptgraft.spaces import Candidate

SPACE = {
    "frozen_layers": CategoricalDistribution([0, 2]),
    "alpha": FloatDistribution(0, 1),
    "template": CategoricalDistribution(["a-1", "b-2"]),
}


def study_of(trials: int) -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    study.set_metric_names(["accuracy"])
    study.set_user_attr("definition", {"source": {}, "judging": {"finalists": 1, "repeats": 2}})
    for number in range(trials):
        candidate = Candidate(
            "ab"[number % 2] + f"-{1 + number % 2}", "v", alpha=number % 5 / 5, frozen_layers=number % 3 // 2 * 2
        )
        values = candidate.to_dict()
        attrs = {"candidate": values, "seconds": 1.0 + number, "prompt_tokens": 4, "best_step": 8}
        params = {name: values[name] for name in SPACE}
        given: dict[str, Any] = {"params": params, "distributions": SPACE, "user_attrs": attrs}
        pruned = number % 7 == 6
        state = TrialState.PRUNED if pruned else TrialState.COMPLETE
        study.add_trial(create_trial(state=state, value=0.5 + number % 10 / 20, intermediate_values={0: 0.5}, **given))
    return study


def plots(study: optuna.Study) -> dict[str, Any]:
    attrs = study._storage.get_study_system_attrs(study._study_id)
    return {name: json.loads(content) for name, content in get_plotly_graph_objects(attrs).items()}


def test_a_study_gets_plots_of_its_own() -> None:
    study = study_of(40)
    DashboardPlots(study).update()
    found = plots(study)
    assert found.keys() == {"score-by-cost", "template-by-frozen-layers", "alpha"}
    complete, pruned = found["score-by-cost"]["data"]
    assert (len(complete["x"]), len(pruned["x"])) == (35, 5)
    assert found["template-by-frozen-layers"]["data"][0]["y"] == ["a-1", "b-2"]
    best = max(study.trials, key=lambda trial: (trial.value or 0, -trial.number))
    for repeat in (1, 2):
        study.set_user_attr(f"{REPEAT}{best.number}_{repeat}", {"value": 0.9})
        for control in ("winner", "target_only", "majority"):
            attr = control_attr(best.number, control, FRESH + repeat)
            study.set_user_attr(attr, {"value": 0.8 + repeat / 100 - len(control) / 100})
    DashboardPlots(study).update()
    (gain,) = plots(study)["transfer-gain"]["data"]
    assert len(gain["y"]) == 2
    assert gain["x"][0] == pytest.approx(0.05)


def test_nothing_is_drawn_of_a_single_trial() -> None:
    study = study_of(1)
    DashboardPlots(study).update()
    assert plots(study) == {}


def test_drawing_does_not_grow_with_every_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is drawn of a tenth more trials than the one before; 2,000 trials take a second or so."""
    drawn = []
    monkeypatch.setattr(
        "promptgraft.search.reporting.dashboard_plots.save_plots", lambda _, trials: drawn.append(len(trials))
    )
    study = study_of(0)
    plots = DashboardPlots(study)
    for number in range(300):
        study.add_trial(study_of(1).trials[0] if number == 0 else study.trials[0])
        plots.update()
    assert len(drawn) < 45
    monkeypatch.undo()
    many = study_of(2000)
    start = time.perf_counter()
    DashboardPlots(many).update()
    assert time.perf_counter() - start < 10

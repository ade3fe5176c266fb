"""Plots of a study in Optuna Dashboard: what it costs, templates by frozen depth, alpha's effect, the transfer gain."""

from collections.abc import Sequence
from statistics import mean
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna.trial import FrozenTrial
from optuna_dashboard import save_plotly_graph_object

from promptgraft.search.judging import transfer, winning_trial
from promptgraft.search.reporting.history import TrialFacts, history_of, names_of
from promptgraft.search.wording import rounded

# How much more trials there must be than when it was last drawn: what drawing takes grows with their number.
_GROWTH = 1.1
_COLOURS = {"COMPLETE": "#2f7ed8", "PRUNED": "#9aa3ad"}


class DashboardPlots:
    """Draws a study's trials now and then.

    Args:
        stored: The study.
    """

    def __init__(self, stored: optuna.Study) -> None:
        self._stored = stored
        self._next = 0.0

    def update(self) -> None:
        """Draw if there are a tenth more trials than when it was last drawn."""
        trials = self._stored.get_trials(deepcopy=False)
        if len(trials) >= self._next:
            self._next = max(len(trials) * _GROWTH, len(trials) + 4)
            save_plots(self._stored, trials)


def save_plots(stored: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
    """Draw trials for the dashboard; nothing until two of them are COMPLETE.

    Args:
        stored: The study.
        trials: Its trials.
    """
    names = names_of(stored)
    history = [entry for entry in history_of(stored, trials, names) if entry.value is not None and entry.knobs]
    if sum(entry.state == "COMPLETE" for entry in history) < 2:
        return
    metric = (stored.metric_names or ["value"])[0]
    plots = {
        "score-by-cost": _by_cost(history, metric),
        "template-by-frozen-layers": _by_template(history, metric),
        "alpha": _by_alpha(history, metric),
        "transfer-gain": _gain(stored, metric),
    }
    for name, figure in plots.items():
        if figure is not None:
            figure.update_layout(template="plotly_white", margin={"t": 50})
            save_plotly_graph_object(stored, figure, graph_object_id=name)


def _by_cost(history: Sequence[TrialFacts], metric: str) -> go.Figure:
    """Draw what each trial took against what it scored."""
    figure = go.Figure(layout={"title": f"{metric} by what a trial took", "xaxis": {"title": "seconds"}})
    for state, colour in _COLOURS.items():
        own = [entry for entry in history if entry.state == state and entry.seconds is not None]
        said = [f"trial {entry.trial}: {entry.prompt_tokens} prompt tokens" for entry in own]
        x, y = [entry.seconds for entry in own], [entry.value for entry in own]
        figure.add_scatter(x=x, y=y, text=said, mode="markers", name=state, marker={"color": colour})
    return figure.update_yaxes(title=metric)


def _by_template(history: Sequence[TrialFacts], metric: str) -> go.Figure | None:
    """Draw the mean of the COMPLETE trials with each template at each frozen depth."""
    found: dict[tuple[str, Any], list[float]] = {}
    for entry in history:
        place = (entry.knobs.get("template"), entry.knobs.get("frozen_layers"))
        if entry.state == "COMPLETE" and None not in place and entry.value is not None:
            found.setdefault((str(place[0]), place[1]), []).append(entry.value)
    rows, columns = sorted({row for row, _ in found}), sorted({column for _, column in found})
    if not rows or len(columns) < 2:
        return None
    cells = [[found.get((row, column), []) for column in columns] for row in rows]
    means = [[mean(cell) if cell else None for cell in line] for line in cells]
    counts = [[f"{rounded(mean(cell), 3)} ({len(cell)})" if cell else "" for cell in line] for line in cells]
    figure = go.Figure(layout={"title": f"mean {metric} by template"})
    figure.add_heatmap(
        x=list(map(str, columns)), y=rows, z=means, text=counts, texttemplate="%{text}", colorscale="Blues"
    )
    return figure.update_xaxes(title="frozen layers", type="category")


def _by_alpha(history: Sequence[TrialFacts], metric: str) -> go.Figure | None:
    """Draw alpha against what trials scored, with and without a source stage."""
    known = [entry for entry in history if entry.knobs.get("alpha") is not None and entry.state == "COMPLETE"]
    if len({entry.knobs["alpha"] for entry in known}) < 2:
        return None
    figure = go.Figure(layout={"title": f"{metric} by alpha"})
    for name, wanted in (("with a source stage", True), ("without", False)):
        own = [entry for entry in known if bool(entry.knobs.get("source_steps")) == wanted]
        x, y = [entry.knobs["alpha"] for entry in own], [entry.value for entry in own]
        figure.add_scatter(x=x, y=y, text=[f"trial {entry.trial}" for entry in own], mode="markers", name=name)
    return figure.update_xaxes(title="alpha").update_yaxes(title=metric)


def _gain(stored: optuna.Study, metric: str) -> go.Figure | None:
    """Draw by how much the winner is ahead of each control, with intervals."""
    best = winning_trial(stored)
    found = None if best is None else transfer(stored, best)
    entries = [(entry.name, entry.behind) for entry in (found.controls if found else ()) if entry.behind is not None]
    if found is None or not entries:
        return None
    values = [behind.value for _, behind in entries]
    over = [behind.high - behind.value for _, behind in entries]
    under = [behind.value - behind.low for _, behind in entries]
    figure = go.Figure(layout={"title": f"winner ahead of its baselines, {metric}, with intervals<br>{found.verdict}"})
    bars = {"type": "data", "symmetric": False, "array": over, "arrayminus": under}
    figure.add_scatter(x=values, y=[name for name, _ in entries], mode="markers", error_x=bars)
    return figure.add_vline(x=0, line_dash="dot").update_yaxes(autorange="reversed", automargin=True)

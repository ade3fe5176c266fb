"""`promptgraft watch`: a run seen from another shell."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from promptgraft.search.cli.options import StorageOption, StudyArgument, WorkdirOption, console, reported
from promptgraft.search.wording import rounded
from promptgraft.spaces import InvalidInputError

if TYPE_CHECKING:
    import optuna

    from promptgraft.search.reporting import RunView
    from promptgraft.search.running import Progress

app = typer.Typer()


@app.command()
@reported
def watch(
    study: StudyArgument,
    once: Annotated[bool, typer.Option("--once", help="Show how it stands now, and end.")] = False,
    every: Annotated[str, typer.Option(help="Time between two looks, such as 2s.")] = "2s",
    storage: StorageOption = None,
    workdir: WorkdirOption = None,
) -> None:
    """Watch a run from another shell until it ends; this only reads."""
    from promptgraft.search.judging import headline_of
    from promptgraft.search.reporting import view_run
    from promptgraft.search.running import Progress
    from promptgraft.search.storage import StudyReference
    from promptgraft.search.study import parse_seconds

    try:
        pause_s = max(0.1, parse_seconds(every))
    except ValueError as error:
        raise InvalidInputError(f"--every: {error}, got {every!r}") from error
    stored = StudyReference.resolve(study, storage, workdir).load()
    view, screen = view_run(stored), console()
    metric = (stored.metric_names or ["value"])[0]
    progress = Progress(stored.study_name, metric, view.wanted, console=screen, ran_s=view.ran_s)
    if once or not view.goes_on:
        typer.echo(_line(progress, view))
    else:
        view = _follow(stored, progress, pause_s)
    if view.goes_on:
        return
    typer.echo(f"no run goes on{f'; the last one ended: {view.ended}' if view.ended else ''}")
    found = headline_of(stored)
    if found:
        typer.echo(found)


def _follow(stored: "optuna.Study", progress: "Progress", pause_s: float) -> "RunView":
    """Show a run until it ends: live in a terminal, elsewhere in a line whenever something has changed."""
    from promptgraft.search.reporting import view_run

    shown = ""
    with progress.shown():
        while True:
            view = view_run(stored)
            line = _line(progress, view)
            if not progress.console.is_terminal and line != shown:
                typer.echo(line)
                shown = line
            if not view.goes_on:
                return view
            time.sleep(pause_s)


def _line(progress: "Progress", view: "RunView") -> str:
    """Take over how a run stands, and say it in a line."""
    progress.update(dict(view.states), view.finished)
    progress.best, progress.forecast = view.best, view.forecast
    progress.set_curves(view.curves)
    states = ", ".join(f"{count} {state}" for state, count in sorted(view.states.items()))
    best = f"; best {progress.metric} {rounded(view.best[1])} (trial {view.best[0]})" if view.best else ""
    reruns = f"; {view.repeats} reruns judged" if view.repeats else ""
    return f"{progress.name}: {view.finished}/{view.wanted} finished; {states or 'no trial yet'}{best}{reruns}"

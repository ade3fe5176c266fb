"""Commands about what a study found: its winner, the winner's bundle, and the report."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptgraft.search.cli.bars import bar
from promptgraft.search.cli.checks import check_file, check_folder
from promptgraft.search.cli.csv_files import write_csv
from promptgraft.search.cli.options import (
    JsonOption,
    QuietOption,
    StorageOption,
    StudyArgument,
    WorkdirOption,
    console,
    reported,
)
from promptgraft.search.wording import rounded

if TYPE_CHECKING:
    from rich.table import Table

    from promptgraft.search.exporting import Export

app = typer.Typer()


@app.command()
@reported
def best(
    study: StudyArgument,
    as_json: JsonOption = False,
    storage: StorageOption = None,
    workdir: WorkdirOption = None,
) -> None:
    """Show the winner, or the best trial so far."""
    from promptgraft.search.judging import ensemble_line, transfer_lines, verdict_lines
    from promptgraft.search.reporting import front_lines, names_of
    from promptgraft.search.reporting import summarize as summarise
    from promptgraft.search.storage import NothingToExportError, StudyRecord, StudyReference, to_json

    stored = StudyReference.resolve(study, storage, workdir).load()
    summary = summarise(stored)
    found = summary.best_trial
    if found is None:
        raise NothingToExportError(f"study {summary.study!r} has no COMPLETE trial yet")
    if as_json:
        typer.echo(json.dumps(to_json(found)))
        return
    typer.echo(summary.headline)
    typer.echo(f"trial {found.number}: validation {summary.metric} {rounded(found.value)}")
    if found.float32 is not None:
        typer.echo(f"  scored again in float32: {rounded(found.float32.value)}")
    searched, names = stored.get_trials(deepcopy=False)[found.number].params, names_of(stored)
    settings = dict(found.candidate or {})
    for name, value in settings.items():
        if name in searched:
            shown = f"{value:.3g}" if isinstance(value, float) else names.get(str(value), value)
            typer.echo(f"  {name}: {'none' if shown == '' else shown}")
    fixed = len(settings.keys() - searched.keys())
    if fixed:
        typer.echo(f"  and {fixed} settings that were not searched (--json)")
    for line in verdict_lines(summary.verdict, summary.metric) + transfer_lines(summary.transfer, summary.metric):
        typer.echo(line)
    ensemble = StudyRecord.of(stored).ensemble
    if ensemble is not None:
        typer.echo(ensemble_line(ensemble, summary.metric))
    if summary.front:
        typer.echo("Pareto front; export any of these trials with --trial N")
        typer.echo("\n".join(front_lines(summary.front)))


@app.command()
@reported
def export(
    study: StudyArgument,
    trial: Annotated[int | None, typer.Option(help="Number of the trial to export.", show_default="the winner")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write.", show_default="runs/NAME/bundle")] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Export the winner although a baseline is shown to be better.")
    ] = False,
    reopen: Annotated[
        bool, typer.Option("--reopen", help="Score this trial on the test set although another one was; recorded.")
    ] = False,
    with_backbone: Annotated[
        bool, typer.Option("--with-backbone", help="Copy the backbone into the bundle, which is then self-contained.")
    ] = False,
    examples: Annotated[
        int, typer.Option(min=0, help="Number of validation rows to store in the bundle in clear text, for verify.")
    ] = 32,
    force: Annotated[bool, typer.Option("--force", help="Replace the bundle of another study in that folder.")] = False,
    storage: StorageOption = None,
    workdir: WorkdirOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write the winner as a bundle, and compare it with baselines on the test set."""
    from promptgraft.search.exporting import ExportOptions, confidence_lines, export_winner
    from promptgraft.search.judging import headline_of, transfer_lines
    from promptgraft.search.reporting import reading_line
    from promptgraft.search.sampling import study_as_run
    from promptgraft.search.storage import StudyRecord, StudyReference, own_folder

    reference = StudyReference.resolve(study, storage, workdir)
    optuna_study = reference.load()
    check_folder(output or own_folder(optuna_study, reference.folder).bundle, "--output")
    loaded = study_as_run(reference, optuna_study)
    options = ExportOptions(
        output=output,
        trial=trial,
        anyway=anyway,
        reopen=reopen,
        with_backbone=with_backbone,
        examples=examples,
        force=force,
    )
    with bar("exporting", quiet=quiet) as say:
        exported = export_winner(loaded, optuna_study, reference.folder, options, say)
    metric = loaded.file.metric
    typer.echo(headline_of(optuna_study))
    if not exported.held_out:
        opened = ", ".join(map(str, exported.openings))
        typer.echo(
            f"the test set stays sealed: it was opened for trial {opened}, and a choice among scores on it would"
        )
        typer.echo("be biased; --reopen scores this trial on it, too, and is recorded")
    if exported.held_out:
        console().print(_test_set_table(exported, metric))
    if exported.interval:
        low, high = exported.interval
        named = "ensemble's" if exported.members else "winner's"
        typer.echo(f"interval of the {named} {metric}: {rounded(low, 3)} to {rounded(high, 3)}")
    for line in transfer_lines(exported.transfer, metric):
        typer.echo(line)
    reading = StudyRecord.of(optuna_study).reading(exported.trial)
    if reading:
        typer.echo(reading_line(reading, metric))
    if exported.held_out and len(exported.openings) > 1:
        typer.echo(
            f"the test set was opened {len(exported.openings)} times, so the best of these scores is optimistic, too"
        )
    validation = rounded(exported.validation, 3)
    typer.echo(f"validation {metric} was {validation}, chosen in a search and therefore optimistic")
    if exported.repeats:
        found = exported.repeats
        shown = f"{rounded(found.mean, 3)} (standard error {rounded(found.standard_error, 3)})"
        typer.echo(f"its {len(found.values)} reruns on other seeds and splits: {metric} {shown}")
    for line in confidence_lines(exported.confidence) if exported.confidence else ():
        typer.echo(line)
    trials = f"trials {', '.join(map(str, exported.members))}" if exported.members else f"trial {exported.trial}"
    typer.echo(f"bundle of {trials}: {exported.folder}")


def _test_set_table(exported: "Export", metric: str) -> "Table":
    from rich.table import Table

    known = exported.held_out[0].metrics
    others = ["accuracy", "f1_macro", "loss"] if "accuracy" in known else list(known)
    names = list(dict.fromkeys([metric, *others]))
    table = Table(title=f"test set, {exported.test_rows} rows", title_justify="left")
    table.add_column("system")
    for name in names:
        table.add_column(name, justify="right")
    for row in exported.held_out:
        table.add_row(row.name, *[rounded(row.metrics[name], 3) for name in names])
    return table


@app.command()
@reported
def report(
    study: StudyArgument,
    output: Annotated[
        Path | None, typer.Option(help="HTML file to write.", show_default="runs/NAME/report.html")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the facts as one JSON object, and write no page.")
    ] = False,
    csv: Annotated[Path | None, typer.Option(help="Folder to write the tables to, as CSV files.")] = None,
    compare: Annotated[
        str | None, typer.Option(help="Another study, by its file or name, to put side by side with this one.")
    ] = None,
    storage: StorageOption = None,
    workdir: WorkdirOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write the results of a study as one HTML page; a sealed test set stays sealed."""
    from promptgraft.search.reporting import ReportedStudy, fact_tables, side_by_side
    from promptgraft.search.reporting import collect_facts as collect
    from promptgraft.search.reporting import study_with_rows as load_rows
    from promptgraft.search.storage import StudyReference, own_folder, to_json

    reference = StudyReference.resolve(study, storage, workdir)
    stored = reference.load()
    folder = own_folder(stored, reference.folder)
    path = output or folder.path / "report.html"
    check_folder(csv, "--csv")
    if not as_json:
        check_file(path, "--output")
    other = StudyReference.resolve(compare, storage, None) if compare else None
    other_stored = other.load() if other else None
    with bar("collecting the facts", quiet=quiet):
        loaded, reason = load_rows(reference, stored)
        facts = collect(stored, loaded, folder.files(), reason)
        if other is not None and other_stored is not None:
            own = ReportedStudy(stored, loaded, folder.files())
            files = own_folder(other_stored, other.folder).files()
            compared = side_by_side(own, ReportedStudy(other_stored, load_rows(other, other_stored)[0], files))
            facts = replace(facts, compared=compared)
    if csv is not None:
        csv.mkdir(parents=True, exist_ok=True)
        for name, table in fact_tables(facts).items():
            write_csv(table, str(csv / f"{name}.csv"))
    if as_json:
        typer.echo(json.dumps(to_json(facts), allow_nan=False))
        return
    from promptgraft.search.reporting import write_page

    write_page(path, facts)
    for missing in facts.missing:
        typer.echo(f"left out: {missing}", err=True)
    typer.echo(f"report of {reference.name}: {path}")

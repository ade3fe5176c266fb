"""Commands about studies. Commands are thin, and import what they need when they run."""

import json
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptgraft.search.cli import bundles as bundle_commands
from promptgraft.search.cli.options import JsonOption, StorageOption, StudyArgument, WorkdirOption, console, reported
from promptgraft.spaces import InvalidInputError

if TYPE_CHECKING:
    from rich.table import Table

    from promptgraft.search.exporting import Export

INTERRUPTED = 130

app = typer.Typer(
    help="Search over prompts and hyperparameters for transfer learning.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"promptgraft {version('promptgraft')}")
        raise typer.Exit


@app.callback()
def main(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that apply without a command."""


@app.command()
@reported
def validate(study: Annotated[Path, typer.Argument(help="Study file.")]) -> None:
    """Check a study file, its data and its backbone, and report every error at once."""
    from promptgraft.search.study import load_study

    loaded = load_study(study)
    task = loaded.target
    typer.echo(f"{study}: valid; study {loaded.name}, {task.sizes}, labels {', '.join(task.labels)}")
    if len(loaded.sources) > 1:
        typer.echo(f"{len(loaded.sources)} sources; rank them with: promptgraft sources {study}")
    for caution in loaded.cautions:
        typer.echo(f"caution: {caution}", err=True)


@app.command()
@reported
def sources(study: Annotated[Path, typer.Argument(help="Study file.")], as_json: JsonOption = False) -> None:
    """Rank the sources of a study by their expected transfer, before anything is trained."""
    from promptgraft.search.reporting import MEANING, ranked_sources, source_table
    from promptgraft.search.storage import to_json
    from promptgraft.search.study import load_study

    ranked = ranked_sources(load_study(study))
    if as_json:
        typer.echo(json.dumps(to_json(ranked)))
        return
    console().print(source_table(ranked))
    typer.echo(MEANING)


@app.command()
@reported
def run(
    study: Annotated[Path, typer.Argument(help="Study file.")],
    trials: Annotated[
        int | None, typer.Option(min=1, help="Number of finished trials to reach, counting earlier runs.")
    ] = None,
    timeout: Annotated[str | None, typer.Option(help="Time limit of this run, such as 8h.")] = None,
    concurrent: Annotated[int | None, typer.Option(min=1, help="Number of trials that run at the same time.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to join, such as auto; a local Ray is started if left out.")
    ] = None,
    new_study: Annotated[
        str | None, typer.Option(metavar="NAME", help="Run the file as a new study of this name.")
    ] = None,
    storage: StorageOption = None,
    workdir: WorkdirOption = None,
) -> None:
    """Run a study; the same command continues a run that was stopped."""
    import logging

    from promptgraft.search.running import Progress, RunOptions, run_study
    from promptgraft.search.storage import StudyReference
    from promptgraft.search.study import load_study, parse_seconds

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    loaded = load_study(study, new_study)
    reference = StudyReference.resolve(new_study or str(study), storage, workdir)
    try:
        timeout_s = parse_seconds(timeout) if timeout else None
        if timeout_s == 0:
            raise ValueError("expected more than 0")
    except ValueError as error:
        raise InvalidInputError(f"--timeout: {error}, got {timeout!r}") from error
    wanted = trials or loaded.file.budget.trials
    progress = Progress(loaded.name, loaded.file.metric, wanted, console=console())
    options = RunOptions(reference.folder, reference.storage_url, wanted, timeout_s, concurrent, address)
    outcome = run_study(loaded, options, progress)
    states = ", ".join(f"{count} {state}" for state, count in sorted(outcome.states.items()))
    typer.echo(f"study {loaded.name}: {outcome.finished} of {outcome.wanted} trials finished ({states})")
    if outcome.ended_because is None:
        typer.echo("stopped; the same command goes on")
        raise typer.Exit(INTERRUPTED)
    typer.echo(f"ended: {outcome.ended_because}")
    if progress.best is not None:
        typer.echo(f"best: trial {progress.best[0]}, validation {loaded.file.metric} {progress.best[1]:.4f}")
    if outcome.verdict:
        typer.echo("\n".join(outcome.verdict))
    if outcome.needs_help:
        raise typer.Exit(1)


@app.command()
@reported
def status(
    study: Annotated[str | None, typer.Argument(help="Study file or name; all studies if left out.")] = None,
    as_json: JsonOption = False,
    storage: StorageOption = None,
    workdir: WorkdirOption = None,
) -> None:
    """Show the progress of one study, or of all."""
    from promptgraft.search.reporting import status_lines
    from promptgraft.search.reporting import summarize as summarise
    from promptgraft.search.storage import StudyReference, started_studies, to_json

    names = [study] if study is not None else started_studies(Path("runs"))
    if not names:
        raise InvalidInputError("no study was started here; start one with: promptgraft run STUDY.yaml")
    found = [summarise(StudyReference.resolve(name, storage, workdir).load()) for name in names]
    if as_json:
        typer.echo(json.dumps(to_json(found[0] if study is not None else found)))
        return
    for summary in found:
        typer.echo("\n".join(status_lines(summary)))


@app.command()
@reported
def best(
    study: StudyArgument,
    as_json: JsonOption = False,
    storage: StorageOption = None,
    workdir: WorkdirOption = None,
) -> None:
    """Show the winner, or the best trial so far."""
    from promptgraft.search.judging import verdict_lines
    from promptgraft.search.reporting import front_lines
    from promptgraft.search.reporting import summarize as summarise
    from promptgraft.search.storage import NothingToExportError, StudyReference, to_json

    summary = summarise(StudyReference.resolve(study, storage, workdir).load())
    found = summary.best_trial
    if found is None:
        raise NothingToExportError(f"study {summary.study!r} has no COMPLETE trial yet")
    if as_json:
        typer.echo(json.dumps(to_json(found)))
        return
    typer.echo(summary.headline)
    typer.echo(f"trial {found.number}: validation {summary.metric} {found.value:.4f}")
    if found.float32 is not None:
        typer.echo(f"  scored again in float32: {found.float32.value:.4f}")
    for name, value in (found.candidate or {}).items():
        typer.echo(f"  {name}: {value:.3g}" if isinstance(value, float) else f"  {name}: {value}")
    for line in verdict_lines(summary.verdict, summary.metric):
        typer.echo(line)
    if summary.front:
        typer.echo("Pareto front; export any of these trials with --trial N")
        typer.echo("\n".join(front_lines(summary.front)))


@app.command()
@reported
def export(
    study: StudyArgument,
    trial: Annotated[int | None, typer.Option(help="Number of the trial to export.  [default: the winner]")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write.  [default: runs/NAME/bundle]")] = None,
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
    storage: StorageOption = None,
    workdir: WorkdirOption = None,
) -> None:
    """Write the winner as a bundle, and compare it with baselines on the test set."""
    from promptgraft.search.exporting import ExportOptions, export_winner
    from promptgraft.search.judging import headline_of, transfer_lines
    from promptgraft.search.reporting import reading_line
    from promptgraft.search.sampling import with_pool
    from promptgraft.search.storage import StudyRecord, StudyReference
    from promptgraft.search.study import load_study

    reference = StudyReference.resolve(study, storage, workdir)
    optuna_study = reference.load()
    loaded = with_pool(load_study(reference.study_file(optuna_study), reference.name), optuna_study)
    options = ExportOptions(
        output=output, trial=trial, anyway=anyway, reopen=reopen, with_backbone=with_backbone, examples=examples
    )
    exported = export_winner(loaded, optuna_study, reference.folder, options, partial(typer.echo, err=True))
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
        typer.echo(f"interval of the winner's {metric}: {low:.3f} to {high:.3f}")
    for line in transfer_lines(exported.transfer, metric):
        typer.echo(line)
    reading = StudyRecord.of(optuna_study).reading(exported.trial)
    if reading:
        typer.echo(reading_line(reading, metric))
    if exported.held_out and len(exported.openings) > 1:
        typer.echo(
            f"the test set was opened {len(exported.openings)} times, so the best of these scores is optimistic, too"
        )
    typer.echo(f"validation {metric} was {exported.validation:.3f}, the best of a search and therefore optimistic")
    if exported.repeats:
        found = exported.repeats
        shown = f"{found.mean:.3f} (standard error {found.standard_error:.3f})"
        typer.echo(f"its {len(found.values)} reruns on other seeds and splits: {metric} {shown}")
    typer.echo(f"bundle of trial {exported.trial}: {exported.folder}")


def _test_set_table(exported: "Export", metric: str) -> "Table":
    from rich.table import Table

    names = list(dict.fromkeys([metric, "accuracy", "f1_macro", "loss"]))
    table = Table(title=f"test set, {exported.test_rows} rows", title_justify="left")
    table.add_column("system")
    for name in names:
        table.add_column(name, justify="right")
    for row in exported.held_out:
        table.add_row(row.name, *[f"{row.metrics[name]:.3f}" for name in names])
    return table


@app.command()
@reported
def report(
    study: StudyArgument,
    output: Annotated[Path | None, typer.Option(help="HTML file to write.  [default: runs/NAME/report.html]")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the facts as one JSON object, and write no page.")
    ] = False,
    csv: Annotated[Path | None, typer.Option(help="Folder to write the tables to, as CSV files.")] = None,
    storage: StorageOption = None,
    workdir: WorkdirOption = None,
) -> None:
    """Write the results of a study as one HTML page; a sealed test set stays sealed."""
    from promptgraft.search.reporting import collect_facts as collect
    from promptgraft.search.reporting import fact_tables, study_with_rows
    from promptgraft.search.storage import StudyReference, to_json

    reference = StudyReference.resolve(study, storage, workdir)
    stored = reference.load()
    loaded, reason = study_with_rows(reference, stored)
    facts = collect(stored, loaded, reference.folder.files(), reason)
    if csv is not None:
        csv.mkdir(parents=True, exist_ok=True)
        for name, table in fact_tables(facts).items():
            table.to_csv(csv / f"{name}.csv", index=False)
    if as_json:
        typer.echo(json.dumps(to_json(facts), allow_nan=False))
        return
    from promptgraft.search.reporting import render_page

    path = output or reference.folder.path / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_page(facts), encoding="utf-8")
    for missing in facts.missing:
        typer.echo(f"left out: {missing}", err=True)
    typer.echo(f"report of {reference.name}: {path}")


class Schema(StrEnum):
    """Schemas that can be printed."""

    study = "study"
    manifest = "manifest"
    reference = "reference"
    sources = "sources"
    status = "status"
    best = "best"
    report = "report"
    verify = "verify"
    compare = "compare"
    history = "history"


@app.command()
@reported
def schema(
    of: Annotated[
        Schema,
        typer.Argument(
            help="What to describe: study files, manifests, or what a command prints with --json; reference lists all "
            "keys of study files, in Markdown."
        ),
    ] = Schema.study,
) -> None:
    """Print a JSON Schema: of study files, for completion in editors, of manifests, or of what a command prints."""
    from promptgraft.search.cli.outputs import output_schema
    from promptgraft.search.study import manifest_schema, study_reference, study_schema

    if of == Schema.reference:
        typer.echo(study_reference(), nl=False)
        return
    written = {Schema.study: study_schema, Schema.manifest: manifest_schema}
    typer.echo(json.dumps(written.get(of, partial(output_schema, of.value))(), indent=1))


@app.command()
@reported
def new_recurrent(
    folder: Annotated[Path, typer.Argument(help="Folder to write; it must not exist yet.")],
    tokenizer: Annotated[str, typer.Option(help="Folder or hub id of the model whose tokenizer is used.")],
    cell: Annotated[str, typer.Option(help="Cell type: lstm or gru.")] = "lstm",
    hidden_size: Annotated[int, typer.Option(min=2, help="Size of the hidden state.")] = 128,
    layers: Annotated[int, typer.Option(min=1, help="Number of layers.")] = 1,
    one_way: Annotated[bool, typer.Option("--one-way", help="Read from left to right only.")] = False,
    dropout: Annotated[float, typer.Option(min=0, max=1, help="Dropout probability.")] = 0.3,
    seed: Annotated[int, typer.Option(help="Seed for the initial weights.")] = 0,
) -> None:
    """Write an LSTM or GRU with random weights, a baseline that the source stage trains from scratch."""
    from promptgraft.objectives.backbones import write_recurrent
    from promptgraft.objectives.runtime import quiet_transformers

    quiet_transformers()
    sizes = {"hidden_size": hidden_size, "num_hidden_layers": layers, "bidirectional": not one_way, "dropout": dropout}
    write_recurrent(folder, tokenizer, seed, cell=cell, **sizes)
    typer.echo(f"{folder}: random weights; use it in a study with `backbone: {{path: {folder}, family: recurrent}}`")


@app.command()
@reported
def upgrade(
    study: Annotated[str | None, typer.Argument(help="Study file or name; not needed with --storage.")] = None,
    storage: StorageOption = None,
    workdir: WorkdirOption = None,
) -> None:
    """Upgrade the database of an older Optuna to the installed one's schema, after copying it."""
    from promptgraft.search.storage import StudyReference, safe_url, upgrade_storage

    if storage is None:
        if study is None:
            raise InvalidInputError("name a study, or its storage with --storage")
        storage = StudyReference.resolve(study, None, workdir).storage_url
    before, after = upgrade_storage(storage)
    if before == after:
        typer.echo(f"{safe_url(storage)}: up to date ({after})")
    else:
        typer.echo(f"{safe_url(storage)}: {before} -> {after}")


@app.command()
@reported
def dashboard(
    study: StudyArgument,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8080,
    storage: StorageOption = None,
    workdir: WorkdirOption = None,
) -> None:
    """Serve Optuna Dashboard to this machine only."""
    from optuna.storages import get_storage
    from optuna_dashboard import run_server

    from promptgraft.search.reporting import artifact_store
    from promptgraft.search.storage import StudyReference, open_storage

    reference = StudyReference.resolve(study, storage, workdir)
    reference.load()
    typer.echo(f"Optuna Dashboard: http://127.0.0.1:{port}/dashboard (stop with Ctrl-C)")
    store = artifact_store(reference.folder)
    cached = get_storage(open_storage(reference.storage_url))  # Finished trials are read once, not at each request.
    run_server(cached, host="127.0.0.1", port=port, artifact_store=store)


app.add_typer(bundle_commands.app)

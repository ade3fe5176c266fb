"""The command line: commands about studies. Commands are thin, and import what they need when they run."""

import json
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from promptgraft.search.cli import bundles as bundle_commands
from promptgraft.search.cli.options import JsonOption, StorageOption, StudyArgument, WorkdirOption, console, reported
from promptgraft.spaces import InvalidInputError

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
    """Take the options that stand before a command."""


@app.command()
@reported
def validate(study: Annotated[Path, typer.Argument(help="Study file.")]) -> None:
    """Check a study file against its data and its backbone; report every error at once."""
    from promptgraft.search.study import load_study

    loaded = load_study(study)
    task = loaded.target
    typer.echo(
        f"{study}: valid; study {loaded.name}, {len(task.train)} training, {len(task.validation)} validation and "
        f"{len(task.test)} test rows, labels {', '.join(task.labels)}"
    )
    if len(loaded.sources) > 1:
        typer.echo(f"{len(loaded.sources)} sources; see which one promises most: promptgraft sources {study}")
    for caution in loaded.cautions:
        typer.echo(f"caution: {caution}", err=True)


@app.command()
@reported
def sources(study: Annotated[Path, typer.Argument(help="Study file.")], as_json: JsonOption = False) -> None:
    """Rank a study's sources by what they promise, before anything is trained."""
    from promptgraft.search.reporting import MEANING, ranked_sources, source_table
    from promptgraft.search.study import load_study

    ranked = ranked_sources(load_study(study))
    if as_json:
        typer.echo(json.dumps({"sources": ranked}))
        return
    console().print(source_table(ranked))
    typer.echo(MEANING)


@app.command()
@reported
def run(
    study: Annotated[Path, typer.Argument(help="Study file.")],
    trials: Annotated[int | None, typer.Option(min=1, help="Finished trials to reach, earlier runs included.")] = None,
    timeout: Annotated[str | None, typer.Option(help="Length of this run, such as 8h.")] = None,
    concurrent: Annotated[int | None, typer.Option(min=1, help="Trials at a time.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join, such as auto.")] = None,
    new_study: Annotated[
        str | None, typer.Option(metavar="NAME", help="Run the file as a study of this name, beside the file's own.")
    ] = None,
    storage: StorageOption = None,
    workdir: WorkdirOption = None,
) -> None:
    """Run a study, or go on with it: the same command continues where it was stopped."""
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
        raise InvalidInputError(f"--timeout: {error}, but got {timeout!r}") from error
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
    """Show how far studies are."""
    from promptgraft.search.reporting import status_lines
    from promptgraft.search.reporting import summarize as summarise
    from promptgraft.search.storage import StudyReference, started_studies

    names = [study] if study is not None else started_studies(Path("runs"))
    if not names:
        raise InvalidInputError("no study was started here; start one with: promptgraft run STUDY.yaml")
    found = [summarise(StudyReference.resolve(name, storage, workdir).load()) for name in names]
    if as_json:
        typer.echo(json.dumps(found[0] if study is not None else found))
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
    """Show the trial that won, or the best so far while none has."""
    from promptgraft.search.judging import verdict_lines
    from promptgraft.search.reporting import front_lines
    from promptgraft.search.reporting import summarize as summarise
    from promptgraft.search.storage import NothingToExportError, StudyReference

    summary = summarise(StudyReference.resolve(study, storage, workdir).load())
    found: dict[str, Any] | None = summary["winner"]
    if found is None:
        raise NothingToExportError(f"study {summary['study']!r} has no COMPLETE trial yet")
    if as_json:
        typer.echo(json.dumps(found | ({"front": summary["front"]} if summary["front"] else {})))
        return
    typer.echo(f"trial {found['number']}: validation {summary['metric']} {found['value']:.4f}")
    if "float32" in found:
        typer.echo(f"  scored again in float32: {found['float32']['value']:.4f}")
    for name, value in found["candidate"].items():
        typer.echo(f"  {name}: {value:.3g}" if isinstance(value, float) else f"  {name}: {value}")
    for line in verdict_lines(summary["verdict"], summary["metric"]):
        typer.echo(line)
    if summary["front"]:
        typer.echo("trials that no other one dominates; export any of them with --trial N")
        typer.echo("\n".join(front_lines(summary["front"])))


@app.command()
@reported
def export(
    study: StudyArgument,
    trial: Annotated[int | None, typer.Option(help="Trial to export.  [default: the winner]")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write.  [default: runs/NAME/bundle]")] = None,
    reopen: Annotated[
        bool, typer.Option("--reopen", help="Open the test rows though they were opened for another trial; counted.")
    ] = False,
    with_backbone: Annotated[
        bool, typer.Option("--with-backbone", help="Copy the backbone into the bundle, which then needs nothing else.")
    ] = False,
    examples: Annotated[
        int, typer.Option(min=0, help="Validation rows that the bundle holds in clear text, for verify.")
    ] = 32,
    storage: StorageOption = None,
    workdir: WorkdirOption = None,
) -> None:
    """Write the winner as a bundle and compare it with the controls on the held-out rows."""
    from rich.table import Table

    from promptgraft.search.exporting import export_winner
    from promptgraft.search.judging import transfer_lines
    from promptgraft.search.reporting import PROMPT_AS_TOKENS, reading_line
    from promptgraft.search.sampling import with_pool
    from promptgraft.search.storage import StudyReference
    from promptgraft.search.study import load_study

    reference = StudyReference.resolve(study, storage, workdir)
    optuna_study = reference.load()
    loaded = with_pool(load_study(reference.study_file(optuna_study), reference.name), optuna_study)
    exported = export_winner(
        loaded,
        optuna_study,
        reference.folder,
        output,
        trial,
        reopen=reopen,
        with_backbone=with_backbone,
        examples=examples,
        say=partial(typer.echo, err=True),
    )
    metric = loaded.file.metric
    names = list(dict.fromkeys([metric, "accuracy", "f1_macro", "loss"]))
    if not exported.held_out:
        typer.echo(f"test rows stay sealed: they were opened for trial {', '.join(map(str, exported.openings))}, and")
        typer.echo("choosing again by them would spoil them; --reopen scores this trial too, and is counted")
    table = Table(title=f"{exported.test_rows} held-out rows", title_justify="left")
    table.add_column("system")
    for name in names:
        table.add_column(name, justify="right")
    for row in exported.held_out:
        table.add_row(row.name, *[f"{row.metrics[name]:.3f}" for name in names])
    if exported.held_out:
        console().print(table)
    if exported.interval:
        low, high = exported.interval
        typer.echo(f"the winner's {metric} on rows like these: {low:.3f} to {high:.3f}")
    for line in transfer_lines(exported.transfer, metric):
        typer.echo(line)
    reading = optuna_study.user_attrs.get(f"{PROMPT_AS_TOKENS}{exported.trial}")
    if reading:
        typer.echo(reading_line(reading, metric))
    if exported.held_out and len(exported.openings) > 1:
        typer.echo(
            f"the test rows were opened {len(exported.openings)} times: scores chosen by them are optimistic too"
        )
    typer.echo(f"validation {metric} was {exported.validation:.3f}, the best of a search and so optimistic")
    if exported.repeats:
        found = exported.repeats
        shown = f"{found.mean:.3f} (standard error {found.standard_error:.3f})"
        typer.echo(f"its {len(found.values)} repeats on other seeds and splits had {metric} {shown}")
    typer.echo(f"bundle of trial {exported.trial}: {exported.folder}")


@app.command()
@reported
def report(
    study: StudyArgument,
    output: Annotated[Path | None, typer.Option(help="Page to write.  [default: runs/NAME/report.html]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON instead.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Folder to write tables into, beside the page.")] = None,
    storage: StorageOption = None,
    workdir: WorkdirOption = None,
) -> None:
    """Write what a study found as one HTML page; test rows stay as they are, sealed or opened."""
    from promptgraft.search.reporting import collect_facts as collect
    from promptgraft.search.reporting import fact_tables, study_with_rows
    from promptgraft.search.storage import StudyReference

    reference = StudyReference.resolve(study, storage, workdir)
    stored = reference.load()
    loaded, reason = study_with_rows(reference, stored)
    facts = collect(stored, loaded, reference.folder.files(), reason)
    if csv is not None:
        csv.mkdir(parents=True, exist_ok=True)
        for name, table in fact_tables(facts).items():
            table.to_csv(csv / f"{name}.csv", index=False)
    if as_json:
        typer.echo(json.dumps(facts, allow_nan=False))
        return
    from promptgraft.search.reporting import render_page

    path = output or reference.folder.path / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_page(facts), encoding="utf-8")
    for missing in facts["missing"]:
        typer.echo(f"left out: {missing}", err=True)
    typer.echo(f"report of {reference.name}: {path}")


class Schema(StrEnum):
    """What there is a schema of."""

    study = "study"
    manifest = "manifest"
    reference = "reference"


@app.command()
@reported
def schema(
    of: Annotated[Schema, typer.Argument(help="reference: all keys of study files, in Markdown.")] = Schema.study,
) -> None:
    """Print the JSON Schema of study files, for completion in editors, or of a bundle's manifest."""
    from promptgraft.search.study import manifest_schema, study_reference, study_schema

    if of == Schema.reference:
        typer.echo(study_reference(), nl=False)
    else:
        typer.echo(json.dumps(study_schema() if of == Schema.study else manifest_schema(), indent=1))


@app.command()
@reported
def new_recurrent(
    folder: Annotated[Path, typer.Argument(help="Where to write it; it must not be there yet.")],
    tokenizer: Annotated[str, typer.Option(help="Folder or hub id of the model whose tokenizer it uses.")],
    cell: Annotated[str, typer.Option(help="lstm or gru.")] = "lstm",
    hidden_size: Annotated[int, typer.Option(min=2)] = 128,
    layers: Annotated[int, typer.Option(min=1)] = 1,
    one_way: Annotated[bool, typer.Option("--one-way", help="Read from left to right only.")] = False,
    dropout: Annotated[float, typer.Option(min=0, max=1)] = 0.3,
    seed: Annotated[int, typer.Option(help="Of its random weights.")] = 0,
) -> None:
    """Write an LSTM or a GRU with random weights: a baseline, trained from scratch in the source stage."""
    from promptgraft.objectives.backbones import write_recurrent
    from promptgraft.objectives.runtime import quiet_transformers

    quiet_transformers()
    sizes = {"hidden_size": hidden_size, "num_hidden_layers": layers, "bidirectional": not one_way, "dropout": dropout}
    write_recurrent(folder, tokenizer, seed, cell=cell, **sizes)
    typer.echo(f"{folder}: random weights; write `backbone: {{path: {folder}, family: recurrent}}` into a study")


@app.command()
@reported
def upgrade(
    study: Annotated[str | None, typer.Argument(help="Study file or name; not needed with --storage.")] = None,
    storage: StorageOption = None,
    workdir: WorkdirOption = None,
) -> None:
    """Bring a database that an older Optuna wrote up to the installed one's schema, after copying it."""
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
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8080,
    storage: StorageOption = None,
    workdir: WorkdirOption = None,
) -> None:
    """Serve Optuna Dashboard on this machine only."""
    from optuna.storages import get_storage
    from optuna_dashboard import run_server

    from promptgraft.search.reporting import artifact_store
    from promptgraft.search.storage import StudyReference, open_storage

    reference = StudyReference.resolve(study, storage, workdir)
    reference.load()
    typer.echo(f"Optuna Dashboard: http://127.0.0.1:{port}/dashboard (Ctrl-C ends it)")
    store = artifact_store(reference.folder)
    cached = get_storage(open_storage(reference.storage_url))  # Finished trials are read once, not at each request.
    run_server(cached, host="127.0.0.1", port=port, artifact_store=store)


app.add_typer(bundle_commands.app)

"""Commands about studies. Commands are thin, and import what they need when they run."""

import atexit
import gc
import json
import shlex
import sys
import time
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from promptgraft.search.cli import bundles as bundle_commands
from promptgraft.search.cli import dashboard, drafting, results, watching
from promptgraft.search.cli.checks import check_folder
from promptgraft.search.cli.options import (
    INTERRUPTED,
    JsonOption,
    QuietOption,
    StorageOption,
    WorkdirOption,
    console,
    ended_by_ctrl_c,
    reported,
)
from promptgraft.spaces import InvalidInputError, mask_logs, masked_url

# Objects made between two looks for garbage; Python's own is 700.
_COLLECTED_AFTER = 50_000
# Labels that `validate` names.
SHOWN_LABELS = 50

app = typer.Typer(
    help="Search over prompts and hyperparameters for transfer learning.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
studies = typer.Typer()
seldom = typer.Typer()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"promptgraft {version('promptgraft')}")
        raise typer.Exit


@app.callback()
def main(
    show_version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that apply without a command."""
    # What modules make as they load stays: looking it through for garbage again and again takes a sixth of a start,
    # and once more at the end, when the system frees it all anyway, a fifth of a short command that loads torch.
    gc.set_threshold(_COLLECTED_AFTER)
    atexit.register(gc.freeze)
    if isinstance(sys.stdout, TextIOWrapper):  # Half a surrogate pair can't be encoded; files have it escaped, too.
        sys.stdout.reconfigure(errors="backslashreplace")


@studies.command()
@reported
def validate(study: Annotated[Path, typer.Argument(help="Study file.")]) -> None:
    """Check a study file, its data and its backbone, and report every error at once."""
    from promptgraft.search.study import load_study, space_text
    from promptgraft.search.trials import Limits

    loaded = load_study(study, rehearsed=True)
    Limits.of(loaded.file.budget, None, None, time.time())  # A deadline may pass; what is finished can be exported yet.
    task = loaded.target
    few = ", ".join(task.labels[:SHOWN_LABELS])
    others = f" and {len(task.labels) - SHOWN_LABELS} others" if len(task.labels) > SHOWN_LABELS else ""
    typer.echo(f"{study}: valid; study {loaded.name}, {task.sizes}, labels {few}{others}")
    for name, own in {
        "target": task,
        **{f"source {name}".rstrip(): own for name, own in loaded.sources.items()},
    }.items():
        typer.echo(f"{name}: {own.cleaning}")
    if task.unlabelled:
        typer.echo(f"unlabelled: {len(task.unlabelled)} rows are kept; {task.unlabelled_cleaning}")
    if len(loaded.sources) > 1:
        typer.echo(f"{len(loaded.sources)} sources; rank them with: promptgraft sources {study}")
    if loaded.drafted != "nothing":
        what = "a space" if loaded.drafted == "space" else "templates or label words"
        typer.echo(f"the file leaves out {what}, for which this is used; copy it into the file to change it:\n")
        for name, file in (loaded.on_backbones or {"": loaded.file}).items():
            typer.echo(f"{f'# on backbone {name}' if name else ''}\n{space_text(file)}".lstrip())
    for caution in loaded.cautions:
        typer.echo(f"caution: {caution}", err=True)


@seldom.command(rich_help_panel="Seldom needed")
@reported
def sources(study: Annotated[Path, typer.Argument(help="Study file.")], as_json: JsonOption = False) -> None:
    """Rank the sources of a study by their expected transfer, before anything is trained."""
    from promptgraft.search.reporting import MEANING, ranked_sources, source_table
    from promptgraft.search.storage import to_json
    from promptgraft.search.study import load_study

    ranked = ranked_sources(load_study(study, rehearsed=True))
    if as_json:
        typer.echo(json.dumps(to_json(ranked)))
        return
    console().print(source_table(ranked))
    typer.echo(MEANING)


@studies.command()
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
    quiet: QuietOption = False,
) -> None:
    """Run a study; the same command continues a run that was stopped."""
    with ended_by_ctrl_c():
        from promptgraft.search.running import early_start
        from promptgraft.search.study import load_study, parse_seconds

        mask_logs()
        with early_start(concurrent, address) as rehearse:
            loaded = load_study(study, new_study, rehearsed=True, rehearse=rehearse)
        from promptgraft.search.running import Progress, RunOptions, run_study
        from promptgraft.search.storage import StudyReference
    reference = StudyReference.resolve(new_study or str(study), storage, workdir)
    try:
        timeout_s = parse_seconds(timeout) if timeout else None
        if timeout_s == 0:
            raise ValueError("expected more than 0")
    except ValueError as error:
        raise InvalidInputError(f"--timeout: {error}, got {timeout!r}") from error
    check_folder(reference.folder.path, "--workdir" if workdir else "the study's folder")
    wanted = trials or loaded.file.budget.trials
    progress = Progress(loaded.name, loaded.file.metric, wanted, console=console(quiet=quiet))
    options = RunOptions(reference.folder, reference.storage_url, wanted, timeout_s, concurrent, address)
    outcome = run_study(loaded, options, progress)
    shown = outcome.states | {"FAIL": outcome.states.get("FAIL", 0) - outcome.cut_off, "cut off": outcome.cut_off}
    states = ", ".join(f"{count} {state}" for state, count in sorted(shown.items()) if count)
    counts = f"{outcome.finished} of {outcome.wanted} trials finished ({states})"
    if outcome.ended_because is None:
        typer.echo(f"study {loaded.name}: {counts}; stopped; the same command goes on")
        raise typer.Exit(INTERRUPTED)
    typer.echo(f"study {loaded.name}: {counts}; ended: {outcome.ended_because}")
    typer.echo("".join(f"{line}\n" for line in outcome.verdict), nl=False)
    if len(outcome.verdict) == 1:
        where = _arguments(new_study or str(study), storage, workdir)
        typer.echo(f"details: promptgraft best {where}; the bundle: promptgraft export {where}")
    if outcome.needs_help:
        raise typer.Exit(1)


def _arguments(study: str, storage: str | None, workdir: str | None) -> str:
    """Return what to type behind another command to mean the same study; a password is left out."""
    named = {"--storage": storage and masked_url(storage), "--workdir": workdir and masked_url(workdir)}
    return shlex.join([study, *(word for option, value in named.items() if value for word in (option, value))])


@studies.command()
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

    if study is None:
        references, odd = started_studies(Path("runs"))
    else:
        references, odd = [StudyReference.resolve(study, storage, workdir)], []
    for folder in odd:
        typer.echo(f"left out: {folder}", err=True)
    if not references:
        raise InvalidInputError(
            f"no study was started in {Path('runs').resolve()}; start one with: promptgraft run STUDY.yaml"
        )
    found = []
    for reference in references:
        try:
            found.append(summarise(reference.load()))
        except InvalidInputError as error:
            if study is not None:
                raise
            typer.echo(f"left out: {error}", err=True)
    if as_json:
        typer.echo(json.dumps(to_json(found[0] if study is not None else found)))
        return
    for summary in found:
        typer.echo("\n".join(status_lines(summary)))


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


@seldom.command(rich_help_panel="Seldom needed")
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


@seldom.command(rich_help_panel="Seldom needed")
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

    check_folder(folder, "FOLDER")
    quiet_transformers()
    sizes = {"hidden_size": hidden_size, "num_hidden_layers": layers, "bidirectional": not one_way, "dropout": dropout}
    write_recurrent(folder, tokenizer, seed, cell=cell, **sizes)
    typer.echo(f"{folder}: random weights; use it in a study with `backbone: {{path: {folder}, family: recurrent}}`")


@seldom.command(rich_help_panel="Seldom needed")
@reported
def upgrade(
    study: Annotated[str | None, typer.Argument(help="Study file or name; not needed with --storage.")] = None,
    storage: StorageOption = None,
    workdir: WorkdirOption = None,
) -> None:
    """Upgrade the database of an older Optuna to the installed one's schema, after copying it."""
    from promptgraft.search.storage import StudyReference, upgrade_storage

    if storage is None:
        if study is None:
            raise InvalidInputError("name a study, or its storage with --storage")
        storage = StudyReference.resolve(study, None, workdir).storage_url
    before, after = upgrade_storage(storage)
    if before == after:
        typer.echo(f"{masked_url(storage)}: up to date ({after})")
    else:
        typer.echo(f"{masked_url(storage)}: {before} -> {after}")


# In the order in which a new user needs them, which is that of `--help`.
for commands in (drafting.app, studies, watching.app, results.app, dashboard.app, bundle_commands.app, seldom):
    app.add_typer(commands)

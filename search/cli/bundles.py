"""Commands about bundles; they need neither Optuna nor Ray."""

import json
import shlex
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptgraft.search.cli.bars import bar
from promptgraft.search.cli.checks import check_folder
from promptgraft.search.cli.comparisons import known_line, print_comparison, print_metric_comparison
from promptgraft.search.cli.csv_files import STANDARD_OUTPUT, check_output, check_pictures, write_csv, write_pictures
from promptgraft.search.cli.options import JsonOption, QuietOption, console, loading, reported
from promptgraft.search.wording import one_line, size

if TYPE_CHECKING:
    import pandas as pd

    from promptgraft.bundles import Predictor
    from promptgraft.search.judging import MetricComparison

PANEL = "Bundles"
app = typer.Typer()
registry = typer.Typer(help="Promote bundles and roll back.", no_args_is_help=True)
app.add_typer(registry, name="registry", rich_help_panel=PANEL)

BundleArgument = Annotated[Path, typer.Argument(help="Bundle: a folder that `export` wrote.")]
BackboneOption = Annotated[str | None, typer.Option(help="Folder or hub id of the backbone, if it has moved.")]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that is stored with the backbone's weights.")
]
AbstainOption = Annotated[
    float, typer.Option(min=0, max=1, help="Smallest probability of a label; rows below it get none.")
]
ItemsOption = Annotated[
    str | None,
    typer.Option(
        help="Table of items to recommend, too, by their texts; with the columns of the study's table of items."
    ),
]
RegistryArgument = Annotated[str, typer.Argument(help="Folder of the registry, or models:/NAME in MLflow.")]
FormulasOption = Annotated[
    bool,
    typer.Option("--escape-formulas", help="Put ' before cells that a spreadsheet would take for formulas."),
]
CHANGED = 1
# Exit codes of `compare`, for a pipeline.
OUTCOMES = {"better": 0, "no difference shown": 4, "worse": 5}


@app.command(rich_help_panel=PANEL)
@reported
def predict(
    bundle: BundleArgument,
    table: Annotated[
        str,
        typer.Option(
            "--input",
            help="Table with the columns of text or images: CSV, JSON, Parquet, Excel, ...; - for standard input; or "
            "an image, or a folder of images.",
        ),
    ],
    output: Annotated[str, typer.Option(help="CSV file to write; - for standard output.")],
    items: ItemsOption = None,
    abstain_below: AbstainOption = 0.0,
    escape_formulas: FormulasOption = False,
    backbone: BackboneOption = None,
    trust_remote_code: TrustOption = False,
    quiet: QuietOption = False,
) -> None:
    """Predict the rows of a table, and add the predictions to its columns."""
    check_output(output, table)
    with bar("loading the model", quiet=quiet):
        with loading():
            import numpy as np

            from promptgraft.bundles import Predictor
            from promptgraft.objectives.runtime import quiet_transformers

            quiet_transformers()
            predictor = Predictor(bundle, backbone, trust_remote_code=trust_remote_code, items=items)
        first, *others = predictor.task.columns(np.zeros((0, predictor.task.width)), [])
        has_pictures = predictor.task.answers == "masks" and output != STANDARD_OUTPUT
        if has_pictures:
            check_pictures(output, table, first)
        predictions = predictor.predict_table(table, abstain_below)
    if items:
        typer.echo(f"{items}: {predictor.new_items}", err=True)
    if has_pictures:
        predictions[first] = write_pictures(predictions[first].tolist(), output, first)
    write_csv(predictions, output, escape_formulas=escape_formulas)
    without = predictions[others[0] if others else first].isna()
    skipped, unsure = int(without.sum()), int((predictions[first].isna() & ~without).sum())
    why = (
        "an image is missing or can't be read"
        if predictor.task.reads == "images"
        else "a text is missing or is no text"
    )
    if skipped and predictor.task.reads == "images":
        why += f", the first in {_first_image(predictor, predictions, without)}"
    note = f"; {skipped} rows have no prediction, since {why}" if skipped else ""
    note += f"; {unsure} rows have no label, since none has a probability of {abstain_below:g}" if unsure else ""
    if strange := _strange_histories(predictor, predictions):
        note += f"; no item of {strange} histories is known: write the texts of items, one a line, the newest first"
    typer.echo(f"{len(predictions)} rows -> {output}{note}", err=output == STANDARD_OUTPUT)


def _first_image(predictor: "Predictor", table: "pd.DataFrame", among: "pd.Series[bool]") -> str:
    """Name the first row of a table that is among some, counted from 1, with its image."""
    place, column = int(among.to_numpy().argmax()), next(iter(predictor.manifest.columns.values()))
    return one_line(f"row {place + 1}: {table[column].iloc[place] or 'no image'}")


def _strange_histories(predictor: "Predictor", table: "pd.DataFrame") -> int:
    """Count the histories of a table of which no item is known, such as those that hold ids."""
    from promptgraft.objectives.data import has_text, seen

    if not (predictor.task.reads_histories and predictor.task.one_label):
        return 0
    known, (column,) = set(predictor.task.labels), predictor.manifest.columns.values()
    return sum(known.isdisjoint(seen({column: cell})) for cell in table[column] if has_text(cell))


@app.command(rich_help_panel=PANEL)
@reported
def verify(
    bundle: BundleArgument,
    backbone: BackboneOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check that a bundle is unchanged and predicts what its trial did; exit with 1 if not."""
    from promptgraft.bundles import TOLERANCE
    from promptgraft.bundles import verify as check
    from promptgraft.objectives.runtime import quiet_transformers
    from promptgraft.search.cli.outputs import VerifyOutput

    quiet_transformers()
    with bar("verifying", quiet=quiet):
        found = check(bundle, backbone, trust_remote_code=trust_remote_code)
    if as_json:
        typer.echo(json.dumps(asdict(VerifyOutput(found.passed, TOLERANCE, **asdict(found)))))
    else:
        for name, problem in found.problems:
            typer.echo(f"{name}: {problem}")
        for name in found.unlisted:
            typer.echo(f"{name}: is no file of the bundle, its manifest doesn't list it")
        if found.difference is not None:
            typer.echo(f"{found.agreeing} of {found.rows} example rows get the trial's answer; outputs differ by up to")
            typer.echo(
                f"{found.difference:.1e} of the largest logit, or of the spread of numbers (allowed: {TOLERANCE:.0e})"
            )
        elif not found.problems:
            typer.echo("the bundle holds no example rows, so only hashes were checked")
        typer.echo(f"{bundle}: {'verified' if found.passed else 'NOT what was exported'}")
    if not found.passed:
        raise typer.Exit(CHANGED)


@app.command(rich_help_panel=PANEL)
@reported
def convert(
    bundle: BundleArgument,
    folder: Annotated[Path, typer.Argument(help="Folder to write; it must not exist yet.")],
    to: Annotated[
        str, typer.Option(help="Format: peft, plain (transformers, for servers such as vLLM), onnx or mlflow.")
    ],
    backbone: BackboneOption = None,
    trust_remote_code: TrustOption = False,
    quiet: QuietOption = False,
) -> None:
    """Convert a bundle to another format, and check that it predicts the same."""
    from promptgraft.bundles.formats import convert as write
    from promptgraft.objectives.runtime import quiet_transformers

    check_folder(folder, "FOLDER")
    quiet_transformers()
    with bar(f"writing {to}", quiet=quiet):
        difference = write(bundle, folder, to, backbone, trust_remote_code=trust_remote_code)
    checked = "not checked: the bundle holds no example rows"
    if difference is not None:
        checked = f"log-probabilities of its example rows differ by at most {difference:.1e} of the largest logit"
    typer.echo(f"{folder}: {to}; {checked}")


@app.command(rich_help_panel=PANEL)
@reported
def push(
    bundle: BundleArgument,
    place: Annotated[str, typer.Argument(metavar="hf:USER/NAME", help="Model on the Hugging Face hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new model private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be uploaded, and send nothing.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Upload a bundle to the Hugging Face hub, with its model card."""
    from promptgraft.bundles import plan_upload
    from promptgraft.bundles import push as upload

    planned = plan_upload(bundle, place)
    if planned.rows and not private:
        typer.echo(f"caution: the bundle holds {planned.rows} rows of the study in clear text", err=True)
    if dry_run:
        for name, n_bytes in planned.files.items():
            typer.echo(f"{name}  {size(n_bytes)}")
        typer.echo(f"{len(planned.files)} files, {size(sum(planned.files.values()))} -> {place}; nothing was sent")
        return
    with bar("uploading", quiet=quiet):
        address = upload(planned, private=private)
    typer.echo(f"{bundle}: {address}")


@app.command(rich_help_panel=PANEL)
@reported
def serve(
    bundle: BundleArgument,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 accepts requests from other machines.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    batch_rows: Annotated[int, typer.Option(min=1, help="Most rows that are predicted together.")] = 64,
    waiting_rows: Annotated[
        int, typer.Option(min=1, help="Most rows that may wait; further requests get status 429.")
    ] = 4096,
    replicas: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Batches predicted at the same time; they share weights and cores.",
            show_default="2 on a CPU, else 1",
        ),
    ] = None,
    items: ItemsOption = None,
    abstain_below: AbstainOption = 0.0,
    backbone: BackboneOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Serve a bundle over HTTP until Ctrl-C or SIGTERM; /docs describes the paths."""
    import torch

    from promptgraft.bundles import Predictor, bound_socket, is_loopback, url_of
    from promptgraft.bundles.serving import ServingLimits, create_app, listen
    from promptgraft.objectives.runtime import choose_device, quiet_transformers

    quiet_transformers()
    taken = bound_socket(host, port)
    threads = torch.get_num_threads()
    replicas = replicas or (2 if threads > 1 and choose_device().type == "cpu" else 1)
    torch.set_num_threads(max(1, threads // replicas))
    predictors = [
        Predictor(bundle, backbone, trust_remote_code=trust_remote_code, items=items) for _ in range(replicas)
    ]
    for predictor in predictors[1:]:
        predictor.share_weights(predictors[0])
    manifest = predictors[0].manifest
    limits = ServingLimits(batch_rows=batch_rows, waiting_rows=waiting_rows)
    address, port = taken.getsockname()[:2]
    application = create_app(
        predictors,
        list(manifest.columns),
        manifest.origin,
        limits,
        local=is_loopback(address),
        abstain_below=abstain_below,
    )
    row = json.dumps(dict.fromkeys(manifest.columns, "..."))
    asked = f"curl -s {url_of(host, port)}/predict -H 'content-type: application/json' -d {shlex.quote(row)}"
    ready = f"{bundle}: {url_of(host, port)}/docs (stop with Ctrl-C)\ntry it: {asked}"
    listen(application, taken, limits, partial(typer.echo, ready))


@app.command(rich_help_panel=PANEL)
@reported
def compare(
    champion: Annotated[Path, typer.Argument(help="Bundle in production.")],
    challenger: Annotated[Path, typer.Argument(help="Bundle that may replace it.")],
    data: Annotated[
        Path, typer.Option(help="CSV, JSONL or Parquet file of labelled rows that neither was trained on.")
    ],
    label: Annotated[str, typer.Option(help="Column of the label.")] = "label",
    level: Annotated[float, typer.Option(min=0, max=1, help="Significance level.")] = 0.05,
    output: Annotated[
        str | None, typer.Option(help="CSV file to write, with the rows on which the two disagree.")
    ] = None,
    escape_formulas: FormulasOption = False,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Test whether a challenger beats the champion; exit codes: 0 it does, 4 not shown, 5 it is worse."""
    import pandas as pd

    from promptgraft.bundles import BundleComparison, Predictor, compare_bundles, labelled_rows
    from promptgraft.objectives.runtime import quiet_transformers
    from promptgraft.search.judging import compare_by_metric, rows_of_kind

    quiet_transformers()
    if output is not None:
        check_output(output, str(data))
    with bar("loading the models", quiet=quiet):
        old, new = (Predictor(folder, trust_remote_code=trust_remote_code) for folder in (champion, challenger))
        columns = old.manifest.columns | new.manifest.columns
        found: BundleComparison | MetricComparison
        if old.task.one_label and new.task.one_label:
            rows, labels = labelled_rows(str(data), columns, label)
            found = compare_bundles(old, new, rows, labels, level)
        else:
            scored, cleaning = rows_of_kind(old.task, str(data), columns, label)
            rows = [dict(row.fields) for row in scored]
            found = compare_by_metric(old, new, scored, level, cleaning)
    if caution := known_line(old, new, rows):
        typer.echo(f"caution: {caution}", err=True)
    if output is not None:
        records = [{**entry.fields, **asdict(entry)} for entry in found.disagreements]
        frame = pd.DataFrame(records).drop(columns="fields", errors="ignore")
        write_csv(frame, output, escape_formulas=escape_formulas)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    elif isinstance(found, BundleComparison):
        print_comparison(found)
    else:
        print_metric_comparison(found)
    raise typer.Exit(OUTCOMES[found.outcome])


@registry.command()
@reported
def promote(
    location: RegistryArgument,
    bundle: BundleArgument,
    backbone: BackboneOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Verify a bundle, copy it into the registry, and make it the champion."""
    from promptgraft.bundles.registry import open_registry
    from promptgraft.objectives.runtime import quiet_transformers

    quiet_transformers()
    found = open_registry(location)
    version = found.promote(bundle, backbone, trust_remote_code=trust_remote_code)
    typer.echo(f"{found.champion}: version {version}")


@registry.command()
@reported
def rollback(location: RegistryArgument) -> None:
    """Restore the champion before the last promotion."""
    from promptgraft.bundles.registry import open_registry

    found = open_registry(location)
    typer.echo(f"{found.champion}: version {found.roll_back()}")


@registry.command()
@reported
def history(location: RegistryArgument, as_json: JsonOption = False) -> None:
    """List promotions and rollbacks; the last line is the champion."""
    from promptgraft.bundles.registry import open_registry

    entries = open_registry(location).history()
    if as_json:
        typer.echo(json.dumps({"history": entries}))
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table("when", "version", "action", "study", "trial", "who", "digest")
    for entry in entries:
        values = (entry[name] for name in ("when", "version", "action", "study", "trial", "who"))
        table.add_row(*(escape(one_line(str(value))) for value in (*values, entry["digest"][:12])))
    console().print(table)

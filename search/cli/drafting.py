"""`promptgraft init`: from a table to a first study file."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptgraft.search.cli.checks import check_file
from promptgraft.search.cli.options import reported
from promptgraft.spaces import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptgraft.search.drafting import TableView

app = typer.Typer()


@app.command()
@reported
def init(
    table: Annotated[
        str,
        typer.Argument(
            help="Table of the target's labelled rows: CSV, JSON, Parquet, Excel, ...; a file, URL or folder."
        ),
    ],
    backbone: Annotated[
        str | None, typer.Option(help="Folder or hub id of the pretrained model; asked for if left out.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Table of a task with more labels, to transfer from.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="Text column of the table; may be repeated.")] = None,
    label: Annotated[str | None, typer.Option(help="Label column of the table.")] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="text_classification, regression to predict a number, or multi_label where rows have several labels.",
            show_default="what the labels look like",
        ),
    ] = None,
    source_text: Annotated[list[str] | None, typer.Option(help="Text column of the source.")] = None,
    source_label: Annotated[str | None, typer.Option(help="Label column of the source.")] = None,
    family: Annotated[
        str | None, typer.Option(help="Family of the model.", show_default="what its config.json says")
    ] = None,
    effort: Annotated[str, typer.Option(help="quick, balanced or best.")] = "balanced",
    time: Annotated[str | None, typer.Option(help="Time limit of a run, such as 8h.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Study file to write.", show_default="the table's name with .yaml")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
) -> None:
    """Write a first study file for a table; asks only for what the table doesn't show."""
    from promptgraft.objectives.backbones import FAMILIES, guess_family
    from promptgraft.search.drafting import DraftOptions, cost_line, draft_study, study_name_of, write_draft
    from promptgraft.search.study import load_study

    asks = not yes and is_terminal()
    file = output or Path(f"{study_name_of(table)}.yaml")
    check_file(file, "--output")
    target = _view(table, text or (), label, kind, asks=asks)
    other = None
    if source:
        other = _view(source, source_text or (), source_label, target.kind, asks=asks, prefix="source-")
    chosen = backbone or _ask_backbone(target, asks=asks)
    model = (chosen, family or guess_family(chosen))
    FAMILIES[model[1]]  # Known, or an error.
    draft = draft_study(target, other, model, file.resolve().parent, DraftOptions(effort, timeout=time))
    for line in draft.lines:
        typer.echo(line)
    write_draft(draft, file)
    loaded = load_study(file, rehearsed=True)
    for caution in (*draft.cautions, *loaded.cautions):
        typer.echo(f"caution: {caution}", err=True)
    typer.echo(cost_line(loaded))
    typer.echo(f"{file}: {loaded.target.sizes}; next: promptgraft run {file}")


def _view(
    path: str, text: "Sequence[str]", label: str | None, kind: str | None, *, asks: bool, prefix: str = ""
) -> "TableView":
    """Look at a table; ask for a column that isn't clear.

    Raises:
        InvalidInputError: As `view_table`, with the option that names the column.
    """
    from promptgraft.search.drafting import UnclearColumnError, view_table

    if path == "-":
        raise InvalidInputError("-: a study reads its table again and again; save it as a file, and name that")
    while True:
        try:
            return view_table(path, text, label, kind)
        except UnclearColumnError as error:
            if not asks:
                raise UnclearColumnError(str(error).replace("--", f"--{prefix}", 1), error.role) from error
            typer.echo(str(error))
            named = typer.prompt(f"Which column is the {error.role}?")
            text, label = (text, named) if error.role == "label" else ([named], label)


def _ask_backbone(target: "TableView", *, asks: bool) -> str:
    """Return the model that is asked for.

    Raises:
        InvalidInputError: If nobody can be asked; the message names models for the table's language.
    """
    from promptgraft.search.drafting import suggested_models

    models = suggested_models(target.language)
    if not asks:
        raise InvalidInputError(
            f"--backbone is missing: name a folder or a hub id; small ones for texts in "
            f"{'this language' if target.language == 'unknown' else target.language}: {', '.join(models)}"
        )
    typer.echo(f"The texts are in {target.language}. Small models that read it:")
    for model in models:
        typer.echo(f"  {model}")
    return str(typer.prompt("Model to start from (folder or hub id)", default=models[0]))


def is_terminal() -> bool:
    """Whether a user can answer questions."""
    return sys.stdin.isatty()

"""The command line: commands about bundles, which need neither Optuna nor Ray."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from promptgraft.search.commands import JsonOption, reported

app = typer.Typer()

BundleArgument = Annotated[Path, typer.Argument(help="Folder that `export` wrote.")]
BackboneOption = Annotated[str | None, typer.Option(help="The pretrained model, if it was moved.")]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that lies beside the backbone's weights.")
]
CHANGED = 1


@app.command()
@reported
def predict(
    bundle: BundleArgument,
    table: Annotated[Path, typer.Option("--input", help="CSV, JSONL or Parquet with the text columns.")],
    output: Annotated[Path, typer.Option(help="CSV to write.")],
    backbone: BackboneOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Predict the rows of a table. Needs neither Optuna nor Ray."""
    from promptgraft.objectives.predictor import Predictor
    from promptgraft.objectives.quiet import quiet_transformers

    quiet_transformers()
    predictions = Predictor(bundle, backbone, trust_remote_code=trust_remote_code).predict_table(str(table))
    output.parent.mkdir(parents=True, exist_ok=True)
    predictions.to_csv(output, index=False)
    skipped = int(predictions["label"].isna().sum())
    note = f"; {skipped} rows without text have no prediction" if skipped else ""
    typer.echo(f"{len(predictions)} rows -> {output}{note}")


@app.command()
@reported
def verify(
    bundle: BundleArgument,
    backbone: BackboneOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Prove that a bundle is the exported one and predicts what its trial did; exits with 1 if not."""
    from promptgraft.objectives.quiet import quiet_transformers
    from promptgraft.objectives.verification import TOLERANCE
    from promptgraft.objectives.verification import verify as check

    quiet_transformers()
    found = check(bundle, backbone, trust_remote_code=trust_remote_code)
    if as_json:
        typer.echo(json.dumps({"passed": found.passed, "tolerance": TOLERANCE, **asdict(found)}))
    else:
        for name, problem in found.problems:
            typer.echo(f"{name}: {problem}")
        if found.difference is not None:
            typer.echo(f"{found.agreeing} of {found.rows} example rows get the trial's label; logits differ by at most")
            typer.echo(f"{found.difference:.1e} of the largest (allowed: {TOLERANCE:.0e})")
        elif not found.problems:
            typer.echo("the bundle holds no example rows, so only hashes were checked")
        typer.echo(f"{bundle}: {'verified' if found.passed else 'NOT what was exported'}")
    if not found.passed:
        raise typer.Exit(CHANGED)

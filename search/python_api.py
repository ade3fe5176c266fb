"""The Python API: `promptgraft.fit` and what is below it. The commands do the same with the same studies.

What a call computes is stored as a study, like that of a command: `promptgraft status`, `dashboard`, `report` and
`export` know it, and the same call goes on with it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from rich.console import Console

from promptgraft.bundles import Predictor
from promptgraft.objectives.backbones import guess_family
from promptgraft.objectives.data import Prediction
from promptgraft.search.drafting import DraftOptions, draft_study, view_table, write_draft
from promptgraft.search.exporting import ExportOptions, export_winner
from promptgraft.search.judging import headline_of
from promptgraft.search.reporting import collect_facts, render_page, study_with_rows
from promptgraft.search.running import Progress, RunOptions, RunOutcome, run_study
from promptgraft.search.sampling import study_as_run
from promptgraft.search.storage import StudyReference, own_folder
from promptgraft.search.study import load_study, parse_seconds
from promptgraft.spaces import InvalidInputError, PromptgraftError

Table = str | Path | pd.DataFrame | Any  # Any: a `datasets.Dataset`, which is not a dependency.
EffortName = Literal["quick", "balanced", "best"]


@dataclass(frozen=True, slots=True)
class Winner:
    """What a study has found; it reads the study when it is asked.

    Attributes:
        reference: Which study.
    """

    reference: StudyReference

    @property
    def verdict(self) -> str:
        """What to ship, how good it is, and what it was compared with.

        Raises:
            PromptgraftError: If no trial is finished yet.
        """
        found = headline_of(self.reference.load())
        if found is None:
            raise PromptgraftError(f"study {self.reference.name!r} has no COMPLETE trial yet; run it on")
        return found

    def export(self, folder: str | Path | None = None, *, anyway: bool = False, force: bool = False) -> Path:
        """Write the bundle that production loads; the test rows are opened, once.

        Args:
            folder: Where; the study's own folder if None.
            anyway: Whether to export a winner that a baseline is shown to be better than.
            force: Whether it may take the place of another study's bundle.

        Returns:
            The bundle's folder.

        Raises:
            PromptgraftError: As the command `export`.
        """
        stored = self.reference.load()
        loaded = study_as_run(self.reference, stored)
        options = ExportOptions(output=Path(folder) if folder is not None else None, anyway=anyway, force=force)
        return export_winner(loaded, stored, self.reference.folder, options).folder

    def report(self, file: str | Path | None = None) -> Path:
        """Write the page that explains the study, and return its path; the test rows stay sealed.

        Args:
            file: HTML file to write; `report.html` in the study's folder if None.
        """
        stored = self.reference.load()
        folder = own_folder(stored, self.reference.folder)
        path = Path(file) if file is not None else folder.path / "report.html"
        loaded, reason = study_with_rows(self.reference, stored)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render_page(collect_facts(stored, loaded, folder.files(), reason)), encoding="utf-8")
        return path

    def predictor(self) -> Predictor:
        """Return what predicts: that of the exported bundle, which is written now if it wasn't."""
        bundle = own_folder(self.reference.load(), self.reference.folder).bundle
        return Predictor(bundle if bundle.is_dir() else self.export())

    def predict(self, rows: Sequence[str] | Sequence[Mapping[str, str]] | pd.DataFrame) -> list[Prediction]:
        """Return the likeliest label of each row, its labels, or a number; for more than one call, keep `predictor()`.

        Args:
            rows: Texts; or mappings, or a frame, with the columns that the study was fitted to.
        """
        predictor = self.predictor()
        if isinstance(rows, pd.DataFrame):
            columns = predictor.manifest.columns
            rows = [{field: str(row[column]) for field, column in columns.items()} for row in rows.to_dict("records")]
        return predictor.predict(list(rows))


def fit(
    table: Table,
    *,
    backbone: str | Sequence[str] | Mapping[str, str],
    source: Table | None = None,
    text: Sequence[str] = (),
    label: str | None = None,
    source_text: Sequence[str] = (),
    source_label: str | None = None,
    family: str | None = None,
    effort: EffortName = "balanced",
    trials: int | None = None,
    time: str | None = None,
    concurrent: int | None = None,
    name: str = "fit",
    folder: str | Path = "runs",
    verbose: bool = False,
) -> Winner:
    """Search for the best model for a table, and return what has won. The same call goes on where the last one ended.

    Args:
        table: The target's labelled rows: a path, a pandas DataFrame, or a `datasets.Dataset`.
        backbone: Folder or hub id of the pretrained model; or of several, which are searched over, in a list or by what
            they are to be called.
        source: A table of a task with more labels, to transfer from.
        text: The text columns; found by what columns hold if left out.
        label: The label column; likewise.
        source_text: The source's text columns; likewise.
        source_label: The source's label column; likewise.
        family: Family of the backbone; by its config.json if None, as it always is of several.
        effort: How much to spend: `quick`, `balanced` or `best`.
        trials: Finished trials to reach; by `effort` if None.
        time: Time limit of this call, such as `8h`.
        concurrent: Trials at a time; as many as fit if None.
        name: The study's name.
        folder: Where its study file, its tables and its folder `name` are.
        verbose: Whether to print a line for each trial.

    Raises:
        InvalidInputError: If the table's columns aren't clear, or another study has this name in the folder.
        PromptgraftError: If the search could not go on.

    Example:
        >>> winner = promptgraft.fit(frame, label="intent", backbone="models/minilm", time="30m")  # doctest: +SKIP
        >>> print(winner.verdict)  # doctest: +SKIP
    """
    place = Path(folder).resolve()
    place.mkdir(parents=True, exist_ok=True)
    target = view_table(as_file(table, place / f"{name}-target.jsonl"), text, label)
    other = None
    if source is not None:
        other = view_table(as_file(source, place / f"{name}-source.jsonl"), source_text, source_label)
    draft = draft_study(target, other, _models(backbone, family), place, DraftOptions(effort, name))
    file = place / f"{name}.yaml"
    if not file.exists():
        write_draft(draft, file)
    elif file.read_text(encoding="utf-8") != draft.text:
        raise InvalidInputError(f"{file} is another study; give this one another `name`, or run that one by `run`")
    return run(file, trials=trials, time=time, concurrent=concurrent, folder=place / name, verbose=verbose)


def _models(
    backbone: str | Sequence[str] | Mapping[str, str], family: str | None
) -> tuple[str, str] | dict[str, tuple[str, str]]:
    """Return each model with its family; those of a list are called by the last part of their paths.

    Raises:
        InvalidInputError: If two are called alike, or a model's family isn't clear.
    """
    if isinstance(backbone, str):
        return backbone, family or guess_family(backbone)
    named = backbone if isinstance(backbone, Mapping) else {_called(path): path for path in backbone}
    if len(named) < len(backbone) or family is not None:
        problem = "two have the same name" if family is None else "`family` is of one"
        raise InvalidInputError(f"backbone names several models, but {problem}; write {{name: path, ...}}, no family")
    return {name: (path, guess_family(path)) for name, path in named.items()}


def _called(path: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", Path(path).name).strip("-_")


def run(
    study: str | Path,
    *,
    trials: int | None = None,
    time: str | None = None,
    concurrent: int | None = None,
    address: str | None = None,
    folder: str | Path | None = None,
    storage: str | None = None,
    verbose: bool = False,
) -> Winner:
    """Run a study file, or go on with it, as the command `run` does.

    Args:
        study: The study file.
        trials: Finished trials to reach; as the file says if None.
        time: Time limit of this run, such as `8h`.
        concurrent: Trials at a time; as many as fit if None.
        address: Ray cluster to join; a local Ray is started if None.
        folder: The study's folder; `runs/NAME` if None.
        storage: Optuna storage URL; the folder's SQLite file if None.
        verbose: Whether to print a line for each trial.

    Raises:
        StudyFileError: With every problem of the file.
        PromptgraftError: If the search gave up, or the winner could not be judged; what is finished is kept.
    """
    loaded = load_study(Path(study), rehearsed=True)
    reference = StudyReference.resolve(str(study), storage, None if folder is None else str(folder))
    try:
        timeout_s = parse_seconds(time) if time else None
    except ValueError as error:
        raise InvalidInputError(f"time: {error}, got {time!r}") from error
    wanted = trials or loaded.file.budget.trials
    console = Console() if verbose else Console(file=StringIO())
    progress = Progress(loaded.name, loaded.file.metric, wanted, console=console)
    options = RunOptions(reference.folder, reference.storage_url, wanted, timeout_s, concurrent, address)
    _raise_if_failed(run_study(loaded, options, progress))
    return Winner(reference)


def winner_of(study: str, *, folder: str | Path | None = None, storage: str | None = None) -> Winner:
    """Return what a study that was run before has found.

    Args:
        study: Study file, or the study's name.
        folder: The study's folder; `runs/NAME` if None.
        storage: Optuna storage URL; the folder's SQLite file if None.

    Raises:
        InvalidInputError: If there is no such study.
    """
    reference = StudyReference.resolve(study, storage, None if folder is None else str(folder))
    reference.load()
    return Winner(reference)


def _raise_if_failed(outcome: RunOutcome) -> None:
    if outcome.needs_help:
        said = [outcome.ended_because, *outcome.verdict]
        raise PromptgraftError(f"the search needs help: {'; '.join(line for line in said if line)}")


def _with_class_names(frame: Any, features: Any) -> Any:
    """Return a frame with the names of its classes, which a `datasets.Dataset` holds as numbers."""
    if not isinstance(frame, pd.DataFrame) or not isinstance(features, Mapping):
        return frame
    names = {column: own for column, feature in features.items() if (own := getattr(feature, "names", None))}
    numbered = {column: dict(enumerate(own)) for column, own in names.items() if column in frame.columns}
    return frame.assign(**{column: frame[column].map(own) for column, own in numbered.items()})


def as_file(table: Table, file: Path) -> str:
    """Return the path of a table; one that is in memory is written, once.

    Raises:
        InvalidInputError: If another table is there, or it is no table.
    """
    if isinstance(table, str | Path):
        return str(table)
    frame = table if isinstance(table, pd.DataFrame) else getattr(table, "to_pandas", lambda: None)()
    frame = _with_class_names(frame, getattr(table, "features", None))
    if not isinstance(frame, pd.DataFrame):
        raise InvalidInputError(f"expected a path, a DataFrame or a datasets.Dataset, got {type(table).__name__}")
    content = frame.to_json(orient="records", lines=True, force_ascii=False)
    if not file.exists():
        file.write_text(content, encoding="utf-8")
    elif file.read_text(encoding="utf-8") != content:
        raise InvalidInputError(f"{file} holds another table, of an earlier call; give this one another `name`")
    return str(file)

"""The Python API: `promptgraft.fit` and what is below it. The commands do the same with the same studies.

What a call computes is stored as a study, like that of a command: `promptgraft status`, `dashboard`, `report` and
`export` know it, and the same call goes on with it.
"""

import json
import logging
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
from promptgraft.search.reporting import collect_facts, study_with_rows, write_page
from promptgraft.search.running import Progress, RunOptions, RunOutcome, run_study
from promptgraft.search.sampling import study_as_run
from promptgraft.search.storage import StudyReference, own_folder
from promptgraft.search.study import EffortName, Study, check_study_name, load_study, parse_seconds
from promptgraft.spaces import InvalidInputError, PromptgraftError, checked_path

logger = logging.getLogger(__name__)

Table = str | Path | pd.DataFrame | Any  # Any: a `datasets.Dataset`, which is not a dependency.
# Names of columns; those of a frame may be numbers, too.
Columns = str | int | Sequence[str | int]
KindName = Literal["text_classification", "regression", "multi_label"]


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
        output = Path(_at_home(folder)) if folder is not None else None
        options = ExportOptions(output=output, anyway=anyway, force=force)
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
        write_page(path, collect_facts(stored, loaded, folder.files(), reason))
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
        return self.predictor().predict(rows)


def fit(
    table: Table,
    *,
    backbone: str | Path | Sequence[str | Path] | Mapping[str, str | Path],
    source: Table | None = None,
    text: Columns = (),
    label: str | int | None = None,
    kind: KindName | None = None,
    source_text: Columns = (),
    source_label: str | int | None = None,
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
        text: The text column, or several; found by what columns hold if left out.
        label: The label column; likewise.
        kind: `text_classification`, `regression` to predict a number, or `multi_label`, where cells hold several labels
            as `a|b` or as a list; by what the label column holds if None.
        source_text: That or those of the source; likewise.
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
    _check_options(trials, concurrent, time)
    check_study_name(name)
    place = checked_path(folder, "a folder for the study").resolve()
    place.mkdir(parents=True, exist_ok=True)
    file = place / f"{name}.yaml"
    is_new = not file.exists()
    target = view_table(as_file(table, place / f"{name}-target.jsonl", anew=is_new), _listed(text), _named(label), kind)
    other = None
    if source is not None:
        written = as_file(source, place / f"{name}-source.jsonl", anew=is_new)
        other = view_table(written, _listed(source_text), _named(source_label), target.kind)
    draft = draft_study(target, other, _models(backbone, family), place, DraftOptions(effort, name))
    if not is_new and file.read_text(encoding="utf-8") != draft.text:
        raise InvalidInputError(f"{file} is another study; give this one another `name`, or run that one by `run`")
    if is_new:
        for caution in draft.cautions:
            logger.warning("%s", caution)
        write_draft(draft, file)
    try:
        loaded = load_study(file, rehearsed=True)
    except BaseException:
        if is_new:  # Else the mended call would be refused, since another study is there.
            file.unlink()
        raise
    reference = StudyReference.resolve(str(file), None, str(place / name))
    return _run(loaded, reference, trials, time, concurrent, None, verbose=verbose)


def _check_options(trials: object, concurrent: object, time: str | None) -> None:
    for name, value in {"trials": trials, "concurrent": concurrent}.items():
        if value is not None and (type(value) is not int or value < 1):
            raise InvalidInputError(f"{name} must be a positive integer, got {value!r}")
    try:
        seconds = parse_seconds(time) if time is not None else None
    except ValueError as error:
        raise InvalidInputError(f"time: {error}, got {time!r}") from error
    if seconds == 0:
        raise InvalidInputError(f"time: expected more than 0, got {time!r}")


def _listed(columns: Columns) -> tuple[str, ...]:
    return (str(columns),) if isinstance(columns, str | int) else tuple(map(str, columns))


def _named(column: str | int | None) -> str | None:
    return None if column is None else str(column)


def _models(
    backbone: str | Path | Sequence[str | Path] | Mapping[str, str | Path], family: str | None
) -> tuple[str, str] | dict[str, tuple[str, str]]:
    """Return each model with its family; those of a list are called by the last part of their paths.

    Raises:
        InvalidInputError: If two are called alike, there is none, or a model's family isn't clear.
    """
    if isinstance(backbone, str | Path):
        path = _at_home(backbone)
        return path, family or guess_family(path)
    if not isinstance(backbone, Sequence | Mapping) or not backbone:
        raise InvalidInputError(f"backbone must be a folder or a hub id, or several of them, got {backbone!r}")
    named = backbone if isinstance(backbone, Mapping) else {_called(str(path)): path for path in backbone}
    if len(named) < len(backbone) or family is not None:
        problem = "two have the same name" if family is None else "`family` is of one"
        raise InvalidInputError(f"backbone names several models, but {problem}; write {{name: path, ...}}, no family")
    paths = {name: _at_home(path) for name, path in named.items()}
    return {name: (path, guess_family(path)) for name, path in paths.items()}


def _at_home(path: str | Path) -> str:
    """Return a path with the home folder in place of `~`."""
    return str(Path(path).expanduser()) if str(path).startswith("~") else str(path)


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
    _check_options(trials, concurrent, time)
    file = _at_home(study)
    loaded = load_study(Path(file), rehearsed=True)
    reference = StudyReference.resolve(file, storage, None if folder is None else _at_home(folder))
    return _run(loaded, reference, trials, time, concurrent, address, verbose=verbose)


def _run(
    loaded: Study,
    reference: StudyReference,
    trials: int | None,
    time: str | None,
    concurrent: int | None,
    address: str | None,
    *,
    verbose: bool,
) -> Winner:
    timeout_s = parse_seconds(time) if time else None
    wanted = trials or loaded.file.budget.trials
    console = Console() if verbose else Console(file=StringIO())
    progress = Progress(loaded.name, loaded.file.metric, wanted, console=console)
    options = RunOptions(reference.folder, reference.storage_url, wanted, timeout_s, concurrent, address)
    _raise_if_failed(run_study(loaded, options, progress))
    return Winner(reference)


def winner_of(study: str | Path, *, folder: str | Path | None = None, storage: str | None = None) -> Winner:
    """Return what a study that was run before has found.

    Args:
        study: Study file, or the study's name.
        folder: The study's folder; `runs/NAME` if None.
        storage: Optuna storage URL; the folder's SQLite file if None.

    Raises:
        InvalidInputError: If there is no such study.
    """
    reference = StudyReference.resolve(_at_home(study), storage, None if folder is None else _at_home(folder))
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


def as_file(table: Table, file: Path, *, anew: bool = False) -> str:
    """Return the path of a table; one that is in memory is written.

    Args:
        table: The table.
        file: Where to.
        anew: Whether another table may be there, of a call that was refused.

    Raises:
        InvalidInputError: If another table is there, or it is no table.
    """
    if isinstance(table, str | Path):
        return _at_home(table)
    frame = table if isinstance(table, pd.DataFrame) else getattr(table, "to_pandas", lambda: None)()
    frame = _with_class_names(frame, getattr(table, "features", None))
    if not isinstance(frame, pd.DataFrame):
        raise InvalidInputError(f"expected a path, a DataFrame or a datasets.Dataset, got {type(table).__name__}")
    content = _as_lines(frame)
    if anew or not file.exists():
        file.write_text(content, encoding="utf-8")
    elif file.read_text(encoding="utf-8") != content:
        raise InvalidInputError(f"{file} holds another table, of an earlier call; give this one another `name`")
    return str(file)


def _as_lines(frame: pd.DataFrame) -> str:
    """Write a frame as JSON lines, without losing a digit."""
    if frame.columns.nlevels > 1 or not frame.columns.is_unique:
        raise InvalidInputError(
            f"expected a frame whose columns have one name each, got {', '.join(map(repr, frame.columns))}; rename them"
        )
    missing = frame.isna()
    rows = frame.astype(object).where(~missing, None).to_dict("records")
    return "".join(f"{json.dumps(row, default=_plain)}\n" for row in rows)


def _plain(value: Any) -> Any:
    """Return what JSON knows in place of a value of numpy or pandas.

    Raises:
        InvalidInputError: If a text would lose by it.
    """
    if isinstance(value, bytes):
        raise InvalidInputError(
            f"the table holds bytes, such as {value[:20]!r}; decode them to text, or write images to files, and their "
            "names in the column"
        )
    return value.tolist() if hasattr(value, "tolist") else str(value)

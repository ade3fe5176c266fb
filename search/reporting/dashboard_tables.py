"""A trial's tables for Optuna Dashboard: predictions, confusion, and the curve with L_s and L_t apart; and pictures."""

import csv
import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.storages import RDBStorage

from promptgraft.objectives.data import Task, contact_sheet
from promptgraft.search.reporting.dashboard_notes import save_trial_note, trial_note
from promptgraft.search.storage import LOGITS_FILE, RunFolder, trial_file
from promptgraft.search.study import Study
from promptgraft.search.trials import Evaluated
from promptgraft.search.wording import rounded
from promptgraft.spaces import Candidate

# So many trials have a note; those after them have it as a file among their artifacts. The dashboard keeps notes with
# the study, and looks through all of them for each trial that it lists: 2,000 of them cost it four seconds a page.
NOTES = 300
# Images on a sheet of mistakes, and characters of a line below each.
PICTURES, LINE = 24, 22


def artifact_store(folder: RunFolder) -> FileSystemArtifactStore:
    """Return where a study's artifacts are: on the machine of the driver, beside the study."""
    folder.dashboard.mkdir(parents=True, exist_ok=True)
    return FileSystemArtifactStore(folder.dashboard)


def describe_trial(
    stored: optuna.Study,
    storage: RDBStorage,
    place: tuple[int, int, RunFolder],
    candidate: Candidate,
    reports: list[Evaluated],
    study: Study,
) -> None:
    """Hand a finished trial's note and tables to the dashboard.

    Args:
        stored: The stored study.
        storage: Its storage.
        place: The trial's id in the storage, its number, and the study's folder.
        candidate: What was tried.
        reports: All that it reported.
        study: The checked study.
    """
    trial_id, number, folder = place
    note, tables = trial_note(candidate, reports, study), _tables(reports, study.target, folder, number)
    files = {name: content.encode() for name, content in tables.items()}
    if reports[-1].summary is not None and (sheet := _mistakes(study.target, folder, number)) is not None:
        files["mistakes.jpg"] = sheet
    if number < NOTES:
        save_trial_note(stored, storage, trial_id, note)
    else:
        files["note.md"] = note.encode()
    store, trial = artifact_store(folder), storage.get_trial(trial_id)
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in files.items():
            path = Path(scratch) / name
            path.write_bytes(content)
            upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=trial, storage=storage)


def _tables(reports: Sequence[Evaluated], task: Task, folder: RunFolder, number: int) -> dict[str, str]:
    """Write a trial's tables; returns their files, those that are empty left out.

    Args:
        reports: All that it reported.
        task: The target task.
        folder: The study's folder; the outputs of a trial that is COMPLETE lie in its files.
        number: The trial's number.
    """
    last = reports[-1]
    tables: dict[str, list[dict[str, Any]]] = {
        "curve": [{"step": r.step, "value": r.value, "L_s": r.source_loss, "L_t": r.target_loss} for r in reports],
        "confusion": [
            {"true": label, **{f"predicted {name}": count for name, count in zip(task.labels, counts, strict=True)}}
            for label, counts in zip(task.labels if last.confusion else (), last.confusion, strict=True)
        ],
    }
    if last.summary is not None:
        tables["predictions"] = _predictions(task, folder, number)
    return {f"{name}.csv": _csv(rows) for name, rows in tables.items() if rows}


def _predictions(task: Task, folder: RunFolder, number: int) -> list[dict[str, Any]]:
    """List the validation rows with what a trial said of them; nothing if its outputs are gone."""
    logits = _outputs(folder, number)
    if logits is None:
        return []
    rows, expected = task.scored(), task.expected(logits)
    texts = [row.fields for row in rows]
    predicted = task.described(expected, texts)
    # Masks and boxes have no further columns, and would need their images.
    others = list(task.columns(expected, texts).items())[1:] if task.answers == "labels" else []
    return [
        {
            **row.fields,
            "label": task.show(row),
            "predicted": predicted[place],
            **{name.replace("_", " ", 1): _cell(values[place]) for name, values in others},
        }
        for place, row in enumerate(rows)
    ]


def _mistakes(task: Task, folder: RunFolder, number: int) -> bytes | None:
    """Return a sheet of the images that a trial got wrong, those first that it was surest of; None without any."""
    logits = _outputs(folder, number) if task.reads == "images" and task.one_label else None
    if logits is None:
        return None
    rows, chances = task.scored(), task.expected(logits)
    predicted, sure = chances.argmax(axis=1), chances.max(axis=1)
    wrong = [place for place in np.argsort(-sure, kind="stable") if rows[place].label != predicted[place]][:PICTURES]
    pictures = [
        (Path(path), f"{f'true: {task.show(rows[place])}'[:LINE]}\n{f'said: {task.labels[predicted[place]]}'[:LINE]}")
        for place in wrong
        for path in rows[place].fields.values()
    ]
    return contact_sheet(pictures) if pictures else None


def _outputs(folder: RunFolder, number: int) -> npt.NDArray[np.float64] | None:
    """Return a trial's outputs on the validation rows, shape (rows, labels); None if they are gone."""
    try:
        return folder.files().read_logits(trial_file(number, LOGITS_FILE)).astype(np.float64)
    except FileNotFoundError:
        return None


def _cell(value: object) -> str:
    return rounded(value) if isinstance(value, float) else str(value)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    written = io.StringIO()
    table = csv.DictWriter(written, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    return written.getvalue()

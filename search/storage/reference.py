"""Which study a command means: by its file or by its name."""

import os
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import TrialState

from promptgraft.search.storage.attributes import StudyRecord, TrialRecord
from promptgraft.search.storage.database import NotStartedError, load_existing, stored_studies
from promptgraft.search.storage.folder import RunFolder
from promptgraft.spaces import InvalidInputError, PromptgraftError


class NothingToExportError(PromptgraftError):
    """No finished trial can be shown or exported."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class StudyReference:
    """Which study a command means.

    Attributes:
        name: The study's name.
        file: The study file, if the command named one.
        folder: The study's folder.
        storage_url: Its Optuna storage.
    """

    name: str
    file: Path | None
    folder: RunFolder
    storage_url: str

    @classmethod
    def resolve(cls, study: str, storage: str | None, workdir: str | None) -> "StudyReference":
        """Find a study by its file or by its name.

        Args:
            study: Path of a study file, or a study's name.
            storage: Storage URL, if not the folder's SQLite file.
            workdir: The study's folder or the URL of its files, if not `runs/<name>`.

        Raises:
            InvalidInputError: If the file isn't there or names no study.
        """
        file = Path(study) if study.lower().endswith((".yaml", ".yml")) or os.sep in study else None
        name = study if file is None else _named_in(file)
        if not name:
            raise InvalidInputError(f"{file}: the key `study` is missing; it names the study")
        folder = RunFolder.of(name, workdir)
        return cls(name, file, folder, storage or folder.storage_url())

    def load(self) -> optuna.Study:
        """Load the stored study.

        Raises:
            InvalidInputError: If it was not started here, or by another program.
        """
        try:
            study = load_existing(self.name, self.storage_url)
            refuse_foreign(study)
            return study
        except NotStartedError as error:
            runs = Path("runs").resolve()
            names = [entry.name for entry in started_studies(Path("runs"))[0]]
            here = f"{runs} holds {', '.join(names)}" if names else f"there is no study in {runs}"
            raise InvalidInputError(
                f"{error}; {here}. Start it with: promptgraft run STUDY.yaml; or run this in the folder where it was "
                "started, or say with --workdir or --storage where it is"
            ) from error

    def study_file(self, study: optuna.Study) -> Path:
        """Return the study file, the recorded one if the command named none.

        Raises:
            InvalidInputError: If there is neither.
        """
        recorded = StudyRecord.of(study).study_file
        if self.file is None and recorded is None:
            raise InvalidInputError("the study's record names no study file; name it in place of the study")
        return self.file or Path(str(recorded))


def refuse_foreign(study: optuna.Study) -> None:
    """Refuse a study whose trials are another program's: their values are of something else.

    Raises:
        InvalidInputError: If it is one.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    if trials and not StudyRecord.of(study).identity and not any(TrialRecord.of(own).has_candidate for own in trials):
        raise InvalidInputError(
            f"study {study.study_name!r} has {len(trials)} trials of another program than promptgraft; give this one "
            "another name, or another storage"
        )


def _named_in(file: Path) -> str:
    from promptgraft.search.study import LinedYaml  # Loads a YAML parser, which a study's name doesn't need.

    return str(LinedYaml(file).plain().get("study", ""))


def started_studies(runs: Path) -> tuple[list[StudyReference], list[str]]:
    """Find the studies below a folder of runs.

    Returns:
        The studies; and of each folder that can't be read, which and why.
    """
    found: list[StudyReference] = []
    odd: list[str] = []
    for database in sorted(runs.glob("*/study.db")):
        folder = RunFolder(database.parent)
        try:
            names = stored_studies(folder.storage_url())
        except (InvalidInputError, OSError) as error:
            odd.append(f"{folder.path}: {error}")
            continue
        found += [StudyReference(name, None, folder, folder.storage_url()) for name in names]
        odd += [] if names else [f"{folder.path}: no study is in its database"]
    return found, odd

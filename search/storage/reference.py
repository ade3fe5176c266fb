"""Which study a command means: by its file or by its name."""

from dataclasses import dataclass
from pathlib import Path

import optuna

from promptgraft.search.storage.attributes import StudyRecord
from promptgraft.search.storage.database import load_existing
from promptgraft.search.storage.folder import RunFolder
from promptgraft.search.study import LinedYaml
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
        file = Path(study) if study.endswith((".yaml", ".yml")) else None
        name = study if file is None else str(LinedYaml(file).plain().get("study", ""))
        if not name:
            raise InvalidInputError(f"{file}: the key `study` is missing; it names the study")
        folder = RunFolder.of(name, workdir)
        return cls(name, file, folder, storage or folder.storage_url())

    def load(self) -> optuna.Study:
        """Load the stored study."""
        return load_existing(self.name, self.storage_url)

    def study_file(self, study: optuna.Study) -> Path:
        """Return the study file, the recorded one if the command named none.

        Raises:
            InvalidInputError: If there is neither.
        """
        recorded = StudyRecord.of(study).study_file
        if self.file is None and recorded is None:
            raise InvalidInputError("the study's record names no study file; name it in place of the study")
        return self.file or Path(str(recorded))


def started_studies(runs: Path) -> list[str]:
    """Return the names of the studies below a folder of runs."""
    return sorted(folder.parent.name for folder in runs.glob("*/study.db"))

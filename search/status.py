"""`promptgraft status` and `best`: the study read back, without torch or Ray."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from promptgraft.search.ranking import FINISHED, best_trial
from promptgraft.search.storage import RunFolder, load_existing
from promptgraft.search.yaml_lines import LinedYaml
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
        """Return the study file, the recorded one if the command named none."""
        return self.file or Path(study.user_attrs["study_file"])


def status(study: optuna.Study) -> dict[str, Any]:
    """Summarise a study in JSON types.

    Returns:
        `study`, `states` (name -> count), `best` (`number`, `value`, `candidate`; None if there is none),
        `finished` (complete or pruned), `wanted`, and `metric`.
    """
    states: dict[str, int] = {}
    finished = 0
    for trial in study.get_trials(deepcopy=False):
        states[trial.state.name] = states.get(trial.state.name, 0) + 1
        finished += trial.state in FINISHED
    best = best_trial(study)
    return {
        "study": study.study_name,
        "metric": (study.metric_names or ["value"])[0],
        "states": states,
        "finished": finished,
        "wanted": study.user_attrs.get("wanted"),
        "best": None
        if best is None
        else {"number": best.number, "value": best.value, "candidate": best.user_attrs.get("candidate")},
    }


def started_studies(runs: Path) -> list[str]:
    """Return the names of the studies below a folder of runs."""
    return sorted(folder.parent.name for folder in runs.glob("*/study.db"))

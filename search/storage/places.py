"""A study's own place in a folder that others may use, too.

The first study that runs in a folder owns it: `study.json` says which one. Every other study there, of another name or
in another database, has its files in `studies/NAME-TOKEN` below it. So no study ever writes another one's files.
"""

import json
import secrets
from dataclasses import replace

import optuna

from promptgraft.objectives.file_store import FileStore, StoredFile
from promptgraft.search.storage.attributes import TOKEN, StudyRecord, write_study
from promptgraft.search.storage.folder import RunFolder
from promptgraft.search.storage.locks import lock_of

OWNER_FILE = "study.json"
# Folder of those that came later.
_LATER = "studies"
# Begins the token of a study that is older than tokens: it wrote to its folder as if that were its alone, and keeps it.
_OLDER = "older-"
# What a study leaves in its folder; where it lies without an owner, it is from before there were owners.
_LEFT = ("artifacts", "bundle", "checkpoints", "controls", "held_out", "report.html", "stages")


def own_folder(study: optuna.Study, folder: RunFolder) -> RunFolder:
    """Return where a study's files are in a folder, and take that place if the study has none there yet.

    Args:
        study: The stored study.
        folder: The folder that the user named, or the default one.
    """
    token = _token_of(study)
    owner = json.dumps({"study": study.study_name, "token": token}) + "\n"
    place = f"{_LATER}/{study.study_name}-{token}"
    found = folder
    if not _owns(FileStore(str(folder.path.resolve())), owner):
        found = replace(found, path=folder.path / place, shared=folder.shared or folder.path)
        FileStore(str(found.path.resolve())).create_text(OWNER_FILE, owner)
    if folder.url is not None and not _owns(FileStore(folder.url), owner):
        found = replace(found, url=f"{folder.url.rstrip('/')}/{place}")
        FileStore(found.files_url).create_text(OWNER_FILE, owner)
    return found


def own_files(files: FileStore) -> list[StoredFile]:
    """List a study's files, without those of other studies below the same folder."""
    return [file for file in files.files() if not file.name.startswith(f"{_LATER}/")]


def _token_of(study: optuna.Study) -> str:
    """Return the random name that tells a study from every other one; written the first time."""
    token = StudyRecord.of(study).token
    if token is None:
        with lock_of(study):
            record = StudyRecord.of(study)
            has_run = any(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
            token = record.token or f"{_OLDER if record.identity or has_run else ''}{secrets.token_hex(4)}"
            write_study(study, TOKEN, token)
    return token


def _owns(files: FileStore, owner: str) -> bool:
    """Tell whether the study owns a folder; one that has no owner becomes its own, unless an older study used it."""
    text = files.read_text(OWNER_FILE)
    if text is None:
        if not _token_in(owner).startswith(_OLDER) and any(files.exists(name) for name in _LEFT):
            return False
        files.create_text(OWNER_FILE, owner)
        text = files.read_text(OWNER_FILE) or ""
    return _token_in(text) == _token_in(owner)


def _token_in(owner: str) -> str:
    """Return the owner's token; nobody's where the file is damaged: the folder is somebody's, but not ours."""
    try:
        return str(json.loads(owner)["token"])
    except (ValueError, KeyError, TypeError):
        return ""

"""Places that a command is to write to, looked at before anything is computed."""

import os
from pathlib import Path

from promptgraft.spaces import InvalidInputError


def check_file(path: Path | None, option: str) -> None:
    """Refuse a path that no file can be written to.

    Args:
        path: The file; nothing is checked if None.
        option: What the user knows it by.

    Raises:
        InvalidInputError: If it is a folder, or can't be written.
    """
    if path is None:
        return
    if path.is_dir():
        raise InvalidInputError(f"{option}: {path} is a folder; name a file")
    if path.exists() and not os.access(path, os.W_OK):
        raise InvalidInputError(f"{option}: {path} can't be written; check its permissions, or name another file")
    _check_parent(path, option)


def check_folder(path: Path | None, option: str) -> None:
    """Refuse a path that can't be a folder to write to; see `check_file`."""
    if path is None:
        return
    if path.exists() and not path.is_dir():
        raise InvalidInputError(f"{option}: {path} is a file; name a folder")
    _check_parent(path / "x", option)


def _check_parent(path: Path, option: str) -> None:
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise InvalidInputError(f"{option}: {folder} is a file, so nothing can be written below it; name another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidInputError(f"{option}: {folder} can't be written; check its permissions, or name another place")

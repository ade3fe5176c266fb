"""Scratch folders of runs: deleted when a run ends, and by the next one if it was killed."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from promptgraft.search.storage import Owner, is_alive, new_owner

_PREFIX, _OWNER = "promptgraft-", "owner.json"
# A folder that doesn't say whose it is, as those of older versions, has been left if it is as old as this.
_LEFT_S = 7 * 86400.0


@contextmanager
def scratch_folder() -> Iterator[str]:
    """Yield a folder for what nobody needs after the run; delete those of runs that were killed first."""
    _tidy(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name:
        (Path(name) / _OWNER).write_text(json.dumps(asdict(new_owner())))
        yield name


def _tidy(folder: Path) -> None:
    for scratch in folder.glob(f"{_PREFIX}*"):
        try:
            is_ours = scratch.is_dir() and not scratch.is_symlink() and scratch.stat().st_uid == os.getuid()
            if is_ours and _is_left(scratch):
                shutil.rmtree(scratch, ignore_errors=True)
        except OSError:  # Another run has just deleted it.
            continue


def _is_left(scratch: Path) -> bool:
    """Tell whether the run that made a folder is over, as far as that can be known here."""
    try:
        owner = Owner(**json.loads((scratch / _OWNER).read_text()))
    except (OSError, ValueError, TypeError):
        return scratch.stat().st_mtime < time.time() - _LEFT_S
    return is_alive(owner) is False

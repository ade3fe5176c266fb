"""Downloads from the package registry, and where what comes of them is written."""

import csv
import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger("prepare")

STUDIES = Path(__file__).resolve().parent.parent
DATA, MODELS = STUDIES / "data", STUDIES / "models"
ATTEMPTS = 4


def download(requirement: str, folder: Path, *, source: bool = False, options: Sequence[str] = ()) -> Path:
    """Download one package without its dependencies, trying again when the network fails."""
    name = requirement.partition("==")[0]  # What a source distribution is built with comes as wheels.
    kind = ["--no-binary", name, *options] if source else ["--only-binary", ":all:", *options]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        *kind,
        "-d",
        str(folder),
        requirement,
    ]
    for attempt in range(1, ATTEMPTS + 1):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            return next(iter(folder.iterdir()))
        logger.warning("download of %s failed (%d of %d)", requirement, attempt, ATTEMPTS)
        time.sleep(2**attempt)
    sys.exit(f"could not download {requirement}:\n{result.stderr}")


def write_table(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """Write a CSV file in one step; the first row is its header."""
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows(rows)
    partial.rename(path)

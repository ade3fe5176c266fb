"""A part of the real pair of data sets: cleaning all of them takes longer than what most tests look at."""

import csv
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.paths import STUDIES

ROWS = 600


def small_tables() -> Path:
    """Return a folder with some rows of movie.csv and amazon.csv, which this process keeps until it ends."""
    return Path(_write().name)


@cache
def _write() -> TemporaryDirectory[str]:
    folder = TemporaryDirectory(prefix="promptgraft-tables-")
    for name in ("movie.csv", "amazon.csv"):
        with (STUDIES / "data" / name).open(newline="") as whole, (Path(folder.name) / name).open("w") as small:
            header, *rows = csv.reader(whole)
            # From all over the table, which is not shuffled.
            csv.writer(small).writerows([header, *rows[:: len(rows) // ROWS]])
    return folder

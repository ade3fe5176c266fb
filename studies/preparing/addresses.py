"""Addresses with labelled parts, from usaddress."""

import json
import logging
import re
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from studies.preparing.downloads import DATA, download

logger = logging.getLogger("prepare")

USADDRESS = "usaddress==0.5.16"
# Addresses that people have labelled, and ones made of OpenStreetMap's by a program.
ADDRESSES = {"addresses": "labeled", "addresses_osm": "synthetic_osm_data_xml"}
MOST_ADDRESSES = 3000


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

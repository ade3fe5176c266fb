"""Real data in small numbers; real models, and small random ones of the same architectures."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # As trials have it; more threads than free cores make small models crawl.

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptgraft.objectives.backbones import FAMILIES
from promptgraft.objectives.data import TaskSpec
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec, SourceTraining
from promptgraft.spaces import SearchSpace, StudyFacts, Template, Verbalizer

ROOT = Path(__file__).resolve().parent.parent
STUDIES = ROOT / "studies"

pytest_plugins = ["tests.postgres"]
TINY_LAYERS = 3
REAL = {"encoder": "minilm", "causal_lm": "smollm2"}

TEMPLATES = (
    Template("review", "Review: {{ text }}\nSentiment: {{ label }}"),
    Template("all_in_all", "{{ text }} All in all, it was {{ label }}"),
)
VERBALIZERS = (
    Verbalizer("polarity", {"negative": ("negative",), "positive": ("positive",)}),
    Verbalizer("opinion", {"negative": ("terrible", "a waste"), "positive": ("great", "worth every penny")}),
)


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder with movie.csv and amazon.csv."""
    folder = STUDIES / "data"
    assert (folder / "amazon.csv").exists(), "run: python studies/prepare.py --smollm2"
    return folder


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Small random models with the real tokenizers, by family."""
    return write_tiny_models(tmp_path_factory.mktemp)


def write_tiny_models(make_folder: Callable[[str], Path]) -> dict[str, str]:
    """Write a small random model of each family, with a real tokenizer; family -> folder."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    small: dict[str, Any] = {
        "num_hidden_layers": TINY_LAYERS,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    made = {}
    for family, real, auto, extra in (
        ("encoder", "minilm", AutoModel, {}),
        ("masked_lm", "minilm", AutoModelForMaskedLM, {}),
        ("causal_lm", "smollm2", AutoModelForCausalLM, {"num_key_value_heads": 2, "head_dim": 8}),
    ):
        folder = make_folder(family)
        config = AutoConfig.from_pretrained(STUDIES / "models" / real, **small, **extra)
        torch.manual_seed(0)
        model = auto.from_config(config)
        save_enlarged(model, folder)
        AutoTokenizer.from_pretrained(STUDIES / "models" / real).save_pretrained(folder)
        made[family] = str(folder)
    made["recurrent"] = write_tiny_recurrent(make_folder("recurrent"), "lstm", bidirectional=True)
    made["seq2seq"] = write_tiny_seq2seq(make_folder("seq2seq"), "t5", sentinel=True)
    return made


def write_tiny_seq2seq(folder: Path, architecture: str, *, sentinel: bool) -> str:
    """Two encoder layers under one decoder layer; real ones can't be installed, and neither can their tokenizers."""
    import torch
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(STUDIES / "models" / "minilm")
    if sentinel:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<extra_id_0>"]})
    sizes: dict[str, Any] = {"d_model": 32, "vocab_size": len(tokenizer), "decoder_start_token_id": 0}
    sizes |= {"pad_token_id": 0, "bos_token_id": 101, "eos_token_id": 102, "tie_word_embeddings": True}
    if architecture == "t5":
        sizes |= {"num_layers": 2, "num_decoder_layers": 1, "num_heads": 4, "d_kv": 8, "d_ff": 64}
    else:
        sizes |= {"encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
        sizes |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 512}
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(architecture, **sizes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.1 if "embed" in name or "shared" in name else 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_enlarged(model: Any, folder: Path) -> None:
    """Random weights of the usual size make all classes equal; larger ones give the tests something to see."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    model.save_pretrained(folder)


def write_tiny_recurrent(folder: Path, cell: str, *, bidirectional: bool) -> str:
    from transformers import AutoModel

    from promptgraft.objectives.backbones import write_recurrent

    sizes = {"hidden_size": 32, "num_hidden_layers": TINY_LAYERS, "dropout": 0.1}
    path = folder / cell
    write_recurrent(path, str(STUDIES / "models" / "minilm"), 0, cell=cell, bidirectional=bidirectional, **sizes)
    save_enlarged(AutoModel.from_pretrained(path), path)
    return str(path)


def real_model(family: str) -> str:
    return str(STUDIES / "models" / REAL[family])


@pytest.fixture(scope="session")
def make_spec(data: Path) -> Callable[..., ObjectiveSpec]:
    """Build the fixed part of a study over the real pair, in small numbers."""
    return small_spec


def small_spec(path: str, family: str, *, source: bool = True, rows: int = 16, **changes: Any) -> ObjectiveSpec:
    from promptgraft.objectives.backbones import count_layers

    n_layers = count_layers(path, family)
    space = SearchSpace(TEMPLATES, VERBALIZERS, (), StudyFacts(n_layers, FAMILIES[family].has_head, source))
    data = STUDIES / "data"
    values: dict[str, Any] = {
        "backbone": BackboneSpec(path, family, 64),
        "target": TaskSpec(
            str(data / "amazon.csv"),
            {"text": "text"},
            "label",
            train_rows=rows,
            validation_rows=rows,
            test_rows=2 * rows,
        ),
        "source": TaskSpec(str(data / "movie.csv"), {"text": "text"}, "label", train_rows=40) if source else None,
        "space": space,
        "evaluate_every": 2,
        "evaluation_batch_size": 8,
        "source_training": SourceTraining(batch_size=4, learning_rate=1e-3),
    }
    return ObjectiveSpec(**(values | changes))


@pytest.fixture
def write_study(tmp_path: Path, data: Path, tiny_models: dict[str, str]) -> Callable[..., Path]:
    """Write a study file over the tiny encoder; keyword arguments replace whole sections."""
    from ruamel.yaml import YAML

    def write(**sections: Any) -> Path:
        content: dict[str, Any] = {
            "study": "tiny",
            "backbone": {"path": tiny_models["encoder"], "family": "encoder", "max_tokens": 48},
            "source": {"train": str(data / "movie.csv"), "text": "text", "label": "label", "train_rows": 40},
            "target": {
                "train": str(data / "amazon.csv"),
                "text": "text",
                "label": "label",
                "train_rows": 16,
                "validation_rows": 16,
                "test_rows": 40,
            },
            "space": {
                "templates": {template.name: template.text for template in TEMPLATES},
                "verbalizers": {v.name: {k: list(w) for k, w in v.words.items()} for v in VERBALIZERS},
                "frozen_layers": {"low": 0, "high": TINY_LAYERS},
                "steps": [4, 6],
                "batch_size": 4,
                "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
            },
            "evaluation": {"every": 2, "batch_size": 8},
            "budget": {"trials": 4},
            "judging": {"finalists": 0},
        }
        content |= sections
        content = {name: value for name, value in content.items() if value is not None}
        path = tmp_path / "study.yaml"
        with path.open("w") as stream:
            YAML().dump(content, stream)
        return path

    return write


@pytest.fixture(scope="module", params=["encoder", "recurrent", "masked_lm", "causal_lm", "seq2seq"])
def spec(
    request: pytest.FixtureRequest, make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str]
) -> ObjectiveSpec:
    """The fixed part of a study over the real pair, for each family."""
    return make_spec(tiny_models[request.param], request.param)


# All families pass through every contract test; where these take longest, the gate runs two of them, `make test-slow`
# the others.
_LONG = ("test_activations.py", "test_checkpoints.py", "test_calibration.py", "test_each_candidate_uses_its_own_source")
_LATER = ("recurrent", "masked_lm", "seq2seq")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long contract tests of most families among the slow ones."""
    for item in items:
        family = getattr(item, "callspec", None) and item.callspec.params.get("spec")  # type: ignore[attr-defined]
        if family in _LATER and any(name in item.nodeid for name in _LONG):
            item.add_marker(pytest.mark.slow)

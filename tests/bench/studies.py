"""A small study for measurements: real data, a small random model with the real architecture."""

import json
from pathlib import Path
from typing import Any

from tests.support.models import TINY_LAYERS
from tests.support.paths import STUDIES
from tests.support.specs import TEMPLATES, VERBALIZERS


def write_small_study(folder: Path, trials: int) -> Path:
    """Write a model of three layers and a study over it; return the study file."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    real, model = STUDIES / "models" / "minilm", folder / "model"
    small = {"num_hidden_layers": TINY_LAYERS, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.from_pretrained(real, **small)).save_pretrained(model)
    AutoTokenizer.from_pretrained(real).save_pretrained(model)
    rows = {"text": "text", "label": "label"}
    content: dict[str, Any] = {
        "study": "small",
        "backbone": {"path": str(model), "family": "encoder", "max_tokens": 48},
        "source": {"train": str(STUDIES / "data" / "movie.csv"), "train_rows": 40, **rows},
        "target": {
            "train": str(STUDIES / "data" / "amazon.csv"),
            "train_rows": 16,
            "validation_rows": 16,
            "test_rows": 40,
            **rows,
        },
        "space": {
            "templates": {template.name: template.text for template in TEMPLATES},
            "verbalizers": {v.name: {label: list(words) for label, words in v.words.items()} for v in VERBALIZERS},
            "frozen_layers": {"low": 0, "high": TINY_LAYERS},
            "source_steps": [0, 2],
            "alpha": {"low": 0.0, "high": 0.6},
            "steps": 8,
            "batch_size": 4,
            "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        },
        "evaluation": {"every": 2, "batch_size": 8},
        "sampler": {"name": "tpe"},
        "pruner": {"name": "none"},
        "budget": {"trials": trials},
    }
    path = folder / "small.yaml"
    path.write_text(json.dumps(content))  # JSON is YAML.
    return path

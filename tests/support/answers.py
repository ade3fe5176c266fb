"""Small tables of pairs of texts, in which words are replaced one by one, and models that write answers."""

import csv
import json
from pathlib import Path
from random import Random
from typing import Any

from promptgraft.objectives.data import TaskSpec
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec
from promptgraft.spaces import Candidate, Constant, Decoding, SearchSpace, StudyFacts, Template
from tests.support.models import TinyModels, write_tiny_seq2seq

WORDS = {"red": "rojo", "blue": "azul", "dog": "perro", "cat": "gato", "house": "casa", "tree": "arbol"}
TEMPLATE = Template("plain", "translate: {{ text }} = {{ label }}")
PLAIN = Candidate(TEMPLATE.id, "", head="answer", steps=2, batch_size=8, decoding=Decoding(max_new_tokens=8))


def write_pairs(path: Path, rows: int = 72, seed: int = 0) -> Path:
    """Write a CSV file with an English and a Spanish column."""
    random = Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["en", "es"])
        for number in range(rows):
            words = random.choices(list(WORDS), k=random.randint(1, 4))
            table.writerow([f"{' '.join(words)} {number}", f"{' '.join(WORDS[word] for word in words)} {number}"])
    return path


def spec_of_pairs(table: Path, **changes: Any) -> TaskSpec:
    """Describe a target task over such a table."""
    values = {"kind": "text_generation", "train_rows": 40, "test_rows": 20} | changes
    return TaskSpec(str(table), {"text": "en"}, "es", **values)


def objective_of_pairs(
    table: Path, path: str, family: str, source: TaskSpec | None = None, **changes: Any
) -> ObjectiveSpec:
    """Describe the fixed part of a study over such a table."""
    facts = StudyFacts(2, has_head=False, has_source=source is not None)
    space = SearchSpace((TEMPLATE,), (), (Constant("head", "answer"),), facts)
    target = spec_of_pairs(table, folds=2)
    return ObjectiveSpec(BackboneSpec(path, family, 32), target, source, space, **({"metric": "chrf"} | changes))


def writing_model(name: str, folder: Path, tiny_models: TinyModels) -> tuple[str, str]:
    """Return the folder and the family of a small random model: `t5`, `marian` or `llama`."""
    if name == "llama":
        return tiny_models["causal_lm"], "causal_lm"
    path = write_tiny_seq2seq(folder / name, name, sentinel=name == "t5")
    config = Path(path) / "config.json"
    content = json.loads(config.read_text()) | {"dropout_rate": 0.0, "dropout": 0.0}  # So that losses can be compared.
    config.write_text(json.dumps(content))
    return path, "seq2seq"

"""The fixed part of a study over the real pair of data sets, in small numbers; and candidates for it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from promptgraft.objectives.backbones import FAMILIES
from promptgraft.objectives.data import TaskSpec
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec, SourceTraining
from promptgraft.spaces import Candidate, SearchSpace, SoftPrompt, StudyFacts, Template, Verbalizer
from tests.support.tables import small_tables

TEMPLATES = (
    Template("review", "Review: {{ text }}\nSentiment: {{ label }}"),
    Template("all_in_all", "{{ text }} All in all, it was {{ label }}"),
)
VERBALIZERS = (
    Verbalizer("polarity", {"negative": ("negative",), "positive": ("positive",)}),
    Verbalizer("opinion", {"negative": ("terrible", "a waste"), "positive": ("great", "worth every penny")}),
)
# A candidate with a bit of everything: a soft prompt, frozen layers, a source stage, and source rows in the loss.
TRAINED = Candidate(
    TEMPLATES[0].id,
    VERBALIZERS[1].id,
    soft_prompt=SoftPrompt(2, "label_words", "suffix"),
    frozen_layers=1,
    alpha=0.5,
    source_steps=3,
    steps=5,
    batch_size=4,
    learning_rate=1e-2,
)


def small_spec(path: str, family: str, *, source: bool = True, rows: int = 16, **changes: Any) -> ObjectiveSpec:
    """Build the fixed part of a study.

    Args:
        path: Folder of the backbone.
        family: Its family.
        source: Whether there is a source task, of 40 rows.
        rows: Training and validation rows of the target; there are twice as many test rows.
        changes: Other fields of the specification.
    """
    from promptgraft.objectives.backbones import count_layers

    n_layers = count_layers(path, family)
    space = SearchSpace(TEMPLATES, VERBALIZERS, (), StudyFacts(n_layers, FAMILIES[family].has_head, source))
    data = small_tables()
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


def spec_over(backbones: Mapping[str, str], **changes: Any) -> ObjectiveSpec:
    """Build the fixed part of a study over several backbones.

    Args:
        backbones: Name, which is the family -> folder.
        changes: As in `small_spec`.
    """
    own = {family: small_spec(path, family, **changes) for family, path in backbones.items()}
    space = SearchSpace.over({family: spec.space for family, spec in own.items()})
    return replace(next(iter(own.values())), space=space, backbones=own)

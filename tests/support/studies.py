"""Study files over the tiny models, and ledgers without one."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptgraft.spaces import Categorical, Float, SearchSpace, StudyFacts, Template, Verbalizer
from tests.support.models import TINY_LAYERS
from tests.support.specs import TEMPLATES, VERBALIZERS
from tests.support.tables import small_tables

if TYPE_CHECKING:
    from promptgraft.search.running import StudyLedger

WriteStudy = Callable[..., Path]
HOPELESS = 1e30  # A step size that makes the loss NaN: these trials fail on purpose.
FACTS = StudyFacts(n_layers=6, has_head=True, has_source=True)
# Enough points for a search of some dozens of trials, none of which is run.
SMALL_SPACE = SearchSpace(
    TEMPLATES,
    VERBALIZERS,
    (Categorical("frozen_layers", (0, 1, 2)), Categorical("steps", (8, 16, 24, 32)), Categorical("batch_size", (4, 8))),
    StudyFacts(3, has_head=True, has_source=False),
)


def write_study_file(path: Path, backbone: dict[str, Any] | None, **sections: Any) -> Path:
    """Write a study over a tiny model.

    Args:
        path: The file.
        backbone: Its section on the backbone; None if `backbones` is among the sections.
        sections: Whole sections to replace; None drops one.
    """
    from ruamel.yaml import YAML

    data = small_tables()
    rows = {"text": "text", "label": "label"}
    content: dict[str, Any] = {
        "study": "tiny",
        "backbone": backbone,
        "source": {"train": str(data / "movie.csv"), "train_rows": 40, **rows},
        "target": {
            "train": str(data / "amazon.csv"),
            "train_rows": 16,
            "validation_rows": 16,
            "test_rows": 40,
            **rows,
        },
        "space": {
            **prompts(),
            "frozen_layers": {"low": 0, "high": TINY_LAYERS},
            "steps": [4, 6],
            "batch_size": 4,
            "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        },
        "evaluation": {"every": 2, "batch_size": 8},
        "baselines": [],
        "budget": {"trials": 4},
        "judging": {"finalists": 0},
    }
    content |= sections
    content = {name: value for name, value in content.items() if value is not None}
    with path.open("w") as stream:
        YAML().dump(content, stream)
    return path


def prompts() -> dict[str, Any]:
    """Return the templates and label words of a study file's space."""
    return {
        "templates": {template.name: template.text for template in TEMPLATES},
        "verbalizers": {v.name: {label: list(words) for label, words in v.words.items()} for v in VERBALIZERS},
    }


def space(**changes: Any) -> dict[str, Any]:
    """Return the space of a study file in which trials are completed, pruned, and fail."""
    content = {
        **prompts(),
        "frozen_layers": {"low": 0, "high": TINY_LAYERS - 1},
        "soft_prompt": {"length": [0, 2], "place": ["prefix", "suffix", "layer 1"]},
        "source_steps": [0, 2],
        "alpha": [0.0, 0.5],
        "steps": [8, 12],
        "batch_size": 4,
        "learning_rate": [1e-4, 1e-3, 1e-2, HOPELESS],
    }
    return content | changes


CHEAP = space(learning_rate={"low": 1e-4, "high": 1e-2, "log": True}, steps=[20, 30, 40])


def four_templates(*parameters: object) -> SearchSpace:
    """Return a space of four templates and these parameters."""
    templates = tuple(Template(name, f"{name} {{{{ text }}}} {{{{ label }}}}") for name in "abcd")
    verbalizers = (Verbalizer("v", {"no": ("bad",), "yes": ("good",)}),)
    return SearchSpace(templates, verbalizers, tuple(parameters), FACTS)  # type: ignore[arg-type]


# Continuous, so that no two candidates are equal.
WIDE = four_templates(Float("learning_rate", 1e-5, 1e-2, log=True), Float("alpha", 0, 1))


def open_ledger(
    folder: Path, searched: SearchSpace = SMALL_SPACE, *, url: str | None = None, pruner: str = "none", **sampler: Any
) -> "StudyLedger":
    """Open the study `s`, or create it.

    Args:
        folder: Where its database is, if there is no URL.
        searched: The space.
        url: Another storage.
        pruner: Name of the pruner.
        sampler: Options of TPE.
    """
    import optuna

    from promptgraft.search.running import SearchSettings, StudyLedger
    from promptgraft.search.storage import open_storage
    from promptgraft.search.study import EngineSection

    storage = open_storage(url or sqlite_url(folder))
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize", load_if_exists=True)
    engine = EngineSection.model_validate({"name": "tpe", **sampler})
    return StudyLedger(study, storage, searched, SearchSettings(engine, EngineSection(name=pruner), seed=0))


def sqlite_url(folder: Path) -> str:
    """Return the URL of a database in a folder."""
    return f"sqlite:///{folder / 'study.db'}"

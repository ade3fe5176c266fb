"""Real data in small numbers; real models, and small random ones of the same architectures."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # As trials have it; more threads than free cores make small models crawl.

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from promptgraft.objectives.spec import ObjectiveSpec
from tests.support.models import TEXT_FAMILIES, TinyModels
from tests.support.paths import STUDIES
from tests.support.specs import small_spec
from tests.support.studies import WriteStudy, write_study_file
from tests.support.tables import small_tables

settings.register_profile("on_busy_machines", deadline=None)
settings.load_profile("on_busy_machines")

pytest_plugins = ["tests.support.postgres", "tests.support.unit"]


@pytest.fixture(scope="session")
def whole_data() -> Path:
    """Folder with movie.csv and amazon.csv."""
    folder = STUDIES / "data"
    assert (folder / "amazon.csv").exists(), "run: python studies/prepare.py --smollm2"
    return folder


@pytest.fixture(scope="session")
def data(whole_data: Path) -> Path:
    """Folder with some of their rows, under the same names."""
    return small_tables()


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """Small random models with the real tokenizers, by family."""
    return TinyModels(tmp_path_factory.mktemp)


@pytest.fixture(scope="session")
def make_spec(data: Path) -> Callable[..., ObjectiveSpec]:
    """Build the fixed part of a study over the real pair, in small numbers."""
    return small_spec


@pytest.fixture
def write_study(tmp_path: Path, data: Path, tiny_models: TinyModels) -> WriteStudy:
    """Write a study file over the tiny encoder; keyword arguments replace whole sections."""

    def write(**sections: Any) -> Path:
        backbone = {"path": tiny_models["encoder"], "family": "encoder", "max_tokens": 48}
        return write_study_file(tmp_path / "study.yaml", **{"backbone": backbone, **sections})

    return write


@pytest.fixture(scope="module", params=TEXT_FAMILIES)
def spec(
    request: pytest.FixtureRequest, make_spec: Callable[..., ObjectiveSpec], tiny_models: TinyModels
) -> ObjectiveSpec:
    """The fixed part of a study over the real pair, for each family."""
    return make_spec(tiny_models[request.param], request.param)


# All families pass through every contract test; where these take longest, the gate runs two of them, `make test-slow`
# the others.
_LONG = ("test_activations.py", "test_checkpoints.py", "test_calibration.py", "test_each_candidate_uses_its_own_source")
_IN_THE_GATE = ("encoder", "causal_lm")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long contract tests of most families among the slow ones."""
    for item in items:
        family = getattr(item, "callspec", None) and item.callspec.params.get("spec")  # type: ignore[attr-defined]
        if family and family not in _IN_THE_GATE and any(name in item.nodeid for name in _LONG):
            item.add_marker(pytest.mark.slow)

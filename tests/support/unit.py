"""`pytest --unit`: only tests that need neither a model nor a network nor Ray, and held to it."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MODEL_FIXTURES = {"tiny_models", "make_spec"}
LEFT_OUT = ("test_repeat_workers.py", "test_dashboard.py")  # These start Ray or a server though they need no model.
HEAVY = {"ray": "Ray", "transformers.modeling_utils": "a model"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--unit", action="store_true", help="Only tests without a model, a network and Ray.")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files that start Ray or a server."""
    return True if config.getoption("--unit") and collection_path.name in LEFT_OUT else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what asks for a model."""
    if config.getoption("--unit"):
        chosen = [item for item in items if not MODEL_FIXTURES & set(getattr(item, "fixturenames", ()))]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


@pytest.fixture(autouse=True)
def _nothing_heavy(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a unit test that imports Ray or what loads models, or connects to anything."""
    if not pytestconfig.getoption("--unit"):
        yield
        return

    def connect(_: socket.socket, address: object) -> None:
        raise AssertionError(f"a unit test connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    before = set(sys.modules)
    yield
    found = [what for module, what in HEAVY.items() if module in sys.modules.keys() - before]
    assert not found, (
        f"a unit test needs no {' and no '.join(found)}; let it ask for a model's fixture, or see LEFT_OUT"
    )

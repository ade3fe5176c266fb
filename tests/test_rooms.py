"""The house has rooms: few files in each, one way between them, and a door that names what others may use."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.paths import ROOT

LAYERS = ("spaces", "objectives", "bundles", "search")
FACADES = sorted(file for layer in LAYERS for file in (ROOT / layer).rglob("__init__.py"))
MAX_FILES = 15


def room_of(module: str) -> str:
    """Return the package that a module stands in; one that stands beside rooms is a room of its own."""
    layer, *rest = module.removeprefix("promptgraft.").split(".")
    if layer in ("spaces", "bundles") and len(rest) < 2:
        return f"promptgraft.{layer}"
    return ".".join(["promptgraft", layer, *rest[:1]])


@cache
def modules() -> list[tuple[str, ast.Module]]:
    files = [file for layer in LAYERS for file in (ROOT / layer).rglob("*.py")]
    names = [".".join(("promptgraft", *file.relative_to(ROOT).with_suffix("").parts)) for file in files]
    return [
        (name.removesuffix(".__init__"), ast.parse(file.read_text())) for name, file in zip(names, files, strict=True)
    ]


@cache
def imports_of_tests() -> list[tuple[str, str]]:
    """Return each name that a test imports, behind its module."""
    return [found for file in (ROOT / "tests").rglob("*.py") for found in imported(ast.parse(file.read_text()))]


def imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


@cache
def imports_of_rooms() -> dict[str, set[tuple[str, str]]]:
    """Return what each room's modules import: room -> module and name."""
    found: dict[str, set[tuple[str, str]]] = {}
    for name, tree in modules():
        found.setdefault(room_of(name), set()).update(imported(tree))
    return found


def exports(tree: ast.Module) -> dict[str, str]:
    """Return what a facade hands on: name -> module."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {alias.name: node.module or "" for node in found for alias in node.names if alias.asname == alias.name}


def test_no_room_is_crowded() -> None:
    folders = {file.parent for layer in LAYERS for file in (ROOT / layer).rglob("*.py")}
    crowded = {str(folder): count for folder in folders if (count := len(list(folder.glob("*.py")))) > MAX_FILES}
    assert not crowded


def test_whoever_imports_from_another_room_comes_through_its_door() -> None:
    facades = {".".join(("promptgraft", *file.parent.relative_to(ROOT).parts)) for file in FACADES}
    wrong = [
        f"{name} imports {node.module}"
        for name, tree in modules()
        if name not in facades
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("promptgraft.")
        if node.module not in facades and room_of(node.module or "") != room_of(name)
        # A module that stands beside rooms, such as `objectives.spec`, is its own door.
        if room_of(node.module or "") != node.module
    ]
    assert not wrong


@pytest.mark.parametrize("file", FACADES, ids=lambda file: str(file.parent.relative_to(ROOT)))
def test_a_door_names_what_others_use_and_nothing_else(file: Path) -> None:
    package = ".".join(("promptgraft", *file.parent.relative_to(ROOT).parts))
    named = exports(ast.parse(file.read_text()))
    assert all(module.startswith(f"{package}.") for module in named.values())
    assert not {f"{package}.{name}" for name in named} & {name for name, _ in modules()}, "a module would hide the name"
    loaded = importlib.import_module(package)
    for name, module in named.items():
        assert getattr(loaded, name) is getattr(importlib.import_module(module), name)
    if package in ("promptgraft.spaces", "promptgraft.objectives", "promptgraft.search.cli"):
        return  # Whole layers, and an entry point: other packages use them, too.
    others = [found for room, found in imports_of_rooms().items() if room != package]
    used = {name for found in (*others, imports_of_tests()) for module, name in found if module == package}
    assert set(named) - used == set()


@pytest.mark.parametrize("layer", LAYERS)
def test_a_door_loads_nothing_heavy(layer: str) -> None:
    rooms = [".".join(("promptgraft", *f.parent.relative_to(ROOT).parts)) for f in FACADES if layer in f.parts]
    heavy = ("torch", "transformers", "ray", "optuna", "pandas", "sklearn", "scipy")
    code = f"import sys, {', '.join(rooms)}; print([module for module in {heavy} if module in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_editors_must_resolve_names_every_room() -> None:
    """`make types` has pyright check `tests/typing/imports.py`; a room that it forgets is checked by nobody."""
    tree = ast.parse((ROOT / "tests" / "typing" / "imports.py").read_text())
    rooms = {
        ".".join(("promptgraft", *f.parent.relative_to(ROOT).parts))
        for f in FACADES
        if exports(ast.parse(f.read_text()))
    }
    checked = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {"promptgraft", "promptgraft.plugins", *rooms} - checked == set()
    for name, module in exports(tree).items():
        assert getattr(importlib.import_module(module), name) is not None

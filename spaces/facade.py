"""Lazy facades of packages: the public names, each imported on first use."""

import ast
import gc
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def lazy_exports(package: str, file: str) -> tuple[Callable[[str], object], list[str]]:
    """Make the imports below `if TYPE_CHECKING` in an `__init__.py` work at run time, too, one name at a time.

    The block is written once, for editors, type checkers and readers; this function parses it. A command that needs one
    name of a package thus loads one module of it, and torch only if that module needs it (PEP 562).

    Args:
        package: The package's `__name__`.
        file: Its `__file__`.

    Returns:
        The package's `__getattr__` and `__all__`.

    Example:
        In `rooms/__init__.py`:

            if TYPE_CHECKING:
                from rooms.kitchen import Stove as Stove
            else:
                __getattr__, __all__ = lazy_exports(__name__, __file__)
    """
    homes = _exports(file)

    def get(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with uncollected():
            return getattr(importlib.import_module(homes[name]), name)

    return get, sorted(homes)


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect no garbage meanwhile: a module that loads makes few cycles, and looking for them takes a fifth of it."""
    is_usual = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_usual:
            gc.enable()


def _exports(file: str) -> dict[str, str]:
    """Read name -> module from the imports below `if TYPE_CHECKING`."""
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [entry for block in blocks for entry in block.body if isinstance(entry, ast.ImportFrom)]
    return {alias.name: entry.module for entry in imports if entry.module for alias in entry.names}

"""Writes down when some functions begin and end, in each Python process that has this folder in its PYTHONPATH.

Python imports this module as it starts. `STARTUP_TRACE` is the file that lines are added to: seconds since the epoch,
process id, CPU-seconds of the process, what happens. `STARTUP_POINTS` says what is looked at: `module:function=name`.
"""

import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_POINTS: dict[str, list[tuple[str, str]]] = {}
for _point in filter(None, os.environ.get("STARTUP_POINTS", "").split(";")):
    _place, _name = _point.split("=")
    _module, _function = _place.split(":")
    _POINTS.setdefault(_module, []).append((_function, _name))


def _note(what: str) -> None:
    line = f"{time.time():.4f}\t{os.getpid()}\t{time.process_time():.3f}\t{what}\n"
    with Path(os.environ["STARTUP_TRACE"]).open("a") as stream:
        stream.write(line)


def _noted(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        _note(f"{name}: begins")
        try:
            return function(*args, **options)
        finally:
            _note(f"{name}: ends")

    return run


def _watch(module: ModuleType) -> None:
    for path, name in _POINTS[module.__name__]:
        *owners, last = path.split(".")
        owner: Any = module
        for part in owners:
            owner = getattr(owner, part, None)
        found = getattr(owner, "__dict__", {}).get(last)
        if found is None:  # In another checkout.
            continue
        if isinstance(found, classmethod):
            setattr(owner, last, classmethod(_noted(found.__func__, name)))
        else:
            setattr(owner, last, _noted(found, name))


class _Finder:
    """Finds the modules that are looked at, and has their functions noted once they are loaded."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if name not in _POINTS:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                _watch(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if _POINTS:
    sys.meta_path.insert(0, _Finder)
    _note(f"Python starts: {' '.join(sys.orig_argv[1:])[:80]!r}")

"""Registries: implementations by name, such as task kinds, backbone families, and sources of templates.

Other packages add their own through the entry point group `promptgraft.plugins`: each entry names a module that
registers something on import. Plugins are found wherever the package is installed, also on the nodes of a cluster.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from promptgraft.spaces.errors import InvalidInputError, did_you_mean
from promptgraft.spaces.facade import uncollected

T = TypeVar("T")

PLUGINS = "promptgraft.plugins"


@cache
def load_plugins() -> None:
    """Import the plugin modules of all installed packages, once.

    Raises:
        InvalidInputError: If one of them cannot be imported.
    """
    for entry in entry_points(group=PLUGINS):
        try:
            entry.load()
        except Exception as error:  # Any error: the user must learn which package raised it.
            raise InvalidInputError(
                f"the plugin {entry.name!r} ({entry.value}) cannot be imported: {type(error).__name__}: {error}; "
                "fix or uninstall the package that provides it"
            ) from error


def plugin_versions() -> dict[str, str]:
    """Return the versions of the installed packages that provide plugins, by name."""
    found = (entry.dist for entry in entry_points(group=PLUGINS))
    return {package.name: package.version for package in found if package is not None}


class Registry(Generic[T]):
    """Implementations by name; duplicate names are refused.

    Args:
        what: Kind of entry, in the singular, for error messages ("backbone family").
        builtins: Modules that each register the built-in entry of their own name, imported when it is looked up.
    """

    def __init__(self, what: str, builtins: Sequence[str] = ()) -> None:
        self.what = what
        self._builtins = {module.rpartition(".")[2]: module for module in builtins}
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Register the decorated object under `name`.

        Raises:
            InvalidInputError: If the name is taken.
        """

        def add(entry: T) -> T:
            is_builtin = getattr(entry, "__module__", None) == self._builtins.get(name)
            if name in self._entries or (name in self._builtins and not is_builtin):
                raise InvalidInputError(f"{self.what} {name!r} is registered twice; choose another name")
            self._entries[name] = entry
            return entry

        return add

    @contextmanager
    def temporarily(self) -> Iterator[None]:
        """Forget on exit what was registered in the meantime, as a test or an example wants it."""
        self.load_all()
        before = dict(self._entries)
        try:
            yield
        finally:
            self._entries = before

    def load_all(self) -> None:
        """Import plugins and all built-in entries, which otherwise happens when an entry is first looked up."""
        self._load(*self._builtins)

    def _load(self, *names: str) -> None:
        """Import plugins, and what registers these built-in entries."""
        with uncollected():
            for name in names:
                import_module(self._builtins[name])
        load_plugins()

    def __getitem__(self, name: str) -> T:
        self._load(*([name] if name in self._builtins else []))
        if name not in self._entries:
            known = list(self)
            hint = did_you_mean(name, known) if known else "no installed package provides any"
            raise InvalidInputError(f"unknown {self.what} {name!r}; {hint}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in list(self)

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(dict.fromkeys((*self._builtins, *self._entries)))

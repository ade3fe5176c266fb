"""Named implementations: task kinds, backbone families, sources of templates and label words, and the like.

Other packages add theirs through the entry point group `promptgraft.plugins`: each entry is a module that registers
something when it is imported. It is found wherever the package is installed, on every node of a cluster too.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from promptgraft.spaces.errors import InvalidInputError, did_you_mean

T = TypeVar("T")

PLUGINS = "promptgraft.plugins"


@cache
def load_plugins() -> None:
    """Import the modules that installed packages name, once.

    Raises:
        InvalidInputError: If one of them can't be imported.
    """
    for entry in entry_points(group=PLUGINS):
        try:
            entry.load()
        except Exception as error:  # Whatever the package does wrong, the user has to know which one it was.
            raise InvalidInputError(
                f"the plugin {entry.name!r} ({entry.value}) can't be imported: {type(error).__name__}: {error}; "
                "mend or uninstall the package that brings it"
            ) from error


def plugin_versions() -> dict[str, str]:
    """Return the versions of the installed packages that bring plugins, by name."""
    found = (entry.dist for entry in entry_points(group=PLUGINS))
    return {package.name: package.version for package in found if package is not None}


class Registry(Generic[T]):
    """Implementations by name; a second one under the same name is refused.

    Args:
        what: What is registered, in the singular, for error messages ("backbone family").
        builtins: Modules that register the built-in ones; imported when the first name is looked up.
    """

    def __init__(self, what: str, builtins: Sequence[str] = ()) -> None:
        self.what = what
        self._builtins = builtins
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Register the decorated object under `name`.

        Raises:
            InvalidInputError: If the name is taken.
        """

        def add(entry: T) -> T:
            if name in self._entries:
                raise InvalidInputError(f"{self.what} {name!r} is registered twice; choose another name")
            self._entries[name] = entry
            return entry

        return add

    def _load(self) -> None:
        for module in self._builtins:
            import_module(module)
        load_plugins()

    def __getitem__(self, name: str) -> T:
        self._load()
        if name not in self._entries:
            hint = did_you_mean(name, self._entries) if self._entries else "no installed package brings any"
            raise InvalidInputError(f"unknown {self.what} {name!r}; {hint}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._entries)

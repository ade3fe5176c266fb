"""Named implementations: task kinds, backbone families, samplers and the like."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from promptgraft.spaces.errors import InvalidInputError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Implementations by name; a second one under the same name is refused.

    Args:
        what: What is registered, in the singular, for error messages ("backbone family").
    """

    def __init__(self, what: str) -> None:
        self.what = what
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

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise InvalidInputError(f"unknown {self.what} {name!r}; {did_you_mean(name, self._entries)}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

"""YAML 1.2 with the line of every value, for error messages that point."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from promptgraft.spaces import InvalidInputError

T = TypeVar("T")

# A few lines of aliases can stand for billions of values.
MAX_VALUES = 100_000

Location = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a study file.

    Attributes:
        where: Path of the key, as in `space.alpha`.
        line: Line in the file, from 1.
        message: What is wrong, what was expected, and what to do.
    """

    where: str
    line: int
    message: str


class StudyFileError(InvalidInputError):
    """Every problem of a study file at once.

    Args:
        path: The study file.
        problems: At least one problem.
    """

    def __init__(self, path: Path, problems: Sequence[Problem]) -> None:
        self.path = path
        self.problems = sorted(problems, key=lambda problem: problem.line)
        lines = [f"{path}:{p.line}: {p.where + ': ' if p.where else ''}{p.message}" for p in self.problems]
        super().__init__("\n".join(lines))


class LinedYaml:
    """A parsed YAML file that knows where its values stand.

    Args:
        path: The file.

    Raises:
        StudyFileError: If it can't be parsed, or isn't a mapping.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise InvalidInputError(f"{path}: no such study file")
        try:
            text = path.read_text(encoding="utf-8")
            root = YAML(typ="rt").load(text)
            self._texts = YAML(typ="base").load(text)
        except MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise StudyFileError(path, [Problem("", line, f"not valid YAML: {error.problem}")]) from error
        except UnicodeDecodeError as error:
            raise StudyFileError(path, [Problem("", 1, f"not UTF-8 text: {error}")]) from error
        except (YAMLError, ValueError, RecursionError) as error:
            raise StudyFileError(path, [Problem("", 1, f"not valid YAML: {error}")]) from error
        if not isinstance(root, CommentedMap):
            raise StudyFileError(path, [Problem("", 1, "expected a mapping with the keys of a study")])
        if _count(root, {}) > MAX_VALUES:
            raise StudyFileError(path, [Problem("", 1, f"more than {MAX_VALUES:,} values; use fewer aliases (*name)")])
        self._root = root

    def plain(self) -> dict[str, Any]:
        """Return the content as dictionaries, lists and scalars, with text keys."""
        content: dict[str, Any] = _plain(self._root)
        return content

    def as_written(self, location: Location, value: Any) -> Any:
        """Return a value from `plain` with the texts that the file has for numbers and truth values, such as 01.

        Args:
            location: Where the value stands.
            value: The value.
        """
        node: Any = self._texts
        for part in location:
            node = node.get(part) if isinstance(node, dict) else None
        return _as_written(value, node)

    def line(self, location: Location) -> int:
        """Return the line of a key or list item, or of its nearest parent in the file."""
        node: Any = self._root
        line = 0
        for part in location:
            if isinstance(node, CommentedMap):
                key = next((key for key in node if str(key) == str(part)), None)
                if key is None:
                    break
                line = node.lc.key(key)[0]
                node = node[key]
            elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
                line = node.lc.item(part)[0]
                node = node[part]
            else:
                break
        return line + 1

    def problem(self, location: Location, message: str) -> Problem:
        """Describe a problem with the value at `location`."""
        return Problem(".".join(str(part) for part in location), self.line(location), message)


class ProblemCollector:
    """Collects every problem of a study file.

    Args:
        yaml: The file.
        problems: Where they go; a new list if None.

    Attributes:
        problems: What was found so far.
    """

    def __init__(self, yaml: LinedYaml, problems: list[Problem] | None = None) -> None:
        self.yaml = yaml
        self.problems: list[Problem] = [] if problems is None else problems

    def add(self, location: Location, message: str) -> None:
        """Note a problem with the value at a location."""
        self.problems.append(self.yaml.problem(location, message))

    @contextmanager
    def collecting(self, location: Location) -> Iterator[None]:
        """Note what is raised inside, and go on behind it."""
        try:
            yield
        except InvalidInputError as error:
            self.add(location, str(error))

    def attempt(self, location: Location, build: Callable[[], T]) -> T | None:
        """Build something; note why it can't be built and return None, if so."""
        with self.collecting(location):
            return build()
        return None


def _count(node: Any, known: dict[int, int]) -> int:
    """Count the values in a node, those of an alias each time; stops at one more than is allowed."""
    if not isinstance(node, dict | list):
        return 1
    if id(node) not in known:
        known[id(node)] = MAX_VALUES + 1  # What holds itself has no end.
        inner = node.values() if isinstance(node, dict) else node
        known[id(node)] = min(1 + sum(_count(value, known) for value in inner), MAX_VALUES + 1)
    return known[id(node)]


def _as_written(value: Any, texts: Any) -> Any:
    if isinstance(value, dict) and isinstance(texts, dict) and len(value) == len(texts) and "<<" not in texts:
        return {str(name): _as_written(inner, texts[name]) for name, inner in zip(texts, value.values(), strict=True)}
    if isinstance(value, list) and isinstance(texts, list) and len(value) == len(texts):
        return [_as_written(inner, text) for inner, text in zip(value, texts, strict=True)]
    # What nothing is written for stays None.
    return texts if isinstance(texts, str) and texts and isinstance(value, bool | int | float | None) else value


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return str(node)

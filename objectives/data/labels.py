"""Names of labels: which ones of a study file, or of another table, are those of a table."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import chain
from typing import TYPE_CHECKING, Any

from promptgraft.objectives.data.tables import has_text
from promptgraft.spaces import InvalidInputError, did_you_mean

if TYPE_CHECKING:
    from promptgraft.objectives.data.tasks import Task

_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d{1,3})?")
# White space, underscores, and hyphens that aren't the sign of a number.
_BETWEEN_WORDS = re.compile(r"(?:[\s_]|-(?!\d)|(?<=\w)-)+")
# What people write between the labels of a cell.
_BETWEEN_LABELS = "|,;/+&"
_LIST = re.compile(r"\[.*['\",].*\]")
# Between the parts of a vector, and around them; and parts that say only whether something is so.
_IN_VECTORS, _AROUND_VECTORS = re.compile(r"[\s,;|]+"), "[](){} \t"
_BIT = re.compile("""[01](\\.0*)?|(["']?)(0|1|true|false)\\2""", re.IGNORECASE)
# What programs write for a value that is missing; `none` in small letters is rather a label.
_MISSING = frozenset({"NaN", "nan", "NAN", "NaT", "None", "NULL", "Null", "null", "N/A", "n/a", "NA", "<NA>", "#N/A"})
# Characters of a part of a cell in errors.
_SHOWN = 80
# A scale of so many grades, such as 1 to 10, may well be labels.
MOST_GRADES = 11
# Control characters, other separators of lines, and characters that turn the direction of writing.
_FORGING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def match_labels(names: Iterable[str], known: Sequence[str]) -> dict[str, str]:
    """Find the labels that names mean: the same text; or the same number or truth value, as in 1 and 1.0.

    Args:
        names: The names.
        known: The labels.

    Returns:
        Name -> label. A name that means none, or more than one, is left out.
    """
    exact = set(known)
    counts = Counter(map(_value, known))
    by_value = {_value(label): label for label in known if counts[_value(label)] == 1}
    found: dict[str, str] = {}
    for name in names:
        stripped = name.strip()
        if stripped in exact:
            found[name] = stripped
        elif _value(stripped) in by_value:
            found[name] = by_value[_value(stripped)]
    return found


def labels_as_in(labels: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return labels of a table as another one writes them, such as 1 as 1.0; see `match_labels`.

    Args:
        labels: The labels.
        known: Those of the other table.

    Returns:
        The labels in their order; as they are if two of them would become one.
    """
    found = match_labels(labels, known)
    renamed = tuple(found.get(label, label) for label in labels)
    return renamed if len(set(renamed)) == len(labels) else tuple(labels)


def chosen_labels(names: Sequence[str], known: Sequence[str], *, complete: bool) -> tuple[str, ...]:
    """Return the labels that a study file names, as its table writes them.

    Args:
        names: What the study file names.
        known: The labels of the table.
        complete: Whether the table must hold all of them.

    Raises:
        InvalidInputError: If two names mean one label, or the table must hold them all and lacks one.
    """
    found = match_labels(names, known)
    for name in names:
        if complete and name not in found:
            raise InvalidInputError(f"labels names {name!r}, but no row has that label; {did_you_mean(name, known)}")
    labels = tuple(found.get(name, name.strip()) for name in names)
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise InvalidInputError(f"labels names {twice!r} twice; name each label once")
    return labels


def named_by(words: Mapping[str, tuple[str, ...]], labels: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return label words by the labels that their names mean; words of other labels stay under their own names.

    Raises:
        InvalidInputError: If two names mean one label.
    """
    found = match_labels(words, labels)
    renamed: dict[str, tuple[str, ...]] = {}
    for name, own in words.items():
        label = found.get(name, name)
        if label in renamed:
            raise InvalidInputError(f"two names mean the label {label!r}, one of them {name!r}; leave one out")
        renamed[label] = own
    return renamed


def check_label_names(labels: Iterable[str]) -> None:
    """Refuse labels that could pass for other output where they are printed.

    Raises:
        InvalidInputError: If one holds a line break or another control character.
    """
    for label in labels:
        if _FORGING.search(label):
            raise InvalidInputError(
                f"the label {label!r} holds a line break or another control character; give it a name without"
            )


def alike_labels(labels: Iterable[str]) -> list[tuple[str, ...]]:
    """Find different labels that are probably meant to be one.

    They differ in case, white space or characters that show nothing, in how a number is written, or are a number and a
    truth value.
    """
    found: dict[str, dict[str, None]] = {}
    for label in labels:
        value = {"true": "1", "false": "0"}.get(_value(label), _value(label))
        plain = _BETWEEN_WORDS.sub(" ", unicodedata.normalize("NFKC", value).casefold())
        plain = "".join(character for character in plain if unicodedata.category(character) != "Cf").strip()
        found.setdefault(plain, {})[label] = None
    return [tuple(own) for own in found.values() if len(own) > 1]


def joined_labels(labels: Sequence[str], kept: str = "") -> str | None:
    """Find a label that is probably several in one cell: a list, or labels that occur without each other as well.

    Two of them stand alone; or, in most of the labels with the same separator, each stands alone or beside others.
    Parts of which each has its own place, as in `red/large` and `blue/small`, are rather the words of one label.

    Args:
        labels: The labels.
        kept: A separator of labels that was heeded, and isn't looked for.

    Returns:
        The first such label; None if there is none.
    """
    known = set(labels)
    separators = _BETWEEN_LABELS.replace(kept, "")
    for label in labels:
        alone = [sum(part in known for part in _parts_of(label, separator)) for separator in separators]
        if _LIST.fullmatch(label) or max(alone, default=0) > 1:
            return label
    return next(filter(None, (_recombined(labels, separator) for separator in separators)), None)


def _parts_of(label: str, separator: str) -> list[str]:
    """Divide a label; no parts if there are fewer than two, or one is empty."""
    parts = [part.strip() for part in label.split(separator)]
    return parts if len(parts) > 1 and all(parts) else []


def _recombined(labels: Sequence[str], separator: str) -> str | None:
    """Find a label whose parts all occur in others; None unless most labels with the separator are such."""
    joined = {label: own for label in labels if (own := _parts_of(label, separator))}
    counts = Counter(part for label in labels for part in set(joined.get(label, [label])))
    again = [label for label, own in joined.items() if all(counts[part] > 1 for part in own)]
    first = {own[0] for own in joined.values()} | (set(labels) - set(joined))
    has_moved = any(part in first for own in joined.values() for part in own[1:])
    return again[0] if has_moved and 2 * len(again) > len(joined) else None


def multi_hot(cells: Iterable[str]) -> str | None:
    """Find a cell of a column of multi-hot vectors, which say of each label whether it applies, but don't name it.

    No label stands twice in a list of labels, and in lists of the labels 0 and 1 some are shorter than others: if all
    held both, there would be nothing to learn.

    Args:
        cells: The column; empty cells don't count.

    Returns:
        The first vector; None unless all cells hold vectors of the same length, or most hold a 0 or a 1 twice.
    """
    filled = [cell for cell in cells if cell]
    parts = {cell: _IN_VECTORS.split(cell.strip(_AROUND_VECTORS)) for cell in set(filled)}
    vectors = {cell: own for cell, own in parts.items() if len(own) > 1 and all(map(_BIT.fullmatch, own))}
    first = next((cell for cell in filled if cell in vectors), None)
    is_one_width = len(vectors) == len(parts) and len(set(map(len, vectors.values()))) == 1
    repeating = {cell for cell, own in vectors.items() if len(set(own)) < len(own)}
    is_most = sum(cell in repeating for cell in filled) > len(filled) / 2
    return first if is_one_width or is_most else None


def missing_marks(labels: Iterable[str]) -> list[str]:
    """Return the labels that programs write for a value that is missing."""
    return [label for label in labels if label in _MISSING]


def are_amounts(labels: Sequence[str]) -> bool:
    """Whether labels are probably measured, not named: many numbers that don't count from 0 or 1 on."""
    values = [_value(label) for label in labels if _NUMBER.fullmatch(label)]
    if len(values) < len(labels) or len(labels) <= MOST_GRADES:
        return False
    counted = {str(number) for number in range(len(labels))}
    return not (set(values) == counted or set(values) == (counted - {"0"}) | {str(len(labels))})


def label_number(label: str) -> int | None:
    """Return the whole number that a label is, or stands for as a truth value; None if it is none."""
    value = _value(label)
    if value in ("true", "false"):
        return int(value == "true")
    return int(value) if re.fullmatch(r"0|[1-9]\d*", value) else None


def _value(label: str) -> str:
    """Return what is the same for all ways to write a number or a truth value; other labels stay as they are."""
    if label.lower() in ("true", "false"):
        return label.lower()
    if _NUMBER.fullmatch(label) is None:
        return label
    number = Decimal(label)
    return (
        str(number.quantize(Decimal(1)))
        if number == number.to_integral_value() and abs(number) < 10**18
        else str(number.normalize())
    )


def all_labels(target: "Task", sources: "Iterable[Task]") -> tuple[str, ...]:
    """Return the labels of all tasks, each once, the target's first."""
    return tuple(dict.fromkeys((*target.labels, *chain.from_iterable(source.labels for source in sources))))


def read_labels(
    occurring: Sequence[str], labels: tuple[str, ...] | None, *, choosing: bool
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Find out which labels a task has.

    Args:
        occurring: The labels of a table, each once, sorted.
        labels: The labels to keep; all that occur if None.
        choosing: Whether each of these labels must occur.

    Returns:
        Label as the table writes it -> its index, without labels that aren't kept; and the labels.

    Raises:
        InvalidInputError: If two names mean one label, or one that must occur doesn't.
    """
    names = tuple(occurring) if labels is None else chosen_labels(labels, occurring, complete=choosing)
    index = {name: position for position, name in enumerate(names)}
    return {label: index[name] for label, name in match_labels(occurring, names).items()}, names


def entries_in(cell: str) -> list[Any]:
    """Read a cell that holds a JSON list, such as one of spans or boxes with labels.

    Raises:
        ValueError: If it holds none, with the reason.
    """
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is no JSON, in which texts stand in double quotation marks") from error
    if not isinstance(found, list):
        raise ValueError("it is no list")  # noqa: TRY004
    return found


def label_text(value: object) -> str:
    """Return a label of a JSON list as text: a text, or a whole number, which becomes one.

    Raises:
        ValueError: If it is neither, or empty.
    """
    text = str(value) if type(value) is int else value
    if not isinstance(text, str) or not has_text(text):
        raise ValueError(f"the label {shown_entry(value)} is no text and no whole number")
    return text.strip()


def shown_entry(value: object) -> str:
    """Write a part of a JSON list for errors, without the end of what is long."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "a list of lists of lists"
    text = text if text.isprintable() else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"

"""A first study file: the data, the labels and the backbone; all else has a default."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, get_args

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from promptgraft.objectives.data import missing_marks
from promptgraft.search.drafting.column_content import CLASSES, NUMBERS, SEVERAL
from promptgraft.search.drafting.columns import FEWEST_TEXTS, TableView
from promptgraft.search.study import EffortName, parse_seconds
from promptgraft.search.wording import one_line
from promptgraft.spaces import InvalidInputError, did_you_mean

# Test rows are a fifth of the table, and no more than this: 1,000 tell accuracies apart that differ by 3 points.
TEST_SHARE, MOST_TEST_ROWS = 5, 1000
# Of a large table, a quick search takes so many rows to train on and to choose by.
QUICK_ROWS: Mapping[str, int] = {"train_rows": 1000, "validation_rows": 500}
# Tokens a word, about; and a backbone's tokens at most, fewer where the first answer is to come soon.
TOKENS_A_WORD, MOST_TOKENS, MOST_TOKENS_QUICK = 1.5, 256, 128
# With a larger class than this, accuracy tells little.
UNBALANCED = 0.8
SHOWN_LABELS = 8


@dataclass(frozen=True, slots=True)
class DraftOptions:
    """What is decided beside the tables and the backbone.

    Attributes:
        effort: `effort` of the study.
        name: Name of the study; that of the target's table if None.
        timeout: Time limit of a run, such as `8h`; none if None.
    """

    effort: str = "balanced"
    name: str | None = None
    timeout: str | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A drafted study.

    Attributes:
        name: Its name.
        text: The study file.
        lines: What was found in the tables, for people.
        cautions: What may be wrong.
    """

    name: str
    text: str
    lines: tuple[str, ...]
    cautions: tuple[str, ...]


def draft_study(
    target: TableView,
    source: TableView | None,
    backbone: tuple[str, str] | Mapping[str, tuple[str, str]],
    folder: Path,
    options: DraftOptions | None = None,
) -> Draft:
    """Write a study file for a table.

    Args:
        target: The table with few labels.
        source: That with many.
        backbone: The model's folder or name, and its family; of several, by what they are called.
        folder: Where the study file is to be; paths of files are relative to it.
        options: What else was decided; the defaults if None.

    Raises:
        InvalidInputError: If source and target have no field in common, or an option isn't one.
    """
    options = options or DraftOptions()
    if options.effort not in get_args(EffortName):
        raise InvalidInputError(
            f"unknown effort {options.effort!r}; {did_you_mean(options.effort, get_args(EffortName))}"
        )
    try:
        parse_seconds(options.timeout or "1s")
    except ValueError as error:
        raise InvalidInputError(f"time: {error}, got {options.timeout!r}") from error
    fields = _fields(target, source)
    needed = _needed_tokens(target, source)
    most = MOST_TOKENS_QUICK if options.effort == "quick" else MOST_TOKENS
    tokens = min(needed, most)
    kind = {"kind": target.kind} if target.kind != CLASSES else {}
    content: dict[str, Any] = {
        "study": options.name or study_name_of(target.path),
        "effort": options.effort,
    }

    def section(model: tuple[str, str]) -> dict[str, Any]:
        return {"path": _relative(model[0], folder), "family": model[1], "max_tokens": tokens}

    if isinstance(backbone, Mapping):
        content["backbones"] = {name: section(model) for name, model in backbone.items()}
    else:
        content["backbone"] = section(backbone)
    if source is not None:
        content["source"] = {
            **kind,
            "train": _relative(source.path, folder),
            "text": _columns(fields, source),
            "label": source.label,
        }
    test_rows = max(2, min(MOST_TEST_ROWS, target.rows // TEST_SHARE))
    is_part = options.effort == "quick" and target.rows - test_rows > 2 * sum(QUICK_ROWS.values())
    content["target"] = {
        **kind,
        "train": _relative(target.path, folder),
        "text": _columns(fields, target),
        "label": target.label,
        **({"labels": sorted({name.strip() for name in target.labels} - set(target.rare))} if target.rare else {}),
        **(QUICK_ROWS if is_part else {}),
        "test_rows": test_rows,
    }
    if options.timeout is not None:
        content["budget"] = {"timeout": options.timeout}
    tables = {"target": target} | ({"source": source} if source is not None else {})
    lines = [line for role, table in tables.items() for line in _described(role, table)]
    lines.append(f"kept for the test: {test_rows} rows of the target")
    if is_part:
        trained, chosen = QUICK_ROWS.values()
        lines.append(
            f"to be quick, {trained} of the other rows are trained on, and {chosen} chosen by: delete train_rows and "
            "validation_rows to use all"
        )
    if tokens < needed:
        lines.append(f"longer texts are cut to {tokens} tokens, about {tokens / TOKENS_A_WORD:.0f} words: max_tokens")
    return Draft(content["study"], _yaml(content), tuple(lines), tuple(_cautions(target, source)))


def write_draft(draft: Draft, file: Path) -> None:
    """Write a study file.

    Args:
        draft: What to write.
        file: Where; there must be none yet.

    Raises:
        InvalidInputError: If the file exists.
    """
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(draft.text)
    except FileExistsError as error:
        raise InvalidInputError(f"{file} exists; name another file with --output, or edit that one") from error


def _fields(target: TableView, source: TableView | None) -> list[str]:
    """Name the templates' fields, which source and target share: as the target's columns where these can be names."""
    if source is not None and len(source.text) != len(target.text):
        raise InvalidInputError(
            f"{target.path} has {_count(target.text)} ({', '.join(target.text)}), {source.path} has "
            f"{_count(source.text)} ({', '.join(source.text)}); name as many for both, with --text and --source-text"
        )
    return [name if name.isidentifier() and name != "label" else f"text_{n}" for n, name in enumerate(target.text, 1)]


def _columns(fields: Sequence[str], table: TableView) -> str | dict[str, str]:
    """Map fields to columns; a single column is enough, its field is called `text`."""
    return dict(zip(fields, table.text, strict=True)) if len(fields) > 1 else table.text[0]


def _count(names: tuple[str, ...]) -> str:
    return f"{len(names)} text column{'s' if len(names) > 1 else ''}"


def study_name_of(path: str) -> str:
    """Return a study's name, after that of its table without what says its kind."""
    name = Path(path.partition("?")[0] if "://" in path else path).resolve().name
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name.split(".")[0] or name).strip("-_") or "study"


def _relative(path: str, folder: Path) -> str:
    """Write a file's path relative to a folder if it is below it; a model's name on the hub stays."""
    if not Path(path).exists():
        return path
    absolute = Path(path).resolve()
    return str(absolute.relative_to(folder)) if absolute.is_relative_to(folder) else str(absolute)


def _needed_tokens(*tables: TableView | None) -> int:
    """Return room for nearly all texts, as a power of two; more than `MOST_TOKENS` isn't counted exactly."""
    words = 1.0
    for table in tables:
        if table is not None:
            words = max(words, sum(_long(table, name) for name in table.text))
    tokens = 32
    while tokens < min(2 * MOST_TOKENS, words * TOKENS_A_WORD):
        tokens *= 2
    return tokens


def _long(table: TableView, name: str) -> float:
    """Return how many words the longer texts of a column have: 95 % have no more."""
    lengths = sorted(len(value.split()) for value in table.column(name).values)
    return float(lengths[int(0.95 * (len(lengths) - 1))])


_COMMENTS = {
    "study": "State lives in runs/{study}.",
    "effort": "quick, balanced or best: sets trials, folds, judging and the size of the space.",
    "backbone": "family: encoder, masked_lm, causal_lm, seq2seq or recurrent; texts are cut to max_tokens.",
    "backbones": "Every trial is on one of them; texts are cut to max_tokens.",
    "source": "The task with many labels; its model is carried over to the target.",
    "budget": "A run ends by then, a share for judging the winner kept.",
    "target": "The task with few labels. test_rows stay sealed until the winner is exported.",
}


def _yaml(content: Mapping[str, Any]) -> str:
    commented = CommentedMap(content)
    for key in content:
        commented.yaml_set_comment_before_after_key(key, before=_COMMENTS[key].format(**content))
    yaml, written = YAML(), StringIO()
    yaml.width = 120
    yaml.dump(commented, written)
    end = "# Templates, label words and all hyperparameters have defaults: `promptgraft validate` prints them.\n"
    return f"{written.getvalue()}{end}"


def _described(role: str, table: TableView) -> list[str]:
    """Say what a table holds."""
    words = ", ".join(f"{name} {table.column(name).words:.0f}" for name in table.text)
    return [
        f"{role} {table.path}: {table.rows} rows; text: {', '.join(table.text)}; label: {table.label}",
        f"  {_answers(table)}",
        f"  language: {table.language}; median number of words: {words}; repeated texts: {table.repeated}",
    ]


def _answers(table: TableView) -> str:
    """Say what a table's label column holds."""
    column = table.column(table.label)
    if table.kind == NUMBERS:
        numbers = column.numbers
        return f"numbers: {numbers[0]:g} to {numbers[-1]:g}, {len(numbers)} different ones, to be predicted as such"
    shown = [f"{one_line(label)} ({count})" for label, count in list(table.labels.items())[:SHOWN_LABELS]]
    more = f" and {len(table.labels) - len(shown)} more" if len(table.labels) > len(shown) else ""
    if table.kind == SEVERAL:
        mean = sum(table.labels.values()) / max(1, column.filled)
        return f"several labels a row, {mean:.1f} on average (kind: {SEVERAL}): {', '.join(shown)}{more}"
    return f"labels: {', '.join(shown)}{more}; the most frequent one has {100 * column.largest_share:.0f}% of the rows"


def _cautions(target: TableView, source: TableView | None) -> list[str]:
    """Say what may be wrong with the tables, or with what was guessed."""
    found = [f"{table.path}: {doubt}" for table in (target, source) if table is not None for doubt in table.doubts]
    if target.rare:
        left_out = ", ".join(f"{one_line(label)} ({count})" for label, count in target.rare.items())
        found.append(f"labels with fewer than {FEWEST_TEXTS} different texts are left out of `labels`: {left_out}")
        if marks := [mark for mark in missing_marks(target.labels) if mark not in target.rare]:
            found.append(f"{', '.join(marks)} in `labels` looks like a missing value; if it is, delete it there")
    if target.kind == NUMBERS:
        if source is not None and source.label != target.label:
            names = f"{source.label}, {target.label}"
            found.append(f"the source's numbers have another name ({names}), so their losses aren't mixed: alpha is 0")
        return found
    if target.kind == CLASSES and target.column(target.label).largest_share > UNBALANCED:
        found.append("most rows have one label, so accuracy says little of the others: set metric: f1_macro")
    if source is not None and not set(target.labels) <= set(source.labels):
        found.append("the source lacks labels of the target, so their losses aren't mixed: alpha is 0")
    return found

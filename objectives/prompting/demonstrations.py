"""Demonstrations: labelled training rows of a task in front of a row's own prompt (in-context learning).

Each is rendered with the candidate's template, its label's first word in the label's place (Brown et al. 2020,
arXiv:2005.14165). Rows of the target are shown training rows of the target, rows of the source those of the source, so
that prompts have one form in both stages (MetaICL; Min et al. 2022, arXiv:2110.15943).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from promptgraft.objectives.data import Row, Task, fields_key, rows_hash
from promptgraft.spaces import Candidate, Demonstrations, InvalidInputError, SearchSpace, Template, Verbalizer, break_up

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

# Stands behind every demonstration: a blank line.
SEPARATOR = "\n\n"
# Similarities are compared up to here, so that rows as near as each other are so on every machine.
DECIMALS = 9
# How many pools a process remembers: a trial asks for those of its target and of its source again and again.
KEPT_POOLS = 4

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A training row as another row's prompt shows it.

    Attributes:
        text: Rendered, with the label's word, without white space at the end.
        label: Index of its label.
        place: Its place in the pool.
        similarity: Cosine of the TF-IDF vectors of both rows; 0 where no one asks.
    """

    text: str
    label: int
    place: int
    similarity: float


class DemonstrationPool:
    """The rows of a task that may be shown, and which of them a row is shown, in which order.

    What a row is shown depends on its fields and the pool alone. It is never shown itself, nor another row with the
    same text in the template's fields.

    Args:
        settings: How many, which ones, in which order.
        rows: The rows, those to be preferred first.
        labels: The task's labels.
        template: The candidate's template.
        verbalizer: The candidate's verbalizer; None where answers are texts, which are shown as they are.

    Attributes:
        template: The template; a model that shows the rows puts its own one here, which is guarded.
        rows: The rows, with the template's fields alone, each text once.

    Raises:
        InvalidInputError: If there are too few rows.
    """

    def __init__(
        self,
        settings: Demonstrations,
        rows: Sequence[Row],
        labels: Sequence[str],
        template: Template,
        verbalizer: Verbalizer | None,
    ) -> None:
        self.settings = settings
        self.template = template
        self._rendered: dict[Template, list[str]] = {}
        self.words = tuple(verbalizer.words[label][0] for label in labels) if verbalizer else ()
        by_key: dict[str, Row] = {}
        for row in rows:
            shown = Row(self._shown(row.fields), row.answer)
            by_key.setdefault(fields_key(shown.fields), shown)
        self._places = {key: place for place, key in enumerate(by_key)}
        self.rows = tuple(by_key.values())
        if settings.count >= len(self.rows):
            raise InvalidInputError(
                f"demonstrations.count is {settings.count}, but there are {len(self.rows)} training rows of different "
                f"text, none of which is its own demonstration; it must lie in [0, {max(0, len(self.rows) - 1)}]"
            )
        # Fixed for all rows: if it depended on which row is left out, it would tell that row's label.
        self._turns = list(dict.fromkeys(map(_label, self.rows)))

    @classmethod
    def draw(
        cls,
        settings: Demonstrations,
        rows: Sequence[Row],
        labels: Sequence[str],
        template: Template,
        verbalizer: Verbalizer | None,
        seed: int,
    ) -> "DemonstrationPool":
        """Build the pool of a task's training rows: shuffled once, and without those that no row will be shown.

        Args:
            settings: How many, which ones, in which order.
            rows: The task's training rows.
            labels: The task's labels.
            template: The candidate's template.
            verbalizer: The candidate's verbalizer.
            seed: Seed of the shuffling.
        """
        order = np.random.default_rng(seed).permutation(len(rows))
        pool = cls(settings, [rows[index] for index in order], labels, template, verbalizer)
        if pool.compares:
            return pool
        return cls(settings, [pool.rows[place] for place in pool._fixed], labels, template, verbalizer)

    @property
    def compares(self) -> bool:
        """Whether what is shown depends on how near it is to the row: TF-IDF is then fitted on all training rows."""
        return self.settings.choice == "nearest" or (self.settings.count > 1 and self.settings.order == "nearest_last")

    @property
    def content(self) -> dict[str, object]:
        """Everything that decides what is shown, beside the template, as JSON types."""
        settings = self.settings
        return {
            "settings": [settings.count, settings.choice, settings.order],
            "rows": rows_hash(self.rows),
            "words": list(self.words),
            "separator": SEPARATOR,
        }

    def choose(self, fields: Mapping[str, str]) -> list[Demonstration]:
        """Choose what a row is shown.

        Args:
            fields: The row's fields.

        Returns:
            The demonstrations, those first that are to be kept where not all fit.
        """
        shown = self._shown(fields)
        near = self._similarity(shown) if self.compares else np.zeros(len(self.rows))
        ranked = self._fixed
        if self.settings.choice == "nearest":
            ranked = np.argsort(-near, kind="stable")[: self.settings.count + 1].tolist()
        return [
            Demonstration(self._texts[place], _label(self.rows[place]), place, float(near[place]))
            for place in self._pick(ranked, self._places.get(fields_key(shown)))
        ]

    def text(self, chosen: Sequence[Demonstration]) -> str:
        """Return what stands before a row's own prompt.

        Args:
            chosen: Demonstrations, in any order.
        """
        ordered = sorted(chosen, key=lambda entry: entry.place)
        if self.settings.order == "alternating":
            ordered = _by_turns(ordered, lambda entry: entry.label, self._turns)
        elif self.settings.order == "nearest_last":
            ordered.sort(key=lambda entry: (entry.similarity, -entry.place))
        return "".join(entry.text + SEPARATOR for entry in ordered)

    def _pick(self, ranked: Sequence[int], own: int | None) -> list[int]:
        """Take the first places, but not the row's own; the first ones are to be kept."""
        others = [place for place in ranked if place != own]
        if self.settings.choice == "balanced":
            others = _by_turns(others, lambda place: _label(self.rows[place]), self._turns)
        return others[: self.settings.count]

    @cached_property
    def _fixed(self) -> list[int]:
        """The places that are shown to all rows, and those that stand in for one of them where it is the row's own."""
        everything = range(len(self.rows))
        usual = self._pick(everything, None)
        return sorted({*usual}.union(*(self._pick(everything, own) for own in usual)))

    def _shown(self, fields: Mapping[str, str]) -> dict[str, str]:
        return {name: fields[name] for name in self.template.fields}

    @property
    def _texts(self) -> list[str]:
        if self.template not in self._rendered:
            rendered = (self.template.render(row.fields).with_label(self._word(row)) for row in self.rows)
            self._rendered = {self.template: [text.rstrip() for text in rendered]}
        return self._rendered[self.template]

    def _word(self, row: Row) -> str:
        """Return what stands in the label's place: a word of the label, or a text, broken up as the fields are."""
        if self.words:
            return self.words[row.label]
        guarded = self.template.guarded
        return break_up(guarded, str(row.answer)) if guarded else str(row.answer)

    @cached_property
    def _fitted(self) -> "tuple[TfidfVectorizer, Any]":
        """The vectorizer, and the rows' vectors by term; shape (terms, rows)."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        # Any mark counts as a word, so that no row is without one.
        vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\w+|[^\w\s]")
        return vectorizer, vectorizer.fit_transform([_words(row.fields) for row in self.rows]).T.tocsr()

    def _similarity(self, fields: Mapping[str, str]) -> npt.NDArray[np.float64]:
        vectorizer, by_term = self._fitted
        found = (vectorizer.transform([_words(fields)]) @ by_term).toarray()[0]
        rounded: npt.NDArray[np.float64] = np.round(found, DECIMALS)
        return rounded


class DemonstrationPools:
    """The pools of candidates, each drawn when it is first asked for.

    Args:
        target: The target task.
        sources: The source tasks, by name.
        space: Where templates and verbalizers are.
    """

    def __init__(self, target: Task, sources: Mapping[str, Task], space: SearchSpace) -> None:
        self._target, self._sources = target, sources
        self._space = space
        self._drawn: dict[tuple[object, ...], DemonstrationPool] = {}

    def get(self, candidate: Candidate, part: str, seed: int) -> DemonstrationPool | None:
        """Return what a part's rows are shown, such as `validation`; None if the candidate has no demonstrations.

        Args:
            candidate: The candidate.
            part: `source`, which is the candidate's, or a part of the target.
            seed: The trial's seed.

        Raises:
            InvalidInputError: If the task has too few training rows.
        """
        settings = candidate.demonstrations
        task = self._sources.get(candidate.source) if part == "source" else self._target
        if not settings.count or task is None:
            return None
        of = candidate.source if part == "source" else None
        key = (settings, candidate.template, candidate.verbalizer, of, seed)
        if key not in self._drawn:
            template = self._space.template(candidate.template)
            verbalizer = self._space.verbalizer(candidate.verbalizer) if candidate.verbalizer else None
            while len(self._drawn) >= KEPT_POOLS:
                del self._drawn[next(iter(self._drawn))]
            self._drawn[key] = DemonstrationPool.draw(settings, task.train, task.labels, template, verbalizer, seed)
        return self._drawn[key]


def _label(row: Row) -> int:
    """Return a row's label; the same for all where answers are texts."""
    return row.answer if isinstance(row.answer, int) else 0


def _words(fields: Mapping[str, str]) -> str:
    return "\n".join(fields[name] for name in sorted(fields))


def _by_turns(entries: Sequence[T], label_of: Callable[[T], int], turns: Sequence[int]) -> list[T]:
    """Let labels take turns, each with its entries in their order."""
    by_label: dict[int, list[T]] = {label: [] for label in turns}
    for entry in entries:
        by_label[label_of(entry)].append(entry)
    missing = object()
    rounds = chain.from_iterable(zip_longest(*by_label.values(), fillvalue=missing))
    return [entry for entry in rounds if entry is not missing]  # type: ignore[misc]

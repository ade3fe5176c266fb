"""User profiles: a row is what a user had, its answer one value of each attribute, such as age group and occupation."""

from collections import Counter, defaultdict
from collections.abc import Sequence, Set
from dataclasses import replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from promptgraft.objectives.data import (
    TASK_KINDS,
    CleaningReport,
    Comparison,
    Expected,
    Outputs,
    Row,
    TaskSpec,
    has_text,
    read_table,
)
from promptgraft.objectives.kinds.histories.interactions import newest_first, read_histories, read_ids
from promptgraft.objectives.kinds.multi_label import MultiLabel
from promptgraft.spaces import InvalidInputError

# Stands between an attribute and its value in the name of a label.
IS = ": "
# Powers of the labels' odds that thresholds may be.
PREFERENCES = (0.0, 0.25, 0.5, 0.75, 1.0)
_TINY = 1e-12


@TASK_KINDS.register("user_profile")
class UserProfile(MultiLabel):
    """Several labels a user, one of each attribute."""

    default_metric = "f1_macro"
    reads_histories: ClassVar[bool] = True
    priors: ClassVar[tuple[str, ...]] = ("words", "items")

    @classmethod
    def clean(
        cls, path: str, spec: TaskSpec, labels: tuple[str, ...] | None, *, choosing: bool = False
    ) -> tuple[list[Row], tuple[str, ...], CleaningReport]:
        """Read histories and profiles; users without a value of each attribute are dropped; see `TextTask`."""
        del path
        found = read_histories(spec)
        profiles = _read_profiles(spec)
        names = labels or tuple(sorted({label for own in profiles.values() for label in own or ()}))
        places = {name: place for place, name in enumerate(names)}
        counts: Counter[str] = Counter()
        rows: list[Row] = []
        (field,) = spec.fields
        for user, own in found.users.items():
            profile = profiles.get(user)
            if profile is None or not all(label in places for label in profile):
                counts["missing_label" if profile is None else "invalid_label"] += 1
            else:
                answer = tuple(sorted(places[label] for label in profile))
                rows.append(Row({field: newest_first(own)}, answer, user))
        report = found.report + CleaningReport.of(counts)
        if not found.users.keys() & profiles.keys():
            raise InvalidInputError(
                f"{spec.train}: no user, such as {next(iter(found.users))!r}, is in the table of users, such as "
                f"{next(iter(profiles), '')!r}; write their ids alike"
            )
        if (lacking := cls.shortage(rows, names)) is not None:
            raise InvalidInputError(f"{spec.train}: users with a profile must have {lacking} ({report})")
        if choosing:
            _check_values({names[place] for row in rows for place in cls.labels_of(row.answer)}, spec)
        return rows, names, report

    @classmethod
    def without_known(
        cls, rows: Sequence[Row], held_out: Sequence[Row], comparison: Comparison
    ) -> tuple[list[Row], CleaningReport]:
        """Keep all: users with the same history are still others; see `TextTask`."""
        del held_out, comparison
        return list(rows), CleaningReport()

    @classmethod
    def alike(cls, rows: Sequence[Row], spec: TaskSpec) -> list[int]:
        """Say that no two users are the same; see `TextTask`."""
        del spec
        return list(range(len(rows)))

    def decided(self, outputs: Outputs, rows: Sequence[Row]) -> "UserProfile":
        """Choose how much rarer values are preferred, by F1 on rows that the model wasn't trained on; see `Task`.

        Odds of a label are compared with those of its share of the rows to one of the powers in `PREFERENCES` (logit
        adjustment, Menon et al. 2021, arXiv:2007.07314); with 0 all thresholds are 0.5: the likeliest value is taken.
        """
        shares = (self._indicators(rows).sum(axis=0) + 0.5) / (len(rows) + 1)
        odds = np.log(shares / (1 - shares))
        tried = [replace(self, thresholds=tuple(_sigmoid(power * odds).tolist())) for power in PREFERENCES]
        return max(tried, key=lambda task: task.measure(outputs, rows)["f1_macro"])

    def _is_over(self, chances: Expected) -> npt.NDArray[np.bool_]:
        """Return the likeliest value of each attribute, against its threshold; shape (rows, labels)."""
        bounds = np.array(self.thresholds or [0.5] * len(self.labels))
        scores = np.log((chances + _TINY) / (1 - chances + _TINY)) - np.log(bounds / (1 - bounds))
        groups: dict[str, list[int]] = defaultdict(list)
        for place, name in enumerate(self.labels):
            groups[name.partition(IS)[0]].append(place)
        found = np.zeros(chances.shape, dtype=bool)
        for places in groups.values():
            best = np.array(places)[scores[:, places].argmax(axis=1)]
            found[np.arange(len(chances)), best] = True
        return found

    @property
    def purpose(self) -> str:
        """Say that it tells profiles; see `Task`."""
        return "Tells users' profiles by the texts of what they had: one value of each attribute, out of"


def _read_profiles(spec: TaskSpec) -> dict[str, tuple[str, ...] | None]:
    """Return the labels of each user; None where an attribute has no value."""
    histories = spec.histories
    if histories is None or histories.users is None or not histories.attributes:
        raise InvalidInputError(
            f"{spec.train}: kind {spec.kind!r} needs `histories.users`, a table of users, and `histories.attributes`, "
            "its columns that are predicted"
        )
    if (odd := next((name for name in histories.attributes if IS in name), None)) is not None:
        raise InvalidInputError(
            f"{histories.users}: attribute {odd!r} holds {IS!r}, which stands between an attribute and its value; "
            "rename the column"
        )
    frame = read_table(histories.users, [histories.user, *histories.attributes])
    users = read_ids(frame[histories.user], f"{histories.users}: user")
    columns = [[" ".join((cell or "").split()) for cell in frame[name]] for name in histories.attributes]
    return {
        user: tuple(f"{name}{IS}{cell}" for name, cell in zip(histories.attributes, cells, strict=True))
        if all(map(has_text, cells))
        else None
        for user, cells in zip(users, zip(*columns, strict=True), strict=True)
    }


def _check_values(used: Set[str], spec: TaskSpec) -> None:
    """Refuse an attribute of which all users have the same value."""
    values = Counter(label.partition(IS)[0] for label in used)
    same = next((label for label in sorted(used) if values[label.partition(IS)[0]] == 1), None)
    if same is not None and spec.histories is not None:
        raise InvalidInputError(
            f"{spec.histories.users}: all users who are kept have the value {same!r}, so there is nothing to predict; "
            "leave that column out of `histories.attributes`"
        )


def _sigmoid(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-values)))

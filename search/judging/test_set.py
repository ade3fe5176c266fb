"""The sealed test set: opened once, for the winner and the controls, and every opening is recorded in the study.

A choice that is made after a look at test scores is biased by them. Counting the openings lets readers judge how much.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import optuna

from promptgraft.bundles import current_user, timestamp
from promptgraft.objectives.data import Row, rows_hash
from promptgraft.search.judging.transfer_gain import TransferGain
from promptgraft.search.storage import (
    TEST_SET,
    Opening,
    StudyRecord,
    lock_of,
    to_json,
    until_storage_answers,
    write_study,
)
from promptgraft.spaces import InvalidInputError


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A system's score on the held-out rows.

    Attributes:
        name: What it is.
        metrics: Metric -> value on the test rows.
    """

    name: str
    metrics: dict[str, float]


def openings(study: optuna.Study) -> list[Opening]:
    """Return every opening of the study's test set, in order."""
    return StudyRecord.of(study).openings


@dataclass(frozen=True, slots=True)
class OpenedScores:
    """What the opened test rows say.

    Attributes:
        table: Name and metrics of each system, the trial first.
        interval: Ends of the interval of the trial's metric.
        transfer: What the source is worth on them.
        members: The trials of an ensemble, if it is one that ships: the table begins with it.
    """

    table: Sequence[tuple[str, Mapping[str, float]]]
    interval: tuple[float, float]
    transfer: TransferGain | None = None
    members: tuple[int, ...] = ()


def check_same(study: optuna.Study, rows: Sequence[Row]) -> None:
    """Refuse test rows that the study wasn't started with.

    Raises:
        InvalidInputError: If they are others.
    """
    expected = StudyRecord.of(study).identity.get("test rows")
    if expected not in (None, rows_hash(rows)):
        raise InvalidInputError(
            f"the test rows of study {study.study_name!r} have changed since it was started (hash {expected} -> "
            f"{rows_hash(rows)}), so a score on them would be another test's; restore the table "
            "and the files that it names"
        )


def opened_for(
    study: optuna.Study,
    trial: int,
    rows: Sequence[Row],
    compare: Callable[[], OpenedScores],
    *,
    reopen: bool,
    again: Callable[[Opening], bool] = lambda _: False,
) -> Opening | None:
    """Return what is recorded of a trial and its controls on the test rows, or open these and record it.

    The opening is recorded before anything is scored: one that was cut off counts.

    Args:
        study: The stored study.
        trial: The trial.
        rows: The test rows.
        compare: Scores the trial and the controls on them; what it returns is recorded.
        reopen: Whether to open them though they were opened for another trial.
        again: Whether to score once more what they were opened for already: something may have been missing.

    Returns:
        The record; None if the rows stay sealed.

    Raises:
        InvalidInputError: If they aren't the rows that the study was started with.
        StorageLostError: If the study's storage is away for too long.
    """
    check_same(study, rows)
    opening = Opening(trial, timestamp(), rows_hash(rows), current_user())
    record = until_storage_answers(lambda: _opened(study, trial, opening, reopen=reopen))
    if record is None:
        return None
    if record.table is None or again(record):
        scores = compare()
        found = replace(
            record,
            table=scores.table,
            interval=scores.interval,
            transfer=to_json(scores.transfer),
            members=scores.members,
        )
        until_storage_answers(lambda: write_study(study, f"{TEST_SET}{trial}", found))
        return found
    return record


def _opened(study: optuna.Study, trial: int, opening: Opening, *, reopen: bool) -> Opening | None:
    """Return the opening for a trial, recorded now if the rows may be opened; None if they stay sealed.

    Looking and recording happen under the study's lock: of two exports at once, one opens and the other sees it.
    """
    with lock_of(study):
        before = {record.trial: record for record in openings(study)}
        if trial in before:
            return before[trial]
        if before and not reopen:
            return None
        write_study(study, f"{TEST_SET}{trial}", opening)
    return opening


def logits_of_test_set(trial: int) -> str:
    """Return where the logits of a trial on the opened test rows lie in the study's files."""
    return f"held_out/trial-{trial}.safetensors"

"""The test rows are opened once: once more for the same trial repeats the record, another's leaves them sealed."""

import contextlib
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError
from typing import TYPE_CHECKING

import optuna
import pytest
import torch
from optuna.trial import create_trial

from promptgraft.bundles import read_manifest
from promptgraft.objectives.trial import Objective
from promptgraft.search.exporting import ExportOptions, export_winner
from promptgraft.search.judging import FRESH, OpenedScores, logits_of_test_set, opened_for, openings, test_set
from promptgraft.search.judging import control_logits_file as control_file
from promptgraft.search.reporting import status_lines, summarize
from promptgraft.search.running.compatibility import record_study
from promptgraft.search.storage import DELTA_FILE, Opening, RunFolder, control_attr, open_storage, trial_file
from promptgraft.search.study import Study, load_study
from promptgraft.spaces import Candidate, InvalidInputError
from tests.support.specs import TEMPLATES, VERBALIZERS

if TYPE_CHECKING:
    from multiprocessing.queues import Queue


@pytest.fixture
def study(write_study: Callable[..., Path]) -> Study:
    return load_study(write_study())


@pytest.fixture
def stored(study: Study) -> optuna.Study:
    stored = optuna.create_study(direction="maximize")
    record_study(stored, study, 2)
    return stored


def test_exports_open_the_rows_once(study: Study, stored: optuna.Study, tmp_path: Path) -> None:
    folder, other = RunFolder(tmp_path / "run"), ExportOptions(output=tmp_path / "other", trial=1)
    objective = Objective(study.objective)
    for number, steps in enumerate((2, 4)):
        candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, steps=steps, batch_size=4)
        result = objective.evaluate(candidate, 0)
        folder.files().write_tensors(trial_file(number, DELTA_FILE), result.delta)
        attrs = {f"validation_{name}": value for name, value in result.metrics.items()}
        attrs |= {"candidate": candidate.to_dict()}
        stored.add_trial(create_trial(value=0.9 - number / 10, user_attrs=attrs))
    assert "test rows sealed" in "\n".join(status_lines(summarize(stored)))
    first = export_winner(study, stored, folder)
    (opening,) = openings(stored)
    assert (opening.trial, first.openings, len(first.held_out) > 3) == (0, (0,), True)
    assert opening.who
    assert first.interval is not None
    low, high = first.interval
    assert 0 < low < first.held_out[0].metrics["accuracy"] < high < 1
    logits = folder.files().read_tensors(logits_of_test_set(0))["logits"].numpy()
    assert study.target.measure(logits, study.target.test) == first.held_out[0].metrics
    assert export_winner(study, stored, folder).held_out == first.held_out
    for repeat in (FRESH, FRESH + 1):  # Controls that were run after the rows were opened for their trial.
        for control in ("winner", "majority"):
            stored.set_user_attr(control_attr(0, control, repeat), {"value": 0.5})
            folder.files().write_tensors(control_file(0, control, repeat), {"logits": torch.from_numpy(logits)})
        again = export_winner(study, stored, folder)
        assert again.transfer is not None
        assert [entry.repeats for entry in again.transfer.controls] == [repeat - FRESH + 1] * 2
    (opening,) = openings(stored)
    sealed = export_winner(study, stored, folder, other)
    assert (sealed.held_out, sealed.openings) == ((), (0,))
    assert "test" not in read_manifest(sealed.folder).metrics
    assert openings(stored) == [opening]
    reopened = export_winner(study, stored, folder, replace(other, reopen=True))
    assert (len(reopened.held_out), reopened.openings) == (len(first.held_out), (0, 1))
    assert read_manifest(reopened.folder).metrics["test"] == reopened.held_out[0].metrics
    assert "for trial 0, 20" in "\n".join(status_lines(summarize(stored)))
    weights = folder.files().read_tensors(trial_file(1, DELTA_FILE))
    folder.files().delete(trial_file(1, DELTA_FILE))
    export_winner(study, stored, folder, other)
    again = folder.files().read_tensors(trial_file(1, DELTA_FILE))
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_an_opening_that_was_cut_off_counts(study: Study, stored: optuna.Study) -> None:
    def cut_off() -> OpenedScores:
        raise KeyboardInterrupt

    rows = study.target.test
    with pytest.raises(KeyboardInterrupt):
        opened_for(stored, 3, rows, cut_off, reopen=False)
    assert [record.trial for record in openings(stored)] == [3]
    assert opened_for(stored, 4, rows, cut_off, reopen=False) is None
    table = (("winner", {"accuracy": 0.5}),)
    found = opened_for(stored, 3, rows, lambda: OpenedScores(table, (0.4, 0.6)), reopen=False)
    assert found is not None
    assert found.table == table
    assert opened_for(stored, 3, rows, cut_off, reopen=False) == openings(stored)[0]
    again = opened_for(stored, 3, rows, lambda: OpenedScores((), (0.4, 0.6)), reopen=False, again=lambda _: True)
    assert again is not None
    assert (again.opened, again.table) == (found.opened, ())
    assert len(openings(stored)) == 1


def _open_at_once(url: str, trial: int, both: Barrier, outcomes: "Queue[tuple[int, bool]]") -> None:
    """Open the rows for a trial; between looking for openings and recording one, wait for the other process."""

    def seen_by_both(study: optuna.Study) -> list[Opening]:
        found = openings(study)
        with contextlib.suppress(BrokenBarrierError):  # Behind the lock, the other one doesn't come.
            both.wait(timeout=5)
        return found

    test_set.openings = seen_by_both
    stored = optuna.load_study(study_name="s", storage=open_storage(url))
    found = opened_for(stored, trial, [], lambda: OpenedScores((("winner", {}),), (0.4, 0.6)), reopen=False)
    outcomes.put((trial, found is not None))


def test_of_two_exports_at_once_one_opens_the_rows_and_the_other_sees_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    stored = optuna.create_study(storage=open_storage(url), study_name="s", direction="maximize")
    context = multiprocessing.get_context("fork")  # A spawned process could not import this module.
    both, outcomes = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_open_at_once, args=(url, trial, both, outcomes)) for trial in (1, 2)]
    for process in processes:
        process.start()
    found = dict(outcomes.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    assert sorted(found.values()) == [False, True]
    assert [record.trial for record in openings(stored)] == [trial for trial, opened in found.items() if opened]


def test_other_rows_are_refused(study: Study, stored: optuna.Study) -> None:
    with pytest.raises(InvalidInputError, match=r"the test rows of study .* have changed since it was started"):
        opened_for(stored, 0, study.target.test[1:], lambda: OpenedScores((), (0, 0)), reopen=True)
    assert openings(stored) == []

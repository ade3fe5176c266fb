"""The start of a run: its study is opened or created, its place taken, and what dead drivers left is adopted."""

import logging
import time
import warnings
from dataclasses import replace

import optuna
from optuna.storages import RDBStorage

from promptgraft.search.running.compatibility import record_study
from promptgraft.search.running.driver import Driver
from promptgraft.search.running.ledger import StudyLedger
from promptgraft.search.running.progress import Progress
from promptgraft.search.running.run_state import RunOptions, RunOutcome, SearchSettings
from promptgraft.search.sampling import first_trials, queue_baselines, queue_start_points
from promptgraft.search.storage import (
    RunFolder,
    StudyRecord,
    keep_copy,
    open_storage,
    own_folder,
    refuse_foreign,
    until_storage_answers,
)
from promptgraft.search.study import Study, with_recorded_rows
from promptgraft.search.trials import FINISHED, Limits

logger = logging.getLogger(__name__)


def run_study(study: Study, options: RunOptions, progress: Progress | None = None) -> RunOutcome:
    """Run trials until the budget is spent, continuing what earlier runs left.

    Args:
        study: The checked study.
        options: Where and how long.
        progress: Shows what happens, if given.

    Raises:
        InvalidInputError: If the stored study was started with another search space or other data.
        StorageLostError: If the study's storage is away for too long.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    url = options.storage_url or options.folder.storage_url()
    storage = until_storage_answers(lambda: open_storage(url))
    keep_copy(url)
    gpus = study.file.resources.gpu
    limits = Limits.of(study.file.budget, options.trials, options.timeout_s, time.time(), gpus)
    study, ledger, folder = until_storage_answers(lambda: _started_ledger(study, storage, options.folder, limits))
    if folder != options.folder:
        logger.warning(
            "%s is the folder of another study; this one's files are in %s", options.folder.path, folder.path
        )
    for caution in study.cautions:
        logger.warning("%s", caution)
    orphans = ledger.adopt_orphans()
    if orphans:
        logger.warning("%d trials of a driver that ended are recorded as FAIL and queued again", orphans)
    progress = progress or Progress(study.name, study.file.metric, limits.trials)
    progress.ends_at = limits.search_ends_at
    return Driver(study, replace(options, folder=folder), ledger, progress, limits).run()


def _started_ledger(
    study: Study, storage: RDBStorage, folder: RunFolder, limits: Limits
) -> tuple[Study, StudyLedger, RunFolder]:
    """Start the study in its storage, or go on with the one that is there and with its rows; find its place."""
    stored = optuna.create_study(
        storage=storage, study_name=study.name, directions=study.objective.directions, load_if_exists=True
    )
    refuse_foreign(stored)
    folder = own_folder(stored, folder)  # First, since it has to tell a new study from an older one.
    study = with_recorded_rows(study, StudyRecord.of(stored).identity)
    finished = sum(trial.state in FINISHED for trial in stored.get_trials(deepcopy=False))
    record_study(stored, study, max(limits.trials, finished))
    ledger = StudyLedger(stored, storage, study.objective.space, SearchSettings.of(study))
    if not ledger.finished:
        for baselines, points in first_trials(study):
            queue_baselines(stored, storage, baselines)
            queue_start_points(stored, storage, points)
    return study, ledger, folder

"""Where a study lives: its database, its folder, and what is stored under which name."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.search.storage.database import first_line as first_line
    from promptgraft.search.storage.database import load_existing as load_existing
    from promptgraft.search.storage.database import open_storage as open_storage
    from promptgraft.search.storage.database import safe_url as safe_url
    from promptgraft.search.storage.database import upgrade_storage as upgrade_storage
    from promptgraft.search.storage.folder import RunFolder as RunFolder
    from promptgraft.search.storage.heartbeats import Heartbeat as Heartbeat
    from promptgraft.search.storage.heartbeats import is_alive as is_alive
    from promptgraft.search.storage.heartbeats import new_owner as new_owner
    from promptgraft.search.storage.heartbeats import start_heartbeat as start_heartbeat
    from promptgraft.search.storage.locks import lock_of as lock_of
    from promptgraft.search.storage.locks import study_lock as study_lock
    from promptgraft.search.storage.optuna_private import enqueued_parameters as enqueued_parameters
    from promptgraft.search.storage.optuna_private import retry_attrs as retry_attrs
    from promptgraft.search.storage.optuna_private import retry_history as retry_history
    from promptgraft.search.storage.optuna_private import share_search_space as share_search_space
    from promptgraft.search.storage.optuna_private import silent_seconds as silent_seconds
    from promptgraft.search.storage.optuna_private import stale_trial_ids as stale_trial_ids
    from promptgraft.search.storage.optuna_private import storage_of as storage_of
    from promptgraft.search.storage.optuna_private import study_over as study_over
    from promptgraft.search.storage.optuna_private import trial_for_note as trial_for_note
    from promptgraft.search.storage.optuna_private import trial_id_of as trial_id_of
    from promptgraft.search.storage.parameter_names import base_name as base_name
    from promptgraft.search.storage.parameter_names import distributions_of as distributions_of
    from promptgraft.search.storage.parameter_names import present_parameters as present_parameters
    from promptgraft.search.storage.parameter_names import stored_names as stored_names
    from promptgraft.search.storage.reference import NothingToExportError as NothingToExportError
    from promptgraft.search.storage.reference import StudyReference as StudyReference
    from promptgraft.search.storage.reference import started_studies as started_studies
    from promptgraft.search.storage.trial_files import DELTA_FILE as DELTA_FILE
    from promptgraft.search.storage.trial_files import FLOAT32_LOGITS_FILE as FLOAT32_LOGITS_FILE
    from promptgraft.search.storage.trial_files import LOGITS_FILE as LOGITS_FILE
    from promptgraft.search.storage.trial_files import REFIT_LOGITS_FILE as REFIT_LOGITS_FILE
    from promptgraft.search.storage.trial_files import keep_result as keep_result
    from promptgraft.search.storage.trial_files import trial_file as trial_file
    from promptgraft.search.storage.waiting import StorageLostError as StorageLostError
    from promptgraft.search.storage.waiting import until_storage_answers as until_storage_answers
    from promptgraft.search.storage.waiting import wait_for_storage as wait_for_storage
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

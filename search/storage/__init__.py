"""Where a study lives: its database, its folder, and what is stored under which name."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.search.storage.attributes import CONFUSION as CONFUSION
    from promptgraft.search.storage.attributes import CONTROL as CONTROL
    from promptgraft.search.storage.attributes import CURVE as CURVE
    from promptgraft.search.storage.attributes import DEFINITION as DEFINITION
    from promptgraft.search.storage.attributes import EDITS as EDITS
    from promptgraft.search.storage.attributes import ENSEMBLE as ENSEMBLE
    from promptgraft.search.storage.attributes import FLOAT32 as FLOAT32
    from promptgraft.search.storage.attributes import IDENTITY as IDENTITY
    from promptgraft.search.storage.attributes import LOSSES as LOSSES
    from promptgraft.search.storage.attributes import PROMPT_AS_TOKENS as PROMPT_AS_TOKENS
    from promptgraft.search.storage.attributes import RAN_S as RAN_S
    from promptgraft.search.storage.attributes import REPEAT as REPEAT
    from promptgraft.search.storage.attributes import RUN as RUN
    from promptgraft.search.storage.attributes import SHARED as SHARED
    from promptgraft.search.storage.attributes import STAGE as STAGE
    from promptgraft.search.storage.attributes import STUDY_FILE as STUDY_FILE
    from promptgraft.search.storage.attributes import TEMPLATE_POOL as TEMPLATE_POOL
    from promptgraft.search.storage.attributes import TEST_SET as TEST_SET
    from promptgraft.search.storage.attributes import UNTRAINED_SCORES as UNTRAINED_SCORES
    from promptgraft.search.storage.attributes import VALIDATION as VALIDATION
    from promptgraft.search.storage.attributes import WANTED as WANTED
    from promptgraft.search.storage.attributes import WEIGHTS as WEIGHTS
    from promptgraft.search.storage.attributes import StudyRecord as StudyRecord
    from promptgraft.search.storage.attributes import TrialRecord as TrialRecord
    from promptgraft.search.storage.attributes import baseline_attrs as baseline_attrs
    from promptgraft.search.storage.attributes import candidate_attrs as candidate_attrs
    from promptgraft.search.storage.attributes import control_attr as control_attr
    from promptgraft.search.storage.attributes import curve_attr as curve_attr
    from promptgraft.search.storage.attributes import failure_attrs as failure_attrs
    from promptgraft.search.storage.attributes import repeat_attr as repeat_attr
    from promptgraft.search.storage.attributes import rerun_attrs as rerun_attrs
    from promptgraft.search.storage.attributes import start_point_attrs as start_point_attrs
    from promptgraft.search.storage.attributes import write_study as write_study
    from promptgraft.search.storage.attributes import write_trial as write_trial
    from promptgraft.search.storage.database import first_line as first_line
    from promptgraft.search.storage.database import keep_copy as keep_copy
    from promptgraft.search.storage.database import load_existing as load_existing
    from promptgraft.search.storage.database import open_storage as open_storage
    from promptgraft.search.storage.database import upgrade_storage as upgrade_storage
    from promptgraft.search.storage.folder import RunFolder as RunFolder
    from promptgraft.search.storage.heartbeats import Heartbeat as Heartbeat
    from promptgraft.search.storage.heartbeats import Pulses as Pulses
    from promptgraft.search.storage.heartbeats import is_alive as is_alive
    from promptgraft.search.storage.heartbeats import new_owner as new_owner
    from promptgraft.search.storage.heartbeats import start_heartbeat as start_heartbeat
    from promptgraft.search.storage.locks import lock_of as lock_of
    from promptgraft.search.storage.locks import study_lock as study_lock
    from promptgraft.search.storage.optuna_private import enqueued_parameters as enqueued_parameters
    from promptgraft.search.storage.optuna_private import last_beats as last_beats
    from promptgraft.search.storage.optuna_private import retry_attrs as retry_attrs
    from promptgraft.search.storage.optuna_private import retry_history as retry_history
    from promptgraft.search.storage.optuna_private import share_search_space as share_search_space
    from promptgraft.search.storage.optuna_private import silent_seconds as silent_seconds
    from promptgraft.search.storage.optuna_private import storage_of as storage_of
    from promptgraft.search.storage.optuna_private import study_over as study_over
    from promptgraft.search.storage.optuna_private import trial_for_note as trial_for_note
    from promptgraft.search.storage.optuna_private import trial_id_of as trial_id_of
    from promptgraft.search.storage.parameter_names import base_name as base_name
    from promptgraft.search.storage.parameter_names import distributions_of as distributions_of
    from promptgraft.search.storage.parameter_names import holds as holds
    from promptgraft.search.storage.parameter_names import present_parameters as present_parameters
    from promptgraft.search.storage.parameter_names import stored_names as stored_names
    from promptgraft.search.storage.places import own_files as own_files
    from promptgraft.search.storage.places import own_folder as own_folder
    from promptgraft.search.storage.records import Edit as Edit
    from promptgraft.search.storage.records import Ensemble as Ensemble
    from promptgraft.search.storage.records import Float32Score as Float32Score
    from promptgraft.search.storage.records import Opening as Opening
    from promptgraft.search.storage.records import Outcome as Outcome
    from promptgraft.search.storage.records import Owner as Owner
    from promptgraft.search.storage.records import Pool as Pool
    from promptgraft.search.storage.records import RunRecord as RunRecord
    from promptgraft.search.storage.records import to_json as to_json
    from promptgraft.search.storage.reference import NothingToExportError as NothingToExportError
    from promptgraft.search.storage.reference import StudyReference as StudyReference
    from promptgraft.search.storage.reference import refuse_foreign as refuse_foreign
    from promptgraft.search.storage.reference import started_studies as started_studies
    from promptgraft.search.storage.trial_files import DELTA_FILE as DELTA_FILE
    from promptgraft.search.storage.trial_files import FLOAT32_LOGITS_FILE as FLOAT32_LOGITS_FILE
    from promptgraft.search.storage.trial_files import LOGITS_FILE as LOGITS_FILE
    from promptgraft.search.storage.trial_files import REFIT_LOGITS_FILE as REFIT_LOGITS_FILE
    from promptgraft.search.storage.trial_files import hash_of_weights as hash_of_weights
    from promptgraft.search.storage.trial_files import keep_result as keep_result
    from promptgraft.search.storage.trial_files import trial_file as trial_file
    from promptgraft.search.storage.waiting import StorageLostError as StorageLostError
    from promptgraft.search.storage.waiting import until_storage_answers as until_storage_answers
    from promptgraft.search.storage.waiting import wait_for_storage as wait_for_storage
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

"""Which trial has won, by how much, and whether transfer helped."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.search.judging.ensemble import choose_ensemble as choose_ensemble
    from promptgraft.search.judging.ensemble import ensemble_line as ensemble_line
    from promptgraft.search.judging.float32_rescoring import record_float32_scores as record_float32_scores
    from promptgraft.search.judging.float32_rescoring import rescoring_jobs as rescoring_jobs
    from promptgraft.search.judging.float32_rescoring import score_in_float32 as score_in_float32
    from promptgraft.search.judging.float32_rescoring import trials_to_keep as trials_to_keep
    from promptgraft.search.judging.float32_rescoring import trials_to_rescore as trials_to_rescore
    from promptgraft.search.judging.headline import headline_of as headline_of
    from promptgraft.search.judging.intervals import RowMetric as RowMetric
    from promptgraft.search.judging.intervals import interval_on_rows as interval_on_rows
    from promptgraft.search.judging.intervals import score_interval as score_interval
    from promptgraft.search.judging.learning_curves import CurvePoint as CurvePoint
    from promptgraft.search.judging.learning_curves import LearningCurves as LearningCurves
    from promptgraft.search.judging.learning_curves import collect_learning_curves as collect_learning_curves
    from promptgraft.search.judging.learning_curves import curve_lines as curve_lines
    from promptgraft.search.judging.learning_curves import fewer_rows as fewer_rows
    from promptgraft.search.judging.metric_comparison import MetricComparison as MetricComparison
    from promptgraft.search.judging.metric_comparison import compare_by_metric as compare_by_metric
    from promptgraft.search.judging.metric_comparison import rows_of_kind as rows_of_kind
    from promptgraft.search.judging.race import MIN_REPEATS as MIN_REPEATS
    from promptgraft.search.judging.race import TESTED_FROM as TESTED_FROM
    from promptgraft.search.judging.race import Finalist as Finalist
    from promptgraft.search.judging.rival import is_compared_on_folds as is_compared_on_folds
    from promptgraft.search.judging.rival import rival_of as rival_of
    from promptgraft.search.judging.test_set import HeldOut as HeldOut
    from promptgraft.search.judging.test_set import OpenedScores as OpenedScores
    from promptgraft.search.judging.test_set import check_same as check_same
    from promptgraft.search.judging.test_set import logits_of_test_set as logits_of_test_set
    from promptgraft.search.judging.test_set import opened_for as opened_for
    from promptgraft.search.judging.test_set import openings as openings
    from promptgraft.search.judging.transfer_gain import BEST_TARGET_ONLY as BEST_TARGET_ONLY
    from promptgraft.search.judging.transfer_gain import FRESH as FRESH
    from promptgraft.search.judging.transfer_gain import NAMES as NAMES
    from promptgraft.search.judging.transfer_gain import TARGET_ONLY as TARGET_ONLY
    from promptgraft.search.judging.transfer_gain import WINNER as WINNER
    from promptgraft.search.judging.transfer_gain import WITH_SOURCE as WITH_SOURCE
    from promptgraft.search.judging.transfer_gain import ControlRow as ControlRow
    from promptgraft.search.judging.transfer_gain import TransferGain as TransferGain
    from promptgraft.search.judging.transfer_gain import control_logits_file as control_logits_file
    from promptgraft.search.judging.transfer_gain import control_names as control_names
    from promptgraft.search.judging.transfer_gain import control_outcomes as control_outcomes
    from promptgraft.search.judging.transfer_gain import fresh_repeats as fresh_repeats
    from promptgraft.search.judging.transfer_gain import transfer as transfer
    from promptgraft.search.judging.transfer_gain import transfer_lines as transfer_lines
    from promptgraft.search.judging.transfer_gain import transfer_on_test as transfer_on_test
    from promptgraft.search.judging.verdict import FinalistRow as FinalistRow
    from promptgraft.search.judging.verdict import VerdictTable as VerdictTable
    from promptgraft.search.judging.verdict import against_best as against_best
    from promptgraft.search.judging.verdict import outcome_line as outcome_line
    from promptgraft.search.judging.verdict import reach_verdict as reach_verdict
    from promptgraft.search.judging.verdict import repeat_name as repeat_name
    from promptgraft.search.judging.verdict import verdict_lines as verdict_lines
    from promptgraft.search.judging.verdict import winning_trial as winning_trial
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

"""What trials have become: ranking, budget, disk quota and Pareto front."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.search.trials.baseline_names import BASELINE_NAMES as BASELINE_NAMES
    from promptgraft.search.trials.baseline_names import baseline_label as baseline_label
    from promptgraft.search.trials.budget import Forecast as Forecast
    from promptgraft.search.trials.budget import Limits as Limits
    from promptgraft.search.trials.budget import compute_seconds as compute_seconds
    from promptgraft.search.trials.budget import describe_use as describe_use
    from promptgraft.search.trials.budget import forecast as forecast
    from promptgraft.search.trials.messages import Evaluated as Evaluated
    from promptgraft.search.trials.messages import Failed as Failed
    from promptgraft.search.trials.messages import FoldScores as FoldScores
    from promptgraft.search.trials.messages import GrowthJob as GrowthJob
    from promptgraft.search.trials.messages import Job as Job
    from promptgraft.search.trials.messages import Message as Message
    from promptgraft.search.trials.messages import RepeatJob as RepeatJob
    from promptgraft.search.trials.messages import SideJobDone as SideJobDone
    from promptgraft.search.trials.messages import TrialJob as TrialJob
    from promptgraft.search.trials.messages import TrialSummary as TrialSummary
    from promptgraft.search.trials.messages import cause_of as cause_of
    from promptgraft.search.trials.pareto import FrontTrial as FrontTrial
    from promptgraft.search.trials.pareto import cost_names as cost_names
    from promptgraft.search.trials.pareto import costs_of as costs_of
    from promptgraft.search.trials.pareto import front_table as front_table
    from promptgraft.search.trials.pareto import metric_of as metric_of
    from promptgraft.search.trials.pareto import pareto_front as pareto_front
    from promptgraft.search.trials.quota import KEPT_DELTAS as KEPT_DELTAS
    from promptgraft.search.trials.quota import tidy as tidy
    from promptgraft.search.trials.ranking import FINISHED as FINISHED
    from promptgraft.search.trials.ranking import best_trial as best_trial
    from promptgraft.search.trials.ranking import candidate_key as candidate_key
    from promptgraft.search.trials.ranking import float32_scores as float32_scores
    from promptgraft.search.trials.ranking import leading_trial as leading_trial
    from promptgraft.search.trials.ranking import ranked_trials as ranked_trials
    from promptgraft.search.trials.ranking import top_trials as top_trials
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

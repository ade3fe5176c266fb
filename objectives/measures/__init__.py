"""What is measured of a candidate, a study or a source without a whole trial; and the baselines."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.objectives.measures.adaptability import PromptMeter as PromptMeter
    from promptgraft.objectives.measures.controls import FITTED as FITTED
    from promptgraft.objectives.measures.controls import Logits as Logits
    from promptgraft.objectives.measures.controls import TrainedControl as TrainedControl
    from promptgraft.objectives.measures.controls import best_words as best_words
    from promptgraft.objectives.measures.controls import has_zero_shot as has_zero_shot
    from promptgraft.objectives.measures.controls import tfidf as tfidf
    from promptgraft.objectives.measures.controls import trained_controls as trained_controls
    from promptgraft.objectives.measures.controls import written_templates as written_templates
    from promptgraft.objectives.measures.costs import CostMeter as CostMeter
    from promptgraft.objectives.measures.probabilities import Coverage as Coverage
    from promptgraft.objectives.measures.probabilities import best_temperature as best_temperature
    from promptgraft.objectives.measures.probabilities import calibration_error as calibration_error
    from promptgraft.objectives.measures.probabilities import choose_members as choose_members
    from promptgraft.objectives.measures.probabilities import coverage_curve as coverage_curve
    from promptgraft.objectives.measures.prompt_reading import is_readable as is_readable
    from promptgraft.objectives.measures.prompt_reading import prompt_as_tokens as prompt_as_tokens
    from promptgraft.objectives.measures.records import PromptAsTokens as PromptAsTokens
    from promptgraft.objectives.measures.records import UntrainedScore as UntrainedScore
    from promptgraft.objectives.measures.rehearsal import Rehearsal as Rehearsal
    from promptgraft.objectives.measures.rehearsal import read_shapes as read_shapes
    from promptgraft.objectives.measures.sizes import Sizes as Sizes
    from promptgraft.objectives.measures.source_transfer import rank_sources as rank_sources
    from promptgraft.objectives.measures.untrained_race import calibrated_likelihoods as calibrated_likelihoods
    from promptgraft.objectives.measures.untrained_race import race_untrained_prompts as race_untrained_prompts
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

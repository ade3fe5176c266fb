"""From a row to logits: template, demonstrations, soft prompt and calibration around a backbone."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.objectives.prompting.calibration import calibrate as calibrate
    from promptgraft.objectives.prompting.demonstrations import DemonstrationPool as DemonstrationPool
    from promptgraft.objectives.prompting.demonstrations import DemonstrationPools as DemonstrationPools
    from promptgraft.objectives.prompting.encoded_rows import EncodedPrompt as EncodedPrompt
    from promptgraft.objectives.prompting.encoded_rows import EncodedRow as EncodedRow
    from promptgraft.objectives.prompting.encoded_rows import Loss as Loss
    from promptgraft.objectives.prompting.encoded_rows import count_answers as count_answers
    from promptgraft.objectives.prompting.prompted_model import BACKBONE as BACKBONE
    from promptgraft.objectives.prompting.prompted_model import CALIBRATION_BIAS as CALIBRATION_BIAS
    from promptgraft.objectives.prompting.prompted_model import HEAD as HEAD
    from promptgraft.objectives.prompting.prompted_model import HEAD_WEIGHT as HEAD_WEIGHT
    from promptgraft.objectives.prompting.prompted_model import SOFT_PROMPT as SOFT_PROMPT
    from promptgraft.objectives.prompting.prompted_model import PromptedModel as PromptedModel
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

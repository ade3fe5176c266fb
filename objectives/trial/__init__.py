"""One candidate's migrate-and-evaluate cycle: source stage, migration, training, evaluation, checkpoints."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.objectives.trial.checkpoints import Checkpoint as Checkpoint
    from promptgraft.objectives.trial.checkpoints import checkpoint_name as checkpoint_name
    from promptgraft.objectives.trial.cross_validation import CrossValidation as CrossValidation
    from promptgraft.objectives.trial.cycle import Cycle as Cycle
    from promptgraft.objectives.trial.objective import Objective as Objective
    from promptgraft.objectives.trial.results import Evaluation as Evaluation
    from promptgraft.objectives.trial.results import Result as Result
    from promptgraft.objectives.trial.trial_data import LoadedTasks as LoadedTasks
    from promptgraft.objectives.trial.trial_data import StudyTasks as StudyTasks
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

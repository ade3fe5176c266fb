"""How much a study spends by default: `effort` sets what its file leaves out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from promptgraft.search.study.schema import Baseline, Control, EffortName, StudyFile


@dataclass(frozen=True, slots=True)
class Effort:
    """Defaults of a study file.

    Attributes:
        trials: `budget.trials`.
        folds: `target.folds`; None for a number that depends on the number of rows.
        judging: Keys of `judging` and their values.
        baselines: Names of the baselines.
        most_updates: Largest number of updates on the target in the default space.
        rich: Whether the default space includes dimensions that matter less.
    """

    trials: int
    folds: int | None
    judging: Mapping[str, Any]
    baselines: Sequence[Baseline]
    most_updates: int
    rich: bool = False


_CHEAP: tuple[Baseline, ...] = ("contrastive_source", "linear_probe_with_source", "linear_probe", "zero_shot")
_FEW: tuple[Control, ...] = ("target_only", "tfidf")

# The one place where effort sets a default. `balanced` is what the schema says; a test compares the two.
EFFORTS: Mapping[EffortName, Effort] = {
    "quick": Effort(12, None, {"finalists": 1, "repeats": 2, "controls": _FEW}, _CHEAP, most_updates=128),
    "balanced": Effort(24, None, {"finalists": 3, "repeats": 5}, get_args(Baseline), most_updates=256),
    "best": Effort(
        64, 5, {"finalists": 4, "repeats": 8, "ensemble": 5}, get_args(Baseline), most_updates=512, rich=True
    ),
}


def with_effort(file: StudyFile) -> StudyFile:
    """Set what a study file leaves out to the defaults of its effort; what it states stays."""
    effort = EFFORTS[file.effort]
    changes: dict[str, Any] = {
        "budget": _filled(file.budget, {"trials": effort.trials}),
        "judging": _filled(file.judging, effort.judging),
    }
    if "baselines" not in file.model_fields_set:
        changes["baselines"] = tuple(effort.baselines)
    target = file.target
    if effort.folds is not None and target.folds is None and not (target.validation or target.validation_rows):
        changes["target"] = target.model_copy(update={"folds": effort.folds})
    return file.model_copy(update=changes)


def _filled(section: Any, defaults: Mapping[str, Any]) -> Any:
    missing = {name: value for name, value in defaults.items() if name not in section.model_fields_set}
    return section.model_copy(update=missing)

"""What a study file leaves out: `effort` sets how much a study spends, the kind of task what applies to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from promptgraft.objectives.backbones import FAMILIES, Family
from promptgraft.objectives.data import PRIOR_BASELINES, TASK_KINDS
from promptgraft.search.study.schema.study_file import Baseline, Control, EffortName, StudyFile, TextBaseline


@dataclass(frozen=True, slots=True)
class Effort:
    """Defaults of a study file.

    Attributes:
        trials: `budget.trials`.
        folds: `target.folds`; None for a number that depends on the number of rows.
        judging: Keys of `judging` and their values.
        baselines: Names of the baselines.
        most_updates: Largest number of updates on the target in the default space.
        all_layers: Whether the default space includes training all layers; the lowest are frozen otherwise.
        rich: Whether the default space includes dimensions that matter less.
        ensemble: `judging.ensemble` with the default space, unless `judging` sets it for all spaces.
    """

    trials: int
    folds: int | None
    judging: Mapping[str, Any]
    baselines: Sequence[Baseline]
    most_updates: int
    all_layers: bool = True
    rich: bool = False
    ensemble: int = 3


_CHEAP: tuple[Baseline, ...] = (
    "contrastive_source",
    "contrastive",
    "linear_probe_with_source",
    "linear_probe",
    "words",
    "characters",
    "zero_shot",
)
_FEW: tuple[Control, ...] = ("target_only", "tfidf")

# The one place where effort sets a default. `balanced` is what the schema says; a test compares the two.
EFFORTS: Mapping[EffortName, Effort] = {
    "quick": Effort(
        14, None, {"finalists": 1, "repeats": 2, "controls": _FEW}, _CHEAP, most_updates=128, all_layers=False
    ),
    "balanced": Effort(24, None, {"finalists": 3, "repeats": 5}, get_args(TextBaseline), most_updates=256),
    "best": Effort(
        64, 5, {"finalists": 4, "repeats": 8, "ensemble": 5}, get_args(TextBaseline), most_updates=512, rich=True
    ),
}


def with_effort(file: StudyFile) -> StudyFile:
    """Set what a study file leaves out to the defaults of its effort and its kind of task; what it states stays."""
    effort, kind = EFFORTS[file.effort], TASK_KINDS[file.target.kind]
    controls = effort.judging.get("controls", get_args(Control))
    usable: dict[str, Any] = {"controls": tuple(name for name in controls if not refuses_baseline(file, name))}
    if not (kind.ensembles and kind.has_folds):
        usable["ensemble"] = 1
    elif file.space is None and not (file.target.validation or file.target.validation_rows):
        usable["ensemble"] = effort.judging.get("ensemble", effort.ensemble)
    changes: dict[str, Any] = {
        "budget": _filled(file.budget, {"trials": effort.trials}),
        "judging": _filled(file.judging, {**effort.judging, **usable}),
    }
    if "metric" not in file.model_fields_set:
        changes["metric"] = kind.default_metric
    if "baselines" not in file.model_fields_set:
        usual = dict.fromkeys([*effort.baselines, *PRIOR_BASELINES])
        changes["baselines"] = tuple(name for name in usual if not refuses_baseline(file, name))
    target = file.target
    if (
        effort.folds is not None
        and kind.has_folds
        and target.folds is None
        and not (target.validation or target.validation_rows)
    ):
        changes["target"] = target.model_copy(update={"folds": effort.folds})
    return file.model_copy(update=changes)


def refuses_baseline(file: StudyFile, name: str) -> bool:
    """Whether a baseline doesn't apply to a study: to its kind of task, or to one of its backbones."""
    if TASK_KINDS[file.target.kind].refuses_baseline(name):
        return True
    heads = TASK_KINDS[file.target.kind].heads
    return name == "zero_shot" and any(
        not family.has_words or "titles" in family.heads(heads) for family in families_of(file)
    )


def families_of(file: StudyFile) -> list[Family]:
    """Return the families of a study's backbones, but for unknown ones."""
    names = {own.only_backbone.family for own in file.on_each_backbone().values()}
    return [FAMILIES[name] for name in names if name in FAMILIES]


def _filled(section: Any, defaults: Mapping[str, Any]) -> Any:
    missing = {name: value for name, value in defaults.items() if name not in section.model_fields_set}
    return section.model_copy(update=missing)

"""Start points: points of a default space that are tried before the sampler draws, which learns from them."""

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from operator import itemgetter
from typing import TypeAlias, cast

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FixedTrial

from promptgraft.search.sampling.baselines import baseline_candidates, by_size
from promptgraft.search.storage import TrialRecord, start_point_attrs, study_lock
from promptgraft.search.study import Study
from promptgraft.spaces import (
    BACKBONE,
    DEFAULTS,
    Candidate,
    Categorical,
    Constant,
    Parameter,
    Scalar,
    SearchSpace,
    SuggestingTrial,
    extremes,
)

# Baselines and start points, by name.
Round: TypeAlias = tuple[dict[str, Candidate], dict[str, dict[str, Scalar]]]
# Parameter -> place among its choices in ascending order, as a whole number, or value.
Point: TypeAlias = Mapping[str, int | float | str]
# One trial in so many is a start point at most.
SHARE = 4
# Places, of which the first is no update.
_NONE, _FEW, _HALF, _MOST = 0, 1, -2, -1
# Which layers are frozen, and how fast the others are trained. Points that share all of it share the contrastive stage.
_NEARLY_ALL: Point = {"frozen_layers": -3, "learning_rate": 1e-4}
_UPPER: Point = {"frozen_layers": -2}
# With so many labelled rows contrastive updates on the target were the best recipe measured; with 16 they overfit.
_MANY_ROWS = 48
_FOR_MANY_ROWS = ("source stage, contrastive", "contrastive")
_CHARACTERS: Point = {"prior": "characters", "text_weight": _MOST}
# Parameters that a point leaves out have their first choice. Strong and cheap points come first, as measured: see
# `search.study.default_space`.
_POINTS: Mapping[str, Point] = {
    "counts, the source's too": {"prior": "ease", "prior_recency": _MOST, "alpha": _FEW, "steps": _NONE},
    "counts": {"prior": "ease", "prior_recency": _MOST, "steps": _NONE},
    "counts and text": {"prior": "ease", "prior_recency": _MOST, "text_weight": _FEW, "steps": _FEW},
    "neighbours": {"prior": "neighbours", "prior_recency": _MOST, "steps": _NONE},
    "words and text": {"prior": "words", "text_weight": _FEW, "steps": _FEW},
    "source stage, contrastive": {"source_steps": _MOST, "contrastive_steps": _FEW, "steps": _NONE, **_NEARLY_ALL},
    "source stage, upper layers": {"source_steps": _MOST, "steps": _MOST, **_UPPER},
    "contrastive": {"contrastive_steps": _FEW, "steps": _NONE, **_NEARLY_ALL},
    "source stage, fine-tuning": {"source_steps": _MOST, "steps": _MOST, "frozen_layers": -3},
    "source stage and characters": {**_CHARACTERS, "source_steps": _MOST, "steps": _NONE},
    "source stage only": {"source_steps": _MOST, "steps": _NONE},
    "contrastive, fine-tuning": {"contrastive_steps": _FEW, "steps": _HALF, **_NEARLY_ALL},
    "probe and characters": {**_CHARACTERS, "steps": _NONE},
    "contrastive and characters": {**_CHARACTERS, "contrastive_steps": _FEW, "steps": _NONE, **_NEARLY_ALL},
    "upper layers": {"steps": _FEW, **_UPPER},
    "adapters": {"adapter.method": "lora", "steps": _MOST},
}


def start_points(study: Study) -> dict[str, dict[str, Scalar]]:
    """Return the start points of a study: none unless its space was chosen for it.

    Where there are several backbones, each point is tried on all of them, the smallest first.

    Args:
        study: The checked study.

    Returns:
        Name -> searched parameter -> value; no two mean the same, and none breaks a constraint. `NAME@BACKBONE` where
        there are several backbones.
    """
    found: dict[str, dict[str, Scalar]] = {}
    if study.drafted != "space":
        return found
    space, known = study.objective.space, set[str]()
    for name, point in _points(study):
        if point is None or len(found) >= study.file.budget.trials // SHARE:
            continue
        candidate = _candidate(space, point)
        broken = study.constraints is not None and study.constraints.broken_by(candidate)
        if not broken and candidate.key not in known:
            known.add(candidate.key)
            found[name] = point
    return found


def first_trials(study: Study) -> list[Round]:
    """Return a study's first trials in the order in which they are queued.

    What trains nothing on the target comes first, then the strongest start point on each backbone, then the others,
    those with few updates first: a short budget ends among the last of them.

    Args:
        study: The checked study.

    Returns:
        Rounds, one after the other.
    """
    baselines, points, space = baseline_candidates(study), start_points(study), study.objective.space
    drawn = {name: _candidate(space, point) for name, point in points.items()}
    cheap = {name: own for name, own in baselines.items() if not own.is_trained}
    untrained = {name: points[name] for name, own in drawn.items() if not (own.is_trained or own.source_steps)}
    strongest = dict(islice(points.items(), max(1, len(space.backbones))))
    others: list[tuple[int, Round]]
    others = [(_updates(own), ({name: own}, {})) for name, own in baselines.items() if name not in cheap]
    others += [
        (_updates(own), ({}, {name: points[name]}))
        for name, own in drawn.items()
        if name not in untrained and name not in strongest
    ]
    return [(cheap, untrained), ({}, strongest), *(found for _, found in sorted(others, key=itemgetter(0)))]


def _updates(candidate: Candidate) -> int:
    return candidate.steps + candidate.contrastive_steps


def _candidate(space: SearchSpace, point: Mapping[str, Scalar]) -> Candidate:
    return space.suggest(cast("SuggestingTrial", FixedTrial(dict(point))))


def _points(study: Study) -> Iterator[tuple[str, dict[str, Scalar] | None]]:
    """Yield the name of each point and its parameters, as the study calls them."""
    space, few = study.objective.space, len(study.target.labelled) < _MANY_ROWS
    for name in sorted(_POINTS, key=lambda name: few and name in _FOR_MANY_ROWS):
        wanted = _POINTS[name]
        if not space.backbones:
            yield name, _point(space, wanted)
        for backbone in by_size(study):
            point, names = _point(space.on(backbone), wanted), space.names_on(backbone)
            drawn: dict[str, Scalar] = {BACKBONE: backbone} if len(space.backbones) > 1 else {}
            yield (
                f"{name}@{backbone}",
                point and drawn | {names.get(own, own): value for own, value in point.items()},
            )


def _point(space: SearchSpace, wanted: Point) -> dict[str, Scalar] | None:
    """Return the value of each searched parameter; None if the space lacks one that is wanted, or its value."""
    parameters = {parameter.name: parameter for parameter in space.all_parameters()}
    if any(name not in parameters or not _has(parameters[name], value) for name, value in wanted.items()):
        return None
    values = {name: _value(parameter, wanted.get(name)) for name, parameter in parameters.items()}
    return {name: value for name, value in values.items() if not isinstance(parameters[name], Constant)}


def _has(parameter: Parameter, wanted: float | str) -> bool:
    return not isinstance(wanted, str) or wanted in extremes(parameter)


def _value(parameter: Parameter, wanted: float | str | None) -> Scalar:
    """Return the value that a point gives a parameter, or the default; the middle of a range that doesn't hold it."""
    if isinstance(wanted, str):
        return wanted
    if isinstance(wanted, int):
        ascending = sorted(extremes(parameter), key=float)
        return ascending[max(wanted, -len(ascending))] if len(ascending) > 1 else ascending[0]
    if isinstance(parameter, Constant | Categorical):
        return extremes(parameter)[0]
    value = DEFAULTS[parameter.name] if wanted is None else wanted
    return value if parameter.low < float(value) < parameter.high else math.sqrt(parameter.low * parameter.high)


def queue_start_points(stored: optuna.Study, storage: RDBStorage, points: Mapping[str, Mapping[str, Scalar]]) -> None:
    """Queue a new study's start points; those that were queued before aren't queued again.

    Args:
        stored: The study.
        storage: What holds it.
        points: Name -> parameter -> value.
    """
    with study_lock(storage, stored.study_name):
        queued = {TrialRecord.of(trial).start_point for trial in stored.get_trials(deepcopy=False)}
        for name, point in points.items():
            if name not in queued:
                stored.enqueue_trial(dict(point), user_attrs=start_point_attrs(name))

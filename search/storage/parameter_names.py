"""What parameters are called in the study: a name never changes its choices there.

Optuna refuses a categorical parameter whose choices changed, and a range that became logarithmic. A pool of
templates that grew is therefore stored under a new name, `template~2`. Only the study's record uses these
names; the sampler draws on a copy of the study in which every trial has the present names.
See docs/decisions/0004-edits-between-runs.md.
"""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
    distribution_to_json,
    json_to_distribution,
)

from promptgraft.search.storage.attributes import PARAMETERS, StudyRecord, write_study
from promptgraft.search.storage.optuna_private import contains
from promptgraft.spaces import BACKBONE, Categorical, Constant, Float, Parameter, SearchSpace


def base_name(stored: str) -> str:
    """Return the parameter that a stored name stands for."""
    return stored.partition("~")[0]


def distributions_of(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Return the present distribution of every parameter that is searched."""
    return {
        parameter.name: _distribution(parameter)
        for parameter in space.all_parameters()
        if not isinstance(parameter, Constant)
    }


def _distribution(parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter, Categorical):
        return CategoricalDistribution(parameter.choices)
    assert not isinstance(parameter, Constant)
    kind = FloatDistribution if isinstance(parameter, Float) else IntDistribution
    return kind(parameter.low, parameter.high, log=parameter.log, step=parameter.step)  # type: ignore[arg-type]


def stored_names(study: optuna.Study, distributions: Mapping[str, BaseDistribution]) -> dict[str, str]:
    """Return under which name each parameter is stored, making up a new one where the old can't take it.

    Args:
        study: The study; remembers the names in a user attribute. Its lock must be held.
        distributions: Parameter -> present distribution.

    Returns:
        Parameter -> stored name.
    """
    known: dict[str, str] = StudyRecord.of(study).stored(PARAMETERS) or {}
    before = dict(known)
    names = {}
    for parameter, distribution in distributions.items():
        versions = [name for name in known if base_name(name) == parameter]
        fitting = [name for name in versions if _fits(json_to_distribution(known[name]), distribution)]
        name = fitting[0] if fitting else parameter if not versions else f"{parameter}~{len(versions) + 1}"
        known.setdefault(name, distribution_to_json(distribution))
        names[parameter] = name
    if known != before:
        write_study(study, PARAMETERS, known)
    return names


def _fits(stored: BaseDistribution, present: BaseDistribution) -> bool:
    try:
        check_distribution_compatibility(stored, present)
    except ValueError:
        return False
    return True


def present_parameters(
    params: Mapping[str, Any], candidate: Mapping[str, Any], present: Mapping[str, BaseDistribution]
) -> dict[str, Any]:
    """Translate a trial's stored parameters to the present space.

    Args:
        params: Stored name -> value.
        candidate: The trial's candidate; says which template it had when there was but one, which source and backbone.
        present: Parameter -> present distribution.

    Returns:
        Parameter -> value, those left out whose value the present space doesn't hold.
    """
    values = {base_name(name).partition("@")[0]: value for name, value in params.items()}
    values |= {name: own for name in ("template", "verbalizer", "source", BACKBONE) if (own := candidate.get(name))}
    backbone = values.get(BACKBONE, "")
    named = {name if name in present else f"{name}@{backbone}": value for name, value in values.items()}
    return {name: value for name, value in named.items() if name in present and holds(present[name], value)}


def holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a distribution holds a value, of whatever type."""
    try:
        return contains(distribution, value)
    except ValueError:
        return False

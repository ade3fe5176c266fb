"""Samplers and pruners of Optuna, and trackers, by the names that study files use."""

import importlib.util
import inspect
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from promptgraft.spaces import InvalidInputError, did_you_mean

SAMPLERS: Mapping[str, type[BaseSampler]] = {
    "tpe": optuna.samplers.TPESampler,
    "random": optuna.samplers.RandomSampler,
}

PRUNERS: Mapping[str, type[BasePruner]] = {
    "none": optuna.pruners.NopPruner,
    "median": optuna.pruners.MedianPruner,
    "percentile": optuna.pruners.PercentilePruner,
    "successive_halving": optuna.pruners.SuccessiveHalvingPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "threshold": optuna.pruners.ThresholdPruner,
}

# Tracker -> the module that it writes with.
_TRACKER_MODULES = {"mlflow": "mlflow", "tensorboard": "tensorboardX", "wandb": "wandb"}

# Set by promptgraft itself, so that a resumed study doesn't repeat its random numbers.
_OURS = ("self", "seed")


def is_installed(tracker: str) -> bool:
    """Whether what a tracker writes with is installed."""
    return importlib.util.find_spec(_TRACKER_MODULES[tracker]) is not None


def build_sampler(name: str, options: Mapping[str, Any], seed: int) -> BaseSampler:
    """Build a sampler.

    Raises:
        InvalidInputError: If the name or an option is unknown, or a value is refused by Optuna.
    """
    sampler: BaseSampler = _build("sampler", SAMPLERS, name, options, {"seed": seed})
    return sampler


def build_pruner(name: str, options: Mapping[str, Any]) -> BasePruner:
    """Build a pruner.

    Raises:
        InvalidInputError: If the name or an option is unknown, or a value is refused by Optuna.
    """
    pruner: BasePruner = _build("pruner", PRUNERS, name, options, {})
    return pruner


def _build(what: str, known: Mapping[str, Any], name: str, options: Mapping[str, Any], fixed: dict[str, Any]) -> Any:
    if name not in known:
        raise InvalidInputError(f"unknown {what} {name!r}; {did_you_mean(name, known)}")
    allowed = [option for option in inspect.signature(known[name].__init__).parameters if option not in _OURS]
    for option in options:
        if option not in allowed:
            raise InvalidInputError(f"{what} {name!r} has no option {option!r}; {did_you_mean(option, allowed)}")
    try:
        return known[name](**options, **fixed)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{what} {name!r}: {error}") from error

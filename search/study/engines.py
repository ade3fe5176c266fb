"""Samplers and pruners of Optuna, and trackers, by the names that study files use."""

import importlib.util
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
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

# What Optuna raises where it comes upon an option of a wrong type or value.
_FAULTS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, AssertionError)
# Trials, and their steps, with which an engine is tried; a sampler's larger numbers only make it slow.
_TRIALS, _STEPS, _MOST = 4, (0, 1, 8, 64, 512), 100

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


def check_sampler(name: str, options: Mapping[str, Any], n_objectives: int) -> None:
    """Try a sampler on a few made-up trials: Optuna looks at many options only when it uses them.

    Args:
        name: Its name.
        options: Its own options.
        n_objectives: Number of the study's objectives.

    Raises:
        InvalidInputError: If it can't be built, or fails.
    """
    _check("sampler", name, options, partial(_draw, name, n_objectives=n_objectives))


def check_pruner(name: str, options: Mapping[str, Any]) -> None:
    """Try a pruner on a few made-up trials; see `check_sampler`."""
    _check("pruner", name, options, partial(_prune, name))


def _check(what: str, name: str, options: Mapping[str, Any], attempt: Callable[[Mapping[str, Any]], None]) -> None:
    with _quiet_optuna():
        fault = _fault(options, attempt)
        if fault is None:
            return
        by_itself = [option for option, value in options.items() if str(_fault({option: value}, attempt)) == str(fault)]
    given = ", ".join(f"{option}: {options[option]!r}" for option in by_itself or options)
    raise InvalidInputError(f"{what} {name!r} fails with {given or 'no options'}: {fault}") from fault


def _fault(options: Mapping[str, Any], attempt: Callable[[Mapping[str, Any]], None]) -> BaseException | None:
    """Return what Optuna raises with these options, if anything."""
    try:
        attempt(options)
    except InvalidInputError as error:
        if error.__cause__ is None:  # It says itself what is wrong.
            raise
        return error.__cause__
    except _FAULTS as error:
        return error
    return None


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Say nothing of studies that are made up."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _draw(name: str, options: Mapping[str, Any], n_objectives: int) -> None:
    """Draw a few trials, as at a study's start and then from what it knows."""
    small = {option: min(value, _MOST) if type(value) is int else value for option, value in options.items()}
    for started in [{}, {"n_startup_trials": 1}] if name == "tpe" else [{}]:
        study = optuna.create_study(
            directions=["maximize"] * n_objectives, sampler=build_sampler(name, small | started, seed=0)
        )
        for _ in range(_TRIALS):
            trial = study.ask()
            value = trial.suggest_float("float", 0, 1) + trial.suggest_int("int", 1, 9)
            trial.suggest_categorical("choice", ("a", "b"))
            study.tell(trial, [value] * n_objectives)


def _prune(name: str, options: Mapping[str, Any]) -> None:
    """Ask about each step of a few trials."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), pruner=build_pruner(name, options))
    for value in range(_TRIALS):
        trial = study.ask()
        for step in _STEPS:
            trial.report(float(value), step)
            trial.should_prune()
        study.tell(trial, value)
    low, high = options.get("min_resource", 1), options.get("max_resource", "auto")
    if high != "auto" and high < low:
        raise ValueError(f"max_resource is less than min_resource, {low}, so that nothing would be pruned")


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

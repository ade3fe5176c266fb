"""Search over prompts and hyperparameters for transfer learning, on Optuna and Ray Tune."""

from importlib.metadata import version

__version__ = version("promptgraft")

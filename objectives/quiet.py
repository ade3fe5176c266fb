"""Keeping other libraries' progress bars and advice out of a command's output."""

import os
import warnings

from transformers.utils import logging


def quiet_transformers() -> None:
    """Silence transformers, its tokenizers and PEFT, except for errors. For entry points, not for libraries."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.set_verbosity_error()
    logging.disable_progress_bar()

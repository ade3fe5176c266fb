"""What a process sets up once: its device, the state of its random generators, and what other libraries print."""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


def choose_device() -> torch.device:
    """Return the device that this process was given: CUDA, then MPS, then CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def limit_threads(threads: int) -> None:
    """Limit the threads of torch, and of BLAS and OpenMP under NumPy, SciPy and scikit-learn, in this process.

    `torch.set_num_threads` doesn't limit BLAS, which by default starts a thread for every core. With a trial on each
    core these threads compete, and scikit-learn's fits took eight times as much CPU time.

    Args:
        threads: The most that each library may use.
    """
    import sklearn.metrics  # noqa: F401  It and SciPy bring libraries of their own, which must be loaded to be limited.
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    threadpool_limits(threads)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of torch's global generators that a computation on the device draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["device"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["device"] = torch.mps.get_rng_state()
    return state


def set_random_state(device: torch.device, state: Mapping[str, Tensor]) -> None:
    """Put back what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["device"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state["device"])


def forget_gpu_peak(device: torch.device) -> None:
    """Begin to look for the largest memory that tensors hold on this process's GPUs."""
    if device.type == "cuda":
        for index in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(index)


def max_gpu_bytes(device: torch.device) -> int:
    """Return the largest memory that tensors held on this process's GPUs since then; 0 without one."""
    if device.type != "cuda":
        return 0
    return sum(torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count()))


def quiet_transformers() -> None:
    """Silence transformers, its tokenizers and PEFT, except for errors. For entry points, not for libraries."""
    from transformers.utils import logging

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Let transformers show no progress bars for a while: a model of this size is loaded in a moment."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()

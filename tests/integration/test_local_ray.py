"""A Ray of this machine starts what trials need, and nothing else."""

import os
import sys
import time
from contextlib import suppress

import psutil
import pytest
import ray
from ray._private.node import Node

from promptgraft.search.running.ray_session import LocalRay, prepare_environment, ray_session

NEEDLESS = ("monitor.py", "log_monitor.py", "dashboard.py")


def test_a_local_ray_runs_tasks_without_autoscaler_dashboard_and_log_monitor() -> None:
    start_monitor = Node.start_monitor
    prepare_environment(None)
    with ray_session(None, LocalRay(1)):
        assert ray.get(ray.remote(lambda: 6 * 7).remote()) == 42
        commands = list[str]()
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # It has ended since.
                commands.append(" ".join(child.cmdline()))
    for vital in ("gcs_server", "raylet"):
        assert any(f"/{vital}" in command for command in commands)
    assert not [command for command in commands if any(f"/{name}" in command for name in NEEDLESS)]
    assert Node.start_monitor is start_monitor


class Trial:
    """Says which worker it is in, and what that has imported."""

    def worker(self) -> tuple[int, bool]:
        """Return its process, and whether a model could be loaded at once."""
        return os.getpid(), "transformers.modeling_utils" in sys.modules


@pytest.mark.slow
def test_a_trial_runs_in_the_worker_that_was_started_in_advance() -> None:
    from ray.tune.execution.class_cache import _ActorClassCache

    prepare_environment(None)
    with ray_session(None, LocalRay(1, in_advance=True)):
        assert "RAY_preload_python_modules" not in os.environ, "workers with a GPU, of another run, must import nothing"
        idle = set[int]()
        until = time.monotonic() + 60
        while not idle and time.monotonic() < until:
            idle = {own.pid for own in psutil.Process().children(recursive=True) if own.name() == "ray::IDLE"}
            time.sleep(0.1)
        trial = _ActorClassCache().get(Trial).options(num_cpus=1).remote()
        pid, is_ready = ray.get(trial.worker.remote())
        assert is_ready
        assert pid in idle

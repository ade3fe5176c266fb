"""A Ray of this machine starts what trials need, and nothing else."""

from contextlib import suppress

import psutil
import ray
from ray._private.node import Node

from promptgraft.search.running.ray_session import prepare_environment, ray_session

NEEDLESS = ("monitor.py", "log_monitor.py", "dashboard.py")


def test_a_local_ray_runs_tasks_without_autoscaler_dashboard_and_log_monitor() -> None:
    start_monitor = Node.start_monitor
    prepare_environment(None)
    with ray_session(None, 1):
        assert ray.get(ray.remote(lambda: 6 * 7).remote()) == 42
        commands = list[str]()
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # It has ended since.
                commands.append(" ".join(child.cmdline()))
    for vital in ("gcs_server", "raylet"):
        assert any(f"/{vital}" in command for command in commands)
    assert not [command for command in commands if any(f"/{name}" in command for name in NEEDLESS)]
    assert Node.start_monitor is start_monitor

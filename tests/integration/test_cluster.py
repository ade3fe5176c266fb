"""A cluster of real Ray nodes, with the code from the wheel: placement on devices, and a node without the package."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState

from promptgraft.search.storage import RunFolder, load_existing
from tests.support.commands import PROMPTGRAFT
from tests.support.paths import ROOT
from tests.support.studies import space

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
nodes = [cluster.add_node(num_cpus=2, num_gpus=1) for _ in range(2)]
print("address", cluster.address, flush=True)
sys.stdin.read()
for node in nodes:
    cluster.remove_node(node, allow_graceful=False)
cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=True)
"""


@pytest.fixture(scope="module")
def wheel_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built and unpacked where only PYTHONPATH finds it."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--quiet", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(command, check=True)
    return site


@pytest.fixture
def cluster(wheel_site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Two nodes with a logical GPU each, behind a head that runs no trials."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("PYTHONPATH", str(wheel_site))
    # In a process of its own: Ray ends a process that ever knew a cluster a minute after the cluster is gone.
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as p:
        assert p.stdout is not None
        yield next(line.split()[1] for line in p.stdout if line.startswith("address "))
        p.communicate("")


def overlaps(trials: list[FrozenTrial]) -> int:
    """Most trials that ran at the same moment."""
    starts = [trial.datetime_start for trial in trials if trial.datetime_start]
    return max(
        sum(t.datetime_start <= start < t.datetime_complete for t in trials if t.datetime_start and t.datetime_complete)
        for start in starts
    )


def test_half_a_gpu_each_on_two_nodes_from_the_wheel(
    cluster: str, write_study: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_study(
        space=space(learning_rate=[1e-4, 1e-3], steps=[40, 60]), pruner="none", resources={"cpu": 1, "gpu": 0.5}
    )
    folder = RunFolder(tmp_path / "run")
    command = [*PROMPTGRAFT, "run", str(path), "--trials", "12", "--address", cluster, "--workdir", str(folder.path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    where = [sys.executable, "-c", "import promptgraft.search.running.driver as run; print(run.__file__)"]
    assert "site" in subprocess.run(where, capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    trials = load_existing("tiny", folder.storage_url()).get_trials(states=(TrialState.COMPLETE,))
    by_device: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        assert len(trial.user_attrs["gpus"]) == 1
        by_device.setdefault(json.dumps([trial.user_attrs["node"], trial.user_attrs["gpus"]]), []).append(trial)
    assert len(by_device) == 2, "each node has a device"
    assert overlaps(trials) > 2
    assert all(overlaps(on_it) <= 2 for on_it in by_device.values())


DYING = """
import ray
from ray.cluster_utils import Cluster
from promptgraft.search.workers import check_nodes
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
ray.init(address=cluster.address, log_to_driver=False)
nodes[0].kill_raylet(check_alive=False)
assert sum(node["Alive"] for node in ray.nodes()) == 3, "the cluster should not know yet"
check_nodes()
print("the run would go on")
cluster.shutdown()
"""


def test_a_node_that_dies_while_nodes_are_checked_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    done = subprocess.run([sys.executable, "-c", DYING], capture_output=True, text=True, check=False)
    assert "the run would go on" in done.stdout, done.stderr[-2000:]
    assert "could not be asked for its version" in done.stderr

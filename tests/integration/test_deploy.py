"""The examples of deploy/: they parse, name images and options that there are, and run as an ordinary user."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.main import get_command

from promptgraft.search.cli.studies import app
from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
TARGETS = re.findall(r"^FROM (\S+) AS (\S+)$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE)


def options_of(command: str) -> set[str]:
    found = get_command(app).commands[command]  # type: ignore[attr-defined]
    return {name for parameter in found.params for name in parameter.opts}


def calls() -> list[tuple[str, list[str]]]:
    """Every call of promptgraft in the examples: its file and its words."""
    found = []
    compose = YAML(typ="safe").load(DEPLOY / "compose.yaml")
    found += [("compose.yaml", compose["services"][name]["command"]) for name in ("search", "dashboard")]
    found.append(("rayjob.yaml", YAML(typ="safe").load(DEPLOY / "rayjob.yaml")["spec"]["entrypoint"].split()[1:]))
    slurm = re.search(r"^promptgraft (.*) &$", (DEPLOY / "slurm.sh").read_text(), re.MULTILINE)
    assert slurm is not None
    return [*found, ("slurm.sh", slurm[1].split())]


@pytest.mark.parametrize(("file", "words"), calls(), ids=lambda own: own if isinstance(own, str) else own[0])
def test_what_they_call_is_there(file: str, words: list[str]) -> None:
    given = {word for word in words if word.startswith("--")}
    assert given <= options_of(words[0])


def test_images_run_as_an_ordinary_user() -> None:
    parts = re.split(r"^FROM .*$", (DEPLOY / "Containerfile").read_text(), flags=re.MULTILINE)[1:]
    assert TARGETS[1:] == [("base", "training"), ("base", "serving")]
    for part in parts[1:]:
        assert part.index("USER graft") < part.index("ENTRYPOINT")


def test_the_compose_file_has_what_it_promises() -> None:
    compose: dict[str, Any] = YAML(typ="safe").load(DEPLOY / "compose.yaml")
    assert set(compose["services"]) == {"database", "search", "dashboard", "mlflow"}
    for name, service in compose["services"].items():
        assert service["image"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        build = service.get("build")
        assert build is None or (DEPLOY / build["context"] / build["dockerfile"]).is_file()
        assert build is None or build["target"] in {target for _, target in TARGETS}
        named = {volume.split(":")[0] for volume in service.get("volumes", []) if not volume.startswith(".")}
        assert named <= set(compose["volumes"]), name
        assert set(service.get("depends_on", {})) <= set(compose["services"]), name


def test_the_ray_job_is_of_the_ray_that_is_tested() -> None:
    job: dict[str, Any] = YAML(typ="safe").load(DEPLOY / "rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert f"ray=={cluster['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        spec = group["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        mounted = {mount["name"] for container in spec["containers"] for mount in container["volumeMounts"]}
        assert mounted <= {volume["name"] for volume in spec["volumes"]}
        assert all(container["image"] and container["resources"]["limits"] for container in spec["containers"])
    worker = cluster["workerGroupSpecs"][0]
    assert worker["minReplicas"] <= worker["replicas"] <= worker["maxReplicas"]


@pytest.mark.parametrize("path", [*sorted(DEPLOY.glob("*.sh")), ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_scripts_are_bash(path: Path) -> None:
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

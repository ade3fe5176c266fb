"""Cost of one fixed list of candidates: promptgraft with and without its stores, and what a user would run today.

python -m tests.bench.replay [--study minilm] [--candidates 12] [--runs 5] [--systems a,b,c] [--out FILE.json]

The candidates are drawn at random, with a fixed seed, from the space of `replay_<study>.yaml`. Every system's run is
a fresh process with one thread and one candidate at a time; the systems of a run follow one another, and their order
turns by one from run to run. Start-up (imports, loading) is counted apart from the candidates, and whole runs, with
all their processes, apart from both. Systems:

    off    promptgraft without a store: everything computed afresh
    cold   an empty store and a new objective for each candidate
    list   one store, empty at the start of the list: what a search sees
    warm   the list once more, in a new process, with that store
    hpo_optuna, hpo_ray, tune_peft, each _default and _tuned; setfit
           the peers, in the environment that `make .peers-venv/.installed` makes; see tests/bench/peers/__main__.py

This module imports nothing but the standard library, so that its memory doesn't count in the children's.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.replay_tables import REFERENCE, Report, Reports, group_ratios, mean, show, summarise

CANDIDATES = {"minilm": 12, "smollm2": 6, "suffix": 6, "surface": 24}
# The replay proper; `surface` is there for what the peer takes for candidates of `tests.bench.surface`.
STUDIES = ("minilm", "smollm2", "suffix")
OURS = ("off", "cold", "list", "warm")
PEERS = (
    "hpo_optuna_default",
    "hpo_optuna_tuned",
    "hpo_ray_default",
    "hpo_ray_tuned",
    "tune_peft_default",
    "tune_peft_tuned",
)
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
QUIET = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Bench:
    """One study's replay.

    Attributes:
        name: The study's name.
        folder: Where jobs, reports and stores go; emptied by the caller.
        peer_python: Interpreter of the peers.
    """

    name: str
    folder: Path
    peer_python: str

    @property
    def job(self) -> Path:
        return self.folder / f"{self.name}.json"

    def prepare(self, candidates: int, seed: int) -> Report:
        """Draw the candidates and write the job; return it."""
        study = str(Path(__file__).with_name("surface.yaml" if self.name == "surface" else f"replay_{self.name}.yaml"))
        self._ours("job", str(self.job), study, "--candidates", str(candidates), "--seed", str(seed))
        job: Report = json.loads(self.job.read_text())
        return job

    def replay(self, system: str, files: Path) -> Report:
        """Run one system on the whole list.

        Args:
            system: One of `OURS` or `PEERS`, or the reference, or `untrained`, or `reversed`.
            files: Folder of the store; of a store for each candidate if the system is `cold`.
        """
        out = self.folder / f"report-{self.name}.json"
        if system in (*PEERS, REFERENCE, "untrained"):
            command = [self.peer_python, "-P", "-m", "peers", str(self.job), str(out), "--system", system]
            measured = run_command(command, dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parent)})
        else:
            mode = system if system in ("off", "cold") else "shared"
            options = ["--mode", mode, "--files", str(files), *(["--reverse"] if system == "reversed" else [])]
            measured = self._ours("run", str(self.job), str(out), *options)
        report: Report = {**measured, **json.loads(out.read_text())}  # The peers' own figures leave their watcher out.
        out.unlink()
        return report

    def _ours(self, *arguments: str) -> dict[str, float]:
        return run_command([sys.executable, "-m", "tests.bench.replay_ours", *arguments], dict(os.environ))


def run_command(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run a command with one thread; return its processor and wall time."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment | ONE_THREAD | QUIET, capture_output=True, text=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"run_cpu_s": cpu, "run_wall_s": wall}


def measure(bench: Bench, systems: tuple[str, ...], runs: int, default_runs: int) -> Reports:
    """Run systems `runs` times, interleaved; `warm` always follows `list`, whose store it needs.

    The default forms, which take longer than all others together, take part in the first `default_runs` only.
    """
    pair = tuple(system for system in ("list", "warm") if system in systems)
    groups: list[tuple[str, ...]] = [(system,) for system in systems if system not in pair]
    if pair:
        groups.insert(len([system for system in ("off", "cold") if system in systems]), pair)
    reports: Reports = {system: [] for group in groups for system in group}
    for run in range(runs):
        turn = run % len(groups)
        for group in groups[turn:] + groups[:turn]:
            if group[0].endswith("_default") and run >= default_runs:
                continue
            with tempfile.TemporaryDirectory(dir=bench.folder) as files:
                for system in group:
                    report = bench.replay(system, Path(files))
                    reports[system].append(report)
                    print(
                        f"  run {run + 1}/{runs} {system:18} {mean(report, 'cpu_s'):8.2f} CPU-s a candidate,"
                        f" whole run {report['run_cpu_s']:.1f} CPU-s, {report['run_wall_s']:.1f} s",
                        flush=True,
                    )
    return reports


def check(bench: Bench, reports: Reports) -> Report:
    """Compare scores: stores against none, the list in two orders, the peers' reading of a candidate with ours."""
    checks: Report = {}
    with tempfile.TemporaryDirectory(dir=bench.folder) as files:
        if "off" in reports:
            stored = {s: [_difference(reports["off"][0], r) for r in reports[s]] for s in OURS if s in reports}
            checks["off_against"] = {s: [max(v) for v in zip(*found, strict=True)] for s, found in stored.items()}
        if "list" in reports:
            reversed_list = bench.replay("reversed", Path(files))
            checks["list_against_reversed"] = _difference(reports["list"][0], reversed_list)
        if any(peer in reports for peer in PEERS):
            untrained = bench.replay("untrained", Path(files))
            checks["untrained_peer_against_ours"] = [entry["difference"] for entry in untrained["candidates"]]
    return checks


def _difference(one: Report, other: Report) -> list[float]:
    """Largest difference of two reports' logits, for each candidate."""
    pairs = zip(one["candidates"], other["candidates"], strict=True)
    return [
        max(abs(x - y) for a, b in zip(mine["logits"], yours["logits"], strict=True) for x, y in zip(a, b, strict=True))
        for mine, yours in pairs
    ]


def chosen(text: str | None, family: str) -> tuple[str, ...]:
    """Read `--systems`; without it all, but the reference, a sentence encoder, only beside encoders.

    Raises:
        ValueError: If a system is unknown, or lacks another that it needs.
    """
    known = (*OURS, *PEERS, REFERENCE)
    names = tuple(text.split(",")) if text else (*OURS, *PEERS, *([REFERENCE] if family == "encoder" else []))
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"unknown systems {unknown}; there are {', '.join(known)}")
    if "warm" in names and "list" not in names:
        raise ValueError("warm needs list, whose store it reads")
    return tuple(name for name in known if name in names)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--study", choices=tuple(CANDIDATES), action="append", help="default: all but surface")
    parser.add_argument("--candidates", type=int, help="default: 12 for minilm, 24 for surface, 6 for the others")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--default-runs", type=int, default=1, help="runs in which the default forms take part")
    parser.add_argument("--systems", help="names with commas between them; default: all")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peer-python", default=str(ROOT / ".peers-venv" / "bin" / "python"))
    arguments = parser.parse_args()
    content: dict[str, Any] = {"python": platform.python_version(), "threads": 1, "seed": arguments.seed}
    for name in arguments.study or STUDIES:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(name, Path(folder), arguments.peer_python)
            print(f"{name}: drawing candidates", flush=True)
            job = bench.prepare(arguments.candidates or CANDIDATES[name], arguments.seed)
            systems = chosen(arguments.systems, job["family"])
            reports = measure(bench, systems, arguments.runs, max(1, arguments.default_runs))
            checks = check(bench, reports)
        summary, groups = summarise(reports), group_ratios(job["candidates"], reports)
        show(name, len(job["candidates"]), summary, groups, checks)
        candidates = [{k: v for k, v in entry.items() if k != "untrained"} for entry in job["candidates"]]
        content[name] = {
            "candidates": candidates,
            "summary": summary,
            "groups": groups,
            "checks": checks,
            "reports": reports,
        }
        if arguments.out:
            arguments.out.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()

"""Cost of one fixed list of candidates: promptgraft with and without its stores, and transformers' Trainer with PEFT.

python -m tests.bench.replay [--study demo] [--candidates 12] [--runs 5] [--out FILE.json] [--peer-python PATH]

The candidates are drawn at random, with a fixed seed, from the study's own space. Every system's run is a fresh
process with one thread; the systems of a run follow one another, and their order turns by one from run to run.
Start-up (imports, loading) is counted apart from the candidates. Systems:

    off              promptgraft without a store: everything computed afresh
    cold             an empty store and a new objective for each candidate
    list             one store, empty at the start of the list: what a search sees
    warm             the list once more, in a new process, with that store
    trainer_default  Trainer and PEFT as in the documentation's examples; see tests/bench/peers.py
    trainer_tuned    the same, tuned by hand

This module imports nothing but the standard library, so that its memory doesn't count in the children's.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CANDIDATES = {"demo": 12, "smollm2": 6}
OURS = ("off", "cold", "list", "warm")
PEERS = ("trainer_default", "trainer_tuned")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
QUIET = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

Report = dict[str, Any]


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
        study = str(ROOT / "studies" / f"{self.name}.yaml")
        self._ours("job", str(self.job), study, "--candidates", str(candidates), "--seed", str(seed))
        job: Report = json.loads(self.job.read_text())
        return job

    def replay(self, system: str, files: Path) -> Report:
        """Run one system on the whole list.

        Args:
            system: One of `OURS` or `PEERS`, or `untrained`, or `reversed`.
            files: Folder of the store; of a store for each candidate if the system is `cold`.
        """
        out = self.folder / f"report-{self.name}.json"
        if system in (*PEERS, "untrained"):
            script = str(Path(__file__).with_name("peers.py"))
            command = [self.peer_python, "-P", script, str(self.job), str(out), "--system", system]
            _run(command, {name: value for name, value in os.environ.items() if name != "PYTHONPATH"})
        else:
            mode = system if system in ("off", "cold") else "shared"
            options = ["--mode", mode, "--files", str(files), *(["--reverse"] if system == "reversed" else [])]
            self._ours("run", str(self.job), str(out), *options)
        report: Report = json.loads(out.read_text())
        out.unlink()
        return report

    def _ours(self, *arguments: str) -> None:
        _run([sys.executable, "-m", "tests.bench.replay_ours", *arguments], dict(os.environ))


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=ROOT, env=environment | ONE_THREAD | QUIET, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def measure(bench: Bench, runs: int, default_runs: int) -> dict[str, list[Report]]:
    """Run all systems `runs` times, interleaved; `warm` always follows `list`, whose store it needs.

    `trainer_default`, which takes longer than all others together, takes part in the first `default_runs` only.
    """
    groups: list[tuple[str, ...]] = [("off",), ("cold",), ("list", "warm"), *((peer,) for peer in PEERS)]
    reports: dict[str, list[Report]] = {system: [] for system in (*OURS, *PEERS)}
    for run in range(runs):
        turn = run % len(groups)
        for group in groups[turn:] + groups[:turn]:
            if group == ("trainer_default",) and run >= default_runs:
                continue
            with tempfile.TemporaryDirectory(dir=bench.folder) as files:
                for system in group:
                    reports[system].append(bench.replay(system, Path(files)))
                    mean = _mean(reports[system][-1], "cpu_s")
                    print(f"  run {run + 1}/{runs} {system:16} {mean:8.2f} CPU-s a candidate", flush=True)
    return reports


def check(bench: Bench, reports: dict[str, list[Report]]) -> Report:
    """Compare scores: stores against none, the list in two orders, the peers' reading of a candidate with ours."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as files:
        reversed_list = bench.replay("reversed", Path(files))
        untrained = bench.replay("untrained", Path(files))
    off = reports["off"][0]
    stored = {s: [_difference(off, report) for report in reports[s]] for s in OURS}
    return {
        "off_against": {s: [max(values) for values in zip(*found, strict=True)] for s, found in stored.items()},
        "list_against_reversed": _difference(reports["list"][0], reversed_list),
        "untrained_peer_against_ours": [entry["difference"] for entry in untrained["candidates"]],
    }


def _difference(one: Report, other: Report) -> list[float]:
    """Largest difference of two reports' logits, for each candidate."""
    pairs = zip(one["candidates"], other["candidates"], strict=True)
    return [
        max(abs(x - y) for a, b in zip(mine["logits"], yours["logits"], strict=True) for x, y in zip(a, b, strict=True))
        for mine, yours in pairs
    ]


def _mean(report: Report, name: str) -> float:
    return statistics.fmean(entry[name] for entry in report["candidates"])


def summarise(reports: dict[str, list[Report]]) -> dict[str, dict[str, Any]]:
    """Reduce each system to its values for each run; ratios are taken within a run."""
    summary: dict[str, dict[str, Any]] = {}
    for system, runs in reports.items():
        summary[system] = {
            "cpu_s": [_mean(run, "cpu_s") for run in runs],
            "wall_s": [_mean(run, "wall_s") for run in runs],
            "startup_cpu_s": [run["startup_cpu_s"] for run in runs],
            "max_rss_mib": [run["max_rss_bytes"] / 2**20 for run in runs],
            "accuracy": [_mean(run, "value") for run in runs],
        }
        if "source_cpu_s" in runs[0]["candidates"][0]:
            summary[system]["before_target_cpu_s"] = [_mean(run, "source_cpu_s") for run in runs]
    for entry in summary.values():
        for base in ("list", "cold", "warm"):
            pairs = zip(entry["cpu_s"], summary[base]["cpu_s"], strict=False)  # The peer may have fewer runs.
            entry[f"ratio_to_{base}"] = [mine / other for mine, other in pairs]
    return summary


def show(name: str, job: Report, summary: dict[str, dict[str, Any]], checks: Report) -> None:
    """Print the table."""
    runs = len(summary["off"]["cpu_s"])
    print(f"\n{name}: {len(job['candidates'])} candidates, median of {runs} runs (range), one thread")
    print(
        f"  {'system':16} {'CPU-s a candidate':24} {'wall s':24} {'/list':>6} {'/cold':>6} {'/warm':>6}"
        f" {'start CPU-s':>11} {'peak MiB':>8} {'accuracy':>8}"
    )
    for system, entry in summary.items():
        ratios = " ".join(f"{statistics.median(entry[f'ratio_to_{b}']):6.2f}" for b in ("list", "cold", "warm"))
        start, peak, accuracy = (statistics.median(entry[n]) for n in ("startup_cpu_s", "max_rss_mib", "accuracy"))
        times = f"{_spread(entry['cpu_s']):24} {_spread(entry['wall_s']):24}"
        print(f"  {system:16} {times} {ratios} {start:11.2f} {peak:8.0f} {accuracy:8.3f}")
    for system, found in checks["off_against"].items():
        print(f"  |logits: off - {system}| at most {max(found):.1e}")
    print(f"  |logits: list - list reversed| at most {max(checks['list_against_reversed']):.1e}, wanted 0.0")
    peer = checks["untrained_peer_against_ours"]
    print(f"  |untrained logits: peer - promptgraft| at most {max(peer):.1e}")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--study", choices=tuple(CANDIDATES), action="append", help="default: all of them")
    parser.add_argument("--candidates", type=int, help="default: 12 for demo, 6 for smollm2")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--default-runs", type=int, default=2, help="runs in which trainer_default takes part")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with torch, transformers and peft")
    arguments = parser.parse_args()
    content: dict[str, Any] = {"python": platform.python_version(), "threads": 1, "seed": arguments.seed}
    for name in arguments.study or list(CANDIDATES):
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(name, Path(folder), arguments.peer_python)
            print(f"{name}: drawing candidates", flush=True)
            job = bench.prepare(arguments.candidates or CANDIDATES[name], arguments.seed)
            reports = measure(bench, arguments.runs, max(1, arguments.default_runs))
            checks = check(bench, reports)
        summary = summarise(reports)
        show(name, job, summary, checks)
        candidates = [{k: v for k, v in entry.items() if k != "untrained"} for entry in job["candidates"]]
        content[name] = {"candidates": candidates, "summary": summary, "checks": checks, "reports": reports}
        if arguments.out:
            arguments.out.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()

"""What commands cost before they do anything: CPU-seconds of new processes, each with all that it imports.

    python -m tests.bench.startup demo

The study must be in `runs/`, with its bundle. `--package` measures another checkout, in turns with this one.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from promptgraft.bundles.folder import parse_manifest

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
APP = "import sys; from promptgraft.search.cli import app; sys.argv[0] = 'promptgraft'; app()"


def cpu_seconds(code: str, arguments: list[str], package: str) -> float:
    """Run Python once, in one thread, and return what it took, user and system."""
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": package}
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments) or code} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Print the median and the least of each command, for each checkout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", help="Name of a study in runs/ that was exported.")
    parser.add_argument("--package", action="append", default=[], help="A checkout's .package, measured as well.")
    parser.add_argument("--times", type=int, default=5)
    wanted = parser.parse_args()
    bundle = Path("runs") / wanted.study / "bundle"
    with tempfile.TemporaryDirectory() as folder:
        table, output = Path(folder) / "one.csv", Path(folder) / "predictions.csv"
        columns = list(parse_manifest(bundle).columns.values())
        with table.open("w", newline="") as stream:
            csv.writer(stream).writerows([columns, ["It works."] * len(columns)])
        commands = {
            "import promptgraft": ("import promptgraft", []),
            "--help": (APP, ["--help"]),
            "status": (APP, ["status", wanted.study]),
            "predict": (APP, ["predict", str(bundle), "--input", str(table), "--output", str(output), "--quiet"]),
        }
        packages = [os.environ.get("PYTHONPATH", ""), *wanted.package]
        for name, (code, arguments) in commands.items():
            taken = [[cpu_seconds(code, arguments, package) for package in packages] for _ in range(wanted.times)]
            for package, own in zip(packages, zip(*taken, strict=True), strict=True):
                print(f"{name:20} median {statistics.median(own):5.2f}  least {min(own):5.2f}  {package}")


if __name__ == "__main__":
    main()

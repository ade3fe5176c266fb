"""A study on several seeds, and so on several draws of its rows: what ships, its baselines, the transfer gain.

    python -m tests.bench.splits studies/digits.yaml [--seeds 0-4] [--concurrent 2] [--out runs/splits]

Each seed is a whole study: search, judging, export. Its test rows are opened once, with all baselines. What is done
already is read from its folder, so that the same command goes on after a stop.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import optuna
from ruamel.yaml import YAML

from promptgraft.search.storage import StudyRecord
from tests.bench.quality.__main__ import numbers

DONE = "split.json"


def run_split(study_file: Path, seed: int, concurrent: int, folder: Path) -> dict[str, Any]:
    """Search, judge and export with one seed; return the test scores and what was said of the transfer."""
    if (folder / DONE).exists():
        return dict(json.loads((folder / DONE).read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("data", "models"):
        if not (folder / name).exists():
            (folder / name).symlink_to(study_file.parent / name)
    content = YAML(typ="safe").load(study_file)
    content["seed"] = seed
    own = folder / study_file.name
    with own.open("w") as stream:
        YAML().dump(content, stream)
    where = [str(own), "--workdir", str(folder / "run")]
    command = Path(sys.executable).with_name("promptgraft")
    started = time.time()
    subprocess.run([command, "run", *where, "--concurrent", str(concurrent)], check=True)
    said = subprocess.run([command, "export", *where], check=True, text=True, capture_output=True).stdout
    stored = optuna.load_study(study_name=content["study"], storage=f"sqlite:///{folder / 'run' / 'study.db'}")
    opening = StudyRecord.of(stored).openings[-1]
    metric = stored.metric_names[0] if stored.metric_names else "value"
    transfer = re.search(r"Transfer.*", said)
    found = {
        "seed": seed,
        "metric": metric,
        "test": {name: scores.get(metric) for name, scores in opening.table or ()},
        "transfer": transfer.group(0) if transfer else "",
        "verdict": next((line for line in said.splitlines() if line.startswith("Ship")), ""),
        "wall_s": time.time() - started,
    }
    (folder / DONE).write_text(json.dumps(found))
    return found


def table(found: list[dict[str, Any]]) -> str:
    """Write the mean over the seeds, with its standard error, of each system, and what was said of each."""
    by_system: dict[str, list[float]] = defaultdict(list)
    for split in found:
        for name, score in split["test"].items():
            by_system[re.sub(r"^winner .*", "winner", name)].append(score)
    lines = [
        f"| system | {found[0]['metric']}, mean of {len(found)} | standard error | each |",
        "| --- | --- | --- | --- |",
    ]
    for name, scores in by_system.items():
        error = f"{stdev(scores) / len(scores) ** 0.5:.3f}" if len(scores) > 1 else ""
        lines.append(f"| {name} | {mean(scores):.3f} | {error} | {', '.join(f'{own:.3f}' for own in scores)} |")
    lines += ["", *(f"seed {split['seed']}, {split['wall_s']:.0f} s: {split['transfer']}" for split in found)]
    lines += ["", *(f"seed {split['seed']}: {split['verdict']}" for split in found)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--seeds", type=numbers, default=list(range(5)))
    parser.add_argument("--concurrent", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/splits"))
    chosen = parser.parse_args()
    study_file: Path = chosen.study.resolve()
    folder = chosen.out.resolve() / study_file.stem
    print(table([run_split(study_file, seed, chosen.concurrent, folder / str(seed)) for seed in chosen.seeds]))


if __name__ == "__main__":
    main()

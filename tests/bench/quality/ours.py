"""promptgraft as a system of the quality benchmark: a whole study, run, exported and asked for probabilities.

python -m tests.bench.quality.ours JOB OUT --budget CPU_SECONDS
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML

from promptgraft.bundles import Predictor
from promptgraft.search.exporting import ExportOptions, export_winner
from promptgraft.search.judging import headline_of
from promptgraft.search.running import RunOptions, run_study
from promptgraft.search.storage import RunFolder, load_existing
from promptgraft.search.study import load_study

# CPU-seconds that driver, worker and export take beside the trials; measured, see "Start-up" in docs/benchmarks.md.
OVERHEAD_S = 27.0
# Share of the rest for what comes after the search: fitting the winner and up to two more, and their predictions.
AFTERWARDS = 0.3
TRIALS = 40


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def study_of(job: Path, out: Path, content: dict[str, Any], budget_s: float) -> dict[str, Any]:
    """Write down the study: what a user would who leaves the space to us, and without judging.

    A study's budget counts the seconds for which trials hold a core, the benchmark the CPU-seconds that they get: they
    are the same where nothing else runs.
    """
    train = rows(job / "train.csv")
    fields = ["text", "other"] if all(row["other"] for row in train) else ["text"]
    # The benchmark holds the test rows; a study must name some, which are scored by nobody here.
    placeholder = out / "placeholder.csv"
    with placeholder.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["text", "other", "label"])
        table.writeheader()
        table.writerows({"text": f"{n} {name}", "other": n, "label": name} for name in content["classes"] for n in "xy")
    columns = {name: name for name in fields}
    return {
        "study": "quality",
        "seed": content["seed"],
        "backbone": {"path": content["backbone"], "family": "encoder", "max_tokens": content["max_tokens"]},
        "source": {"train": str(job / "source.csv"), "text": columns, "label": "label"},
        "target": {"train": str(job / "train.csv"), "test": str(placeholder), "text": columns, "label": "label"},
        "budget": {"trials": TRIALS, "compute": max(3.0, budget_s - OVERHEAD_S), "reserve": AFTERWARDS},
        "judging": {"finalists": 0},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("job", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--budget", type=float, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out: Path = arguments.out.resolve()
    content = json.loads((arguments.job / "job.json").read_text())
    file = out / "study.yaml"
    with file.open("w") as stream:
        YAML().dump(study_of(arguments.job.resolve(), out, content, arguments.budget), stream)
    study, folder = load_study(file), RunFolder(out / "run")
    run_study(study, RunOptions(folder, concurrent=1))
    stored = load_existing("quality", folder.storage_url())
    exported = export_winner(study, stored, folder, ExportOptions(anyway=True))
    predictor = Predictor(exported.folder)
    found = predictor.predict_proba(rows(arguments.job / "test.csv"))
    with (out / "probabilities.csv").open("w", newline="", encoding="utf-8") as written:
        table = csv.writer(written)
        table.writerow(predictor.labels)
        table.writerows(found.tolist())
    trials = stored.get_trials()
    notes = {"headline": headline_of(stored), "trials": len(trials), "trial": exported.trial}
    (out / "notes.json").write_text(json.dumps(notes | {"candidate": trials[exported.trial].user_attrs["candidate"]}))


if __name__ == "__main__":
    main()

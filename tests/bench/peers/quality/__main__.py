"""Run one peer of the quality benchmark on one setting; it imports no promptgraft.

python -m peers.quality JOB OUT --system NAME [--budget CPU_SECONDS]

JOB is a folder as `tests.bench.quality.data` writes it; the folder OUT gets probabilities.csv and notes.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peers.quality.job import Job, read_job, write_probabilities

SYSTEMS = ("setfit", "setfit_tuned", "finetuning", "finetuning_tuned", "probe", "probe_source", "tfidf", "autointent")


def fit(system: str, job: Job) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the probabilities of the test rows, and what was chosen; each system imports no more than it needs."""
    kind, _, form = system.partition("_")
    if kind == "setfit":
        from peers.quality import setfit_systems as systems
    elif kind == "finetuning":
        from peers.quality import finetuning as systems
    elif kind == "autointent":
        from peers.quality import autointent_system as systems
    else:
        from peers.quality import linear

        return linear.tfidf(job) if kind == "tfidf" else linear.probe(job, with_source=form == "source")
    return systems.tuned(job) if form == "tuned" or kind == "autointent" else systems.defaults(job)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("job", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--system", choices=SYSTEMS, required=True)
    parser.add_argument("--budget", type=float, help="CPU-seconds of the whole process")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    job = read_job(arguments.job, arguments.budget)
    probabilities, notes = fit(arguments.system, job)
    write_probabilities(arguments.out / "probabilities.csv", job, probabilities)
    (arguments.out / "notes.json").write_text(json.dumps(notes))


if __name__ == "__main__":
    main()

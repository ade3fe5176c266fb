"""Run one system over a job's list in this process; see `peers.__main__`, which watches it.

python -m peers.systems JOB OUT --system NAME
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from peers.job import Job, Outcomes, Stopwatch, read_job

KINDS = ("hpo_optuna", "hpo_ray", "tune_peft")
SYSTEMS = (*(f"{kind}_{form}" for kind in KINDS for form in ("default", "tuned")), "setfit", "untrained")


def prepare(system: str, path: str, outcomes: Outcomes) -> Callable[[], None]:
    """Do what comes before a search's first trial; each system imports no more than it needs."""
    kind, form = system.rsplit("_", 1)
    tuned = form == "tuned"
    if kind == "tune_peft":
        from peers import tune_peft

        return tune_peft.search(path, outcomes, tuned)
    from peers import hpo

    search = hpo.search_optuna if kind == "hpo_optuna" else hpo.search_ray
    return search(path, outcomes, tuned)


def differences(job: Job) -> list[dict[str, Any]]:
    """Compare each candidate's untrained log-probabilities of the labels with promptgraft's.

    Logits themselves may differ by a number that all labels of a row have in common: promptgraft leaves out the sum
    over the vocabulary where every label word is one token.
    """
    from peers.trials import Parts

    parts, entries = Parts(job, tuned=True), []
    for candidate in job["candidates"]:
        watch = Stopwatch()
        logits = parts.untrained(candidate)
        ours = torch.tensor(candidate["untrained"])
        difference = float((logits.log_softmax(-1) - ours.log_softmax(-1)).abs().max())
        entries.append({"difference": difference, **watch.times()})
    return entries


def evaluate(system: str, path: str) -> dict[str, Any]:
    """Run one system; return what is known of each candidate, and the processor time before the first."""
    job = read_job(path)
    if system in ("untrained", "setfit"):
        if system == "setfit":
            from peers import setfit_reference

            startup = time.process_time()
            return {"startup_cpu_s": startup, "candidates": [setfit_reference.evaluate(job)]}
        return {"startup_cpu_s": time.process_time(), "candidates": differences(job)}
    with tempfile.TemporaryDirectory() as folder:
        outcomes = Outcomes(str(Path(folder) / "outcomes.jsonl"))
        run = prepare(system, path, outcomes)
        startup = time.process_time()
        run()
        return {"startup_cpu_s": startup, "candidates": outcomes.read(len(job["candidates"]))}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("job", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--system", choices=SYSTEMS, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.write_text(json.dumps(evaluate(arguments.system, str(arguments.job))))


if __name__ == "__main__":
    main()

"""The job file, and the file to which whichever process runs a trial appends what came of it."""

import json
import os
import time
from pathlib import Path
from typing import Any

Job = dict[str, Any]


def read_job(path: str) -> Job:
    """Read the candidates, prompts and settings that `tests.bench.replay_ours` wrote."""
    job: Job = json.loads(Path(path).read_text())
    return job


class Stopwatch:
    """Processor and wall time of this process since now."""

    def __init__(self) -> None:
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def times(self) -> dict[str, float]:
        """Return both, in seconds."""
        return {"cpu_s": time.process_time() - self.cpu, "wall_s": time.perf_counter() - self.wall}


class Outcomes:
    """A file of one JSON line a trial: Ray's own logs differ between its entry points, and workers come and go.

    Args:
        path: The file; created with the first line.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def add(self, index: int, curve: list[tuple[float, float]], watch: Stopwatch) -> None:
        """Append one trial.

        Args:
            index: The candidate's place in the job's list.
            curve: Accuracy and negative loss of each evaluation.
            watch: Started with the trial.
        """
        best = max(curve)[0]
        entry = {"index": index, "value": best, "curve": [point[0] for point in curve], **watch.times()}
        with Path(self.path).open("a") as stream:
            stream.write(json.dumps({**entry, "pid": os.getpid()}) + "\n")

    def read(self, count: int) -> list[dict[str, Any]]:
        """Return all outcomes in the order of the job's list.

        Raises:
            RuntimeError: If a candidate was evaluated not at all, or twice.
        """
        entries = [json.loads(line) for line in Path(self.path).read_text().splitlines()]
        if sorted(entry["index"] for entry in entries) != list(range(count)):
            raise RuntimeError(f"of {count} candidates these were evaluated: {[e['index'] for e in entries]}")
        return sorted(entries, key=lambda entry: int(entry["index"]))

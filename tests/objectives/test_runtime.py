"""What a process sets up once."""

import subprocess
import sys

LIMITED = """
import json
from threadpoolctl import threadpool_info
from promptgraft.objectives.runtime import limit_threads
limit_threads(1)
import sklearn.linear_model, torch
print(json.dumps([torch.get_num_threads(), *(own["num_threads"] for own in threadpool_info())]))
"""


def test_every_library_keeps_to_the_threads_of_a_trial() -> None:
    """In a process of its own, since it can't be undone; and without what a shell may have set."""
    found = subprocess.run(
        [sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True, env={"OMP_NUM_THREADS": "2"}
    )
    numbers = found.stdout.strip()
    assert len(numbers) >= len("[1, 1, 1]")
    assert set(numbers) <= set("[1, ]"), numbers

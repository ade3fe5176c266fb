"""The systems of the quality benchmark: each is a command that reads a setting's folder and writes probabilities.

A command is called as `COMMAND JOB OUT [--budget CPU_SECONDS]`. It writes OUT/probabilities.csv: one column for each
class, with its name as header, and one row for each row of JOB/test.csv, in the same order. It may also write
OUT/notes.json, which becomes part of the result.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
ROOT = BENCH.parent.parent
OURS = os.pathsep.join((str(ROOT), str(ROOT / ".package")))  # This checkout, whatever is installed.
REFERENCE = "setfit"  # Its CPU-seconds are the unit of all budgets.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True, slots=True)
class System:
    """One way to a classifier.

    Attributes:
        title: For tables and plots.
        budget: CPU-seconds that it may use, as a multiple of what SetFit's defaults take on the same setting; None for
            systems that tune nothing.
    """

    name: str
    title: str
    command: tuple[str, ...]
    budget: float | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def full_environment(self) -> dict[str, str]:
        return {**os.environ, **OFFLINE, **ONE_THREAD, **self.environment}


def peer(name: str, title: str, budget: float | None = None, environment: str = ".peers-venv") -> System:
    """A peer has an environment of its own; an absolute path is taken as it is."""
    command = (str(ROOT / environment / "bin" / "python"), "-P", "-W", "ignore", "-m", "peers.quality")
    return System(name, title, (*command, "--system", name), budget, {"PYTHONPATH": str(BENCH)})


def ours(name: str, title: str, budget: float) -> System:
    return System(name, title, (sys.executable, "-P", "-m", "tests.bench.quality.ours"), budget, {"PYTHONPATH": OURS})


SYSTEMS = {
    system.name: system
    for system in (
        ours("promptgraft", "promptgraft", 4),
        ours("promptgraft_quick", "promptgraft, in SetFit's time", 1),
        peer("setfit", "SetFit, defaults"),
        peer("finetuning", "full fine-tuning, defaults"),
        peer("probe", "linear probe"),
        peer("probe_source", "linear probe, with the source"),
        peer("tfidf", "TF-IDF"),
        peer("setfit_tuned", "SetFit, tuned", 4),
        peer("finetuning_tuned", "full fine-tuning, tuned", 4),
        peer("autointent", "AutoIntent", 4, ".autointent-venv"),
    )
}

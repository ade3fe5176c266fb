"""A study in Weights & Biases: one run for each trial, in a group of the study's name."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from promptgraft.search.tracking.base import TrackedStudy, TrackedTrial, Tracker

_PROJECT = "promptgraft"


class WandbTracker(Tracker):
    """Writes below `wandb` in the study's folder, for `wandb sync`; uploads at once with WANDB_MODE=online."""

    def __init__(self, study: TrackedStudy) -> None:
        super().__init__(study)
        self._mode = os.environ.get("WANDB_MODE", "offline")
        self._folder = study.folder.resolve()
        (self._folder / "wandb").mkdir(parents=True, exist_ok=True)

    def known(self) -> set[int]:
        """See `Tracker`."""
        begins = f"{self.study.token}-"
        ids = [path.name.rpartition(begins)[2] for path in (self._folder / "wandb").glob(f"*run-*-{begins}*")]
        return {int(own) for own in ids if own.isdigit()}

    def add_trial(self, trial: TrackedTrial) -> None:
        """See `Tracker`."""
        run = self._run(str(trial.number), f"trial {trial.number}", "trial", dict(trial.params))
        for step, value in trial.curve:
            run.log({f"curve/{self.study.metric}": value}, step=step)
        run.summary.update({**trial.metrics, "state": trial.state} | ({"cause": trial.cause} if trial.cause else {}))
        run.finish(exit_code=1 if trial.state == "FAIL" else 0)

    def end(self, state: str, reason: str, verdict: Sequence[str]) -> None:
        """See `Tracker`."""
        run = self._run("study", self.study.name, "study", {})
        run.summary.update({"state": state, "ended": reason, "verdict": "\n".join(verdict)})
        run.finish()

    def add_bundle(self, folder: Path, metrics: Mapping[str, float]) -> None:
        """See `Tracker`."""
        run = self._run("bundle", f"{self.study.name} bundle", "export", {})
        run.summary.update({f"test_{name}": value for name, value in metrics.items()})
        artifact = wandb.Artifact(self.study.name, type="model")
        artifact.add_dir(str(folder))
        run.log_artifact(artifact)
        run.finish()

    def _run(self, own: str, name: str, job_type: str, config: dict[str, Any]) -> Any:
        return wandb.init(
            project=_PROJECT,
            group=self.study.name,
            id=f"{self.study.token}-{own}",
            name=name,
            job_type=job_type,
            dir=str(self._folder),
            mode=self._mode,
            config=config,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )

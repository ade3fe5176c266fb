"""A study in TensorBoard: one folder of events for each trial, below `tensorboard` in the study's folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from promptgraft.search.tracking.base import TrackedStudy, TrackedTrial, Tracker


class TensorboardTracker(Tracker):
    """Writes event files, which `tensorboard --logdir runs/NAME/tensorboard` shows."""

    def __init__(self, study: TrackedStudy) -> None:
        super().__init__(study)
        self._folder = study.folder / "tensorboard"

    def known(self) -> set[int]:
        """See `Tracker`."""
        return {int(path.name.removeprefix("trial-")) for path in self._folder.glob("trial-*")}

    def add_trial(self, trial: TrackedTrial) -> None:
        """See `Tracker`."""
        with SummaryWriter(str(self._folder / f"trial-{trial.number}")) as writer:
            for step, value in trial.curve:
                writer.add_scalar(f"curve/{self.study.metric}", value, step)
            params = {name: _plain(value) for name, value in trial.params.items() if value is not None}
            final = {f"final/{name}": value for name, value in trial.metrics.items()}
            # Not by `add_hparams`: within the same second, its file would take the place of this one.
            for summary in hparams(params, final):
                writer.file_writer.add_summary(summary)
            for name, value in final.items():
                writer.add_scalar(name, value)
            if trial.cause:
                writer.add_text("cause", trial.cause)

    def end(self, state: str, reason: str, verdict: Sequence[str]) -> None:
        """See `Tracker`."""
        with SummaryWriter(str(self._folder / "study")) as writer:
            writer.add_text("verdict", "\n\n".join([*verdict, f"{state}: {reason}"]))

    def add_bundle(self, folder: Path, metrics: Mapping[str, float]) -> None:
        """Write the test scores and the bundle's folder: event files hold no folders."""
        with SummaryWriter(str(self._folder / "study"), filename_suffix=".bundle") as writer:
            writer.add_text("bundle", str(folder.resolve()))
            for name, value in metrics.items():
                writer.add_scalar(f"test/{name}", value)


def _plain(value: object) -> object:
    return value if isinstance(value, bool | int | float | str) else str(value)

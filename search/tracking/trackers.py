"""The trackers that a study names, fed in a thread of their own: a slow server holds up no trial."""

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from promptgraft.search.storage import RunFolder, StudyRecord, until_storage_answers
from promptgraft.search.study import Study
from promptgraft.search.tracking.base import TrackedStudy, TrackedTrial, Tracker
from promptgraft.search.tracking.notify import notify
from promptgraft.spaces import masked

logger = logging.getLogger(__name__)

_CLASSES = {"mlflow": "MlflowTracker", "tensorboard": "TensorboardTracker", "wandb": "WandbTracker"}


class Tracking:
    """Everything that tracks a study; a tool that fails is warned of once, and left alone for the rest of the run.

    Args:
        study: The checked study.
        stored: The stored study.
        folder: Its folder.
    """

    def __init__(self, study: Study, stored: optuna.Study, folder: RunFolder) -> None:
        file = study.file
        self._stored = stored
        self._study = TrackedStudy(study.name, StudyRecord.of(stored).token or "", file.metric, folder.path)
        self._notify = file.notify
        self._trackers: dict[str, Tracker | None] = dict.fromkeys(file.track)
        self._thread = ThreadPoolExecutor(1, "tracking")
        for name in file.track:
            self._thread.submit(self._open, name)

    def add_earlier(self) -> None:
        """Add the trials that ended before this run, where a tool hasn't them."""
        if self._trackers:
            trials = [trial for trial in self._trials() if trial.state.is_finished()]
            self._do(lambda tracker: self._add(tracker, trials, tracker.known()))

    def add_trial(self, number: int) -> None:
        """Add a trial that has ended."""
        if self._trackers:
            trials = [trial for trial in self._trials() if trial.number == number]
            self._do(lambda tracker: self._add(tracker, trials, set()))

    def end(self, state: str, reason: str, verdict: Sequence[str] = ()) -> None:
        """Record the end of a run, wait until everything is written, and notify.

        Args:
            state: `ended`, `stopped` or `failed`.
            reason: Why it ended.
            verdict: What to ship, in a sentence; and a warning if there is one.
        """
        self._do(lambda tracker: tracker.end(state, reason, verdict))
        self._thread.shutdown()
        if self._notify:
            name = self._study.name
            text = " ".join([f"study {name} {state}: {masked(reason)}.", *verdict])
            notify(self._notify, {"study": name, "state": state, "reason": reason, "verdict": verdict, "text": text})

    def add_bundle(self, folder: Path, metrics: Mapping[str, float]) -> None:
        """Add an exported bundle and its test scores, and wait until everything is written."""
        self._do(lambda tracker: tracker.add_bundle(folder, metrics))
        self._thread.shutdown()

    def _trials(self) -> list[FrozenTrial]:
        return until_storage_answers(lambda: self._stored.get_trials(deepcopy=False))

    def _add(self, tracker: Tracker, trials: Sequence[FrozenTrial], known: set[int]) -> None:
        for trial in trials:
            if trial.number not in known:
                tracker.add_trial(TrackedTrial.of(trial, self._study.metric))

    def _open(self, name: str) -> None:
        def opened() -> None:
            module = importlib.import_module(f"promptgraft.search.tracking.{name}")
            self._trackers[name] = getattr(module, _CLASSES[name])(self._study)

        self._attempt(name, opened)

    def _do(self, what: Callable[[Tracker], None]) -> None:
        for name in self._trackers:
            self._thread.submit(self._feed, name, what)

    def _feed(self, name: str, what: Callable[[Tracker], None]) -> None:
        tracker = self._trackers[name]
        if tracker is not None:
            self._attempt(name, lambda: what(tracker))

    def _attempt(self, name: str, what: Callable[[], None]) -> None:
        try:
            what()
        except Exception as error:  # noqa: BLE001 - whatever another tool raises, the search goes on.
            self._trackers[name] = None
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            logger.warning("%s gets nothing more of this run, which goes on: %s", name, masked(reason))

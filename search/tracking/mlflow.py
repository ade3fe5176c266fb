"""A study in MLflow: a run for the study, and one nested in it for each trial."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from promptgraft.search.tracking.base import TrackedStudy, TrackedTrial, Tracker

_STUDY, _TRIAL, _STATE, _CAUSE = (f"promptgraft.{name}" for name in ("study", "trial", "state", "cause"))
_ENDED, _VERDICT = "promptgraft.ended", "promptgraft.verdict"
# MLflow's name of the end of a trial, and of a run.
_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
_STATUS |= {"ended": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_PER_PAGE = 1000


class MlflowTracker(Tracker):
    """Writes to where MLFLOW_TRACKING_URI points, or to MLflow's default; the experiment has the study's name."""

    def __init__(self, study: TrackedStudy) -> None:
        super().__init__(study)
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # By default it tries for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._client = mlflow.MlflowClient()
        self._experiment = self._experiment_id()
        self._parent = self._parent_id()

    def known(self) -> set[int]:
        """See `Tracker`."""
        found: set[int] = set()
        token = None
        while True:
            query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{self._parent}'"
            page = self._client.search_runs([self._experiment], query, max_results=_PER_PAGE, page_token=token)
            found |= {int(run.data.tags[_TRIAL]) for run in page if _TRIAL in run.data.tags}
            token = page.token
            if not token:
                return found

    def add_trial(self, trial: TrackedTrial) -> None:
        """See `Tracker`."""
        tags = {MLFLOW_PARENT_RUN_ID: self._parent, _TRIAL: str(trial.number), _STATE: trial.state}
        tags |= {_CAUSE: trial.cause} if trial.cause else {}
        began, ended = (round(1000 * moment) for moment in (trial.began, trial.ended))
        run = self._client.create_run(self._experiment, began, tags, run_name=f"trial {trial.number}").info.run_id
        metrics = [Metric(f"curve_{self.study.metric}", value, ended, step) for step, value in trial.curve]
        metrics += [Metric(name, value, ended, 0) for name, value in trial.metrics.items()]
        self._client.log_batch(run, metrics, [Param(name, str(value)) for name, value in trial.params.items()])
        self._client.set_terminated(run, _STATUS[trial.state], ended)

    def end(self, state: str, reason: str, verdict: Sequence[str]) -> None:
        """See `Tracker`."""
        self._client.log_batch(self._parent, tags=[RunTag(_ENDED, reason), RunTag(_VERDICT, "\n".join(verdict))])
        self._client.set_terminated(self._parent, _STATUS[state])

    def add_bundle(self, folder: Path, metrics: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in metrics.items():
            self._client.log_metric(self._parent, f"test_{name}", value)
        self._client.log_artifacts(self._parent, str(folder), "bundle")

    def _experiment_id(self) -> str:
        """Return the id of the study's experiment, which another process may create at this moment."""
        found = self._client.get_experiment_by_name(self.study.name)
        if found is None:
            try:
                return str(self._client.create_experiment(self.study.name))
            except MlflowException:
                found = self._client.get_experiment_by_name(self.study.name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _parent_id(self) -> str:
        """Return the id of the study's run."""
        found = self._client.search_runs([self._experiment], f"tags.`{_STUDY}` = '{self.study.token}'", max_results=1)
        run = (
            found[0]
            if found
            else self._client.create_run(self._experiment, tags={_STUDY: self.study.token}, run_name=self.study.name)
        )
        return str(run.info.run_id)

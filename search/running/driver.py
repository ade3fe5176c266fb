"""`promptgraft run`: the driver that joins the study and Ray Tune."""

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from promptgraft.objectives.growth import GrowthPlan, WriterSpec
from promptgraft.objectives.progress import StageProgress
from promptgraft.search.judging import (
    choose_ensemble,
    headline_of,
    outcome_line,
    reach_verdict,
    transfer,
    trials_to_keep,
)
from promptgraft.search.reporting import DashboardPlots, describe_trial, save_plots, save_study_note
from promptgraft.search.running.compatibility import record_end, record_run
from promptgraft.search.running.finals import Confirmation
from promptgraft.search.running.ledger import StudyLedger
from promptgraft.search.running.progress import Progress
from promptgraft.search.running.ray_session import (
    LocalRay,
    RayLostError,
    RaySession,
    prepare_environment,
    ray_session,
    trial_slots,
)
from promptgraft.search.running.repeat_workers import shared_tasks
from promptgraft.search.running.retries import Loss
from promptgraft.search.running.run_state import RunOptions, RunOutcome, RunState
from promptgraft.search.running.scratch import scratch_folder
from promptgraft.search.sampling import with_pool
from promptgraft.search.side_jobs import EarlyRepeats, GrowthJobs, SideJobs
from promptgraft.search.storage import (
    ENSEMBLE,
    Heartbeat,
    Outcome,
    StorageLostError,
    StudyRecord,
    TrialRecord,
    until_storage_answers,
    wait_for_storage,
    write_study,
)
from promptgraft.search.study import GrowSection, Study, model_path
from promptgraft.search.tracking import Tracking
from promptgraft.search.trials import (
    Evaluated,
    Limits,
    best_trial,
    float32_scores,
    forecast,
    metric_of,
    ranked_trials,
    tidy,
)

if TYPE_CHECKING:
    from promptgraft.search.running.searcher import StudySearcher

logger = logging.getLogger(__name__)

# Times in a row that a local Ray that died is started again without a trial being finished in between.
MAX_RAY_RESTARTS = 3


class Driver:
    """One run of Ray Tune over a ledger.

    Args:
        study: The checked study.
        options: Where and how long.
        ledger: The stored study.
        progress: Shows what happens.
        limits: What the run may use.
    """

    def __init__(
        self, study: Study, options: RunOptions, ledger: StudyLedger, progress: Progress, limits: Limits
    ) -> None:
        self.study = study
        self.options = options
        self.ledger = ledger
        self.progress = progress
        self.limits = limits
        self.state = RunState()
        self.concurrent = 1
        self._forecast_at = 0.0
        self.files = options.folder.files()
        self._plots = DashboardPlots(ledger.study)
        self._tracking = Tracking(study, ledger.study, options.folder)

    def run(self) -> RunOutcome:
        """Run until the searcher has nothing more to start, or a signal comes."""
        try:
            outcome = self._run()
        except BaseException as error:
            if not isinstance(error, StorageLostError):
                self._record_end("the run failed")
            self._tracking.end("failed", str(error) or type(error).__name__)
            raise
        reason = outcome.ended_because or "it was stopped"
        self._record_end(reason)
        self._tracking.end("ended" if outcome.ended_because else "stopped", reason, outcome.verdict)
        return outcome

    @wait_for_storage
    def _record_end(self, reason: str) -> None:
        record_end(self.ledger.study, self.ledger.owner, reason)

    def _run(self) -> RunOutcome:
        self._record_run()
        self._tracking.add_earlier()
        self._show()
        self._rank()
        prepare_environment(self.options.address)
        if self.ledger.finished >= self.limits.trials:
            return self._outcome(*self._judge(self.limits.all_finished(self.ledger.finished)))
        from promptgraft.search.running.searcher import StudySearcher

        searcher = StudySearcher(
            self.ledger, self.limits, self.study.objective, self.study.file.seed, self.state, self._tidy
        )
        self.state.side_jobs = self._side_jobs()
        self._tidy()
        try:
            with Heartbeat(self.ledger.storage, self._live_ids), self.progress.shown():
                self._search(searcher)
        finally:
            ended_because = searcher.ended_because
            interrupted = self.ledger.interrupt(Loss.STOPPED, ended_because or "the run was stopped")
            self._show()
        self._tidy()
        if self.state.error is not None:
            raise self.state.error
        reason = ended_because if ended_because or not interrupted else None
        return self._outcome(reason, needs_help=True) if searcher.needs_help else self._outcome(*self._judge(reason))

    def _judge(self, ended_because: str | None) -> tuple[str | None, bool]:
        """Once the search has ended, have its finalists judged; see `search.running.finals`.

        Returns:
            Why the run ended, None if it was interrupted; and whether someone has to look into that.
        """
        if ended_because is None:
            return None, False
        stored, options = self.ledger.study, self.options
        study, files = until_storage_answers(lambda: with_pool(self.study, stored)), options.folder.files_url
        confirmation = Confirmation(study, stored, files, self.limits, options.concurrent, self.progress.say)
        confirmation.show = self.progress.judging
        failure = None
        if confirmation.is_needed():
            try:
                with self.progress.shown():
                    failure = confirmation.judge(options.address, self._local_ray())
            except KeyboardInterrupt:
                return None, False
            self._note_verdict()
            self._rank()
        self._choose_ensemble(study)
        failure = failure or confirmation.nothing_judged()
        return (f"{ended_because}, but {failure}", True) if failure else (ended_because, False)

    @wait_for_storage
    def _choose_ensemble(self, study: Study) -> None:
        found = choose_ensemble(study, self.ledger.study, self.files)
        if found != StudyRecord.of(self.ledger.study).ensemble:
            write_study(self.ledger.study, ENSEMBLE, found)
            self._note_verdict()

    @wait_for_storage
    def _note_verdict(self) -> None:
        stored = self.ledger.study
        save_study_note(stored, self.study)
        save_plots(stored, stored.get_trials(deepcopy=False))

    def _side_jobs(self) -> list[SideJobs]:
        """Build what is done beside trials: growth of the pool, and repeats of the best trials."""
        file = self.study.file
        found: list[SideJobs] = [] if file.grow is None else [self._growth_jobs(file.grow)]
        # Repeats of a single finalist are compared with controls, which come when the search has ended; in low
        # precision, who is to be repeated is only known once the best are scored in float32.
        if file.judging.finalists > 1 and self.limits.reserve and self.study.objective.is_float32:
            # Half of it, so that as much is left for the end where compute is what is limited.
            found.append(EarlyRepeats(self.ledger, file.seed, self.limits.reserve / 2, self._on_repeat))
        return found

    def _growth_jobs(self, section: GrowSection) -> GrowthJobs:
        writer = None
        if section.writer is not None:
            writer = WriterSpec(model_path(self.study.path.parent, section.writer.path), section.writer.family)
        plan = GrowthPlan(
            sources=section.sources,
            size=section.size,
            writer=writer,
            verbalizers=section.verbalizers,
            label_words=section.label_words,
            verbalizer_sources=section.verbalizer_sources,
        )
        # A template that joins with the last trials would not be tried.
        last = self.limits.trials - (self.options.concurrent or self.study.file.concurrent())
        return GrowthJobs(
            self.ledger,
            plan,
            section,
            last=last,
            seed=self.study.file.seed,
            on_growth=self._on_growth,
        )

    @wait_for_storage
    def _on_growth(self, what: str) -> None:
        self.progress.say(what)
        save_study_note(self.ledger.study, self.study)

    @wait_for_storage
    def _on_repeat(self, name: str, outcome: Outcome) -> None:
        self.progress.say(outcome_line(name, outcome, self.study.file.metric))
        save_study_note(self.ledger.study, self.study)

    def _live_ids(self) -> list[int]:
        return [live.trial_id for live in list(self.ledger.live.values())]

    def _search(self, searcher: "StudySearcher") -> None:
        """Run Ray Tune until the search ends; start a local Ray again if it dies."""
        options = self.options
        restarts, finished = 0, self.ledger.finished
        while True:
            with ray_session(options.address, self._local_ray()) as session, scratch_folder() as scratch:
                try:
                    self._fit(searcher, session, scratch)
                    return
                except KeyboardInterrupt:
                    return
                except Exception as error:
                    if session.is_alive:
                        raise
                    restarts = restarts + 1 if finished == self.ledger.finished else 1
                    if restarts > MAX_RAY_RESTARTS:
                        raise RayLostError(
                            f"Ray died {restarts} times without a trial being finished; see its logs in /tmp/ray"
                        ) from error
            finished = self.ledger.finished
            lost = self.ledger.interrupt(Loss.PREEMPTED, "Ray itself ended")
            logger.warning("Ray died and is started again; %d trials are recorded as FAIL and queued again", lost)

    def _fit(self, searcher: "StudySearcher", session: RaySession, scratch: str) -> None:
        from ray import tune

        from promptgraft.search.running.scheduler import StudyScheduler
        from promptgraft.search.running.searcher import HardEnd
        from promptgraft.search.running.watchdog import StudyWatchdog

        resources = self.study.file.resources
        request = {"cpu": resources.cpu, "gpu": resources.gpu}
        for side_jobs in self.state.side_jobs:
            side_jobs.reset()
        self.concurrent = self._slots(session)
        self._record_run()
        scheduler = StudyScheduler(self.ledger, self.state, self)
        watchdog = StudyWatchdog(
            self.state,
            scheduler,
            session,
            trial_timeout_s=self.study.file.budget.trial_timeout,
            count_slots=lambda: max(1, self._slots(session)),
            tidy=self._tidy,
        )
        tuner = tune.Tuner(
            tune.with_resources(self.trainable(), request),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=10**9,
                max_concurrent_trials=self.concurrent,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=self.study.name,
                storage_path=scratch,
                verbose=0,
                # Ray's own choice in a notebook clears what its cell has shown.
                progress_reporter=tune.CLIReporter(),
                callbacks=[watchdog],
                stop=HardEnd(self.limits.ends_at, lambda: session.stop.came),
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        )
        tuner.fit()

    def _record_run(self) -> None:
        files = self.options.folder.files_url
        run = (self.ledger.study, self.limits, self.concurrent, files, self.ledger.owner)
        until_storage_answers(lambda: record_run(*run))

    def trainable(self) -> object:
        """Return what Ray runs for a trial."""
        from ray import tune

        from promptgraft.search.workers import TrialRunner

        return tune.with_parameters(
            TrialRunner,
            spec=replace(self.study.objective, files=self.options.folder.files_url),
            tasks=shared_tasks(self.study),
            checkpoint_every_s=self.study.file.checkpoint.every,
            threads=self.study.file.resources.cpu,
        )

    def on_stage(self, number: int, message: StageProgress) -> None:
        """Show where a trial is before its next evaluation."""
        self.progress.in_stage(number, message)

    def on_evaluated(self, number: int, message: Evaluated) -> None:
        """Show a trial's value."""
        self.progress.evaluated(number, message)
        self._show()

    @wait_for_storage
    def on_trial_ending(self, number: int, messages: list[Evaluated]) -> None:
        """Write a trial's note for the dashboard just before its state is stored."""
        live, ledger = self.ledger.live[number], self.ledger
        place = (live.trial_id, number, self.options.folder)
        describe_trial(ledger.study, ledger.storage, place, live.proposal.candidate, messages, self.study)

    def on_trial_ended(self, number: int, state: TrialState, value: float | None, cause: str) -> None:
        """Show a trial's end, and drop the weights that can't win any more."""
        self._show()
        if state == TrialState.COMPLETE:
            self._rank()
            self._note_front()
        self._tracking.add_trial(number)
        self.progress.ended(number, state.name, value, cause)

    @wait_for_storage
    def _note_front(self) -> None:
        self._plots.update()
        if self.study.file.minimize:
            save_study_note(self.ledger.study, self.study)

    @wait_for_storage
    def _rank(self) -> None:
        """Show the best trial."""
        best = best_trial(self.ledger.study)
        if best is not None:
            score = float32_scores(self.ledger.study).get(best.number)
            self.progress.best = (best.number, float((score.value if score else metric_of(best)) or 0.0))

    @wait_for_storage
    def _tidy(self) -> None:
        """Delete the weights of those that can't win, and see that the disk doesn't fill up."""
        self.ledger.refresh()
        best = trials_to_keep(self.ledger.study, ranked_trials(self.ledger.study), self.study.file.judging.finalists)
        use = tidy(self.files, self.ledger.trials, best, self.limits.disk_bytes, self.study.file.cache.disk)
        self.state.disk_full = use.full

    def _show(self) -> None:
        self.progress.update(self.ledger.counts(), self.ledger.finished)
        if time.monotonic() >= self._forecast_at:
            self._forecast_at = time.monotonic() + 1
            others = max(0, self.ledger.states[TrialState.RUNNING] - len(self.ledger.live))
            slots = self.concurrent + others
            self.progress.forecast = forecast(self.ledger.trials, self.limits, slots, time.time())

    @wait_for_storage
    def _outcome(self, ended_because: str | None, needs_help: bool = False) -> RunOutcome:
        ledger = self.ledger
        found = transfer(ledger.study, reach_verdict(ledger.study).winner)
        lines = [line for line in (headline_of(ledger.study), found.warning if found else None) if line]
        failure = None if ended_because is None else self._nothing_completed()
        if failure:
            ended_because, needs_help = f"{ended_because}, but {failure}", True
        counts = (ledger.counts(), ledger.finished, max(self.limits.trials, ledger.finished))
        return RunOutcome(*counts, ended_because, needs_help, tuple(lines), ledger.cut_off)

    def _nothing_completed(self) -> str | None:
        """Say why there is nothing to ship, if no trial is COMPLETE; None if one is."""
        trials = self.ledger.trials
        if any(trial.state == TrialState.COMPLETE for trial in trials):
            return None
        failed = [own for own in trials if own.state == TrialState.FAIL and not TrialRecord.of(own).is_interrupted]
        if not failed:
            return "no trial is complete; run it again, with more time: what was computed stays"
        last = failed[-1]
        return f"no trial is complete; {len(failed)} failed, trial {last.number} with: {TrialRecord.of(last).cause}"

    def _local_ray(self) -> LocalRay:
        return LocalRay.of(self.study.file, self.options.concurrent)

    def _slots(self, session: RaySession) -> int:
        return trial_slots(self.study.file.resources, session.resources(), self.options.concurrent)

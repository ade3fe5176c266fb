"""Repeats while the search goes on: its best trials earn them, so that what is believed of them is more than luck.

They are those that the race of the best would run next (`search.judging.verdict`), recorded as its own; the race goes
on from them once the search has ended. So a partial verdict is there while the search still runs.
"""

import time
from collections.abc import Callable

from promptgraft.search.judging import reach_verdict, repeat_name
from promptgraft.search.sampling import wording_of
from promptgraft.search.side_jobs.base import StudyView
from promptgraft.search.storage import (
    REPEAT,
    Outcome,
    StudyRecord,
    TrialRecord,
    repeat_attr,
    wait_for_storage,
    write_study,
)
from promptgraft.search.trials import Failed, Job, RepeatJob, SideJobDone, compute_seconds


class EarlyRepeats:
    """Hands out repeats of the best trials, as long as they take no more than a share of the compute.

    A first repeat is earned by who is among the best of the search when there is room for one; it then stays in the
    race, though others are better later.

    Args:
        ledger: The study.
        seed: Its seed.
        share: What they may take, as a share of what trials took so far.
        on_repeat: Called with the name and the outcome of each.
    """

    def __init__(self, ledger: StudyView, seed: int, share: float, on_repeat: Callable[[str, Outcome], None]) -> None:
        self.ledger = ledger
        self.seed = seed
        self.share = share
        self.on_repeat = on_repeat
        self._begun: dict[tuple[int, int], float] = {}
        self._given_up: set[tuple[int, int]] = set()
        self._seen = -1

    @property
    def running(self) -> int:
        """How many of them workers are at."""
        return len(self._begun)

    def owns(self, job: Job) -> bool:
        """Whether a job is a repeat."""
        return isinstance(job, RepeatJob)

    @wait_for_storage
    def next_job(self) -> RepeatJob | None:
        """Return the most urgent repeat, unless those before it took too much; looks again when a trial has ended."""
        if self._seen == self.ledger.finished:
            return None
        stored, known = self.ledger.study, {*self._begun, *self._given_up}
        left = [
            (trial, repeat) for trial, repeat in reach_verdict(stored).missing if (trial.number, repeat) not in known
        ]
        took = StudyRecord.of(stored).seconds(REPEAT)
        room = self.share * compute_seconds(self.ledger.trials, time.time()) - sum(took) - sum(self._begun.values())
        record = TrialRecord.of(left[0][0]) if left else None
        seconds = (record.figure("seconds") or 0.0) if record else 0.0
        if record is None or record.best_step is None or seconds > room:
            self._seen = self.ledger.finished
            return None
        trial, repeat = left[0]
        self._begun[trial.number, repeat] = seconds
        candidate = record.candidate
        return RepeatJob(
            trial=trial.number,
            repeat=repeat,
            step=record.best_step,
            candidate=candidate,
            seed=self.seed,
            **wording_of(self.ledger.space, candidate),
        )

    @wait_for_storage
    def on_result(self, job: Job, message: SideJobDone | Failed) -> None:
        """Record a repeat's outcome; one that failed keeps its trial from winning."""
        assert isinstance(job, RepeatJob)
        outcome = Outcome(failure=message.cause) if isinstance(message, Failed) else message.found
        assert isinstance(outcome, Outcome)
        write_study(self.ledger.study, repeat_attr(job.trial, job.repeat), outcome)
        self._begun.pop((job.trial, job.repeat), None)
        self._seen = -1
        self.on_repeat(repeat_name(job.trial, job.repeat), outcome)

    def on_worker_lost(self, job: Job, cause: str) -> None:  # noqa: ARG002
        """Leave a repeat whose worker died to the time after the search."""
        assert isinstance(job, RepeatJob)
        self._begun.pop((job.trial, job.repeat), None)
        self._given_up.add((job.trial, job.repeat))

    def reset(self) -> None:
        """Have those run again whose workers ended with their Ray."""
        self._begun.clear()
        self._seen = -1

"""What the tuned systems share: rows to choose by, and a search that ends in time to refit and to predict."""

import time
from collections.abc import Callable
from typing import Any

import optuna
from sklearn.model_selection import train_test_split

from peers.quality.job import Job, Rows, cpu_seconds

MANY_TRIALS = 100_000
VALIDATION_SHARE = 0.33
TIMED_ROWS = 64
TRAINING_TO_PREDICTING = 4  # An update costs about as much as predicting its texts so many times.
LARGEST_TRIAL = 0.3  # Of the CPU time left when the search begins.
MARGIN = 1.1
MIN_UPDATES, MAX_UPDATES = 8, 400
SHORTEST = 8  # The longest trial has so many times the updates of the shortest.


def hold_out(job: Job) -> tuple[Rows, Rows]:
    """Split the labelled rows for the search; the winner is fitted again on all of them."""
    fitted, chosen_by = train_test_split(
        list(range(len(job.train))), test_size=VALIDATION_SHARE, stratify=job.train.labels, random_state=job.seed
    )
    return job.train.take(fitted), job.train.take(chosen_by)


class Clock:
    """Ends a search while there is CPU time for fitting the best trial again, and for predicting.

    Args:
        job: With the CPU-seconds that the whole process may use.
        predict: Predicts the rows that it is given; timed once.
    """

    def __init__(self, job: Job, predict: Callable[[Rows], object]) -> None:
        assert job.budget_s is not None
        predict(job.test.take([0]))  # What is only done once isn't timed.
        started = time.process_time()
        predict(job.test.take(list(range(TIMED_ROWS))))
        self.row_s = (time.process_time() - started) / TIMED_ROWS
        self.deadline_s = job.budget_s - MARGIN * self.row_s * len(job.test)
        self.largest_s = LARGEST_TRIAL * (self.deadline_s - cpu_seconds())
        self.longest_s, self.started_s = 0.0, cpu_seconds()
        self.trials = 0

    def updates(self, texts: int) -> tuple[int, int]:
        """Return the range for a trial's updates on so many texts each."""
        affordable = int(self.largest_s / (self.row_s * texts * TRAINING_TO_PREDICTING))
        most = min(max(affordable, MIN_UPDATES), MAX_UPDATES)
        return max(most // SHORTEST, MIN_UPDATES), most

    def begin(self, trial: Any) -> None:
        """Note that a trial begins; end the study instead, if it and the refit could take too long.

        Raises:
            optuna.TrialPruned: The study ends; the first trial is never refused.
        """
        now = cpu_seconds()
        self.longest_s, self.started_s = max(self.longest_s, now - self.started_s), now
        if self.trials and now + MARGIN * 2 * self.longest_s > self.deadline_s:
            trial.study.stop()
            raise optuna.TrialPruned
        self.trials += 1

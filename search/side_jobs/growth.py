"""When the pool of templates grows while a study runs.

A round runs on a worker, as trials do (`objectives.growth.rounds`), and its outcome is written to the study.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from optuna.study import StudyDirection

from promptgraft.search.sampling import FOUND_NOTHING, ranked_templates
from promptgraft.search.side_jobs.base import GROWTH_JOB, StudyView
from promptgraft.search.study import GrowSection

logger = logging.getLogger(__name__)
# Times that a round is run again whose worker died.
MAX_LOST = 2


class Grower:
    """Decides when the pool of a running study grows, and takes down what a round found.

    Args:
        ledger: The study.
        section: How it grows.
        seed: Seed of the study.
        last: Finished trials after which no round is of use.
        writer: The model that writes, with an absolute path; None where the backbone does.
        listener: Is told when templates have joined.

    Attributes:
        name: What it is; see `search.side_jobs.base`.
        running: How many rounds workers are at: one or none.
    """

    name = GROWTH_JOB

    def __init__(
        self,
        ledger: StudyView,
        section: GrowSection,
        seed: int,
        last: int,
        writer: Mapping[str, str] | None,
        listener: Callable[[str], None],
    ) -> None:
        self.ledger = ledger
        self.section = section
        self.seed = seed
        self.last = last
        self.writer = writer
        self.listener = listener
        self.running = 0
        self._lost = 0

    def next_work(self) -> dict[str, Any] | None:
        """Return what a worker needs for a round; None if none is due."""
        ledger, pool = self.ledger, self.ledger.pool
        due = len(ledger.space.templates) < self.section.limit and ledger.finished >= pool.rounds * self.section.every
        if self.running or not due or ledger.finished >= self.last:
            return None
        maximize = ledger.study.directions[0] == StudyDirection.MAXIMIZE
        parents = ranked_templates(ledger.space, ledger.trials, ledger.untrained_scores(), maximize=maximize)
        self.running = 1
        return {
            "round": pool.rounds,
            "parents": parents,
            "sources": list(self.section.sources),
            "size": min(self.section.size, self.section.limit - len(ledger.space.templates)),
            "writer": self.writer,
            "verbalizers": self.section.verbalizers,
            "label_words": self.section.label_words,
            "verbalizer_sources": list(self.section.verbalizer_sources),
            "known_verbalizers": ledger.space.verbalizers,
            "seed": self.seed,
        }

    def told(self, work: Mapping[str, Any], growth: Mapping[str, Any] | None, failure: str | None) -> None:
        """Take down a round's outcome.

        Args:
            work: What the worker was given.
            growth: What a worker found; see `worker.grow_pool`. None if it found nothing.
            failure: Why it found nothing; it isn't tried again then.
        """
        self.running, round_ = 0, work["round"]
        if failure is not None:
            logger.warning("no templates joined in round %d: %s", round_, failure)
        before = len(self.ledger.pool.templates), len(self.ledger.pool.verbalizers)
        pool = self.ledger.record_growth(round_, growth or FOUND_NOTHING)
        names = [template.id for template in pool.templates[before[0] :]]
        names += [verbalizer.id for verbalizer in pool.verbalizers[before[1] :]]
        if names:
            self.listener(f"round {round_}: {', '.join(names)} joined")

    def worker_died(self, work: Mapping[str, Any], cause: str) -> None:
        """Have a round run again whose worker died; not for ever."""
        self.running = 0
        self._lost += 1
        if self._lost > MAX_LOST:
            self._lost = 0
            self.told(work, None, cause)

    def forget(self) -> None:
        """Have a round run again whose worker ended with its Ray."""
        self.running = 0

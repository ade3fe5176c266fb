"""When the pool of templates grows while a study runs.

A round runs on a worker, as trials do (`objectives.growth.rounds`), and its outcome is written to the study.
"""

import logging
from collections.abc import Callable

from optuna.study import StudyDirection

from promptgraft.objectives.growth import Growth, GrowthPlan
from promptgraft.search.sampling import ranked_templates
from promptgraft.search.side_jobs.base import StudyView
from promptgraft.search.study import GrowSection
from promptgraft.search.trials import Failed, GrowthJob, Job, SideJobDone

logger = logging.getLogger(__name__)

# Times that a round is run again whose worker died.
MAX_LOST = 2


class GrowthJobs:
    """Decides when the pool of a running study grows, and records what a round found.

    Args:
        ledger: The study.
        plan: What a round is asked for.
        section: How often there is a round, and how many templates there may be in all.
        last: Finished trials after which no round is of use.
        seed: Seed of the study.
        on_growth: Called with a line when templates have joined.

    Attributes:
        running: How many rounds workers have: one or none.
    """

    def __init__(
        self,
        ledger: StudyView,
        plan: GrowthPlan,
        section: GrowSection,
        *,
        last: int,
        seed: int,
        on_growth: Callable[[str], None],
    ) -> None:
        self.ledger = ledger
        self.plan = plan
        self.every = section.every
        self.limit = section.limit
        self.last = last
        self.seed = seed
        self.on_growth = on_growth
        self.running = 0
        self._lost = 0

    def owns(self, job: Job) -> bool:
        """Whether a job is a round of growth."""
        return isinstance(job, GrowthJob)

    def next_job(self) -> GrowthJob | None:
        """Return the next round; None if none is due."""
        ledger, pool = self.ledger, self.ledger.pool
        room = self.limit - len(ledger.space.templates)
        is_due = room > 0 and ledger.finished >= pool.rounds * self.every
        if self.running or not is_due or ledger.finished >= self.last:
            return None
        maximize = ledger.study.directions[0] == StudyDirection.MAXIMIZE
        parents = ranked_templates(ledger.space, ledger.trials, ledger.untrained_scores(), maximize=maximize)
        self.running = 1
        return GrowthJob(
            round=pool.rounds,
            parents=parents,
            verbalizers=ledger.space.verbalizers,
            plan=self.plan.of_size(min(self.plan.size, room)),
            seed=self.seed,
        )

    def on_result(self, job: Job, message: SideJobDone | Failed) -> None:
        """Record a round's outcome; one that failed has found nothing, and isn't tried again."""
        assert isinstance(job, GrowthJob)
        self.running = 0
        growth = None
        if isinstance(message, Failed):
            logger.warning("no templates joined in round %d: %s", job.round, message.cause)
        elif isinstance(message.found, Growth):
            growth = message.found
        before = len(self.ledger.pool.templates), len(self.ledger.pool.verbalizers)
        pool = self.ledger.record_growth(job.round, growth)
        joined = [template.id for template in pool.templates[before[0] :]]
        joined += [verbalizer.id for verbalizer in pool.verbalizers[before[1] :]]
        if joined:
            self.on_growth(f"round {job.round}: {', '.join(joined)} joined")

    def on_worker_lost(self, job: Job, cause: str) -> None:
        """Have a round run again whose worker died; not for ever."""
        self.running = 0
        self._lost += 1
        if self._lost > MAX_LOST:
            self._lost = 0
            self.on_result(job, Failed(cause))

    def reset(self) -> None:
        """Have a round run again whose worker ended with its Ray."""
        self.running = 0

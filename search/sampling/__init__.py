"""What is tried next: draws, the pool of templates, and pruning."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.search.sampling.baselines import baseline_candidates as baseline_candidates
    from promptgraft.search.sampling.baselines import queue_baselines as queue_baselines
    from promptgraft.search.sampling.fold_race import FoldRace as FoldRace
    from promptgraft.search.sampling.pool import ranked_templates as ranked_templates
    from promptgraft.search.sampling.pool import record_growth as record_growth
    from promptgraft.search.sampling.pool import study_as_run as study_as_run
    from promptgraft.search.sampling.pool import with_pool as with_pool
    from promptgraft.search.sampling.pool import wording_of as wording_of
    from promptgraft.search.sampling.proposals import Proposal as Proposal
    from promptgraft.search.sampling.proposals import Proposals as Proposals
    from promptgraft.search.sampling.pruning import Pruning as Pruning
    from promptgraft.search.sampling.starts import first_trials as first_trials
    from promptgraft.search.sampling.starts import queue_start_points as queue_start_points
    from promptgraft.search.sampling.starts import start_points as start_points
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

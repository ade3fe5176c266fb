"""What workers do beside trials: rounds of growth, and repeats of the best trials."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.search.side_jobs.base import SideJobs as SideJobs
    from promptgraft.search.side_jobs.early_repeats import EarlyRepeats as EarlyRepeats
    from promptgraft.search.side_jobs.growth import GrowthJobs as GrowthJobs
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

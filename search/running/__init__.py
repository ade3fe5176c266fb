"""One run of the search: driver, ledger, Ray Tune join, and judging at the end."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.search.running.compatibility import check_edits as check_edits
    from promptgraft.search.running.ledger import StudyLedger as StudyLedger
    from promptgraft.search.running.progress import Progress as Progress
    from promptgraft.search.running.ray_session import early_start as early_start
    from promptgraft.search.running.run_state import RunOptions as RunOptions
    from promptgraft.search.running.run_state import RunOutcome as RunOutcome
    from promptgraft.search.running.run_state import SearchSettings as SearchSettings
    from promptgraft.search.running.starting import run_study as run_study
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

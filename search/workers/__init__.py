"""What runs in Ray's workers."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.search.workers.nodes import check_nodes as check_nodes
    from promptgraft.search.workers.rehearsal import RehearsalProcess as RehearsalProcess
    from promptgraft.search.workers.worker import RepeatRunner as RepeatRunner
    from promptgraft.search.workers.worker import TrialRunner as TrialRunner
    from promptgraft.search.workers.worker import score_finalists as score_finalists
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

"""Reports on a running study to other tools: experiment trackers, and a URL when it ends."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.search.tracking.trackers import Tracking as Tracking
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

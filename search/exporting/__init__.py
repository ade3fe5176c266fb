"""The winner as a bundle."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.search.exporting.confidence import confidence_lines as confidence_lines
    from promptgraft.search.exporting.winner import Export as Export
    from promptgraft.search.exporting.winner import ExportOptions as ExportOptions
    from promptgraft.search.exporting.winner import export_winner as export_winner
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

"""A first study file, drafted from a table of labelled rows."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.search.drafting.columns import view_table as view_table
    from promptgraft.search.drafting.study_draft import draft_study as draft_study
    from promptgraft.search.drafting.study_draft import write_draft as write_draft
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

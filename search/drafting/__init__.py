"""A first study file, drafted from a table of labelled rows."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.search.drafting.columns import TableView as TableView
    from promptgraft.search.drafting.columns import UnclearColumnError as UnclearColumnError
    from promptgraft.search.drafting.columns import view_table as view_table
    from promptgraft.search.drafting.cost import cost_line as cost_line
    from promptgraft.search.drafting.languages import suggested_models as suggested_models
    from promptgraft.search.drafting.study_draft import DraftOptions as DraftOptions
    from promptgraft.search.drafting.study_draft import draft_study as draft_study
    from promptgraft.search.drafting.study_draft import study_name_of as study_name_of
    from promptgraft.search.drafting.study_draft import write_draft as write_draft
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

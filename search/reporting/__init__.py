"""What a person is shown: status, report, and what Optuna Dashboard has of a study."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.search.reporting.dashboard_notes import save_study_note as save_study_note
    from promptgraft.search.reporting.dashboard_plots import DashboardPlots as DashboardPlots
    from promptgraft.search.reporting.dashboard_plots import save_plots as save_plots
    from promptgraft.search.reporting.dashboard_tables import artifact_store as artifact_store
    from promptgraft.search.reporting.dashboard_tables import describe_trial as describe_trial
    from promptgraft.search.reporting.facts import Facts as Facts
    from promptgraft.search.reporting.facts import collect_facts as collect_facts
    from promptgraft.search.reporting.facts import fact_tables as fact_tables
    from promptgraft.search.reporting.facts import study_with_rows as study_with_rows
    from promptgraft.search.reporting.history import names_of as names_of
    from promptgraft.search.reporting.other_study import ReportedStudy as ReportedStudy
    from promptgraft.search.reporting.other_study import side_by_side as side_by_side
    from promptgraft.search.reporting.page import render_page as render_page
    from promptgraft.search.reporting.page import write_page as write_page
    from promptgraft.search.reporting.run_view import RunView as RunView
    from promptgraft.search.reporting.run_view import view_run as view_run
    from promptgraft.search.reporting.sources import MEANING as MEANING
    from promptgraft.search.reporting.sources import RankedSources as RankedSources
    from promptgraft.search.reporting.sources import ranked_sources as ranked_sources
    from promptgraft.search.reporting.sources import source_table as source_table
    from promptgraft.search.reporting.status import BestTrial as BestTrial
    from promptgraft.search.reporting.status import Summary as Summary
    from promptgraft.search.reporting.status import front_lines as front_lines
    from promptgraft.search.reporting.status import reading_line as reading_line
    from promptgraft.search.reporting.status import status_lines as status_lines
    from promptgraft.search.reporting.status import summarize as summarize
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

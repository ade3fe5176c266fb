"""A report's tables, for pandas and spreadsheets."""

import pandas as pd

from promptgraft.search.reporting.facts import Facts
from promptgraft.search.storage import to_json


def fact_tables(facts: Facts) -> dict[str, pd.DataFrame]:
    """Return a report's tables: `trials`, `curves`, `finalists`, `controls` and `importances`."""
    trials = [
        {name: value for name, value in entry.items() if name not in ("knobs", "curve", "values")}
        | {f"values.{name}": value for name, value in entry["values"].items()}
        | {f"params.{name}": value for name, value in entry["knobs"].items()}
        for entry in to_json(facts.history)
    ]
    curves = [(entry["trial"], *point) for entry in to_json(facts.history) for point in entry["curve"]]
    judged = to_json(facts.summary.verdict.finalists)
    repeats = [
        {name: value for name, value in entry.items() if name != "values"}
        | {f"repeat_{place}": value for place, value in enumerate(entry["values"], 1)}
        for entry in judged
    ]
    columns = ["name", "mean", "standard_error", "repeats", "failed"]
    controls = pd.json_normalize(to_json(facts.summary.transfer.controls) if facts.summary.transfer else [])
    return {
        "trials": pd.DataFrame(trials),
        "curves": pd.DataFrame(curves, columns=["trial", "step", "value"]),
        "finalists": pd.DataFrame(repeats, columns=None if repeats else ["number", "mean", "standard_error"]),
        "controls": controls if len(controls) else pd.DataFrame(columns=columns),
        "importances": pd.DataFrame(
            to_json(facts.importances.knobs), columns=["name", "importance", "low", "high", "by_chance"]
        ),
    }

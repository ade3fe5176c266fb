"""A report's tables, for pandas and spreadsheets."""

from collections.abc import Mapping
from typing import Any

import pandas as pd


def fact_tables(facts: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Return a report's tables: `trials`, `curves`, `finalists`, `controls` and `importances`."""
    trials = [
        {name: value for name, value in entry.items() if name not in ("knobs", "curve", "values")}
        | {f"values.{name}": value for name, value in entry["values"].items()}
        | {f"params.{name}": value for name, value in entry["knobs"].items()}
        for entry in facts["history"]
    ]
    curves = [(entry["trial"], *point) for entry in facts["history"] for point in entry["curve"]]
    judged = facts["summary"]["verdict"]["finalists"]
    repeats = [
        {name: value for name, value in entry.items() if name != "values"}
        | {f"repeat_{place}": value for place, value in enumerate(entry["values"], 1)}
        for entry in judged
    ]
    columns = ["name", "mean", "standard_error", "repeats", "failed"]
    controls = pd.json_normalize((facts["summary"].get("transfer") or {"controls": []})["controls"])
    return {
        "trials": pd.DataFrame(trials),
        "curves": pd.DataFrame(curves, columns=["trial", "step", "value"]),
        "finalists": pd.DataFrame(repeats, columns=None if repeats else ["number", "mean", "standard_error"]),
        "controls": controls if len(controls) else pd.DataFrame(columns=columns),
        "importances": pd.DataFrame(
            facts["importances"]["knobs"], columns=["name", "importance", "low", "high", "by_chance"]
        ),
    }

"""JSON Schemas of what commands print with `--json`, made from the dataclasses that they print."""

import inspect
import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import DataclassSchema

DIALECT = "https://json-schema.org/draft/2020-12/schema"
# Commands that have `--json`.
COMMANDS = ("sources", "status", "best", "report", "verify", "compare", "history")


@dataclass(frozen=True, slots=True)
class VerifyOutput:
    """What `verify` found.

    Attributes:
        passed: Whether everything is as it was exported, and nothing else is in the folder.
        tolerance: Largest `difference` that is allowed.
        problems: File, and what is wrong with it; none if the bundle is the exported one.
        unlisted: Files in the bundle's folder that its manifest doesn't list.
        rows: Number of example rows that were predicted.
        agreeing: Number of them that got the label that the trial gave them.
        difference: Largest difference to the trial's logits, as a share of the largest of these; null if none was
            computed.
    """

    passed: bool
    tolerance: float
    problems: tuple[tuple[str, str], ...]
    unlisted: tuple[str, ...]
    rows: int
    agreeing: int
    difference: float | None


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """A promotion or a rollback.

    Attributes:
        version: The version that became champion.
        action: What was done.
        when: When, in ISO 8601.
        who: By whom.
        study: The study that the bundle is from.
        trial: The trial that it is from.
        digest: Hash of the bundle.
    """

    version: int
    action: Literal["promote", "roll back"]
    when: str
    who: str
    study: str
    trial: int
    digest: str


@dataclass(frozen=True, slots=True)
class HistoryOutput:
    """Promotions and rollbacks.

    Attributes:
        history: All of them; the last one is the champion.
    """

    history: tuple[HistoryEntry, ...]


def output_schema(command: str) -> dict[str, Any]:
    """Return the JSON Schema of what a command prints with `--json`.

    Args:
        command: One of `COMMANDS`; `history` is that of `registry`.
    """
    found = TypeAdapter(_printed(command)).json_schema(mode="serialization", schema_generator=_Generator)
    return {"$schema": DIALECT, **found}


def _printed(command: str) -> Any:
    from promptgraft.bundles import BundleComparison
    from promptgraft.search.judging import MetricComparison
    from promptgraft.search.reporting import BestTrial, Facts, RankedSources, Summary

    compared = BundleComparison | MetricComparison
    printed = (RankedSources, Summary | tuple[Summary, ...], BestTrial, Facts, VerifyOutput, compared)
    return dict(zip(COMMANDS, (*printed, HistoryOutput), strict=True))[command]


class _Generator(GenerateJsonSchema):
    """Takes what a docstring says of attributes, and names and allows the keys that `to_json` writes."""

    def dataclass_schema(self, schema: DataclassSchema) -> JsonSchemaValue:
        found = super().dataclass_schema(schema)
        text = inspect.getdoc(schema["cls"]) or ""
        entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text.partition("Attributes:")[2], re.MULTILINE)
        meanings = {name: re.sub(r"\bNone\b", "null", " ".join(meaning.split())) for name, meaning in entries}
        properties = {
            name.removesuffix("_"): {key: value for key, value in own.items() if key != "title"}
            | ({"description": meanings[name]} if name in meanings else {})
            for name, own in found.get("properties", {}).items()
        }
        found |= {"description": text.partition("\n")[0], "properties": properties, "additionalProperties": False}
        if "required" in found:
            found["required"] = [name.removesuffix("_") for name in found["required"]]
        return found

"""What commands print with `--json`, held against their schemas."""

import json
from typing import Any

import jsonschema

from promptgraft.search.cli.outputs import output_schema


def printed(command: str, text: str) -> Any:
    """Parse what a command printed, which its JSON Schema must allow."""
    found = json.loads(text)
    jsonschema.Draft202012Validator(output_schema(command)).validate(found)
    return found

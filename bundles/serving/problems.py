"""What a server answers to requests that it refuses."""

from collections.abc import Mapping
from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field


class Problem(BaseModel):
    """Reason why a request was refused."""

    error: str = Field(description="What is wrong, and where.")


def problem(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return the answer to a request that is refused, with the reason."""
    # Half a surrogate pair can't be sent as UTF-8, so it is escaped.
    content = {"error": message.encode("utf-8", "backslashreplace").decode()}
    return JSONResponse(content, status, headers=dict(headers or {}))


# As OpenAPI has them.
PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "Request body is not valid JSON."},
    403: {"model": Problem, "description": "Request comes from a page of another site."},
    408: {"model": Problem, "description": "Request did not arrive in time."},
    413: {"model": Problem, "description": "Request body is too large, or its images have too many pixels."},
    415: {"model": Problem, "description": "Request body is of a type that the server does not read."},
    422: {"model": Problem, "description": "Rows are not valid."},
    429: {"model": Problem, "description": "Too many rows are waiting; try again later."},
    503: {"model": Problem, "description": "Too many large requests arrive at once; try again later."},
}

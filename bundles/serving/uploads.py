"""Images that a request brings: as files (multipart/form-data), and with no more pixels than are decoded."""

import json
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from promptgraft.bundles.serving.batcher import ServingLimits
from promptgraft.bundles.serving.problems import problem
from promptgraft.objectives.data import TooManyPixelsError, UnreadableImageError, image_size

MULTIPART = "multipart/form-data"


class Uploads:
    """Makes files of images the JSON body that a path takes, so that both are read and refused alike.

    Args:
        app: What takes the JSON body.
        single: Path that predicts one row.
        batch: Path that predicts several, of which each file is one.
        limits: What the server accepts.
    """

    def __init__(self, app: ASGIApp, *, single: str, batch: str, limits: ServingLimits) -> None:
        self._app, self._single, self._batch, self._limits = app, single, batch, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["path"] not in (self._single, self._batch) or not _is_upload(scope):
            await self._app(scope, receive, send)
            return
        # One more than it takes, which the path refuses as it does with too many rows of JSON.
        most = self._limits.request_rows + 1
        parser = MultiPartParser(
            Headers(scope=scope), Request(scope, receive).stream(), max_files=most, max_fields=most
        )
        try:
            form = await parser.parse()
        except (MultiPartException, ValueError) as error:
            refusal = problem(400, f"the body is not valid {MULTIPART}: {getattr(error, 'message', error)}")
            await refusal(scope, receive, send)
            return
        try:
            reason = next(self._refusals(scope["path"], form.multi_items()), None)
            if reason is not None:
                await problem(422, reason)(scope, receive, send)
                return
            files = [(name, file) for name, file in form.multi_items() if isinstance(file, UploadFile)]
            rows = [{name: f"data:;base64,{b64encode(await file.read()).decode()}"} for name, file in files]
        finally:
            await form.close()
        content = {"rows": rows} if scope["path"] == self._batch else {key: row[key] for row in rows for key in row}
        messages: list[Message] = [{"type": "http.request", "body": json.dumps(content).encode(), "more_body": False}]

        async def body() -> Message:
            return messages.pop() if messages else await receive()

        kept = [(name, value) for name, value in scope["headers"] if name not in (b"content-type", b"content-length")]
        await self._app({**scope, "headers": [*kept, (b"content-type", b"application/json")]}, body, send)

    def _refusals(self, path: str, parts: Sequence[tuple[str, UploadFile | str]]) -> Iterator[str]:
        """Say what is wrong with the parts of a body before files are read."""
        several = [name for name, count in Counter(name for name, _ in parts).items() if count > 1]
        if several and path == self._single:
            yield f"{several[0]}: several files, and {path} takes one; send them to {self._batch}"
        for name, part in parts:
            if isinstance(part, str):
                yield f"{name}: a text, not a file; send a file, as curl -F {name}=@photo.jpg does"
            elif not part.size:
                yield f"{name}: the file {part.filename!r} is empty"


def _is_upload(scope: Scope) -> bool:
    return Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower() == MULTIPART


def upload_schema(fields: Sequence[str], *, several: bool) -> dict[str, Any]:
    """Return what OpenAPI says of a path that takes files: their fields, each a file or some.

    Args:
        fields: Fields of a row.
        several: Whether a field may have several files, each of a row.
    """
    file = {"type": "string", "format": "binary", "description": "File of an image."}
    field: dict[str, Any] = {"type": "array", "items": file, "minItems": 1, "description": "Files of images, in order."}
    properties = dict.fromkeys(fields, field if several else file)
    schema = {"type": "object", "properties": properties, "required": list(fields), "additionalProperties": False}
    return {"requestBody": {"content": {MULTIPART: {"schema": schema}}}}


def too_many_pixels(rows: Sequence[Mapping[str, str]], limits: ServingLimits) -> str | None:
    """Say why images aren't decoded: one is too large, or all together are; None if they are.

    Args:
        rows: Rows of images as data URIs. Those that are no images are passed over.
        limits: What the server accepts.
    """
    total = 0
    for place, row in enumerate(rows):
        for name, reference in row.items():
            try:
                height, width = image_size(reference)
            except TooManyPixelsError as error:
                return f"{f'rows.{place}.' if len(rows) > 1 else ''}{name}: {error.reason}"
            except UnreadableImageError:
                continue
            total += height * width
    if total > limits.request_pixels:
        return (
            f"the images have {total} pixels together, which is more than {limits.request_pixels}; send fewer of them"
        )
    return None

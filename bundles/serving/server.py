"""A bundle behind HTTP: predictions of single rows and batches, health, metrics."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field, create_model
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from promptgraft.bundles import check_abstaining, why_refused
from promptgraft.bundles.serving.answers import Answers
from promptgraft.bundles.serving.batcher import Batcher, Metrics, OverloadedError, ServedModel, ServingLimits
from promptgraft.bundles.serving.problems import PROBLEMS, Problem, problem
from promptgraft.bundles.serving.uploads import MULTIPART, Uploads, too_many_pixels, upload_schema
from promptgraft.spaces import InvalidInputError

logger = logging.getLogger(__name__)

_SINGLE, _BATCH = "/predict", "/predict/batch"
# So much of each body doesn't count towards what all may have together: small requests get through in any case.
_FREE_BYTES = 64 * 2**10

# A character that is neither white space nor a control character: text without any would be empty once stripped.
_SOMETHING = r"[^\s\x00-\x1f\x7f-\x9f]"
_IMAGE = r"^data:[a-zA-Z0-9.+/-]*;base64,[A-Za-z0-9+/]+=*$"


class State(BaseModel):
    """Server status."""

    status: str = Field(description="alive or ready.")


class About(BaseModel):
    """The bundle that is served."""

    study: str = Field(description="Name of the study.")
    trial: int = Field(description="Number of the trial.")
    digest: str = Field(description="SHA-256 of the bundle's manifest.")
    labels: list[str] = Field(description="Labels that can be predicted, or the name of the number.")
    fields: list[str] = Field(description="Fields of a row.")
    abstain_below: float = Field(description="Smallest probability at which a row gets a label.")


def _bodies(fields: Sequence[str], limits: ServingLimits, *, images: bool) -> tuple[Any, Any]:
    """Build the models of the request bodies for one row and for several.

    Images come within the body: paths would be those of files of this machine. As base64 they are a third longer than
    the files that a body may have in their place.
    """
    longest, pattern = (2 * limits.body_bytes, _IMAGE) if images else (limits.text_characters, _SOMETHING)
    about = "Image as a data URI: data:image/jpeg;base64,... of a file." if images else None
    # Users name the fields, and may choose a name that pydantic reserves; so aliases carry the names.
    given: dict[str, Any] = {
        f"field_{number}": (str, Field(alias=name, max_length=longest, pattern=pattern, description=about))
        for number, name in enumerate(fields)
    }
    row = create_model("Row", __config__=ConfigDict(extra="forbid"), **given)
    several = Annotated[list[row], Field(min_length=1, max_length=limits.request_rows)]
    return row, create_model("Rows", __config__=ConfigDict(extra="forbid"), rows=(several, ...))


def create_app(
    predictors: Sequence[ServedModel],
    fields: Sequence[str],
    about: Mapping[str, Any],
    limits: ServingLimits,
    *,
    local: bool = False,
    abstain_below: float = 0.0,
) -> FastAPI:
    """Build the server.

    Args:
        predictors: Of the same bundle, loaded and ready; each predicts in a thread of its own.
        fields: Fields of a row.
        about: `study`, `trial` and `digest` of the bundle.
        limits: What the server accepts.
        local: Whether it is for this machine only, and refuses requests that are meant for another host.
        abstain_below: Smallest probability at which a row gets a label.
    """
    metrics, task = Metrics(), predictors[0].task
    check_abstaining(task, abstain_below)
    batcher, answers = Batcher(limits, metrics), Answers(task, abstain_below, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        working = [asyncio.create_task(batcher.work(predictor)) for predictor in predictors]
        app.state.ready = True
        yield
        app.state.ready = False
        for task in working:
            task.cancel()

    # What has no content type is read as JSON: pages of other sites, which could send that, are turned away before.
    version = str(about["digest"])[:12]
    app = FastAPI(title="promptgraft", version=version, lifespan=lifespan, docs_url="/docs", strict_content_type=False)
    images = task.reads == "images"
    if images:
        app.add_middleware(Uploads, single=_SINGLE, batch=_BATCH, limits=limits)
    app.add_middleware(_Observed, metrics=metrics, paths={_SINGLE, _BATCH})
    app.add_middleware(_Bounded, limits=limits)
    app.add_middleware(
        _Guarded, local=local, kinds=("application/json", MULTIPART) if images else ("application/json",)
    )
    uploads = [upload_schema(fields, several=own) if images else None for own in (False, True)]
    _add_predictions(app, batcher, answers, _bodies(fields, limits, images=images), uploads)
    bundle = About(**about, labels=list(task.labels), fields=list(fields), abstain_below=abstain_below)
    _add_status(app, bundle, metrics)
    _add_error_handlers(app)
    return app


def _add_predictions(
    app: FastAPI, batcher: Batcher, answers: Answers, bodies: tuple[Any, Any], uploads: Sequence[dict[str, Any] | None]
) -> None:
    """Add the paths that predict rows: one, and several.

    Args:
        app: The server.
        batcher: Predicts.
        answers: Makes answers of predictions.
        bodies: Models of the two paths' bodies.
        uploads: What OpenAPI says of files in their place; None where rows are no images.
    """
    row, batch = bodies

    async def answer(rows: Sequence[Mapping[str, str]]) -> list[BaseModel]:
        if answers.task.reads == "images":
            reason = await asyncio.to_thread(too_many_pixels, rows, batcher.limits)
            if reason is not None:
                raise HTTPException(413, reason)
        try:
            found = await batcher.predict(rows)
        except OverloadedError as error:
            raise HTTPException(429, "too many rows are waiting; try again later", {"Retry-After": "1"}) from error
        except InvalidInputError as error:
            raise HTTPException(422, str(error)) from error
        return [answers.of(expected, text) for expected, text in zip(found, rows, strict=True)]

    several = create_model(
        "Predictions",
        __doc__="Predictions for several rows, in the order of the request.",
        predictions=(list[answers.model], ...),  # type: ignore[name-defined]
    )

    @app.post(_SINGLE, responses=PROBLEMS, response_model=answers.model, openapi_extra=uploads[0])
    async def predict(body: row) -> Any:  # type: ignore[valid-type]
        """Predict one row."""
        (found,) = await answer([_plain(body)])
        return found

    @app.post(_BATCH, responses=PROBLEMS, response_model=several, openapi_extra=uploads[1])
    async def predict_batch(body: batch) -> Any:  # type: ignore[valid-type]
        """Predict several rows."""
        return {"predictions": await answer(_plain(body)["rows"])}


def _add_status(app: FastAPI, bundle: About, metrics: Metrics) -> None:
    """Add the paths that describe the server and its bundle."""

    @app.get("/health")
    async def health() -> State:
        """Report that the process is alive."""
        return State(status="alive")

    @app.get("/ready", responses={503: {"model": Problem, "description": "Server is starting or shutting down."}})
    async def ready() -> State:
        """Report whether the server accepts predictions."""
        if not getattr(app.state, "ready", False):
            raise HTTPException(503, "the server is starting or shutting down")
        return State(status="ready")

    @app.get("/about")
    async def about() -> About:
        """Describe the bundle that is served."""
        return bundle

    @app.get("/metrics", response_class=Response)
    async def prometheus_metrics() -> Response:
        """Return metrics in Prometheus' text format."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_error_handlers(app: FastAPI) -> None:
    """Answer every request that is refused with one message."""

    @app.exception_handler(RequestValidationError)
    async def refuse(_: Request, error: RequestValidationError) -> Response:
        broken = any(entry["type"] == "json_invalid" for entry in error.errors())
        message = "; ".join(_message(entry) for entry in error.errors()[:5])
        return problem(400 if broken else 422, message)

    @app.exception_handler(StarletteHTTPException)
    async def report(_: Request, error: StarletteHTTPException) -> Response:
        return problem(error.status_code, str(error.detail), error.headers)


def _plain(body: BaseModel) -> Any:
    return body.model_dump(by_alias=True)


def _message(entry: Mapping[str, Any]) -> str:
    """Return where a body is wrong and why, without repeating its content."""
    if entry["type"] == "json_invalid":
        return f"the body isn't JSON: {entry['ctx']['error']} at character {entry['loc'][-1]}"
    where = ".".join(str(part) for part in entry["loc"] if part != "body")
    if entry["type"] == "string_pattern_mismatch":
        image, empty = "an image as a data URI, data:image/jpeg;base64,...", "a text, got an empty one"
        return f"{where}: expected {image if entry['ctx']['pattern'] == _IMAGE else empty}"
    return f"{where}: {entry['msg']}" if where else str(entry["msg"])


class _Guarded:
    """Turns away pages of other sites, and bodies of other kinds than are read."""

    def __init__(self, app: ASGIApp, *, local: bool, kinds: Sequence[str]) -> None:
        self._app, self._local, self._kinds = app, local, kinds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None
        if scope["type"] == "http":
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            reason = why_refused(headers, local=self._local)
            if reason is not None:
                refusal = problem(403, reason)
            elif scope["method"] == "POST" and kind and kind not in self._kinds and not kind.endswith("+json"):
                files = f", or files as {MULTIPART}" if MULTIPART in self._kinds else ""
                refusal = problem(
                    415, f"the body is {kind}; send JSON, with the header content-type: application/json{files}"
                )
        await (refusal or self._app)(scope, receive, send)


class _Bounded:
    """Refuses bodies that are too large or too slow, or that are too much together, whatever their headers claim."""

    def __init__(self, app: ASGIApp, limits: ServingLimits) -> None:
        self._app, self._limits = app, limits
        self._held = 0  # Bytes of all bodies whose requests aren't answered yet.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body()
        try:
            try:
                async with asyncio.timeout(self._limits.read_seconds):
                    refusal = await self._read(scope, receive, body)
            except TimeoutError:
                seconds = f"{self._limits.read_seconds:g} s"
                refusal = problem(408, f"the request didn't arrive within {seconds}", {"Connection": "close"})
            if body.gone:
                return
            if refusal is not None:
                body.messages.clear()
                await refusal(scope, receive, send)
                return

            async def again() -> Message:
                return body.messages.popleft() if body.messages else await receive()

            await self._app(scope, again, send)
        finally:
            self._held -= body.held

    async def _read(self, scope: Scope, receive: Receive, body: "_Body") -> Response | None:
        """Read a body as far as it may come; return the answer if it is refused."""
        most = self._limits.body_bytes
        claimed = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        size, more = 0, True
        too_large = claimed.isdigit() and int(claimed) > most
        while more and not too_large:
            message = await receive()
            if message["type"] == "http.disconnect":
                body.gone = True
                return None
            body.messages.append(message)
            size += len(message.get("body", b""))
            held = max(0, size - _FREE_BYTES)
            self._held += held - body.held
            body.held = held
            if held and self._held > self._limits.bodies_bytes:
                return problem(503, "too many large requests arrive at once; try again later", {"Retry-After": "1"})
            more, too_large = message.get("more_body", False), size > most
        return problem(413, f"the request body is larger than {most} bytes") if too_large else None


@dataclass(slots=True)
class _Body:
    """What has come of a request's body.

    Attributes:
        messages: As the server handed it over.
        held: Its bytes, as far as they count.
        gone: Whether the client hung up.
    """

    messages: deque[Message] = field(default_factory=deque)
    held: int = 0
    gone: bool = False


class _Observed:
    """Counts and times requests for predictions."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: set[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in self._paths:
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def observed(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            self._metrics.requests.labels(scope["path"], status).inc()
            self._metrics.seconds.observe(time.perf_counter() - start)

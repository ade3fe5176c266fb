"""A bundle behind HTTP: predictions of single rows and batches, health, metrics."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field, create_model
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from promptgraft.bundles.batcher import Batcher, Metrics, OverloadedError, Probabilities, ServedModel, ServingLimits
from promptgraft.spaces import InvalidInputError

logger = logging.getLogger(__name__)

# A character that is neither white space nor a control character: text without any would be empty once stripped.
_SOMETHING = r"[^\s\x00-\x1f\x7f-\x9f]"


class Prediction(BaseModel):
    """Prediction for one row."""

    label: str = Field(description="Most probable label.")
    probabilities: dict[str, float] = Field(description="Probability of each label; they add up to 1.")


class Predictions(BaseModel):
    """Predictions for several rows, in the order of the request."""

    predictions: list[Prediction]


class Problem(BaseModel):
    """Reason why a request was refused."""

    error: str = Field(description="What is wrong, and where.")


class State(BaseModel):
    """Server status."""

    status: str = Field(description="alive or ready.")


class About(BaseModel):
    """The bundle that is served."""

    study: str = Field(description="Name of the study.")
    trial: int = Field(description="Number of the trial.")
    digest: str = Field(description="SHA-256 of the bundle's manifest.")
    labels: list[str] = Field(description="Labels that can be predicted.")
    fields: list[str] = Field(description="Fields of a row.")


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "Request body is not valid JSON."},
    413: {"model": Problem, "description": "Request body is too large."},
    422: {"model": Problem, "description": "Rows are not valid."},
    429: {"model": Problem, "description": "Too many rows are waiting; try again later."},
}


def _bodies(fields: Sequence[str], limits: ServingLimits) -> tuple[Any, Any]:
    """Build the models of the request bodies for one row and for several."""
    # Users name the fields, and may choose a name that pydantic reserves; so aliases carry the names.
    given: dict[str, Any] = {
        f"field_{number}": (str, Field(alias=name, max_length=limits.text_characters, pattern=_SOMETHING))
        for number, name in enumerate(fields)
    }
    row = create_model("Row", __config__=ConfigDict(extra="forbid"), **given)
    several = Annotated[list[row], Field(min_length=1, max_length=limits.request_rows)]
    return row, create_model("Rows", __config__=ConfigDict(extra="forbid"), rows=(several, ...))


def create_app(
    predictors: Sequence[ServedModel], fields: Sequence[str], about: Mapping[str, Any], limits: ServingLimits
) -> FastAPI:
    """Build the server.

    Args:
        predictors: Of the same bundle, loaded and ready; each predicts in a thread of its own.
        fields: Fields of a row.
        about: `study`, `trial` and `digest` of the bundle.
        limits: What the server accepts.
    """
    metrics = Metrics()
    batcher, labels = Batcher(limits, metrics), predictors[0].labels

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        working = [asyncio.create_task(batcher.work(predictor)) for predictor in predictors]
        app.state.ready = True
        yield
        app.state.ready = False
        for task in working:
            task.cancel()

    app = FastAPI(title="promptgraft", version=str(about["digest"])[:12], lifespan=lifespan, docs_url="/docs")
    app.add_middleware(_Observed, metrics=metrics, paths={"/predict", "/predict/batch"})
    app.add_middleware(_Bounded, body_bytes=limits.body_bytes)
    _add_predictions(app, batcher, labels, metrics, _bodies(fields, limits))
    _add_status(app, About(**about, labels=list(labels), fields=list(fields)), metrics)
    _add_error_handlers(app)
    return app


def _add_predictions(
    app: FastAPI, batcher: Batcher, labels: Sequence[str], metrics: Metrics, bodies: tuple[Any, Any]
) -> None:
    """Add the paths that predict rows."""
    row, batch = bodies

    async def answer(rows: Sequence[Mapping[str, str]]) -> list[Prediction]:
        try:
            found = await batcher.predict(rows)
        except OverloadedError as error:
            raise HTTPException(429, "too many rows are waiting; try again later", {"Retry-After": "1"}) from error
        except InvalidInputError as error:
            raise HTTPException(422, str(error)) from error
        answers = [_prediction(labels, probabilities) for probabilities in found]
        for entry in answers:
            metrics.predictions.labels(entry.label).inc()
        return answers

    @app.post("/predict", responses=_PROBLEMS)
    async def predict(body: row) -> Prediction:  # type: ignore[valid-type]
        """Predict one row."""
        (found,) = await answer([_plain(body)])
        return found

    @app.post("/predict/batch", responses=_PROBLEMS)
    async def predict_batch(body: batch) -> Predictions:  # type: ignore[valid-type]
        """Predict several rows."""
        return Predictions(predictions=await answer(_plain(body)["rows"]))


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
        return _problem(400 if broken else 422, message)

    @app.exception_handler(StarletteHTTPException)
    async def report(_: Request, error: StarletteHTTPException) -> Response:
        return _problem(error.status_code, str(error.detail), error.headers)


def _plain(body: BaseModel) -> Any:
    return body.model_dump(by_alias=True)


def _prediction(labels: Sequence[str], probabilities: Probabilities) -> Prediction:
    by_label = dict(zip(labels, probabilities.tolist(), strict=True))
    return Prediction(label=labels[int(probabilities.argmax())], probabilities=by_label)


def _message(entry: Mapping[str, Any]) -> str:
    """Return where a body is wrong and why, without repeating its content."""
    where = ".".join(str(part) for part in entry["loc"] if part != "body")
    return f"{where}: {entry['msg']}" if where else str(entry["msg"])


def _problem(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    # Half a surrogate pair can't be sent as UTF-8, so it is escaped.
    content = {"error": message.encode("utf-8", "backslashreplace").decode()}
    return JSONResponse(content, status, headers=dict(headers or {}))


class _Bounded:
    """Refuses bodies that are too large, whatever their headers claim."""

    def __init__(self, app: ASGIApp, body_bytes: int) -> None:
        self._app, self._body_bytes = app, body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        claimed = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if claimed.isdigit() and int(claimed) > self._body_bytes:
            await self._refuse(scope, receive, send)
            return
        messages: list[Message] = []
        size, more = 0, True
        while more:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
            if size > self._body_bytes:
                await self._refuse(scope, receive, send)
                return

        async def again() -> Message:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, again, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = _problem(413, f"the request body is larger than {self._body_bytes} bytes")
        await response(scope, receive, send)


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

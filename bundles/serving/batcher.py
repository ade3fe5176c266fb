"""Gathers the rows of many requests into batches for the models behind a server."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from promptgraft.bundles import Input
from promptgraft.objectives.data import Task

logger = logging.getLogger(__name__)

Probabilities = npt.NDArray[np.float64]


class Metrics:
    """Metrics for Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        make: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("promptgraft_requests", "Requests.", ["path", "status"], **make)
        self.seconds = Histogram("promptgraft_request_seconds", "Duration of a prediction request.", **make)
        self.predictions = Counter("promptgraft_predictions", "Rows predicted, by label.", ["label"], **make)
        sizes = [2**power for power in range(11)]
        self.batch_rows = Histogram("promptgraft_batch_rows", "Rows predicted together.", buckets=sizes, **make)
        self.waiting_rows = Gauge("promptgraft_waiting_rows", "Rows that are waiting.", **make)


@dataclass(frozen=True, slots=True)
class ServingLimits:
    """What a server accepts.

    Attributes:
        batch_rows: Most rows that are predicted together.
        request_rows: Most rows of one request.
        text_characters: Longest value of a field, in characters.
        body_bytes: Largest request body.
        request_pixels: Most pixels of the images of one request.
        waiting_rows: Most rows that may wait, over all requests.
        bodies_bytes: Most bytes of all request bodies together, not counting the first 64 KiB of each.
        connections: Most open connections; one more closes the one that has been silent longest.
        read_seconds: Longest time for a request to arrive.
    """

    batch_rows: int = 64
    request_rows: int = 1000
    text_characters: int = 100_000
    body_bytes: int = 16 * 2**20
    request_pixels: int = 500_000_000
    waiting_rows: int = 4096
    bodies_bytes: int = 128 * 2**20
    connections: int = 512
    read_seconds: float = 20


class ServedModel(Protocol):
    """A model that can be served."""

    @property
    def task(self) -> Task:
        """The task, which says what is expected of rows; its rows aren't needed."""
        ...

    def expected(self, rows: Sequence[Input]) -> Probabilities:
        """Return each label's probability, or the numbers; shape (len(rows), len(labels))."""
        ...


class OverloadedError(Exception):
    """More rows are waiting than the server accepts."""


@dataclass(slots=True)
class _Waiting:
    """Rows of one request that wait for their turn."""

    rows: Sequence[Mapping[str, str]]
    done: asyncio.Future[Probabilities]
    since: float = field(default_factory=time.perf_counter)


class Batcher:
    """Gathers the rows of several requests, and predicts them together.

    While batches are being predicted the next one gathers: under load batches are full, and a lone request doesn't
    wait for others. A request's rows are never torn apart, nor does one that fails take others with it.

    Args:
        limits: How many rows at once, and how many may wait.
        metrics: Told what is done.

    Attributes:
        limits: The same.
    """

    def __init__(self, limits: ServingLimits, metrics: "Metrics") -> None:
        self.limits, self._metrics = limits, metrics
        self._queue: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._rows = 0

    async def predict(self, rows: Sequence[Mapping[str, str]]) -> Probabilities:
        """Predict the rows of one request.

        Raises:
            OverloadedError: If too many rows wait already.
            InvalidInputError: If these can't be predicted.
        """
        if self._rows and self._rows + len(rows) > self.limits.waiting_rows:
            raise OverloadedError
        waiting = _Waiting(rows, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._count(len(rows))
        self._arrived.set()
        return await waiting.done

    async def work(self, predictor: ServedModel) -> None:
        """Predict what comes in, in a thread, until cancelled; several predictors may share the work."""
        with ThreadPoolExecutor(1) as thread:
            while True:
                await self._arrived.wait()
                chosen = self._gather()
                if not self._queue:
                    self._arrived.clear()
                await self._run(thread, predictor, chosen)

    def _gather(self) -> list[_Waiting]:
        """Take the requests that fit into one batch, in their order; those given up in the meantime are dropped."""
        chosen: list[_Waiting] = []
        rows = 0
        while self._queue and (not chosen or rows + len(self._queue[0].rows) <= self.limits.batch_rows):
            waiting = self._queue.popleft()
            self._count(-len(waiting.rows))
            if not waiting.done.done():
                chosen.append(waiting)
                rows += len(waiting.rows)
        return chosen

    async def _run(self, thread: Executor, predictor: ServedModel, chosen: list[_Waiting]) -> None:
        rows = [row for waiting in chosen for row in waiting.rows]
        if not rows:
            return
        self._metrics.batch_rows.observe(len(rows))
        try:
            found = await asyncio.get_running_loop().run_in_executor(thread, predictor.expected, rows)
        except Exception as error:  # noqa: BLE001  # Whatever it is, it belongs to the request that caused it.
            if len(chosen) > 1:
                for waiting in chosen:  # One of them is to blame.
                    await self._run(thread, predictor, [waiting])
            elif not chosen[0].done.done():
                chosen[0].done.set_exception(error)
            return
        start = 0
        for waiting in chosen:
            end = start + len(waiting.rows)
            if not waiting.done.done():
                waiting.done.set_result(found[start:end])
            start = end

    def _count(self, rows: int) -> None:
        self._rows += rows
        self._metrics.waiting_rows.set(self._rows)

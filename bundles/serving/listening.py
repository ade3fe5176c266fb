"""Runs a server so that slow and stalled clients can't hold it up: bounded connections and times."""

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from promptgraft.bundles import port_error
from promptgraft.bundles.serving.batcher import ServingLimits

GRACE_S = 30  # For open requests when the server shuts down.


def listen(app: FastAPI, taken: socket.socket, limits: ServingLimits, say: Callable[[], None] = lambda: None) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        app: The application.
        taken: The socket, bound.
        limits: What the server accepts.
        say: Called once it listens.

    Raises:
        InvalidInputError: If another program has begun to listen to the port meanwhile.
    """
    host, port = taken.getsockname()[:2]
    try:
        taken.listen()
    except OSError as error:
        raise port_error(host, port, error) from error
    say()
    protocol = type("Bounded", (_Bounded,), {"limits": limits})
    config = uvicorn.Config(app, http=protocol, ws="none", log_level="warning", timeout_graceful_shutdown=GRACE_S)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[taken])


class _Bounded(H11Protocol):
    """A connection that is closed if nothing moves on it; with too many of them, the one that is silent longest."""

    limits: ServingLimits

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.since = self.loop.time()
        if len(self.connections) > self.limits.connections:
            silent = [other for other in self.connections if isinstance(other, _Bounded) and other.owes]
            if silent:
                oldest = min(silent, key=lambda other: other.since)
                oldest.transport.abort()
                self.connections.discard(oldest)  # It would count until the loop gets to it.
        self._watch(None)

    @property
    def owes(self) -> bool:
        """Whether the client has yet to send a request, or the rest of one."""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def _watch(self, before: tuple[object, ...] | None) -> None:
        """Look again and again whether the client has sent a whole request, and taken its answer, since last time."""
        if self.transport.is_closing():
            return
        unsent = self.transport.get_write_buffer_size()
        now = (self.cycle, unsent)
        if (self.owes or unsent) and now == before:
            self.transport.abort()
            return
        self.loop.call_later(self.limits.read_seconds, self._watch, now if self.owes or unsent else None)

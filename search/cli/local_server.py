"""A server for this machine only: pages of other sites can neither read a study nor change one."""

from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

HOST = "127.0.0.1"
# Optuna Dashboard writes each user attribute on one line; the settings of a trial make a page of 5,000 pixels of it.
_WRAPPING = b"<style>main p.MuiTypography-body1 { white-space: normal; overflow-wrap: anywhere }</style></head>"


def local_server(application: "WSGIApplication", port: int) -> WSGIServer:
    """Build a server on loopback that answers no other site's pages.

    Args:
        application: What it serves.
        port: The port to listen on; any free one if 0.

    Raises:
        InvalidInputError: If the port can't be opened.
    """
    from promptgraft.bundles import port_error

    try:
        return make_server(HOST, port, _guarded(application), server_class=_Server, handler_class=_Handler)
    except OSError as error:
        raise port_error(HOST, port, error) from error


def _guarded(application: "WSGIApplication") -> "WSGIApplication":
    """Turn other sites' pages away, and let none of them show this one in a frame, where clicks could be stolen."""
    from promptgraft.bundles import why_refused

    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        names = ("host", "origin", "sec-fetch-site", "sec-fetch-mode")
        found = {name: environ.get(f"HTTP_{name.upper().replace('-', '_')}") for name in names}
        refusal = why_refused({name: value for name, value in found.items() if value is not None}, local=True)
        if refusal is not None:
            start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
            return [refusal.encode()]

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Callable[[bytes], object]:
            return start_response(status, [*headers, ("X-Frame-Options", "DENY")], *rest)

        return application(environ, start)

    return answer


def with_wrapped_lines(application: "WSGIApplication") -> "WSGIApplication":
    """Have long lines of Optuna Dashboard's pages wrap."""

    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        started: list[Any] = []

        def start(*arguments: Any) -> Callable[[bytes], object]:
            started.extend(arguments)
            return lambda _: None

        body = application(environ, start)
        status, headers, *rest = started
        if dict(headers).get("Content-Type", "").startswith("text/html"):
            body = [b"".join(body).replace(b"</head>", _WRAPPING, 1)]
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
            headers.append(("Content-Length", str(len(body[0]))))
        start_response(status, headers, *rest)
        return body

    return answer


class _Server(ThreadingMixIn, WSGIServer):
    """Answers requests side by side: a client that stalls holds up no other."""

    daemon_threads = True


class _Handler(WSGIRequestHandler):
    """Gives up on a client that sends nothing for long, and keeps no log on the terminal."""

    timeout = 60

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

"""A stand-in of the Hugging Face hub's API on loopback, which takes one commit and records it."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub(ThreadingHTTPServer):
    """What was asked of it, and what it got.

    Attributes:
        made: Bodies of the requests to make a repository.
        files: Name -> content of the files that were committed.
        tokens: Authorizations that came with requests.
        refuses: Status that every request gets; 0 for none.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.made: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.refuses = 0

    @property
    def url(self) -> str:
        """Its address, for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self._answer({"sha": "0" * 40, "siblings": [], "id": "somebody/model"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.endswith("/repos/create"):
            self.server.made.append(json.loads(body))
            self._answer({"url": f"{self.server.url}/somebody/model", "name": "somebody/model", "id": "1"})
        elif "/preupload/" in self.path:
            files = [{**own, "uploadMode": "regular", "shouldIgnore": False} for own in json.loads(body)["files"]]
            self._answer({"files": files})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self._answer({"commitUrl": f"{self.server.url}/somebody/model/commit/1", "commitOid": "1" * 40})
        else:
            self._answer({"errors": [], "warnings": []})

    def _answer(self, content: dict[str, Any]) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        written = json.dumps(content).encode()
        self.send_response(self.server.refuses or 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(written)))
        self.end_headers()
        self.wfile.write(written)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run a stand-in while the block runs."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()

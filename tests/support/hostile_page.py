"""A page of another site in a real browser, whose name leads to this machine once it is loaded (DNS rebinding)."""

import http.client
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def status_of(port: int, method: str, path: str, body: str = "") -> int:
    """Let a hostile page send a request to a server on loopback, and return the status that the page gets."""
    content = f", body: {body!r}, headers: {{'content-type': 'application/json'}}" if body else ""
    page = (
        f"<title>nothing yet</title><script>fetch({path!r}, {{method: {method!r}{content}}})"
        ".then(answer => document.title = 'status ' + answer.status, error => document.title = 'failed ' + error)"
        "</script>"
    )
    with _rebinding(page, port) as proxy:
        assert CHROMIUM is not None
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--proxy-server=http://127.0.0.1:{proxy}"]
        command = [CHROMIUM, *options, "--virtual-time-budget=5000", "--dump-dom", "http://evil.example/"]
        dom = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    found = re.search(r"<title>status (\d+)</title>", dom)
    assert found is not None, dom[:2000]
    return int(found.group(1))


@contextmanager
def _rebinding(page: str, port: int) -> Iterator[int]:
    """Run a proxy that serves the page, and has every later request of its site reach the port as it is."""

    class Proxy(BaseHTTPRequestHandler):
        def answer(self) -> None:
            if self.path == "http://evil.example/":
                self.reply(200, page.encode())
                return
            if not self.path.startswith("http://evil.example/"):
                self.reply(404, b"")  # What browsers ask of their makers.
                return
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            there = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            there.putrequest(self.command, self.path.removeprefix("http://evil.example"), skip_host=True)
            for name, value in self.headers.items():
                there.putheader(name, value)
            there.endheaders(body or None)
            found = there.getresponse()
            self.reply(found.status, found.read())

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

        def reply(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/html")
            if status != 204:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()

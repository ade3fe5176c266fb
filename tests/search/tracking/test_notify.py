"""A run's end is POSTed, again where a server is away for a moment; a failure is a warning without the URL's secret."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import optuna
import pytest

from promptgraft.search.storage import RunFolder
from promptgraft.search.study import load_study
from promptgraft.search.study.yaml_lines import StudyFileError
from promptgraft.search.tracking import Tracking
from promptgraft.search.tracking.notify import notify


class Hook(HTTPServer):
    """A webhook that answers with the statuses that it is given, the last one for good."""

    def __init__(self) -> None:
        self.statuses: list[int] = [200]
        self.got: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), _Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/services/s3cret"


class _Answer(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        assert self.headers["Content-Type"] == "application/json"
        self.server.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.statuses.pop(0) if len(self.server.statuses) > 1 else self.server.statuses[0])
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    monkeypatch.setattr("promptgraft.search.tracking.notify._PAUSE_S", 0.0)
    with Hook() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_end_of_a_run_is_posted(write_study: Callable[..., Path], tmp_path: Path, hook: Hook) -> None:
    study = load_study(write_study(notify=hook.url))
    stored = optuna.create_study(study_name="tiny")
    verdict = ("Ship trial 0.",)
    Tracking(study, stored, RunFolder(tmp_path)).end("ended", "all trials are finished", verdict)
    text = "study tiny ended: all trials are finished. Ship trial 0."
    expected = {"study": "tiny", "state": "ended", "reason": "all trials are finished", "verdict": [*verdict]}
    assert hook.got == [{**expected, "text": text}]


def test_a_server_that_is_away_is_asked_again(hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    hook.statuses = [503, 500, 200]
    notify(hook.url, {"study": "tiny"})
    assert len(hook.got) == 3
    assert not caplog.messages


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (503, 3)])
def test_a_failure_is_a_warning(hook: Hook, caplog: pytest.LogCaptureFixture, status: int, asked: int) -> None:
    hook.statuses = [status]
    notify(hook.url, {"study": "tiny"})
    assert len(hook.got) == asked
    (warning,) = caplog.messages
    assert warning.startswith(f"127.0.0.1 could not be notified that the run has ended: HTTP Error {status}")
    assert "s3cret" not in warning


@pytest.mark.parametrize("url", ["http://", "http://[::1", "https://:80/x", "http://host:99999"])
def test_what_is_no_url_is_told_before_the_run(write_study: Callable[..., Path], url: str) -> None:
    with pytest.raises(StudyFileError, match="notify: expected a URL with a host, such as"):
        load_study(write_study(notify=url))


def test_nobody_listens(hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    notify("http://127.0.0.1:9/", {"study": "tiny"})
    assert "127.0.0.1 could not be notified" in caplog.messages[0]

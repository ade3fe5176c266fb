"""Optuna Dashboard on loopback: for the user of this machine, and for no page that they happen to visit."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from wsgiref.simple_server import make_server

import optuna
import pytest
import requests
from optuna_dashboard import wsgi

from promptgraft.search.cli.local_server import local_server, with_wrapped_lines
from promptgraft.search.storage import open_storage
from promptgraft.spaces import InvalidInputError
from tests.support.commands import typed
from tests.support.hostile_page import CHROMIUM, status_of
from tests.support.studies import sqlite_url


@pytest.fixture
def stored(tmp_path: Path) -> optuna.Study:
    return optuna.create_study(storage=open_storage(sqlite_url(tmp_path)), study_name="s")


@contextmanager
def serving(stored: optuna.Study, *, guarded: bool = True) -> Iterator[int]:
    """Serve the dashboard of a study; yield its port."""
    application = wsgi(stored._storage)
    server = local_server(application, 0) if guarded else make_server("127.0.0.1", 0, application)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    with server:
        thread.start()
        yield server.server_port
        server.shutdown()


def test_long_lines_wrap_in_pages_alone(stored: optuna.Study) -> None:
    server = local_server(with_wrapped_lines(wsgi(stored._storage)), 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with server:
        own = f"http://127.0.0.1:{server.server_port}"
        page = requests.get(f"{own}/dashboard/", timeout=30)
        assert "overflow-wrap: anywhere" in page.text
        assert page.text.rstrip().endswith("</html>")
        assert requests.get(f"{own}/api/studies", timeout=30).json()["study_summaries"][0]["study_name"] == "s"
        server.shutdown()


def test_only_this_machines_own_pages_are_answered(stored: optuna.Study) -> None:
    with serving(stored) as port:
        own = f"127.0.0.1:{port}"

        def ask(method: str, host: str = own, path: str = "/api/studies", **headers: str) -> int:
            given = {"Host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
            return requests.request(method, f"http://{own}{path}", headers=given, timeout=30).status_code

        # The last one comes through a tunnel that begins at another port.
        for host in (own, f"localhost:{port}", f"LOCALHOST.:{port}", f"[::1]:{port}", "localhost:9999"):
            assert ask("GET", host) == 200, host
        for host in (
            "evil.example",
            f"evil.example:{port}",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "0.0.0.0",
            "",
        ):
            assert ask("GET", host) == 403, host
        one = "/api/studies/1"
        for origin in (
            "http://evil.example",
            "null",
            "http://localhost:3000",
            f"http://localhost:{port}",
            f"http://{own}0",
        ):
            assert ask("DELETE", path=one, Origin=origin) == 403, origin
        assert ask("GET", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors") == 403
        assert ask("GET", path="/dashboard", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate") == 200  # A link.
        assert requests.get(f"http://{own}/dashboard", timeout=30).headers["x-frame-options"] == "DENY"
        assert [study.study_name for study in stored._storage.get_all_studies()] == ["s"]
        assert ask("DELETE", path=one, Origin=f"http://{own}", Sec_Fetch_Site="same-origin") == 204


def test_a_client_that_stalls_holds_up_no_other(stored: optuna.Study) -> None:
    with serving(stored) as port, socket.create_connection(("127.0.0.1", port)) as stalled:
        stalled.sendall(b"GET /api")
        assert requests.get(f"http://127.0.0.1:{port}/api/studies", timeout=30).status_code == 200


def test_a_port_that_is_taken_is_one_sentence(stored: optuna.Study, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InvalidInputError, match=f"port {port} of 127.0.0.1 is taken by another program; .*--port"):
            local_server(wsgi(stored._storage), port)
        arguments = ("dashboard", "s", "--storage", sqlite_url(tmp_path), "--workdir", str(tmp_path))
        result = typed(*arguments, "--port", str(port))
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.splitlines()[-1].startswith(f"error: port {port} of 127.0.0.1 is taken")
    assert typed(*arguments, "--port", "70000").exit_code == 2


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_hostile_page_deletes_no_study(stored: optuna.Study) -> None:
    with serving(stored) as port:
        assert status_of(port, "DELETE", "/api/studies/1") == 403
        assert [study.study_name for study in stored._storage.get_all_studies()] == ["s"]
    with serving(stored, guarded=False) as port:  # The page does what it says.
        assert status_of(port, "DELETE", "/api/studies/1") == 204
        assert stored._storage.get_all_studies() == []

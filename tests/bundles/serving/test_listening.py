"""A server that clients can't hold up, however slow or many they are, and that answers no other site's pages."""

import json
import re
import socket
import threading
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from fastapi.testclient import TestClient

from promptgraft.bundles import bound_socket, is_loopback
from promptgraft.bundles.predictor import Input
from promptgraft.bundles.serving import ServingLimits, create_app, listen
from promptgraft.bundles.serving.batcher import Probabilities
from promptgraft.objectives.data import TASK_KINDS
from promptgraft.spaces import InvalidInputError
from tests.support.hostile_page import CHROMIUM, status_of
from tests.support.waiting import wait_until

LIMITS = ServingLimits(read_seconds=0.5, body_bytes=2**20, bodies_bytes=4 * 2**20, connections=20)
ABOUT = {"study": "s", "trial": 0, "digest": "0"}
JSON = {"content-type": "application/json"}


def head_of(path: str, length: int) -> bytes:
    """Return the head of a request."""
    lines = (f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", f"Content-Length: {length}")
    return "\r\n".join((*lines, "", "")).encode()


class Even:
    """Finds all labels equally likely; these tests are about what comes before a model and after it."""

    def __init__(self, *labels: str) -> None:
        self.task = TASK_KINDS["text_classification"](labels or ("a", "b"), ())

    def expected(self, rows: Sequence[Input]) -> Probabilities:
        return np.full((len(rows), 2), 0.5)


class Served:
    """A server in a thread of its own."""

    def __init__(self, limits: ServingLimits = LIMITS, model: Even | None = None, *, local: bool = True) -> None:
        taken, listening = bound_socket("127.0.0.1", 0), threading.Event()
        self.port = taken.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        application = create_app([model or Even()], ["text"], ABOUT, limits, local=local)
        arguments = (application, taken, limits, listening.set)
        threading.Thread(target=listen, args=arguments, daemon=True).start()
        assert listening.wait(30)

    def post(self, body: Any = b'{"text": "good"}', path: str = "/predict", **headers: str) -> requests.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return requests.post(self.url + path, data=body, headers=JSON | given, timeout=30)

    def upload(self, sent: bytes) -> socket.socket:
        """Begin a request, and stall."""
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.sendall(head_of("/predict", 2**20) + sent)
        return connection


@pytest.fixture(scope="module")
def served() -> Served:
    return Served()


def answer_of(connection: socket.socket) -> bytes:
    """Return all that comes until the server hangs up."""
    connection.settimeout(30)
    found = b""
    with closing(connection), suppress(ConnectionResetError):
        while part := connection.recv(2**16):
            found += part
    return found


def test_what_stalls_is_ended(served: Served) -> None:
    begun = (
        b"",
        b"POST /predict HTTP/1.1\r\nHost: local",
        head_of("/predict", 100) + b'{"text": ',
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea",  # A second request, after a good one.
        head_of("/predict", 2**30) + b"x" * 2**17,  # Its rest never comes.
    )
    connections = [socket.create_connection(("127.0.0.1", served.port)) for _ in begun]
    for connection, sent in zip(connections, begun, strict=True):
        connection.sendall(sent)
    answers = [answer_of(connection) for connection in connections]
    assert [re.findall(rb"HTTP/1.1 (\d+)", answer) for answer in answers] == [[], [], [b"408"], [b"200"], [b"413"]]
    assert served.post().status_code == 200


def test_a_client_that_takes_no_answer_is_ended() -> None:
    served = Served(model=Even("a" * 20_000, "b"))  # More than the system's buffers take.
    body = json.dumps({"rows": [{"text": "x"}] * 500}).encode()
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(head_of("/predict/batch", len(body)) + body)
        assert connection.recv(8) == b"HTTP/1.1"
        assert open_connections(served) == 1
        wait_until(lambda: open_connections(served) == 0)


def open_connections(served: Served) -> int:
    """Count the connections that the server holds."""
    found = psutil.Process().net_connections("tcp4")
    return sum(1 for own in found if own.laddr and own.laddr.port == served.port and own.status == "ESTABLISHED")


def test_bodies_are_bounded_together_and_small_ones_get_through() -> None:
    served = Served(replace(LIMITS, read_seconds=30))
    part = b'{"text": "' + b"x" * (2**20 - 1000)
    uploads = [served.upload(part) for _ in range(10)]
    wait_until(lambda: sum(map(is_refused, uploads)) >= 6)  # The others have what all may have.
    assert served.post().status_code == 200
    large = json.dumps({"rows": [{"text": "x" * 1000}] * 500}).encode()
    assert served.post(large, "/predict/batch").headers["retry-after"] == "1"
    for connection in uploads:
        connection.close()
    wait_until(lambda: served.post(large, "/predict/batch").status_code == 200)


def is_refused(connection: socket.socket) -> bool:
    """Tell whether the answer is there that there is no room; a server that waits for more has none."""
    try:
        return connection.recv(12, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"HTTP/1.1 503"
    except BlockingIOError:
        return False


def test_silent_connections_make_room_for_others() -> None:
    served = Served(replace(LIMITS, read_seconds=60))
    stalled = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(30)]
    stalled += [served.upload(b"x") for _ in range(30)]
    for _ in range(3):
        assert served.post().status_code == 200
    wait_until(lambda: open_connections(served) <= LIMITS.connections)
    for connection in stalled:
        connection.close()


def test_only_this_machines_own_pages_are_answered(served: Served) -> None:
    own = f"127.0.0.1:{served.port}"
    for host in (own, "localhost", f"[::1]:{served.port}"):
        assert served.post(Host=host).status_code == 200
    for host in ("evil.example", f"evil.example:{served.port}", "127.0.0.1.evil.example"):
        assert served.post(Host=host).status_code == 403
        assert requests.get(f"{served.url}/about", headers={"Host": host}, timeout=30).status_code == 403
    assert served.post(Origin=f"http://{own}").status_code == 200
    for origin in ("http://evil.example", "null", "http://localhost:3000"):
        refused = served.post(Origin=origin)
        assert (refused.status_code, origin in refused.json()["error"]) == (403, True)


def test_a_server_for_other_machines_has_any_name_but_answers_no_other_sites_pages() -> None:
    served = Served(local=False)
    assert served.post(Host="models.internal").status_code == 200
    assert served.post(Host="models.internal", Origin="https://models.internal").status_code == 200
    assert served.post(Host="models.internal", Origin="https://evil.example").status_code == 403


def test_a_body_without_a_content_type_is_json_and_another_type_is_named(served: Served) -> None:
    connection = socket.create_connection(("127.0.0.1", served.port))
    body = b'{"text": "good"}'
    connection.sendall(
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 16\r\n\r\n" + body
    )
    assert re.match(rb'HTTP/1.1 200 .*"label":"a"', answer_of(connection), re.DOTALL)
    assert served.post(content_type="application/json; charset=utf-8").status_code == 200
    assert served.post(content_type="application/vnd.api+json").status_code == 200
    for kind in (
        "application/x-www-form-urlencoded",
        "text/plain",
        "multipart/form-data; boundary=x",
    ):  # curl's, fetch's.
        refused = served.post(content_type=kind)
        assert refused.status_code == 415
        assert refused.json()["error"].startswith(f"the body is {kind.partition(';')[0]}; send JSON, with the header")


def test_a_label_that_is_not_likely_enough_is_null() -> None:
    application = create_app([Even()], ["text"], ABOUT, LIMITS, abstain_below=0.6)
    with TestClient(application) as client:
        answer = client.post("/predict", json={"text": "good"}).json()
        assert answer == {"label": None, "probabilities": {"a": 0.5, "b": 0.5}}
        assert client.get("/about").json()["abstain_below"] == 0.6
        assert 'promptgraft_predictions_total{label=""} 1.0' in client.get("/metrics").text


def test_a_port_that_cannot_be_had_is_one_sentence(served: Served) -> None:
    for host, port, why in (
        ("127.0.0.1", served.port, f"port {served.port} of 127.0.0.1 is taken by another program; .* --port"),
        ("203.0.113.1", 0, "can't listen on '203.0.113.1', port 0: Cannot assign requested address"),
        ("no such host", 0, "can't listen on 'no such host', port 0: "),
        ("x" * 300, 0, "can't listen on 'x+', port 0: "),
    ):
        with pytest.raises(InvalidInputError, match=why):
            bound_socket(host, port)
    first, second = bound_socket("127.0.0.1", 0), socket.socket()
    second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    second.bind(first.getsockname())
    second.listen()  # It was quicker.
    said: list[None] = []
    with closing(first), closing(second), pytest.raises(InvalidInputError, match="is taken by another program"):
        listen(create_app([Even()], ["text"], ABOUT, LIMITS), first, LIMITS, lambda: said.append(None))
    assert not said


@pytest.mark.parametrize(("name", "own"), [("127.0.0.1", True), ("127.8.9.9", True), ("[::1]", True), ("::", False)])
def test_loopback_is_known_by_its_addresses(name: str, own: bool) -> None:
    assert is_loopback(name) == own


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_hostile_page_gets_no_prediction(served: Served) -> None:
    asked: tuple[str, ...] = ("POST", "/predict", '{"text": "good"}')
    assert status_of(served.port, *asked) == 403
    assert status_of(Served(local=False).port, *asked) == 200  # The page does what it says.

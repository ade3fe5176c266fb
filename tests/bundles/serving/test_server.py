"""A bundle behind HTTP: real requests to a real server."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from promptgraft.bundles import Predictor, read_manifest
from promptgraft.bundles.serving import ServingLimits, create_app
from promptgraft.objectives.spec import ObjectiveSpec
from tests.support.bundles import export_small
from tests.support.commands import typed
from tests.support.waiting import wait_until

FUZZED = int(os.environ.get("PROMPTGRAFT_FUZZED", "40"))
LONG = {"text": "so slow " * 2000}


@pytest.fixture(scope="module")
def bundle(
    tmp_path_factory: pytest.TempPathFactory, make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str]
) -> Path:
    return export_small(tmp_path_factory.mktemp("bundle"), make_spec(tiny_models["encoder"], "encoder"), steps=4)


class Server:
    """`promptgraft serve`, on a port of its own."""

    def __init__(self, bundle: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        code = "import sys; sys.modules['optuna'] = sys.modules['ray'] = None; "
        code += "from promptgraft.search.cli.studies import app; app()"
        command = [sys.executable, "-c", code, "serve", str(bundle), "--port", str(port), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            wait_until(self._is_ready)
        except AssertionError:
            self.process.kill()
            raise AssertionError(self.process.communicate()[0]) from None

    def _is_ready(self) -> bool:
        assert self.process.poll() is None
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"{self.url}/ready", timeout=9).status_code == 200
        return False

    def post(self, path: str, body: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=60)

    def end(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        said, _ = self.process.communicate(timeout=60)
        return self.process.returncode, said


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Server]:
    server = Server(bundle)
    yield server
    code, said = server.end()
    assert "Traceback" not in said
    assert f"try it: curl -s {server.url}/predict" in said
    assert code in (0, -signal.SIGTERM)


def test_it_says_what_the_predictor_says(server: Server, bundle: Path, data: Path) -> None:
    texts = pd.read_csv(data / "amazon.csv").text[:20].tolist()
    predictor = Predictor(bundle)
    expected = predictor.predict_proba(texts)
    several = server.post("/predict/batch", {"rows": [{"text": text} for text in texts]}).json()["predictions"]
    alone = [server.post("/predict", {"text": text}).json() for text in texts]
    for answers in (several, alone):
        found = [[answer["probabilities"][label] for label in predictor.labels] for answer in answers]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert [answer["label"] for answer in answers] == predictor.predict(texts)


def test_it_tells_about_itself(server: Server, bundle: Path) -> None:
    assert requests.get(f"{server.url}/health", timeout=9).json() == {"status": "alive"}
    assert requests.get(f"{server.url}/ready", timeout=9).json() == {"status": "ready"}
    about = requests.get(f"{server.url}/about", timeout=9).json()
    assert (about["digest"], about["fields"]) == (read_manifest(bundle).digest, ["text"])
    page = requests.get(f"{server.url}/openapi.json", timeout=9).json()
    assert {"/predict", "/predict/batch", "/health", "/ready", "/metrics", "/about"} <= page["paths"].keys()
    assert page["components"]["schemas"]["Row"]["required"] == ["text"]
    server.post("/predict", {"text": "good"})
    server.post("/predict", {})
    metrics = requests.get(f"{server.url}/metrics", timeout=9).text
    assert 'promptgraft_requests_total{path="/predict",status="200"}' in metrics
    assert 'promptgraft_requests_total{path="/predict",status="422"}' in metrics
    assert "promptgraft_predictions_total{label=" in metrics


MALFORMED = [
    (b"", 422),
    (b"{", 400),
    (b"\xff\xfe", 400),
    (b"[" * 100_000, 400),
    (b"null", 422),
    (b'"good"', 422),
    (b"{}", 422),
    (b'{"text": ""}', 422),
    (b'{"text": "  "}', 422),
    (b'{"text": null}', 422),
    (b'{"text": 3}', 422),
    (b'{"text": NaN}', 422),
    (b'{"text": ["good"]}', 422),
    (b'{"text": "\\ud800"}', 422),
    (b'{"text": "good", "extra": "\\ud800"}', 422),
    (json.dumps({"text": "x" * 100_001}).encode(), 422),
    (b'{"text": "' + b"x" * (17 * 2**20) + b'"}', 413),
]


@pytest.mark.parametrize(("body", "status"), MALFORMED, ids=[str(number) for number in range(len(MALFORMED))])
def test_what_is_malformed_is_refused_and_told(server: Server, body: bytes, status: int) -> None:
    headers = {"content-type": "application/json"}
    found = requests.post(f"{server.url}/predict", data=body, headers=headers, timeout=60)
    assert found.status_code == status, found.text
    assert len(found.json()["error"]) > 5
    assert server.post("/predict", {"text": "good"}).status_code == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"text": " "}', "text: expected a text, got an empty one"),
        (b'{"rows": [{"text": "good"}, {"text": ""}]}', "rows.1.text: expected a text, got an empty one"),
        (b'{"text": good}', "the body isn't JSON: Expecting value at character 9"),
    ],
)
def test_an_error_says_where_the_body_is_wrong(server: Server, body: bytes, message: str) -> None:
    path = "/predict/batch" if b"rows" in body else "/predict"
    headers = {"content-type": "application/json"}
    assert requests.post(server.url + path, data=body, headers=headers, timeout=60).json()["error"] == message


def test_a_body_of_unknown_length_is_bounded_too(server: Server) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b"x" * 2**19

    # The server may answer and hang up while the rest is still being sent.
    with contextlib.suppress(requests.ConnectionError):
        assert requests.post(f"{server.url}/predict", data=chunks(), timeout=60).status_code == 413
    assert server.post("/predict/batch", {"rows": []}).status_code == 422
    assert server.post("/predict/batch", {"rows": [{"text": "x"}] * 1001}).status_code == 422
    assert requests.get(f"{server.url}/predict", timeout=9).status_code == 405
    assert server.post("/predictions", {}).status_code == 404


def test_requests_are_gathered_and_a_bad_one_takes_none_with_it(server: Server, bundle: Path) -> None:
    texts = [f"number {number}, which is {'good ' * (number % 9)}" for number in range(200)]
    expected = Predictor(bundle).predict_proba(texts)

    def ask(number: int) -> tuple[int, Any]:
        body = {"text": "\ud800" if number % 10 == 0 else texts[number]}
        found = server.post("/predict", body)
        return found.status_code, found.json()

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, range(200)))
    for number, (status, answer) in enumerate(answers):
        assert status == (422 if number % 10 == 0 else 200)
        if status == 200:
            assert answer["probabilities"]["positive"] == pytest.approx(expected[number, 1], abs=1e-5)
    metrics = requests.get(f"{server.url}/metrics", timeout=9).text
    counts = {
        line.split('le="')[1].split('"')[0]: float(line.rpartition(" ")[2])
        for line in metrics.splitlines()
        if line.startswith("promptgraft_batch_rows_bucket")
    }
    assert counts["1.0"] < counts["+Inf"], "no two rows were ever predicted together"


def test_more_than_it_takes_on_is_refused_with_429(bundle: Path) -> None:
    server = Server(bundle, "--waiting-rows", "4", "--batch-rows", "1")
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda _: server.post("/predict", LONG), range(64)))
    statuses = [answer.status_code for answer in found]
    assert set(statuses) == {200, 429}
    assert all(answer.headers["retry-after"] == "1" for answer in found if answer.status_code == 429)
    server.end()


def test_requests_at_work_are_answered_before_it_ends(bundle: Path) -> None:
    server = Server(bundle)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.post, "/predict/batch", {"rows": [LONG] * 200})
        wait_until(lambda: "promptgraft_batch_rows_count 1.0" in requests.get(f"{server.url}/metrics", timeout=9).text)
        assert not asked.done(), "it was too quick to be at work still"
        server.process.send_signal(signal.SIGTERM)
        assert len(asked.result().json()["predictions"]) == 200
    said, _ = server.process.communicate(timeout=60)
    assert "Traceback" not in said
    with pytest.raises(requests.ConnectionError):
        server.post("/predict", {"text": "good"})


def test_what_it_cannot_have_is_one_sentence(server: Server, bundle: Path, tmp_path: Path) -> None:
    port = server.url.rpartition(":")[2]
    for arguments, why in (
        ((str(bundle), "--port", port), f"port {port} of 127.0.0.1 is taken by another program; choose another one"),
        ((str(bundle), "--host", "203.0.113.1", "--port", "0"), "can't listen on '203.0.113.1', port 0"),
        ((str(tmp_path), "--port", "0"), f"{tmp_path} is not a bundle: it holds no manifest.json"),
        ((str(bundle / "README.md"), "--port", "0"), "README.md is not a bundle"),
        ((str(bundle), "--port", "0", "--backbone", str(tmp_path / "gone")), "no such folder"),
    ):
        result = typed("serve", *arguments)
        assert (result.exit_code, result.stdout) == (2, ""), result.output
        assert why in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_predictors_share_weights(bundle: Path) -> None:
    first, second = Predictor(bundle), Predictor(bundle)
    expected = second.logits(["good", "so slow"])
    second.share_weights(first)
    places = [{weight.data_ptr() for weight in own.members[0].model.weights().values()} for own in (first, second)]
    assert places[0] == places[1]
    np.testing.assert_array_equal(second.logits(["good", "so slow"]), expected)


def application(bundle: Path) -> Any:
    predictor = Predictor(bundle)
    manifest = predictor.manifest
    return create_app([predictor], list(manifest.columns), manifest.origin, ServingLimits())


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(("method", "path"), [("POST", "/predict"), ("POST", "/predict/batch"), ("GET", "/about")])
def test_whatever_is_sent_is_answered_as_the_page_says(
    bundle: Path, method: str, path: str, mode: GenerationMode
) -> None:
    """Schemathesis makes up requests from the OpenAPI page, valid and not; no answer may contradict it."""
    if (method, mode) == ("GET", GenerationMode.NEGATIVE):
        pytest.skip("there is nothing to get wrong")
    operation = schemathesis.openapi.from_asgi("/openapi.json", application(bundle))[path][method]
    seen = set()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=FUZZED, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    def check(case: Any) -> None:
        seen.add(case.call_and_validate().status_code)

    check()
    assert seen <= ({200} if mode == GenerationMode.POSITIVE else {400, 413, 415, 422})

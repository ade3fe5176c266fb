"""Images as files within requests to a real server: the same answers as within JSON, and bounds on bytes and pixels."""

import io
import threading
import zlib
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from promptgraft.bundles import Predictor, bound_socket
from promptgraft.bundles.serving import ServingLimits, create_app, listen
from promptgraft.objectives.data import as_data
from promptgraft.spaces import Candidate
from tests.support.bundles import write_result
from tests.support.image_objectives import TEMPLATE, objective_over_images
from tests.support.images import draw, spec_of_images, write_images
from tests.support.models import TinyModels

LIMITS = ServingLimits(body_bytes=2**20, request_rows=4, request_pixels=100_000_000)


class Served:
    """A bundle of a small ResNet behind a server in a thread of its own."""

    def __init__(self, folder: Path, model: str) -> None:
        self.paths = sorted((write_images(folder / "data", 24).parent / "pictures").iterdir())
        target = spec_of_images(folder / "data" / "table.csv", folds=2, test_rows=6)
        objective = objective_over_images(model, "convolutional", target, evaluate_every=2)
        candidate = Candidate(TEMPLATE.id, "", "linear", steps=4, learning_rate=1e-3)
        result = objective.evaluate(candidate, 0, at=4)
        write_result(folder / "bundle", objective.spec, objective, candidate, result)
        self.predictor = Predictor(folder / "bundle")
        about = {"study": "s", "trial": 0, "digest": "0"}
        app = create_app([self.predictor], ["image"], about, LIMITS, local=True)
        taken, listening = bound_socket("127.0.0.1", 0), threading.Event()
        self.url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        threading.Thread(target=listen, args=(app, taken, LIMITS, listening.set), daemon=True).start()
        assert listening.wait(30)

    def send(self, *parts: tuple[str, Any], path: str = "/predict", **headers: str) -> requests.Response:
        """Send parts, each a field with (name of a file or None, content)."""
        return requests.post(self.url + path, files=list(parts), headers=headers, timeout=60)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_models: TinyModels) -> Served:
    return Served(tmp_path_factory.mktemp("served"), tiny_models["convolutional"])


def test_files_get_the_answers_that_json_gets(served: Served) -> None:
    parts = [("image", (path.name, path.read_bytes(), "image/png")) for path in served.paths[:4]]
    several = served.send(*parts, path="/predict/batch").json()["predictions"]
    expected = served.predictor.predict_proba([str(path) for path in served.paths[:4]])
    for place, part in enumerate(parts):
        alone = served.send(part)
        assert alone.status_code == 200
        body = {"image": as_data(str(served.paths[place]))}
        assert alone.json()["label"] == requests.post(f"{served.url}/predict", json=body, timeout=60).json()["label"]
        for answer in (alone.json(), several[place]):
            np.testing.assert_allclose(list(answer["probabilities"].values()), expected[place], atol=1e-5)


def bomb(width: int, height: int) -> bytes:
    """Return a PNG file of so many pixels, a thousandth of that in bytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    content = zlib.compress(bytes(1 + width // 8) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def test_too_many_bytes_or_pixels_are_refused(served: Served) -> None:
    def image(content: bytes) -> tuple[str, Any]:
        return "image", ("a.png", content)

    # The last one isn't decoded by anything: it is more than Pillow opens.
    for size, said in (
        ((8000, 8000), "8000 x 8000 pixels, which is more"),
        ((20_000, 20_000), "more than 50000000 pixels"),
    ):
        for part, path in ((image(bomb(*size)), "/predict"), (image(bomb(*size)), "/predict/batch")):
            refused = served.send(part, path=path)
            assert refused.status_code == 413
            assert refused.json()["error"].startswith("image: ")
            assert said in refused.json()["error"]
    body = {"image": f"data:;base64,{b64encode(bomb(8000, 8000)).decode()}"}
    assert requests.post(f"{served.url}/predict", json=body, timeout=60).status_code == 413
    together = served.send(*[image(bomb(7000, 7000))] * 3, path="/predict/batch")
    assert together.status_code == 413
    assert "147000000 pixels together, which is more than 100000000" in together.json()["error"]
    large = served.send(image(b"x" * 2**20))
    assert (large.status_code, "larger than 1048576 bytes" in large.json()["error"]) == (413, True)
    assert served.send(image(served.paths[0].read_bytes())).status_code == 200


def test_what_is_no_image_is_refused_with_the_reason(served: Served) -> None:
    good = served.paths[0].read_bytes()
    truncated = io.BytesIO()
    Image.fromarray(draw(0)).save(truncated, "JPEG")
    cases: list[tuple[list[tuple[str, Any]], str, int, str]] = [
        ([("image", ("a.png", b"no image"))], "/predict", 422, "not an image in one of the formats JPEG"),
        ([("image", ("a.jpg", truncated.getvalue()[:400]))], "/predict", 422, "truncated or damaged"),
        ([("image", ("a.png", b""))], "/predict", 422, "image: the file 'a.png' is empty"),
        ([("image", (None, "/etc/hostname"))], "/predict", 422, "image: a text, not a file; send a file, as curl -F"),
        ([("picture", ("a.png", good))], "/predict", 422, "image: Field required"),
        ([("image", ("a.png", good))] * 2, "/predict", 422, "takes one; send them to /predict/batch"),
        ([("image", ("a.png", good))] * 5, "/predict/batch", 422, "at most 4 items"),
        ([("image", ("a.png", good))] * 9, "/predict/batch", 400, "not valid multipart/form-data: Too many files"),
        ([("image", ("a.png", good)), ("image", ("b.png", b"x"))], "/predict/batch", 422, "not an image"),
    ]
    for parts, path, status, reason in cases:
        answer = served.send(*parts, path=path)
        assert answer.status_code == status, answer.text
        assert reason in answer.json()["error"]
    for body in (b"", b"no parts", b"--b\r\n\r\nx"):
        headers = {"content-type": "multipart/form-data; boundary=b"}
        broken = requests.post(f"{served.url}/predict", data=body, headers=headers, timeout=60)
        assert broken.status_code in (400, 422)
        assert len(broken.json()["error"]) > 5
    without = requests.post(
        f"{served.url}/predict", data=b"x", headers={"content-type": "multipart/form-data"}, timeout=60
    )
    assert (without.status_code, "boundary" in without.json()["error"]) == (400, True)


def test_other_sites_send_no_files(served: Served) -> None:
    part = ("image", ("a.png", served.paths[0].read_bytes()))
    assert served.send(part, Origin="http://elsewhere.example").status_code == 403
    assert served.send(part, Origin=served.url).status_code == 200


def test_the_page_says_what_may_be_sent(served: Served) -> None:
    page = requests.get(f"{served.url}/openapi.json", timeout=9).json()
    for path, kind in (("/predict", "string"), ("/predict/batch", "array")):
        content = page["paths"][path]["post"]["requestBody"]["content"]
        assert content.keys() == {"application/json", "multipart/form-data"}
        assert content["multipart/form-data"]["schema"]["properties"]["image"]["type"] == kind
        assert "pixels" in page["paths"][path]["post"]["responses"]["413"]["description"]
    text = requests.post(f"{served.url}/predict", data="x", headers={"content-type": "text/plain"}, timeout=9)
    assert (text.status_code, "or files as multipart/form-data" in text.json()["error"]) == (415, True)

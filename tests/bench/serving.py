"""`promptgraft serve` beside a plain transformers pipeline behind the same kind of server, and `Predictor` beside one.

python -m tests.bench.serving [--bundle runs/demo/bundle] [--requests 2000] [--out F.json]

The pipeline is the bundle's own backbone with a linear head on the bare text, which is shorter than the prompt. Its
server is FastAPI and uvicorn: as one would write it first (`pipeline`: each request in a thread of the pool), and with
one request at a time (`pipeline, in turn`), so that threads don't fight for two cores. Clients and server share the
machine. Then requests of which one in twenty is malformed.
"""

import argparse
import asyncio
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pandas as pd

from promptgraft.bundles import Predictor
from promptgraft.objectives.runtime import quiet_transformers

# Not from `tests.conftest`, which lets servers begin with one thread.
STUDIES = Path(__file__).parents[2] / "studies"
CLIENTS, ROUNDS, MALFORMED_SHARE = (1, 8, 64), 3, 0.05
PEERS = ("pipeline", "pipeline, in turn")
COLD = {
    "ours": "from promptgraft.bundles.predictor import Predictor; from pathlib import Path; "
    "Predictor(Path(sys.argv[1])).predict([sys.argv[3]])",
    "pipeline": "from transformers import pipeline; pipeline('text-classification', sys.argv[2])(sys.argv[3])",
}
BROKEN = [b"", b"{", b"\xff", b"[]", b"{}", b'{"text": ""}', b'{"text": null}', b'{"text": 3}', b'{"txt": "good"}']


def texts_of(count: int) -> list[str]:
    """Return real rows, over and over."""
    rows = pd.read_csv(STUDIES / "data" / "amazon.csv").text.tolist()
    return [rows[number % len(rows)] for number in range(count)]


def write_pipeline(bundle: Path, folder: Path) -> str:
    """Save the bundle's backbone as a classifier of two labels, as transformers' pipeline loads it."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    path = Predictor(bundle).manifest.backbone.path
    AutoModelForSequenceClassification.from_pretrained(path, num_labels=2).save_pretrained(folder)
    AutoTokenizer.from_pretrained(path).save_pretrained(folder)
    return str(folder)


def serve_pipeline(model: str, port: int, *, in_turn: bool) -> None:
    """Serve a pipeline; runs in a process of its own."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel
    from transformers import pipeline

    quiet_transformers()
    classify = pipeline("text-classification", model, truncation=True, max_length=128, top_k=None)
    app, turn = FastAPI(), asyncio.Lock()

    class Row(BaseModel):
        text: str

    @app.get("/ready")
    def ready() -> dict[str, str]:
        return {}

    if in_turn:

        @app.post("/predict")
        async def predict_in_turn(row: Row) -> Any:
            async with turn:
                return await asyncio.to_thread(classify, row.text)
    else:

        @app.post("/predict")
        def predict(row: Row) -> Any:
            return classify(row.text)

    uvicorn.run(app, port=port, log_level="warning")


@contextmanager
def server(command: Callable[[int], list[str]]) -> Iterator[str]:
    """Start a server and end it; yields its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(command(port), stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


async def load(url: str, bodies: Sequence[bytes], clients: int) -> tuple[float, list[float], Counter[int], int]:
    """Send all bodies from so many clients, each one request at a time.

    Returns:
        Requests a second, seconds of each, how many got which status, and malformed ones without a message.
    """
    waiting, seconds, statuses, silent = iter(bodies), list[float](), Counter[int](), 0

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal silent
        for body in waiting:
            start = time.perf_counter()
            async with session.post(f"{url}/predict", data=body, headers={"content-type": "application/json"}) as found:
                content = await found.read()
            seconds.append(time.perf_counter() - start)
            statuses[found.status] += 1
            silent += found.status != 200 and len(json.loads(content).get("error", "")) < 5

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients)) as session:
        start = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
        return len(bodies) / (time.perf_counter() - start), seconds, statuses, silent


def measure_load(commands: dict[str, Callable[[int], list[str]]], requests: int) -> list[dict[str, Any]]:
    """Load each server in turns; medians over rounds."""
    found: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            with server(command) as url:
                asyncio.run(load(url, _bodies(64), 8))  # Warm.
                for clients in CLIENTS:
                    count = max(100, requests * min(clients, 8) // 8)
                    rate, seconds, statuses, _ = asyncio.run(load(url, _bodies(count), clients))
                    assert statuses.keys() == {200}, (name, statuses)
                    p50, p99 = np.quantile(seconds, [0.5, 0.99])
                    found.setdefault((name, clients), []).append((rate, 1000 * p50, 1000 * p99))
    rows = []
    for (name, clients), runs in found.items():
        rate, p50, p99 = (statistics.median(column) for column in zip(*runs, strict=True))
        spread = [min(run[0] for run in runs), max(run[0] for run in runs)]
        row = {"server": name, "clients": clients, "requests_per_s": rate, "range": spread}
        rows.append(row | {"p50_ms": p50, "p99_ms": p99})
        print(f"{name:20} {clients:3} clients: {rate:7.1f}/s {spread} p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    return rows


def _bodies(count: int) -> list[bytes]:
    return [json.dumps({"text": text}).encode() for text in texts_of(count)]


def measure_malformed(command: Callable[[int], list[str]], count: int) -> dict[str, Any]:
    """Send requests of which one in twenty is malformed."""
    chance = random.Random(0)
    bodies = [chance.choice(BROKEN) if chance.random() < MALFORMED_SHARE else body for body in _bodies(count)]
    broken = sum(body in BROKEN for body in bodies)
    with server(command) as url:
        _, _, statuses, silent = asyncio.run(load(url, bodies, 64))
    found = {"requests": count, "malformed": broken, "statuses": dict(statuses), "without_message": silent}
    print(found)
    return found


def measure_predictor(bundle: Path, model: str) -> dict[str, Any]:
    """Rows a second on 1,000 rows, warm, and seconds of a fresh process that predicts one."""
    from transformers import pipeline

    texts = texts_of(1000)
    predictor = Predictor(bundle)
    rows = predictor.manifest.evaluation_batch_size
    classify = pipeline("text-classification", model, truncation=True, max_length=128)
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: predictor.predict(texts),
        "pipeline": lambda: classify(texts),
        f"pipeline, batches of {rows}": lambda: classify(texts, batch_size=rows),
    }
    seconds: dict[str, list[float]] = {}
    for way in ways.values():
        way()
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds.setdefault(name, []).append(time.perf_counter() - start)
    cold: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, code in COLD.items():
            start = time.perf_counter()
            arguments = [str(bundle), model, texts[0]]
            subprocess.run([sys.executable, "-c", f"import sys; {code}", *arguments], check=True, capture_output=True)
            cold.setdefault(name, []).append(time.perf_counter() - start)
    found = {
        "rows_per_s": {name: 1000 / statistics.median(own) for name, own in seconds.items()},
        "cold_start_s": {name: statistics.median(own) for name, own in cold.items()},
    }
    print(json.dumps(found, indent=1))
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("runs/demo/bundle"))
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--malformed", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve-pipeline", nargs=3, metavar=("MODEL", "PORT", "IN_TURN"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_pipeline:
        model, port, in_turn = options.serve_pipeline
        serve_pipeline(model, int(port), in_turn=in_turn == "1")
        return
    quiet_transformers()

    def ours(port: int) -> list[str]:
        code = "from promptgraft.search.cli.studies import app; app()"
        return [sys.executable, "-c", code, "serve", str(options.bundle), "--port", str(port)]

    with tempfile.TemporaryDirectory() as folder:
        model = write_pipeline(options.bundle, Path(folder))

        def peer(in_turn: str) -> Callable[[int], list[str]]:
            module = [sys.executable, "-m", "tests.bench.serving", "--serve-pipeline", model]
            return lambda port: [*module, str(port), in_turn]

        commands = {"promptgraft serve": ours, PEERS[0]: peer("0"), PEERS[1]: peer("1")}
        result = {
            "predictor": measure_predictor(options.bundle, model),
            "load": measure_load(commands, options.requests),
            "malformed": measure_malformed(ours, options.malformed),
        }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

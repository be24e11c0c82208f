"""Predictions over HTTP: `gpt-trader serve` as a process of its own, and a load generator as another, both on this machine's cores.

The generator is this file, run with --generate: an asyncio protocol on uvloop that keeps a fixed number of connections busy, each with one
request under way, and notes each answer's time. (wrk and oha are quicker still, and not part of a Python environment.) What it asks is
made beforehand; each answer must be 200. The figures are the requests answered, and the latency that a caller sees, the generator's own
work included.

Against them, in the same minute and under the same generator, Starlette on uvicorn with a handler that reads JSON and scores nothing: what
of the time is the server's, and what is ours. The goals are absolute, as the operations ask for them: judge them on a machine that does
nothing else; the load average stands beside the figures.
"""
import asyncio
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from measure import Row, table

CONNECTIONS, SECONDS, BATCH = 16, 5.0, 5_000
PER_SECOND, P99, BATCHED = 5_500, 10.0, 200_000  # the goals: one-row requests a second, ms, rows a second


class Client(asyncio.Protocol):
    """One connection: a request, its answer, the next."""

    def __init__(self, request: bytes, times: list[float], until: float) -> None:
        self.request, self.times, self.until, self.buffer, self.need = request, times, until, b"", 0
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        """The next request."""
        self.began = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Part of an answer, or all of it."""
        self.buffer += data
        if not self.need:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end].lower()
            if not head.startswith(b"http/1.1 200"):
                self.over.set_exception(RuntimeError(self.buffer[:300].decode(errors="replace")))
                return
            at = head.index(b"content-length:") + 15
            self.need = end + 4 + int(head[at:].split(b"\r\n", 1)[0])
        if len(self.buffer) < self.need:
            return
        now, self.buffer, self.need = time.perf_counter(), b"", 0
        self.times.append(now - self.began)
        if now < self.until:
            self.ask()
        else:
            self.transport.close()
            self.over.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """A connection that ends before its time is a failure."""
        if not self.over.done():
            self.over.set_exception(error or RuntimeError("the server closed the connection"))


def generate() -> None:
    """The generator's process: what to do on stdin, figures on stdout."""
    import uvloop

    asked = json.loads(sys.stdin.buffer.readline())
    request, times = sys.stdin.buffer.read(), list[float]()

    async def run() -> float:
        began = time.perf_counter()
        loop = asyncio.get_running_loop()
        clients = [(await loop.create_connection(lambda: Client(request, times, began + asked["seconds"]), "127.0.0.1", asked["port"]))[1]
                   for _ in range(asked["connections"])]
        await asyncio.gather(*(c.over for c in clients))
        return time.perf_counter() - began

    took = uvloop.run(run())
    p50, p99, p999 = np.quantile(times, [0.5, 0.99, 0.999])
    print(json.dumps({"requests": len(times), "per_second": len(times) / took, "p50": 1e3 * p50, "p99": 1e3 * p99, "p999": 1e3 * p999}))


def load(port: int, request: bytes, connections: int = CONNECTIONS) -> dict[str, float]:
    """What the generator measured."""
    words = json.dumps({"port": port, "connections": connections, "seconds": SECONDS}).encode() + b"\n"
    done = subprocess.run([sys.executable, __file__, "--generate"], input=words + request, capture_output=True, timeout=120)
    if done.returncode:
        sys.exit(done.stderr.decode()[-2000:])
    return dict(json.loads(done.stdout))


def post(path: str, body: bytes, token: str, kind: str = "application/json", accept: str = "application/json") -> bytes:
    """A whole request."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: {kind}\r\nAccept: {accept}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


BARE = """
import json, sys, orjson, uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

async def answer(request):
    asked = orjson.loads(await request.body())
    return Response(orjson.dumps({"probability": 0.5, "version": "-", "n": len(asked)}), media_type="application/json")

uvicorn.run(Starlette(routes=[Route("/v1/predict", answer, methods=["POST"])]), port=int(sys.argv[1]), http="httptools", loop="uvloop",
            access_log=False, log_level="critical")
"""


@contextmanager
def bare() -> Iterator[int]:
    """The same server without our part; its port."""
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = int(s.getsockname()[1])
    process = subprocess.Popen([sys.executable, "-c", BARE, str(port)])
    try:
        for _ in range(200):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def measure() -> list[Row]:
    """Rows one by one, and in batches."""
    from gpt_trader.core.clock import SimulatedClock
    from gpt_trader.core.workspace import Workspace
    from gpt_trader.dataflow.datasets import adjusted, load_bars
    from gpt_trader.dataflow.ingestion import ingest
    from gpt_trader.dataflow.providers import EmbeddedProvider
    from gpt_trader.ml.registry import train_and_register
    from gpt_trader.ml.served import running

    clock = SimulatedClock(datetime(2013, 3, 1, 22, tzinfo=UTC))
    with tempfile.TemporaryDirectory() as folder, Workspace.create(Path(folder), clock) as ws:
        (ws.config_dir / "models.yaml").write_text("walk_forward: {min_train_years: 8, bootstrap_samples: 200}\n"
                                               "prediction: {prediction_threads: -1}\n")  # a batch may have both cores
        ingest(ws, EmbeddedProvider(), ws.config.app.desk.universe)
        model = train_and_register(ws, adjusted(load_bars(ws, ws.config.app.desk.universe)), end="2012-12-31").model
        if model.status != "champion":
            sys.exit("the benchmark's model was not promoted, so nobody answers")
        words = [str(Path(sys.executable).with_name("gpt-trader")), "serve", "--port", "0", "--workspace", folder]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        try:
            while (server := running(ws)) is None:
                if process.poll() is not None:
                    sys.exit("gpt-trader serve ended")
                time.sleep(0.1)
            return _rows(server, len(model.features), process.pid)
        finally:
            process.terminate()
            process.wait(30)


def _rows(server: Any, width: int, pid: int) -> list[Row]:
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(BATCH, width))
    one = post("/v1/predict", json.dumps({"row": rows[0].tolist(), "key": "a"}).encode(), server.token)
    load(server.port, one)  # warm
    ours = load(server.port, one)
    with bare() as port:
        floor = load(port, one)
    buffer = io.BytesIO()
    np.save(buffer, rows)
    npy = load(server.port, post("/v1/batch", buffer.getvalue(), server.token, "application/x-npy", "application/x-npy"), 2)
    text = load(server.port, post("/v1/batch", json.dumps({"rows": rows.tolist()}).encode(), server.token), 2)
    memory = psutil.Process(pid).memory_info().rss / 1e6

    def said(found: dict[str, float]) -> str:
        return f"{found['per_second']:,.0f} a second, p50 {found['p50']:.2f} ms, p99 {found['p99']:.2f} ms"

    def many(found: dict[str, float]) -> str:
        return f"{BATCH * found['per_second']:,.0f} rows a second, p99 {found['p99']:.0f} ms"

    quick = ours["per_second"] >= PER_SECOND and ours["p99"] < P99
    busy = os.getloadavg()[0]
    return [
        Row(f"predictions over HTTP, a row a request, {CONNECTIONS} connections ({memory:.0f} MB, load average {busy:.1f})", said(ours),
            f"Starlette answering a constant: {said(floor)}", f"{ours['per_second'] / floor['per_second']:.2f}",
            f"{PER_SECOND:,} a second, p99 under {P99:.0f} ms", quick),
        Row(f"batches of {BATCH:,} rows, .npy, 2 connections", many(npy), f"as JSON: {many(text)}",
            f"{npy['per_second'] / text['per_second']:.1f}", f"{BATCHED:,} rows a second", BATCH * npy["per_second"] >= BATCHED)]


if __name__ == "__main__":
    generate() if "--generate" in sys.argv else print(table(measure()))

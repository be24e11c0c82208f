"""`gpt-trader serve` as a process of its own, on a desk with three models of the headline head."""
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_harness import CUT, HEAD, trained_desk

from gpt_trader.core.workspace import Workspace
from gpt_trader.dataflow.datasets import adjusted, load_bars
from gpt_trader.ml.registry import train_and_register
from gpt_trader.ml.served import Server, running

PROGRAM = str(Path(sys.executable).with_name("gpt-trader"))
MIDDLE = "2012-03-30"


def served_desk(root: Path) -> Path:
    """The desk of `model_harness` and a challenger beside its champion."""
    trained_desk(root)
    with (root / "config" / "models.yaml").open("a") as settings:  # what holds a rollout has tests of its own
        settings.write("rollout: {max_latency_ratio: 1000, max_divergence: 1}\n")
    with Workspace.open(root) as ws:
        model = train_and_register(ws, adjusted(load_bars(ws, ws.config.app.desk.universe)), HEAD, end=MIDDLE, trust=False).model
        assert model.status == "challenger" and CUT > MIDDLE
    return root


def wait_until(true, what: str, seconds: float = 60.0):  # type: ignore[no-untyped-def]
    """What `true()` gives once it is truthy."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
        time.sleep(0.05)
    return found


class Serving:
    """A running server."""

    def __init__(self, ws: Workspace, process: "subprocess.Popen[bytes]", printed: Path, server: Server) -> None:
        self.ws, self.process, self.printed, self.server = ws, process, printed, server

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server.port}"

    @property
    def headers(self) -> dict[str, str]:
        """With the token."""
        return {"Authorization": f"Bearer {self.server.token}"}


@contextmanager
def serving(ws: Workspace, folder: Path) -> Iterator[Serving]:
    """Serve the workspace; end with SIGTERM, which must be clean."""
    printed = folder / "serve.txt"
    with printed.open("w") as out:
        process = subprocess.Popen([PROGRAM, "serve", "--port", "0", "--workspace", str(ws.root)], stdout=out, stderr=subprocess.STDOUT)
    try:
        server = wait_until(lambda: process.poll() is not None or running(ws), "the server is there")
        assert isinstance(server, Server), printed.read_text()
        yield Serving(ws, process, printed, server)
    finally:
        process.terminate()
        code = process.wait(30)
    assert code == 0 and "Traceback" not in printed.read_text(), printed.read_text()
    assert running(ws) is None and not (ws.state_dir / "serving.json").exists()

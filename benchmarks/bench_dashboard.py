"""The dashboards' first content and complete page against the same notebook under plain Voila; and what a visitor costs in memory.

Ours is `gpt-trader dashboard` with its default settings, the other `voila` with its defaults on the page's own notebook: same panels, same
workspace, same browser, visited in turn in one run. *First content* is the moment at which the first panel can be read; *complete* is when
all panels are there, all figures are drawn, and the page is connected to a process that keeps it up to date. *Warm* is a visit to a server
that has been visited before, *cold* the first visit to a server that has just begun to answer.
"""
import contextlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import psutil
from measure import Row, spread, table

ROUNDS, COLD_ROUNDS = 7, 3
GOAL = 5
PAGE = "operations"
BIN = Path(sys.executable).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PANELS = "[data-panel]"
Times = tuple[float, float]  # seconds to the first content, to the complete page


def environment(desk: Path) -> dict[str, str]:
    """Both servers find the same workspace."""
    return {**os.environ, "GPT_TRADER_HOME": str(desk)}


@contextlib.contextmanager
def process(command: list[str], env: dict[str, str], printed: Path) -> Iterator[subprocess.Popen]:
    """A server, stopped at the end."""
    with printed.open("w") as out:
        started = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env, cwd=printed.parent)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(60)


@contextlib.contextmanager
def ours(desk: Path, folder: Path) -> Iterator[tuple[str, str, int]]:
    """(address of the page, address that signs in, process id) of a dashboard that answers."""
    printed = folder / "ours.log"
    command = [str(BIN / "gpt-trader"), "dashboard", "--port", "0", "--no-browser"]
    with process(command, environment(desk), printed) as started:
        while (found := re.search(r"(http://127\.0\.0\.1:\d+)/\?token=\S+", printed.read_text())) is None:
            if started.poll() is not None:
                raise SystemExit(printed.read_text())
            time.sleep(0.02)
        yield f"{found[1]}/{PAGE}", found[0], started.pid


@contextlib.contextmanager
def plain(desk: Path, folder: Path, port: int) -> Iterator[tuple[str, str, int]]:
    """The same for Voila on the page's notebook."""
    from gpt_trader.dashboards.handlers import page_notebook

    notebook = shutil.copy(page_notebook(PAGE), folder / f"{PAGE}.ipynb")
    command = [str(BIN / "voila"), str(notebook), "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"]
    with process(command, environment(desk), folder / "plain.log") as started:
        address = f"http://127.0.0.1:{port}/voila/static/require.min.js"  # answered without starting a kernel
        while True:
            try:
                urlopen(address, timeout=5).read()
                break
            except URLError:
                if started.poll() is not None:
                    raise SystemExit((folder / "plain.log").read_text()) from None
                time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/", "", started.pid


def visit(browser: Any, address: str, sign_in: str) -> tuple[Times, Any]:
    """Open the page in a browser that has never seen it; the times, and the context, still open."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    if sign_in:
        context.request.get(sign_in, max_redirects=0)
    page = context.new_page()
    page.set_default_timeout(180_000)
    start = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_selector(PANELS)
    first = time.perf_counter() - start
    if sign_in:
        page.wait_for_selector('html[data-connection="live"]', state="attached")
    page.wait_for_selector(".gt-figure:not([data-drawn])", state="detached")
    return (first, time.perf_counter() - start), context


def proportional(pid: int) -> int:
    """Bytes of a process and its descendants; memory that several share counts in parts (PSS)."""
    total = 0
    for member in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += member.memory_full_info().pss
    return total


def of_a_visitor(browser: Any, address: str, sign_in: str, pid: int) -> float:
    """MiB that one more open page costs; forked kernels belong to the fork server, so they are asked for by number."""
    _, first = visit(browser, address, sign_in)
    before = proportional(pid) + forked(first, address, sign_in)
    more = [visit(browser, address, sign_in)[1] for _ in range(2)]
    time.sleep(1)
    after = proportional(pid) + forked(first, address, sign_in)
    for context in (first, *more):
        context.close()
    return (after - before) / 2 / 2**20


def forked(context: Any, address: str, sign_in: str) -> int:
    """Bytes of the kernels that are no children of the server."""
    if not sign_in:
        return 0
    pids = context.request.get(address.rpartition("/")[0] + "/api/open").json()["processes"]
    server = psutil.Process(os.getpid())
    known = {c.pid for c in server.children(recursive=True)}
    return sum(psutil.Process(p).memory_full_info().pss for p in pids if p not in known)


def free_port() -> int:
    """A port that nobody listens on now."""
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def measure() -> list[Row]:
    """First content and complete page, warm and cold; memory of a visitor."""
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if chromium is None:
        raise SystemExit("no Chromium found: name it in $CHROMIUM")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as p:
        folder = Path(name)
        desk = folder / "desk"
        demo = [str(BIN / "gpt-trader"), "--workspace", str(desk), "demo"]
        ready = os.environ.get("GPT_TRADER_TEST_DESK")
        if ready:
            shutil.copytree(ready, desk, symlinks=True)
        else:
            subprocess.run(demo, check=True, stdout=subprocess.DEVNULL)
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        port, cold, warm, memory = free_port(), ([], []), ([], []), []
        for _ in range(COLD_ROUNDS):
            for k, server in enumerate((ours(desk, folder), plain(desk, folder, port))):
                with server as (address, sign_in, _):
                    times, context = visit(browser, address, sign_in)
                    cold[k].append(times)
                    context.close()
        with ours(desk, folder) as mine, plain(desk, folder, port) as other:
            for address, sign_in, _ in (mine, other):
                visit(browser, address, sign_in)[1].close()
            time.sleep(5)  # the workers of both come to rest
            for n in range(ROUNDS):
                for k in (0, 1) if n % 2 else (1, 0):
                    address, sign_in, _ = (mine, other)[k]
                    times, context = visit(browser, address, sign_in)
                    warm[k].append(times)
                    context.close()
                    time.sleep(1)
            memory = [of_a_visitor(browser, *server) for server in (mine, other)]
        browser.close()

    def form(x: float) -> str:
        return f"{x:.2f} s"

    rows = []
    for state, found in (("warm", warm), ("cold", cold)):
        for k, what in enumerate(("first content", "complete page")):
            a, b = [t[k] for t in found[0]], [t[k] for t in found[1]]
            ratios = [y / x for x, y in zip(a, b, strict=True)]
            least = 1 if k else GOAL
            rows.append(Row(f"dashboard, {what}, {state} ({len(a)} rounds)", spread(a, form), f"plain Voila: {spread(b, form)}",
                            spread(ratios, lambda x: f"{x:.1f}"), f"at least {least}", statistics.median(ratios) >= least))
    share = memory[0] / memory[1]
    rows.append(Row("dashboard, memory of one more visitor (PSS)", f"{memory[0]:.0f} MiB", f"plain Voila: {memory[1]:.0f} MiB",
                    f"{share:.2f}", "below 1", share < 1))
    return rows


if __name__ == "__main__":
    load = os.getloadavg()[0]
    print(table(measure()))
    print(f"\nload when it began: {load:.1f}, when it ended: {os.getloadavg()[0]:.1f}")

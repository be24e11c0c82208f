"""What the tests of the dashboards share: a workspace, a running server, a browser that keeps an eye on itself, axe."""
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

import psutil
import pytest

from gpt_trader.runbook import rendezvous

PATIENCE = 60_000  # milliseconds for a page to become live on a busy machine
ENGINE = "GPT_TRADER_ENGINE"
PLAIN = {ENGINE: "plain"}
WARM = {ENGINE: "warm", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # as pages have it: one engine for all
SOAK = os.environ.get("GPT_TRADER_SOAK") == "1"
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


class _Stay(HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        return None


@dataclass
class Answer:
    """What the server said to a plain request."""

    status: int
    headers: Any
    text: str


@dataclass
class Server:
    """A running `gpt-trader dashboard`."""

    root: Path
    process: subprocess.Popen
    address: str  # with the token
    printed: Path

    @property
    def base(self) -> str:
        """Where it answers, without a slash."""
        return self.address.partition("/?")[0].rstrip("/")

    @property
    def token(self) -> str:
        return self.address.partition("token=")[2]

    def ask(self, path: str, data: bytes | None = None, **headers: str) -> Answer:
        """A request without a browser; redirects are not followed."""
        request = Request(self.base + path, data=data, headers={k.replace("_", "-"): v for k, v in headers.items()})
        try:
            with build_opener(_Stay).open(request, timeout=30) as found:
                return Answer(found.status, found.headers, found.read().decode())
        except HTTPError as error:
            return Answer(error.code, error.headers, error.read().decode(errors="replace"))


    def stop(self) -> int:
        """Ask it to stop; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:  # the test fails, and nothing of it stays
            self.process.kill()
            self.process.wait(10)
            raise


def lives(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(true: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait for it, or fail with what it was."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)


def start_server(root: Path, *options: str, env: dict[str, str] | None = None) -> Server:
    """Start `gpt-trader dashboard` on a free port, and wait until it has printed its address.

    Its pages come from the warm engine, as users have them; `env=PLAIN` takes ordinary processes instead."""
    printed = root.parent / f"{root.name}-dashboard.log"
    program = str(Path(sys.executable).with_name("gpt-trader"))
    command = [program, "dashboard", "--workspace", str(root), "--port", "0", "--no-browser", *options]
    with printed.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=root.parent,
                                   env={**os.environ, **WARM, **(env or {})})
    end = time.monotonic() + 90
    while (found := re.search(r"http://127\.0\.0\.1:\d+/(\?token=\S+)?", printed.read_text())) is None:
        assert process.poll() is None and time.monotonic() < end, f"the server did not start:\n{printed.read_text()}"
        time.sleep(0.1)
    return Server(root, process, found[0], printed)


@contextlib.contextmanager
def serving(root: Path, *options: str, env: dict[str, str] | None = None) -> Iterator[Server]:
    """A server for as long as the block lasts."""
    server = start_server(root, *options, env=env)
    try:
        yield server
    finally:
        server.stop()


# ---------------------------------------------------------------- a workspace that has something to show
def make_desk(root: Path) -> Path:
    """The demo's workspace: trained models, 40 replayed sessions, alerts and an incident (half a minute)."""
    command = [str(Path(sys.executable).with_name("gpt-trader")), "--workspace", str(root), "demo"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=root.parent)
    assert done.returncode in (0, 1, 2), done.stdout + done.stderr
    return root


@pytest.fixture(scope="session")
def demo_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A demo workspace, made once for all tests of this process and never written to; or the one that $GPT_TRADER_TEST_DESK names."""
    ready = os.environ.get("GPT_TRADER_TEST_DESK")
    yield Path(ready) if ready else make_desk(tmp_path_factory.mktemp("made") / "desk")
    rendezvous.stop({**os.environ, **WARM})  # the warm engine that the pages of these tests came from


@pytest.fixture(scope="module")
def desk(demo_desk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This file's own copy of the demo workspace."""
    return Path(shutil.copytree(demo_desk, tmp_path_factory.mktemp("own") / "desk", symlinks=True))


@pytest.fixture(scope="module")
def dashboard(desk: Path) -> Iterator[Server]:
    """A server of this file's desk."""
    with serving(desk) as server:
        yield server


# ---------------------------------------------------------------- a browser
@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """Chromium, for all tests of a file."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        started = p.chromium.launch(executable_path=chromium, args=ARGS)
        yield started
        started.close()


@dataclass
class Visitor:
    """A browser profile that is signed in, and what went wrong in its pages."""

    server: Server
    context: Any
    problems: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)  # regular expressions of problems that a test brings about on purpose

    def sign_in(self) -> None:
        """Exchange the token for the cookie, without opening a page."""
        answer = self.context.request.get(self.server.address, max_redirects=0)
        assert answer.status == 303, answer.status

    def page(self, path: str = "", *, live: bool = True) -> Any:
        """Open a page ('risk', 'risk?as_of=2013-02-01'); wait until it is live."""
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", self._console)
        page.on("pageerror", lambda e: self.problems.append(f"page: {e}"))
        page.on("request", lambda r: self._request(r.url))
        page.on("websocket", lambda w: self._request(w.url))
        page.goto(f"{self.server.base}/{path}", wait_until="commit")
        if live:
            wait_live(page)
        return page

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"console: {message.text} ({message.location.get('url', '')})")

    def _request(self, url: str) -> None:
        if not url.startswith((self.server.base + "/", self.server.base.replace("http", "ws", 1) + "/", "data:", "blob:")):
            self.problems.append(f"outside: {url}")

    def processes(self) -> list[int]:
        """The ids of the processes that the server's open pages have."""
        return list(self.context.request.get(f"{self.server.base}/api/open").json()["processes"])

    def nothing_wrong(self) -> None:
        """Fail with what went wrong in any page so far."""
        wrong = [p for p in self.problems if not any(re.search(e, p) for e in self.expected)]
        assert wrong == [], "\n".join(wrong)


def wait_live(page: Any) -> None:
    """Wait until the page is connected to its process and shows the present state."""
    page.wait_for_selector('html[data-connection="live"]', state="attached", timeout=PATIENCE)


@contextlib.contextmanager
def visiting(browser: Any, server: Server, **options: Any) -> Iterator[Visitor]:
    """A signed-in visitor; options are those of a browser context (color_scheme, viewport …). Fails at the end on any problem."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    visitor = Visitor(server, context)
    try:
        visitor.sign_in()
        yield visitor
        visitor.nothing_wrong()
    finally:
        context.close()


@pytest.fixture
def visitor(browser: Any, dashboard: Server) -> Iterator[Visitor]:
    """A signed-in visitor of this file's server; the test fails on any console message, page error or outside request."""
    with visiting(browser, dashboard) as made:
        yield made


def faults(page: Any) -> list[str]:
    """What axe-core finds serious or critical, a line each."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{v['impact']} {v['id']}: {v['help']} ({len(v['nodes'])}x, e.g. {v['nodes'][0]['html'][:200]})"
            for v in found if v["impact"] in ("serious", "critical")]


def fits(page: Any) -> bool:
    """Whether the page does not scroll sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


# ---------------------------------------------------------------- reading and acting
def cell(page: Any, panel: str, row: str, column: str) -> str | None:
    """The raw value of a table's cell (its text where it has none)."""
    found = page.locator(f'[data-panel="{panel}"] [data-cell="{row}/{column}"]').first
    return found.get_attribute("data-value") or found.inner_text()


def tile(page: Any, panel: str, label: str) -> str | None:
    """The raw value of a tile."""
    return page.locator(f'[data-panel="{panel}"] [data-tile="{label}"]').first.get_attribute("data-value")


def perform(page: Any, panel: str, action: str, fields: dict[str, Any] | None = None, patience: int = PATIENCE) -> str:
    """Press an act's button, fill in its fields, confirm (twice where it shows its plan first); the sentence that it ended with."""
    page.locator(f'[data-panel="{panel}"] [data-action="{action}"]').first.click()
    dialog = page.locator("dialog[open]")
    dialog.wait_for()
    for name, value in (fields or {}).items():
        entry = dialog.locator(f'[data-field="{name}"]')
        if isinstance(value, bool):
            entry.set_checked(value)
        elif entry.evaluate("e => e.tagName") == "SELECT":
            entry.select_option(str(value))
        else:
            entry.fill(str(value))
    if (show := dialog.get_by_role("button", name="Show what it would do")).count():
        show.click()
        dialog.get_by_role("button", name="Confirm").wait_for()
    dialog.get_by_role("button", name="Confirm").click()
    page.wait_for_selector("dialog[open] .gt-result:not(:empty):not(.gt-busy)", timeout=patience)
    said = dialog.locator(".gt-result").inner_text()
    dialog.get_by_role("button", name=re.compile("Close|Cancel")).click()
    return said

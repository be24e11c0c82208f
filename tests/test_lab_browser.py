"""JupyterLab as `gpt-trader lab` opens it, in a real browser: cards in the launcher, magics in a notebook, nothing asked of the outside."""
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.workspace import Workspace

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PATIENCE = 120_000  # milliseconds; a kernel that starts on a busy machine needs them

# What a quant types; the deliberate mistake comes last, for it ends the run.
CELLS = ['workspace: str = ""', "%load_ext gpt_trader\n%gpt_trader", "%procedures positions", "%alerts", "ws = %workspace\nws",
         "from gpt_trader.core.outcome import Outcome, Status\nOutcome(Status.WARNING, 'seen in Lab', {'share': 0.41})",
         "%run_procedure list_position"]


def notebook(path: Path, cells: list[str]) -> None:
    """Write a notebook of these code cells."""
    path.parent.mkdir(exist_ok=True)
    made = [{"cell_type": "code", "execution_count": None, "id": f"c{i}", "metadata": {}, "outputs": [], "source": c}
            for i, c in enumerate(cells)]
    spec = {"name": "python3", "language": "python", "display_name": "Python 3"}
    path.write_text(json.dumps({"cells": made, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}))


@dataclass
class Lab:
    """A running server."""

    root: Path
    host: str
    token: str

    def url(self, path: str = "") -> str:
        return f"{self.host}/lab{path}?token={self.token}&reset"


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    root = tmp_path_factory.mktemp("desk")
    Workspace.create(root, SimulatedClock(datetime(2013, 3, 1, 22, tzinfo=UTC))).close()
    notebook(root / "research" / "try_magics.ipynb", CELLS)
    log = root / "lab.log"
    program = Path(sys.executable).with_name("gpt-trader")
    with open(log, "wb") as out:
        server = subprocess.Popen([program, "--workspace", root, "lab", "--no-browser", "--port", "8871"], stdout=out, stderr=out, cwd=root)
    try:
        for _ in range(240):
            said = log.read_text()
            found = re.search(r"(http://127\.0\.0\.1:\d+)/lab\S*[?&]token=(\w+)", said)
            if found or server.poll() is not None:
                break
            time.sleep(0.5)
        assert found, said
        assert "research notebooks put into research/" in said and (root / "research" / "explore.ipynb").is_file()
        yield Lab(root, found[1], found[2])
    finally:
        server.terminate()
        server.wait(30)


@dataclass
class Seen:
    """What the browser complained of, and what it asked for."""

    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


@pytest.fixture
def page(lab, chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        opened = browser.new_page(viewport={"width": 1400, "height": 950})
        opened.set_default_timeout(PATIENCE)
        opened.seen = seen = Seen()
        opened.on("console", lambda m: seen.errors.append(f"{m.text} {m.location.get('url', '')}") if m.type == "error" else None)
        opened.on("pageerror", lambda e: seen.errors.append(str(e)))
        opened.on("request", lambda r: seen.outside.append(r.url) if not r.url.startswith((lab.host, "data:", "blob:")) else None)
        opened.on("websocket", lambda w: seen.outside.append(w.url) if not w.url.startswith(lab.host.replace("http", "ws")) else None)
        yield opened
        browser.close()


def run_all(page) -> None:
    page.locator("#jp-main-statusbar").get_by_text("Python 3 (gpt_trader) | Idle").wait_for()  # until then Lab drops what is run
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()


def test_the_token_is_asked_for(lab, page):
    page.goto(f"{lab.host}/lab")
    assert "/login" in page.url
    assert page.request.post(f"{lab.host}/gpt-trader/new", data={"kind": "report", "name": "sneaked_in"}).status in (401, 403)
    assert not (lab.root / "procedures" / "sneaked_in.ipynb").exists()


def test_a_card_makes_a_notebook_that_runs(lab, page):
    page.goto(lab.url())
    cards = page.locator(".jp-LauncherCard")
    cards.first.wait_for()
    page.locator(".jp-LauncherCard", has_text="New procedure").wait_for()
    assert {"New procedure", "New feature", "New report", "New playbook"} <= {c.strip() for c in cards.all_inner_texts()}
    page.locator(".jp-LauncherCard", has_text="New procedure").click()
    page.locator(".jp-Dialog input").fill("count-entries")
    page.get_by_role("button", name="Make it").click()
    page.locator(".jp-Notebook").wait_for()
    page.locator(".jp-RenderedMarkdown h1", has_text="Count entries").wait_for()
    assert (lab.root / "procedures" / "count_entries.ipynb").is_file()
    run_all(page)
    page.locator(".gt-panel[data-panel=outcome], .gt-outcome").first.wait_for()
    assert page.seen.errors == [] and page.seen.outside == []


def test_a_name_that_is_taken_is_refused_in_a_sentence(lab, page):
    page.goto(lab.url())
    page.locator(".jp-LauncherCard", has_text="New report").click()
    page.locator(".jp-Dialog input").fill("performance_report")
    page.get_by_role("button", name="Make it").click()
    page.get_by_text("there is performance_report already").wait_for()
    assert page.seen.outside == []
    assert all("gpt-trader/new" in e for e in page.seen.errors), "the browser notes the refusal itself, and nothing else"


def test_magics_and_cards_in_a_notebook(lab, page):
    page.goto(lab.url("/tree/research/try_magics.ipynb"))
    page.locator(".jp-Notebook").wait_for()
    page.get_by_text("Python 3 (gpt_trader)").locator("visible=true").first.wait_for()  # in the toolbar; the list of kernels is folded away
    run_all(page)
    page.get_by_text("Did you mean 'list_positions'").wait_for()
    names = page.locator(".gt-panel").evaluate_all("all => all.map(e => e.dataset.panel)")
    assert [n for n in names if n] == ["magics", "procedures", "alerts", "workspace", "outcome"]
    assert page.locator("[data-panel=workspace]").inner_text().count(str(lab.root)) == 1
    assert page.locator("[data-panel=outcome] .gt-badge").first.inner_text().endswith("warning")
    table = page.locator("[data-panel=procedures] td").first
    assert table.evaluate("e => getComputedStyle(e).textAlign") in ("left", "start"), "JupyterLab's own table style is overruled"
    assert "Traceback" not in page.locator(".jp-Notebook").inner_text()
    assert page.seen.errors == [] and page.seen.outside == []


@pytest.mark.parametrize("theme, light", [("JupyterLab Light", True), ("JupyterLab Dark", False)])
def test_cards_follow_the_theme(lab, page, theme, light):
    notebook(lab.root / "research" / "theme.ipynb", ["%gpt_trader"])
    page.goto(lab.url("/tree/research/theme.ipynb"))
    page.locator(".jp-Notebook").wait_for()
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    page.get_by_text("Theme", exact=True).hover()
    page.get_by_text(theme, exact=True).click()
    run_all(page)
    panel = page.locator(".gt-panel[data-panel=magics]")
    panel.wait_for()
    page.wait_for_function(f"document.body.dataset.jpThemeLight === '{str(light).lower()}'")
    ink, paper = panel.evaluate("e => { const s = getComputedStyle(e); return [s.color, s.backgroundColor] }")
    brightness = [sum(int(n) for n in re.findall(r"\d+", c)[:3]) for c in (ink, paper)]
    assert (brightness[0] < brightness[1]) is light and abs(brightness[0] - brightness[1]) > 350

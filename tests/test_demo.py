"""The main job: the demo in an empty folder of an empty home; what it says is what the workspace holds, and every page opens."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import binomtest

from gpt_trader.core.workspace import Workspace

GPT_TRADER = str(Path(sys.executable).with_name("gpt-trader"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    return subprocess.run([GPT_TRADER, *words], capture_output=True, text=True, cwd=folder, timeout=500,
                          env={**os.environ, "HOME": str(home)})


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The workspace, and what the demo printed."""
    folder = tmp_path_factory.mktemp("demo") / "desk"
    folder.mkdir()
    answer = run("demo", folder=folder)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return folder, answer.stdout


def paths(printed: str, folder: Path) -> list[Path]:
    return [Path(p) for p in re.findall(rf"{re.escape(str(folder))}/\S+\.html", printed)]


def test_it_prints_its_figures(demo: tuple[Path, str]) -> None:
    folder, printed = demo
    with Workspace.open(folder) as ws:
        sessions = ws.store.rows("SELECT * FROM sessions WHERE closed_at IS NOT NULL ORDER BY session")
        orders = ws.store.rows("SELECT count(*) AS n FROM orders WHERE status != 'refused'")[0]["n"]
        fills = ws.store.rows("SELECT count(*) AS n FROM fills")[0]["n"]
        assert ws.journal.verify().ok and ws.journal.check_projections() == []
    assert len(sessions) == 40
    assert "40 sessions, 2013-01-03 to 2013-03-01" in printed and f"{orders} orders" in printed and f"{fills} fills" in printed
    assert f"VaR          {float(sessions[-1]['var']):,.0f} USD" in printed
    assert f"P&L          {sum(float(s['pnl']) for s in sessions):+,.2f} USD" in printed
    assert re.search(r"accuracy 0\.\d+ \(0\.\d+ to 0\.\d+, n = \d+\); majority rule 0\.\d+.*naive rule 0\.\d+", printed)


def test_the_alerts_and_incidents_are_those_of_the_journal(demo: tuple[Path, str]) -> None:
    folder, printed = demo
    with Workspace.open(folder) as ws:
        fired = list(ws.journal.entries(kind="alert.fired"))
        incidents = ws.store.rows("SELECT * FROM incidents")
    assert fired and incidents  # so it was in these sessions of this market; thresholds were fixed before
    for entry in fired:
        assert f"{entry.session}  {entry.body['severity']}  {entry.body['title']}" in printed
    for incident in incidents:
        assert incident["incident_id"] in printed
        assert incident["playbook_state"] == "done" and (folder / incident["report_folder"] / "report.html").is_file()


def test_every_path_exists(demo: tuple[Path, str]) -> None:
    folder, printed = demo
    found = paths(printed, folder)
    assert len(found) >= 5
    assert [p for p in found if not p.is_file()] == []


def test_the_accuracy_is_that_of_the_stored_predictions(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    answer = run("check-model-performance", "--last-hours", "24", "--json", folder=folder)
    outcome = json.loads(answer.stdout)
    assert answer.returncode == {"ok": 0, "warning": 1, "critical": 2, "unknown": 3}[outcome["status"]]
    with Workspace.open(folder) as ws:
        stored = ws.telemetry.frame("SELECT * FROM predictions WHERE head = 'range_expansion' AND label IS NOT NULL")
        now = ws.clock.now()
    settled = pd.to_datetime(stored["settled_at"], format="ISO8601", utc=True)
    for figures, rows in ((outcome["figures"]["judged"], stored),
                          (outcome["figures"]["recent"], stored[settled > pd.Timestamp(now) - pd.Timedelta(hours=24)])):
        right = int((rows["predicted"] == rows["label"]).sum())
        interval = binomtest(right, len(rows)).proportion_ci(0.95, method="wilson")
        assert (figures["n"], figures["correct"]) == (len(rows), right)
        assert figures["accuracy"] == pytest.approx(right / len(rows), abs=1e-12)
        assert (figures["low"], figures["high"]) == pytest.approx((interval.low, interval.high), abs=1e-12)
        assert figures["naive"] == pytest.approx((rows["naive"] == rows["label"]).mean(), abs=1e-12)
    assert outcome["figures"]["recent"]["n"] == 4  # a day of daily bars has one outcome a symbol
    assert outcome["figures"]["accuracy"] == outcome["figures"]["judged"]["accuracy"]


def test_a_second_demo_doubles_nothing(demo: tuple[Path, str]) -> None:
    folder, printed = demo
    def state() -> dict[str, list]:
        tables = ("orders", "fills", "positions", "cash", "sessions", "incidents", "models")
        with Workspace.open(folder) as ws:
            return {table: ws.store.rows(f"SELECT * FROM {table}") for table in tables}

    before, reports = state(), set(folder.glob("reports/*/*/report.html"))
    answer = run("demo", folder=folder)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert state() == before
    assert reports < set(folder.glob("reports/*/*/report.html"))  # none is lost, new ones are beside them
    figures = r"^    (?:P&L|VaR|Accuracy) .*$"
    assert re.findall(figures, answer.stdout, re.M) == re.findall(figures, printed, re.M)


def test_a_desk_of_ones_own_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "desk"
    assert subprocess.run([GPT_TRADER, "init", str(folder)], capture_output=True).returncode == 0
    answer = run("demo", folder=folder)
    assert answer.returncode == 64 and "lives in real time" in answer.stderr and "Traceback" not in answer.stderr


@pytest.mark.browser
def test_every_page_opens_by_itself(demo: tuple[Path, str], chromium: str) -> None:
    """No console error, no failed and no outside request, and something to see, in light, dark and on a phone."""
    from playwright.sync_api import sync_playwright

    folder, _ = demo
    pages = sorted(folder.glob("reports/**/*.html"))
    assert len(pages) >= 6
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        for scheme, width in (("light", 1280), ("dark", 390)):
            context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
            for path in pages:
                page, trouble, asked = context.new_page(), [], []
                page.on("console", lambda m: trouble.append(m.text) if m.type in ("error", "warning") else None)  # noqa: B023
                page.on("pageerror", lambda e: trouble.append(str(e)))  # noqa: B023
                page.on("requestfailed", lambda r: trouble.append(f"failed: {r.url}"))  # noqa: B023
                page.on("request", lambda r: asked.append(r.url))  # noqa: B023
                page.goto(path.as_uri(), wait_until="load")
                page.wait_for_function("[...document.querySelectorAll('.plot')].every(p => p.classList.contains('js-plotly-plot'))")
                assert page.locator(".gt-plot:not(.js-plotly-plot)").locator("visible=true").count() == 0, f"{path}: an empty figure"
                assert trouble == [], (path, trouble)
                assert [u for u in asked if not u.startswith(("file:", "data:", "blob:"))] == [], path
                assert len(page.inner_text("body").split()) > 20, path
                if "tear" not in path.name:
                    assert page.evaluate("document.documentElement.scrollWidth") <= width + 1, f"{path} scrolls sideways at {width}"
                page.close()
            context.close()
        browser.close()

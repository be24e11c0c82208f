"""The pages in a real browser: no outside request, no console error, the plot drawn, in light and dark and on a phone."""
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from gpt_trader.runbook.report import plotly_asset, render, write_index

FACTS = {"run_id": "0a1b", "name": "list_positions", "title": "List positions", "subtitle": "What the desk holds", "chapter": "x",
         "started_at": "2013-03-01T21:05:00.000000Z", "seconds": 3.21, "parameters": {"sort_by": "risk"}, "notice": None,
         "outcome": {"status": "warning", "summary": "AAPL is 41 % of the book", "recommended": ["calculate_risk_metrics"],
                     "verification": None, "figures": {"gross": 812345.5, "by": [{"symbol": "AAPL", "share": 0.4}]}},
         "journal": {"seq": 12, "hash": "ab" * 32}, "notebook_sha256": "cd" * 32, "source": {"kind": "packaged", "sha256": "ef" * 32},
         "versions": {"gpt_trader": "0.1.0"}}
PLOT = {"data": [{"type": "scatter", "x": ["2013-02-28", "2013-03-01"], "y": [1.0, 2.0], "name": "Equity"}],
        "layout": {"title": {"text": "Equity"}}}


def made(reports, inline):
    folder = reports / "2013-03-01" / "210500-list_positions-0a1b"
    folder.mkdir(parents=True)
    wide = "<table><tr>" + "".join(f"<td>{i * 111111}</td>" for i in range(40)) + "</tr></table>"
    cells = [new_markdown_cell("# List positions\n\n> What the desk holds\n\nText."), new_code_cell("p.plot(fig)", outputs=[
        new_output("display_data", {"application/vnd.plotly.v1+json": PLOT, "text/plain": "x"}),
        new_output("display_data", {"text/html": wide, "text/plain": "x"})])]
    (folder / "report.html").write_text(render(new_notebook(cells=cells), FACTS, plotly_file=None if inline else plotly_asset(reports)))
    rows = [{**FACTS, "status": "warning", "summary": "AAPL", "parent": None, "folder": "reports/2013-03-01/210500-list_positions-0a1b"}]
    write_index(reports, rows, total=1)
    return folder / "report.html"


@pytest.mark.browser
@pytest.mark.parametrize("scheme, width, inline", [("light", 1100, False), ("dark", 390, False), ("dark", 1100, True)])
def test_pages_need_nothing_from_outside_and_fit(tmp_path, chromium, scheme, width, inline):
    from playwright.sync_api import sync_playwright

    page_file = made(tmp_path / "reports", inline)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
        problems, outside = [], []
        page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: problems.append(str(e)))
        page.on("request", lambda r: outside.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
        page.goto(page_file.as_uri())
        page.wait_for_selector(".plot .main-svg")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 20, 26)"
        assert dark == (scheme == "dark")
        assert not page.locator("details.code pre").first.is_visible(), "code is folded"
        page.locator("details.code > summary").first.click()
        assert page.locator("details.code pre").first.is_visible()
        page.get_by_role("link", name="All runs").click()
        page.get_by_role("searchbox").fill("nothing like it")
        assert page.locator("tbody tr:visible").count() == 0
        page.get_by_role("searchbox").fill("positions")
        page.get_by_role("button", name="1 warning").click()
        assert page.locator("tbody tr:visible").count() == 1
        browser.close()
    assert problems == [] and outside == []

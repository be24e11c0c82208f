"""The trading, risk and model pages in a browser: what they show is what the command line says."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dashboard_harness import WARM, cell, faults, fits, tile, visiting

pytest_plugins = ("dashboard_harness",)
pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]


def told(root: Path, procedure: str, *options: str) -> dict:
    """The figures that `gpt-trader PROCEDURE --json` prints."""
    command = [str(Path(sys.executable).with_name("gpt-trader")), "--workspace", str(root), procedure, *options, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=root.parent, env={**os.environ, **WARM})
    assert done.returncode in (0, 1, 2, 3), done.stderr
    return json.loads(done.stdout)["figures"]


def near(shown: str | None, said: float) -> bool:
    return shown is not None and float(shown) == pytest.approx(said, rel=1e-9, abs=1e-9)


def test_trading_shows_what_list_positions_says(visitor, desk):
    said = told(desk, "list-positions")
    page = visitor.page("trading")
    assert near(tile(page, "summary", "Equity, USD"), said["equity"]) and near(tile(page, "summary", "Cash, USD"), said["cash"])
    assert said["positions"]
    for row in said["positions"]:
        for column in ("quantity", "average_price", "mark", "value", "weight", "unrealised", "var"):
            assert near(cell(page, "positions", row["symbol"], column), row[column]), (row["symbol"], column)
    assert page.locator('[data-panel="equity"] .js-plotly-plot').count() == 1 and fits(page)
    assert faults(page) == []


def test_risk_shows_what_calculate_risk_metrics_and_the_stress_test_say(visitor, desk):
    said, scenarios = told(desk, "calculate-risk-metrics"), told(desk, "run-stress-test", "--scenario", "all")["scenarios"]
    page = visitor.page("risk")
    assert near(tile(page, "summary", "VaR, USD"), said["var"])
    assert near(tile(page, "summary", "Expected shortfall, USD"), said["expected_shortfall"])
    for limit, found in said["limits"].items():
        assert near(cell(page, "limits", limit, "used"), found["value"] / found["allowed"])
        assert found["status"] in page.locator(f'[data-panel="limits"] [data-cell="{limit}/status"]').inner_text()
    for symbol, part in said["component_var"].items():
        assert near(cell(page, "exposure", symbol, "var"), part)
    for name, found in scenarios.items():
        assert near(cell(page, "stress", name, "total"), found["total"]), name
    assert faults(page) == [] and fits(page)


def test_model_shows_what_check_model_performance_says(visitor, desk):
    page = visitor.page("model")
    for head in ("range_expansion", "direction"):
        said = told(desk, "check-model-performance", "--head", head)
        for column in ("n", "accuracy", "majority", "naive"):
            assert near(cell(page, "accuracy", f"{head} live", column), said[column]), (head, column)
        assert near(tile(page, "accuracy", f"{head}, live"), said["accuracy"])
    drift = told(desk, "detect-drift")
    assert f"{drift['drifted']} of {drift['features']} features" in page.locator('[data-panel="drift"]').inner_text()
    assert faults(page) == [] and fits(page)


@pytest.mark.parametrize("look", [{"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 844}}], ids=["dark", "phone"])
def test_pages_are_readable_in_the_dark_and_on_a_phone(browser, dashboard, look):
    with visiting(browser, dashboard, **look) as guest:
        for name in ("trading", "risk", "model"):
            page = guest.page(name)
            assert fits(page) and faults(page) == [], name
            page.close()


def test_a_past_moment_is_another_book(visitor, desk):
    now, then = visitor.page("trading"), visitor.page("trading?as_of=2013-02-01", live=False)
    then.wait_for_load_state()
    assert then.locator("html").get_attribute("data-connection") == "past"
    assert "2013-02-01" in then.locator('[data-panel="positions"]').inner_text()
    assert tile(now, "summary", "Equity, USD") != tile(then, "summary", "Equity, USD")

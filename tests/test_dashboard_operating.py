"""A person at the operations and runs pages: sees what the command line says, and acts; the journal knows who did it."""
import json
import re
from datetime import timedelta

import pytest
from dashboard_harness import PATIENCE, cell, faults, perform, serving, tile, visiting, wait_until
from test_dashboard_operations import nap

from gpt_trader.cli.main import run_cli
from gpt_trader.core.telemetry import record_metric
from gpt_trader.core.workspace import Workspace
from gpt_trader.monitoring.alerts import evaluate
from gpt_trader.runbook.catalogue import catalogue
from gpt_trader.runbook.responder import take_on
from gpt_trader.trading import permit

pytest_plugins = ("dashboard_harness",)
pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def ann(desk, browser):
    """Ann, signed in at a desk that is in trouble."""
    with Workspace.open(desk) as ws:
        ws.clock.advance(timedelta(minutes=30))
        record_metric(ws, "portfolio_var", 103_000.0)
        record_metric(ws, "daily_loss", 900_000.0)
        evaluate(ws)
        take_on(ws)
        nap(ws, mutates=True)
    with serving(desk, env={"LOGNAME": "ann"}) as server, visiting(browser, server) as visitor:
        yield visitor


@pytest.fixture(scope="module")
def operations(ann):
    """The operations page, live."""
    return ann.page("operations")


@pytest.fixture(scope="module")
def runs(ann):
    """The runs page, live; the other page's process is given back first."""
    for page in ann.context.pages:
        page.close()
    return ann.page("runs")


def said(capsys, desk, *words):
    """What a command prints as JSON."""
    capsys.readouterr()
    run_cli(["--workspace", str(desk), *words, "--json"])
    return json.loads(capsys.readouterr().out)


def last(desk, kind):
    """The newest journal entry of a kind."""
    with Workspace.open(desk) as ws:
        return ws.journal.last(kind)


def alert_of(facts, rule):
    return next(r for r in facts["alerts"] if r["rule"] == rule)


def shows(page, panel, row, column, text):
    """Wait until a cell shows a text."""
    found = page.locator(f'[data-panel="{panel}"] [data-cell="{row}/{column}"]')
    wait_until(lambda: text in found.first.inner_text(), f"{panel} {row}/{column} shows {text}", 60)


# ---------------------------------------------------------------- operations
def test_the_page_says_what_the_command_line_says(operations, desk, capsys):
    facts = said(capsys, desk, "alerts")  # on a busy machine its load raises alerts of its own
    assert {"daily_loss", "portfolio_var"} <= {r["rule"] for r in facts["alerts"]}
    assert operations.locator('[data-table="open_alerts"] tbody tr').count() == len(facts["alerts"])
    for r in facts["alerts"]:
        assert cell(operations, "alerts", r["alert_id"], "since") == r["fired_at"]
        assert f"{r['value']:,.6g}" in cell(operations, "alerts", r["alert_id"], "stands")
        assert r["severity"] in operations.locator(f'[data-cell="{r["alert_id"]}/severity"]').inner_text()
    assert tile(operations, "standing", "Open alerts") == str(len(facts["alerts"]))
    assert tile(operations, "standing", "Trading") == "permitted"
    entries = said(capsys, desk, "journal", "verify")["figures"]["entries"]
    assert tile(operations, "standing", "Journal") == str(entries)
    assert operations.locator('[data-panel="standing"]').get_attribute("data-status") == "critical"
    assert operations.locator('[data-panel="key_metrics"] svg.gt-spark').count() == 6 and faults(operations) == []


def test_a_check_from_the_page_is_the_command_lines_own(operations, desk):
    result = perform(operations, "services", "health_check", patience=4 * PATIENCE)
    entry = last(desk, "procedure.finished")
    assert entry.body["outcome"]["summary"] in result and entry.actor == "ann"
    figures = entry.body["outcome"]["figures"]
    with Workspace.open(desk) as ws:
        moment = ws.clock.now()
    for key, want in figures["metrics"].items():
        shown = operations.locator(f'[data-panel="key_metrics"] [data-cell="{key}/now"]')
        wait_until(lambda shown=shown, want=want: float(shown.get_attribute("data-value") or "nan") == want["now"], f"the new {key}")
        assert want["band"] in operations.locator(f'[data-panel="key_metrics"] [data-cell="{key}/band"]').inner_text()
    for name, row in (("disk", "disk"), ("broker", "broker"), ("journal", "journal_tables"), ("market data", "market_data")):
        assert cell(operations, "services", row, "said") == figures["checks"][name]["answer"]
        assert figures["checks"][name]["status"] in operations.locator(f'[data-panel="services"] [data-cell="{row}/status"]').inner_text()
        assert cell(operations, "services", row, "at")[:16] == f"{moment:%Y-%m-%dT%H:%M}"


def test_an_alert_is_taken_on(operations, desk, capsys):
    alert = alert_of(said(capsys, desk, "alerts"), "portfolio_var")["alert_id"]
    result = perform(operations, "alerts", f"acknowledge:{alert}", {"note": "<i>looking</i> into it"})
    assert "taken on by ann" in result and "verified" in result
    shows(operations, "alerts", alert, "owner", "<i>looking</i> into it")
    entry = last(desk, "alert.acknowledged")
    assert entry.actor == "ann" and entry.body["note"] == "<i>looking</i> into it"
    assert alert_of(said(capsys, desk, "alerts"), "portfolio_var")["acknowledged_by"] == "ann"
    assert "Take over" in operations.locator(f'[data-action="acknowledge:{alert}"]').inner_text()


def test_an_alert_is_silenced_and_speaks_again(operations, desk, capsys):
    alert = alert_of(said(capsys, desk, "alerts"), "daily_loss")["alert_id"]
    operations.locator(f'[data-action="silence:{alert}"]').click()
    dialog = operations.locator("dialog[open]")
    dialog.locator('[data-field="duration"]').fill("soon")
    dialog.locator('[data-field="comment"]').fill("known")
    dialog.get_by_role("button", name="Confirm").click()
    wrong = dialog.locator('[data-field-error="duration"]')
    wait_until(lambda: "30m, 2h or 1d" in wrong.inner_text(), "the message at its field")
    assert dialog.locator('[data-field="duration"]').get_attribute("aria-invalid") == "true" and last(desk, "silence.created") is None
    dialog.get_by_role("button", name="Cancel").click()

    assert "verified" in perform(operations, "alerts", f"silence:{alert}", {"duration": "2h", "comment": "known since noon"})
    (quiet,) = said(capsys, desk, "alerts")["silences"]
    assert (quiet["author"], quiet["comment"], quiet["state"]) == ("ann", "known since noon", "active")
    shows(operations, "alerts", alert, "silenced", quiet["ends_at"][:16].replace("T", " "))
    shows(operations, "silences", quiet["id"], "why", "known since noon")
    assert alert_of(said(capsys, desk, "alerts"), "daily_loss")["silenced_by"] == [quiet["id"]]

    assert "verified" in perform(operations, "silences", f"expire:{quiet['id']}")
    shows(operations, "silences", quiet["id"], "state", "over")
    assert last(desk, "silence.expired").actor == "ann" and said(capsys, desk, "alerts")["silences"][0]["state"] == "expired"


def test_trading_is_halted_and_goes_on(operations, desk):
    before = last(desk, "permit.granted")
    assert "halted" in perform(operations, "standing", "halt", {"reason": "VaR doubled"}).lower()
    assert not permit.check(desk / ".gpt-trader")
    entry = last(desk, "permit.revoked")
    assert entry.actor == "ann" and entry.body["reason"] == "VaR doubled"
    wait_until(lambda: tile(operations, "standing", "Trading") == "halted", "the page says that trading is halted")
    assert "VaR doubled" in operations.locator('[data-tile="Trading"]').inner_text()

    result = perform(operations, "standing", "resume", {"reason": "the limit was wrong"})
    assert "may be sent again" in result and permit.check(desk / ".gpt-trader").actor == "ann"
    approved = last(desk, "approval.granted")
    assert approved.actor == "ann" and approved.body["act"] == "resume_trading"
    assert last(desk, "permit.granted").seq > (before.seq if before else 0)
    wait_until(lambda: tile(operations, "standing", "Trading") == "permitted", "the page says that trading may go on")


# ---------------------------------------------------------------- runs
def test_every_procedure_has_its_button(runs, desk):
    with Workspace.open(desk) as ws:
        known = set(catalogue(ws.root))
        past = len(ws.store.rows("SELECT 1 FROM procedures WHERE finished_at IS NOT NULL"))
    shown = runs.locator('[data-panel="procedures"] [data-action]').evaluate_all("all => all.map(e => e.dataset.action.slice(4))")
    assert set(shown) == known and runs.locator('[data-panel="runs"] tbody tr').count() == past and faults(runs) == []


def test_a_wrong_parameter_gives_its_message_at_the_field(runs, desk):
    before = last(desk, "procedure.started").seq
    runs.locator('[data-action="run:check_model_performance"]').click()
    dialog = runs.locator("dialog[open]")
    assert dialog.locator('[data-field="last_hours"]').input_value() == "24.0"
    dialog.locator('[data-field="last_hours"]').fill("soon")
    dialog.get_by_role("button", name="Confirm").click()
    wrong = dialog.locator('[data-field-error="last_hours"]')
    wait_until(lambda: "'soon' is not a number" in wrong.inner_text(), "the message at its field")
    assert faults(runs) == [] and last(desk, "procedure.started").seq == before
    dialog.get_by_role("button", name="Cancel").click()


def test_a_procedure_runs_from_its_form(ann, runs, desk):
    runs.locator('[data-action="run:list_positions"]').click()
    dialog = runs.locator("dialog[open]")
    dialog.locator('[data-field="sort_by"]').select_option("value")
    dialog.get_by_role("button", name="Confirm").click()
    with runs.expect_popup(timeout=4 * PATIENCE) as opened:
        dialog.get_by_role("link", name="Open the report").click(timeout=4 * PATIENCE)
    report = opened.value
    report.wait_for_load_state()
    entry = last(desk, "procedure.finished")
    assert entry.body["name"] == "list_positions" and entry.actor == "ann"
    assert entry.body["outcome"]["summary"] in report.locator("body").inner_text() and report.url.startswith(ann.server.base)
    report.close()
    assert entry.body["outcome"]["summary"] in dialog.locator(".gt-result").inner_text()
    dialog.get_by_role("button", name="Close").click()
    shows(runs, "runs", entry.subject, "said", entry.body["outcome"]["summary"])
    assert cell(runs, "runs", entry.subject, "who") == "ann" and cell(runs, "runs", entry.subject, "with") == "sort by value"
    runs.get_by_role("searchbox").fill("list_positions ann")
    assert runs.locator('[data-panel="runs"] tbody tr:visible').count() == 1
    runs.get_by_role("searchbox").fill("")


def test_what_changes_something_shows_its_dry_run_then_asks(runs, desk):
    runs.locator('[data-action="run:nap"]').click()
    dialog = runs.locator("dialog[open]")
    dialog.get_by_role("button", name="Show what it would do").click()
    confirm = dialog.get_by_role("button", name="Confirm")
    confirm.wait_for(timeout=4 * PATIENCE)
    assert "sleep on it" in dialog.locator(".gt-plan").inner_text() and not (desk / ".gpt-trader/cache/slept").exists()
    confirm.click()
    runs.wait_for_selector("dialog[open] .gt-result:not(.gt-busy):has(a)", timeout=4 * PATIENCE)
    assert re.search("Well rested.*unknown", dialog.locator(".gt-result").inner_text()) and (desk / ".gpt-trader/cache/slept").exists()
    dialog.get_by_role("button", name="Close").click()
    approved = last(desk, "approval.granted")
    assert approved.actor == "ann" and approved.body["act"] == "nap"

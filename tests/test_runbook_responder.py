"""From an alert that fired to its incident, its playbook (once, whatever is killed) and its report, with the packaged notebooks."""
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from gpt_trader.core.metrics import record_metric
from gpt_trader.core.workspace import Workspace
from gpt_trader.monitoring.alerts import evaluate
from gpt_trader.runbook import responder
from gpt_trader.runbook.incident import get_incident, incidents, open_incident, timeline
from gpt_trader.runbook.responder import respond, take_on, untaken


@pytest.fixture
def ws(tmp_path):
    with Workspace.create(tmp_path / "desk") as ws:
        yield ws


def fire(ws, metric="portfolio_var", times=1.2, limit="max_var"):
    """A metric beyond its limit: a real alert, through the rules."""
    record_metric(ws, metric, getattr(ws.config.risk.limits, limit) * times)
    return [ws.journal.get(t.seq) for t in evaluate(ws) if t.kind == "alert.fired"]


def test_every_fired_alert_is_tied_to_one_incident_once(ws):
    [var] = fire(ws)
    [es] = fire(ws, "portfolio_expected_shortfall", 1.1, "max_expected_shortfall")
    assert [e.seq for e in untaken(ws)] == [var.seq, es.seq]
    assert len(take_on(ws)) == 1 and take_on(ws) == [] and untaken(ws) == []
    incident = get_incident(ws)
    assert len(incident.fingerprints) == 2 and open_incident(ws, es) == incident
    told = [e.kind for e in ws.journal.entries(prefix="incident.")]
    assert told == ["incident.opened", "incident.updated"] and ws.journal.check_projections() == []


def test_informational_alerts_open_no_incident(ws):
    [fired] = fire(ws)
    body = {**fired.body, "severity": "P4", "rule": "note"}
    ws.journal.append("alert.fired", body, subject="f" * 16)
    assert [e.seq for e in untaken(ws)] == [fired.seq]


def test_a_raised_severity_reaches_the_incident(ws):
    fire(ws)
    take_on(ws)
    assert get_incident(ws).severity == "P2"
    record_metric(ws, "portfolio_var", ws.config.risk.limits.max_var * 5)
    assert "alert.raised" in [t.kind for t in evaluate(ws)]
    take_on(ws)
    assert get_incident(ws).severity == "P1"


def test_a_resolved_alert_resolves_its_incident_and_a_recurrence_opens_another(ws):
    fire(ws)
    respond(ws, playbooks=False, reports=False)
    fire(ws, times=0.5)
    [done] = respond(ws, playbooks=False, reports=False)
    assert done.state == "resolved" and done.resolved_by == "responder"
    [again] = fire(ws)
    respond(ws, playbooks=False, reports=False)
    assert [i.state for i in incidents(ws)] == ["open", "resolved"] and get_incident(ws).alert_seq == again.seq
    assert timeline(ws, get_incident(ws, done.incident_id))[-1]["kind"] == "incident.resolved"


def test_a_playbook_that_is_not_there_falls_back_and_one_that_never_ends_is_given_up(ws):
    [fired] = fire(ws)
    ws.journal.append("alert.fired", {**fired.body, "rule": "orders", "playbook": "trading_system_error_2"}, subject="e" * 16)
    take_on(ws)
    other = next(i for i in incidents(ws) if i.rule == "orders")
    assert responder.playbook_of(ws, other) == "desk_incident"
    for _ in range(responder.ATTEMPTS):
        responder.update_incident(ws, other.incident_id, "playbook started", run_id="gone", playbook="desk_incident")
    assert responder.run_playbook(ws, get_incident(ws, other.incident_id)) is None
    given_up = get_incident(ws, other.incident_id)
    assert given_up.playbook_state == "done" and given_up.playbook_status == "unknown" and "never finished" in given_up.playbook_summary


SLOW_STAND_IN = """from gpt_trader.core.outcome import Outcome
from gpt_trader.runbook.procedure import open_procedure
p = open_procedure("{name}", globals())
import time; time.sleep({seconds})
p.finish(Outcome("warning", "looked", {figures}))"""


def stand_in(ws, name, figures, parameter="", seconds=0.0):
    """A workspace's own version of a diagnosis procedure: the real one needs a traded book, which is not what is tested here."""
    from test_runbook_parameters import write

    code = SLOW_STAND_IN.format(name=name, seconds=seconds, figures=figures)
    write(ws.root / "procedures", name, f'workspace: str = ""  # folder\n{parameter}', code)


@pytest.mark.slow
def test_killed_in_the_middle_the_playbook_still_ends_once_and_the_report_tells_it(ws):
    stand_in(ws, "calculate_risk_metrics", {"limits": {"max_var": {"value": 60000.0, "allowed": 50000, "status": "warning"}}}, seconds=8)
    stand_in(ws, "list_positions", {"positions": [{"symbol": "AAPL", "share_of_var": 0.4}]}, 'sort_by: str = "risk"  # order')
    stand_in(ws, "check_correlations", {})
    stand_in(ws, "run_stress_test", {}, 'scenario: str = "current"  # which')
    stand_in(ws, "reduce_positions", {}, "execute: bool = False  # really")
    [fired] = fire(ws)
    program = ("from gpt_trader.core.workspace import Workspace; from gpt_trader.runbook.responder import respond; "
               f"respond(Workspace.open({str(ws.root)!r}))")
    first = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    deadline = time.monotonic() + 120
    while not ws.store.rows("SELECT 1 FROM procedures WHERE name = 'risk_limit_breach'"):
        assert time.monotonic() < deadline and first.poll() is None, "the playbook never started"
        time.sleep(0.1)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert get_incident(ws).playbook_state == "running" and get_incident(ws).report_run is None

    [incident] = respond(ws)
    assert incident.playbook_state == "done" and incident.attempts == 2 and incident.playbook_status == "warning"
    assert "reduce position sizes to 83% of today's" in incident.playbook_summary
    ends = [e for e in ws.journal.entries(kind="incident.updated", subject=incident.incident_id) if e.body["what"] == "playbook finished"]
    assert len(ends) == 1 and respond(ws) == [], "what was done is not done again"
    facts = json.loads((ws.root / incident.report_folder / "outcome.json").read_text())
    assert facts["outcome"]["figures"]["incident"] == f"INC-{fired.seq:06d}"
    assert {d["procedure"] for d in facts["outcome"]["figures"]["diagnosis"]} == {
        "calculate_risk_metrics", "list_positions", "check_correlations", "run_stress_test", "reduce_positions"}
    page = (ws.root / incident.report_folder / "report.html").read_text()
    assert "Portfolio VaR exceeds limit" in page and "reduce position sizes" in page
    links = [part.split('"')[0] for part in page.split('href="../../')[1:]]
    assert len(links) > 2 and all((ws.reports_dir / link).exists() for link in links)
    rows = ws.store.rows("SELECT parent FROM procedures WHERE name = 'calculate_risk_metrics' AND status IS NOT NULL")
    parents = {r["parent"] for r in rows}
    assert incident.playbook_run in parents and ws.journal.verify().ok and ws.journal.check_projections() == []

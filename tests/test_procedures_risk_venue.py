"""The chapter Risk Limit Breach at a venue that speaks Alpaca's protocol: a position beyond the VaR limit, in an open session.

Orders fill at once here, so that a resolution ends resolved, not under way; and an answer may be lost on the way.
"""
from collections.abc import Iterator
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("alpaca", reason="pip install 'gpt_trader[alpaca]'")
pytest.importorskip("starlette", reason="pip install 'gpt_trader[venue]'")

from venue_harness import RunningVenue, desk_at  # noqa: E402

from gpt_trader.core.outcome import Status  # noqa: E402
from gpt_trader.core.workspace import Workspace  # noqa: E402
from gpt_trader.live.riskview import risk_view  # noqa: E402
from gpt_trader.runbook.engine import run_procedure  # noqa: E402
from gpt_trader.trading.broker import OrderRequest  # noqa: E402
from gpt_trader.trading.brokers import open_broker  # noqa: E402
from gpt_trader.trading.execution import Executor  # noqa: E402
from gpt_trader.trading.permit import revoke  # noqa: E402

APPROVALS = "approvals:\n  procedures: {reduce_positions: none, close_high_risk_positions: none}\n"
VENUE_CONFIG = "broker:\n  paper:\n    allow_shorting: true\n"
LIMIT = 25_000
RULES = f"limits:\n  max_var: {LIMIT}\n  max_expected_shortfall: 60000\n  exits_under_halt: true\n"
HELD = 3_000
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("warm_engine")]


@pytest.fixture
def ws(tmp_path: Path, venue: RunningVenue, data_desk: Path) -> Iterator[Workspace]:
    root = desk_at(venue, tmp_path / "desk", data_desk, more=APPROVALS)
    (root / "config" / "risk.yaml").write_text(RULES)
    with Workspace.open(root) as ws:
        at = open_broker(ws)
        executor, session = Executor(ws, at), ws.calendar.session_of(ws.clock.now())  # no limits: how the breach came about
        executor.reconcile(session)
        executor.place(OrderRequest("stock", "AAPL", "buy", D(HELD)), session=session)
        executor.pull()
        at.close()
        assert risk_view(ws).report.var > LIMIT and at_venue(venue) == HELD
        yield ws


def at_venue(venue: RunningVenue) -> D:
    return {s: p.quantity for s, p in venue.floor.positions().items()}.get("AAPL", D(0))


def run(ws: Workspace, name: str, **params: Any) -> Any:
    done = run_procedure(ws, name, params)
    assert done.error is None and done.report.exists(), done.error
    return done.outcome


def agrees(ws: Workspace, venue: RunningVenue) -> None:
    """Our books hold what the venue holds, and every order is known by its end."""
    ours = ws.store.rows("SELECT quantity FROM positions WHERE symbol = 'AAPL'")
    assert sum(D(r["quantity"]) for r in ours) == at_venue(venue)
    assert {r["status"] for r in ws.store.rows("SELECT status FROM orders")} <= {"filled"}
    assert ws.journal.verify().ok and ws.journal.check_projections() == []


@pytest.mark.parametrize(("name", "params"), [
    ("reduce_positions", {}), ("close_high_risk_positions", {}), ("adjust_position_sizes", {}), ("flatten_positions", {"collar": 0.02})])
def test_a_resolution_ends_resolved_at_the_venue(ws: Workspace, venue: RunningVenue, name: str, params: dict[str, Any]) -> None:
    assert run(ws, name, **params).figures["dry_run"] and at_venue(venue) == HELD
    done = run(ws, name, **params, execute=True)
    assert (done.status, done.verification) == (Status.OK, "verified"), done.summary
    assert at_venue(venue) < HELD and {o["what"] for o in done.figures["orders"]} == {"filled"}
    assert risk_view(ws).report.var <= LIMIT
    agrees(ws, venue)


def test_an_answer_that_is_lost_doubles_nothing(ws: Workspace, venue: RunningVenue) -> None:
    venue.faults({"kind": "error", "method": "POST", "path": "/v2/orders", "when": "after", "next": 1})
    done = run(ws, "reduce_positions", execute=True)
    assert (done.status, done.verification) == (Status.OK, "verified"), done.summary
    sold = sum(D(o["quantity"]) for o in done.figures["orders"])
    assert at_venue(venue) == HELD - sold and risk_view(ws).report.var <= LIMIT
    agrees(ws, venue)


def test_the_playbook_resolves_the_breach(ws: Workspace, venue: RunningVenue) -> None:
    done = run(ws, "risk_limit_breach")
    assert done.figures["carried_out"] and not done.figures["escalated"] and done.verification == "verified", done.summary
    assert at_venue(venue) < HELD and risk_view(ws).report.var <= LIMIT and len(done.figures["diagnosis"]) == 4
    agrees(ws, venue)


def test_the_playbook_escalates_where_the_venue_does_not_answer(ws: Workspace, venue: RunningVenue) -> None:
    venue.faults({"kind": "error", "status": 500, "method": "POST", "path": "/v2/orders", "when": "before"})
    done = run(ws, "risk_limit_breach")
    assert done.status == Status.CRITICAL and done.figures["escalated"] and at_venue(venue) == HELD, done.summary


def test_out_of_the_market_under_a_halt(ws: Workspace, venue: RunningVenue) -> None:
    revoke(ws.state_dir)
    assert run(ws, "flatten_positions", execute=True).status == Status.CRITICAL and at_venue(venue) == HELD
    done = run(ws, "flatten_positions", under_halt=True, execute=True)
    assert (done.status, done.verification, at_venue(venue)) == (Status.OK, "verified", D(0)), done.summary
    agrees(ws, venue)


def test_a_hedge_that_is_sold_short(ws: Workspace, venue: RunningVenue) -> None:
    venue.quote("MSFT", "27.80", "27.82", 10**6, 10**6)
    (ws.config_dir / "risk.yaml").write_text(f"limits:\n  max_var: {LIMIT}\n  max_expected_shortfall: 60000\n  allow_short: true\n"
                                             "resolution:\n  hedge_instruments: [MSFT]\n  hedge_effectiveness: 0.01\n")
    with Workspace.open(ws.root) as changed:
        var = risk_view(changed).report.var
        done = run(changed, "increase_hedging", execute=True)
        assert done.verification == "verified" and {o["what"] for o in done.figures["orders"]} == {"filled"}, done.summary
        held = {s: p.quantity for s, p in venue.floor.positions().items()}
        assert held["AAPL"] == HELD and held["MSFT"] < 0 and risk_view(changed).report.var < var
        assert changed.journal.verify().ok and changed.journal.check_projections() == []


def test_a_limit_is_tightened_and_the_next_order_keeps_it(ws: Workspace, venue: RunningVenue) -> None:
    done = run(ws, "adjust_risk_parameters", key="limits.max_var", value="15000", reason="to be rehearsed", execute=True)
    assert (done.status, done.verification) == (Status.OK, "verified"), done.summary
    with Workspace.open(ws.root) as changed:
        assert run(changed, "reduce_positions", execute=True).verification == "verified"
        assert risk_view(changed).report.var <= 15_000 and at_venue(venue) < HELD

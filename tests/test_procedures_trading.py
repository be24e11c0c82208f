"""The chapters Trading System Error and Emergency Trading Halt, rehearsed at a venue with the fault that each step is for.

Each ends resolved or escalated, with evidence; what is claimed is compared with the venue's own books.
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
from gpt_trader.runbook.engine import Run, run_procedure  # noqa: E402
from gpt_trader.trading.active import active  # noqa: E402
from gpt_trader.trading.broker import OrderRequest  # noqa: E402
from gpt_trader.trading.brokers import open_broker  # noqa: E402
from gpt_trader.trading.execution import Executor  # noqa: E402
from gpt_trader.trading.permit import check  # noqa: E402

APPROVALS = """
approvals:
  procedures: {retry_failed_orders: none, switch_broker: none, halt_trading: none, adjust_position_sizes: confirm}
"""
DOWN = {"kind": "error", "status": 500}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("procedures_trading"),
              pytest.mark.usefixtures("warm_engine")]


def desk(tmp_path: Path, venue: RunningVenue, data_desk: Path, backup: str = "null") -> Workspace:
    return Workspace.open(desk_at(venue, tmp_path / "desk", data_desk, backup, APPROVALS))


@pytest.fixture
def ws(tmp_path: Path, venue: RunningVenue, data_desk: Path) -> Iterator[Workspace]:
    with desk(tmp_path, venue, data_desk) as opened:
        yield opened


def place(ws: Workspace, *orders: OrderRequest) -> list[Any]:
    """Send orders as a desk without limits of its own."""
    at = open_broker(ws)
    try:
        executor, session = Executor(ws, at), ws.calendar.session_of(ws.clock.now())
        executor.reconcile(session)
        return [executor.place(o, session=session) for o in orders]
    finally:
        at.close()


def limit(name: str, side: str = "buy", quantity: int = 10, price: str = "440.00") -> OrderRequest:
    return OrderRequest(name, "AAPL", side, D(quantity), "limit", D(price))


def run(ws: Workspace, name: str, **params: Any) -> Run:
    done = run_procedure(ws, name, params)
    assert done.error is None, done.error
    assert done.report.exists()
    return done


# ---------------------------------------------------------------- the diagnosis
def test_a_broker_that_answers_and_one_that_does_not(ws: Workspace, venue: RunningVenue) -> None:
    place(ws)
    well = run(ws, "test_broker_connection").outcome
    assert well.status != Status.UNKNOWN and well.figures["broker"] == "alpaca" and len(well.figures["probes"]) == 5
    assert run(ws, "check_account_status").outcome.status == Status.OK
    limits = run(ws, "check_rate_limits").outcome
    assert limits.figures["limit"] == 100_000 and limits.figures["remaining"] > 0
    venue.faults(DOWN)
    assert run(ws, "test_broker_connection").outcome.status == Status.CRITICAL
    silent = run(ws, "check_account_status").outcome
    assert silent.status == Status.UNKNOWN and "does not say" in silent.summary


def test_what_went_wrong_is_told_by_cause(ws: Workspace, venue: RunningVenue) -> None:
    place(ws, limit("good"), limit("dear", quantity=1_000_000), OrderRequest("odd", "AAPL", "sell", D(5)))
    told = run(ws, "analyze_order_errors").outcome
    assert told.figures["causes"] == {"not covered": 2} and told.figures["orders"] == 3 and told.status == Status.WARNING


# ---------------------------------------------------------------- resolutions
def lost_answer(ws: Workspace, venue: RunningVenue, name: str) -> None:
    """An order that arrives, and of which nobody hears: the POST is acted on and not answered, then nothing is answered."""
    venue.faults({"kind": "error", "method": "POST", "path": "/v2/orders", "when": "after"},
                 {**DOWN, "method": "GET", "path": "/v2/orders*"})
    at = open_broker(ws, emergency=True)
    placed = Executor(ws, at, attempts=1).place(limit(name), session=ws.calendar.session_of(ws.clock.now()))
    at.close()
    assert placed.status == "unknown" and venue.floor.order(name).status == "accepted"
    venue.mend()


def test_an_order_that_arrived_unheard_is_not_sent_twice(ws: Workspace, venue: RunningVenue) -> None:
    place(ws)
    lost_answer(ws, venue, "unheard")
    dry = run(ws, "retry_failed_orders").outcome
    assert dry.figures["to_ask"] == 1 and dry.figures["dry_run"] and ws.store.rows("SELECT status FROM orders")[0]["status"] == "unknown"
    done = run(ws, "retry_failed_orders", execute=True).outcome
    assert (done.status, done.verification) == (Status.OK, "verified") and done.figures["tried"][0]["at_broker"] == "accepted"
    assert [e.client_order_id for e in venue.floor.events() if e.kind == "accepted"] == ["unheard"]


def test_the_playbook_retries_what_is_safe(ws: Workspace, venue: RunningVenue) -> None:
    place(ws)
    lost_answer(ws, venue, "unheard")
    done = run(ws, "trading_system_error").outcome
    assert done.status in (Status.OK, Status.WARNING) and done.verification == "verified", done.summary
    assert done.figures["proposal"] == "retry 1 failed orders"
    assert ws.store.rows("SELECT status FROM orders WHERE client_order_id = 'unheard'")[0]["status"] == "accepted"
    assert [e.client_order_id for e in venue.floor.events() if e.kind == "accepted"] == ["unheard"]


def test_a_line_that_stays_slow_does_not_call_people_for_an_order_that_is_settled(ws: Workspace, venue: RunningVenue) -> None:
    place(ws)
    lost_answer(ws, venue, "unheard")
    venue.faults({"kind": "slow", "seconds": 0.15, "method": "GET"})
    done = run(ws, "trading_system_error").outcome
    assert (done.status, done.verification) == (Status.WARNING, "verified") and not done.figures["escalated"], done.summary
    assert done.figures["checked_again"]["status"] == "critical", "slow beyond the band, and it answers"


def test_the_playbook_halts_when_nobody_answers(ws: Workspace, venue: RunningVenue) -> None:
    place(ws, limit("resting"))
    venue.faults(DOWN)
    done = run(ws, "trading_system_error").outcome
    assert done.figures["proposal"] == "halt trading" and not check(ws.state_dir)
    assert done.status == Status.CRITICAL and "Escalated" in done.summary, done.summary
    assert venue.floor.order("resting").status == "accepted", "a halt leaves what is at the broker where it is"


def test_the_playbook_switches_to_the_backup(tmp_path: Path, venue: RunningVenue, data_desk: Path) -> None:
    with desk(tmp_path, venue, data_desk, backup="paper") as ws:
        place(ws, OrderRequest("held", "AAPL", "buy", D(10)))
        place(ws)
        venue.faults(DOWN)
        done = run(ws, "trading_system_error").outcome
        assert done.figures["proposal"] == "switch to paper", done.summary
        assert active(ws).kind == "paper" and active(ws).switched and open_broker(ws).name == "paper"
        venue.mend()
        back = run(ws, "switch_broker", reason="it answers again", execute=True).outcome
        assert back.verification == "verified" and active(ws).kind == "alpaca"
        assert {"broker": "alpaca", "symbol": "AAPL", "shares": "10"} in back.figures["held"]


def test_a_backup_that_cannot_take_over_is_not_switched_to(tmp_path: Path, venue: RunningVenue, data_desk: Path) -> None:
    with desk(tmp_path, venue, data_desk, backup="paper") as ws:
        open_broker(ws, "paper").block(True, "blocked as well")
        done = run(ws, "switch_broker", reason="trying", execute=True).outcome
        assert done.status == Status.CRITICAL and done.verification == "refuted" and active(ws).kind == "alpaca"


# ---------------------------------------------------------------- stopping and going on
def test_stop_cancel_and_go_on(ws: Workspace, venue: RunningVenue) -> None:
    place(ws, limit("one"), limit("two"))
    dry = run(ws, "cancel_all_orders").outcome
    assert dry.figures["open"] == 2 and len(venue.floor.open_orders()) == 2
    done = run(ws, "cancel_all_orders", execute=True).outcome
    assert done.verification == "verified" and done.figures["counts"]["cancelled"] == 2 and venue.floor.open_orders() == []
    assert {r["status"] for r in ws.store.rows("SELECT status FROM orders")} == {"cancelled"}
    place(ws, limit("three"))
    stopped = run(ws, "emergency_stop", reason="drill", execute=True).outcome
    assert stopped.verification == "verified" and not check(ws.state_dir) and venue.floor.account().blocked
    dry = run(ws, "resume_trading", reason="drill over").outcome
    assert not check(ws.state_dir) and venue.floor.account().blocked and "Dry run" in dry.summary
    back = run(ws, "resume_trading", reason="drill over", execute=True).outcome
    assert back.verification == "verified" and check(ws.state_dir) and not venue.floor.account().blocked, back.summary
    assert place(ws, limit("four"))[0].status == "accepted"


def test_trading_is_not_resumed_while_an_order_is_unknown(ws: Workspace, venue: RunningVenue) -> None:
    place(ws)
    lost_answer(ws, venue, "unheard")
    run(ws, "halt_trading", reason="an order is unknown", execute=True)
    venue.faults({**DOWN, "method": "GET", "path": "/v2/orders:by*"})
    refused = run(ws, "resume_trading", reason="hurry", execute=True).outcome
    assert refused.status == Status.CRITICAL and refused.verification == "refuted" and not check(ws.state_dir)

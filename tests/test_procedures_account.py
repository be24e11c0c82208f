"""`reconcile_account` at a venue: what somebody did by hand, what was moved into the account with no event, cash that came.

What it claims is compared with the venue's own books.
"""
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("alpaca", reason="pip install 'gpt_trader[alpaca]'")
pytest.importorskip("starlette", reason="pip install 'gpt_trader[venue]'")

from venue_harness import RunningVenue, desk_at  # noqa: E402

from gpt_trader.core.outcome import Status  # noqa: E402
from gpt_trader.core.workspace import Workspace  # noqa: E402
from gpt_trader.live.acting import decide, survey  # noqa: E402
from gpt_trader.live.placing import act  # noqa: E402
from gpt_trader.runbook.engine import run_procedure  # noqa: E402
from gpt_trader.trading.brokers import open_broker  # noqa: E402
from gpt_trader.trading.execution import Executor  # noqa: E402
from gpt_trader.trading.permit import check, revoke  # noqa: E402
from gpt_trader.trading.positions import book  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("warm_engine")]
POLICY = "  adopt: {positions: adopt, cash: adopt, max_position_value: 5000, max_total_value: 5000, max_cash: 5000}\n"


@pytest.fixture
def ws(tmp_path: Path, venue: RunningVenue, data_desk: Path) -> Iterator[Workspace]:
    with Workspace.open(desk_at(venue, tmp_path / "desk", data_desk)) as opened:
        reconcile(opened)
        later(venue, opened)
        yield opened


def later(venue: RunningVenue, ws: Workspace) -> None:
    """Five minutes pass, there and here."""
    venue.advance(300)
    ws.clock.advance(timedelta(minutes=5))


def reconcile(ws: Workspace) -> Any:
    """As at a start of the desk: under the policy of its configuration."""
    at = open_broker(ws)
    try:
        return Executor(ws, at).reconcile()
    finally:
        at.close()


def hand_in(venue: RunningVenue, name: str, shares: int, **more: str) -> None:
    """An order that did not come from the desk."""
    body = {"symbol": "AAPL", "qty": str(shares), "side": "buy", "type": "limit" if more else "market", "time_in_force": "day"}
    assert venue.ask("POST", "/v2/orders", body | {"client_order_id": name} | more)[0] == 200


def by_hand(venue: RunningVenue, ws: Workspace, shares: int) -> None:
    """Somebody buys at the broker's own screen; a while passes."""
    hand_in(venue, "by-hand", shares)
    later(venue, ws)


def run(ws: Workspace, name: str = "reconcile_account", **params: Any) -> Any:
    done = run_procedure(ws, name, params)
    assert done.error is None and done.report.exists(), done.error
    return done.outcome


def agrees(ws: Workspace, venue: RunningVenue) -> bool:
    """Whether our books are the venue's; they are sound either way."""
    ours = book(ws)
    assert ws.journal.verify().ok and ws.journal.check_projections() == []
    return ours.positions == {s: p.quantity for s, p in venue.floor.positions().items()} and ours.cash == venue.floor.account().cash


def test_what_was_bought_by_hand_explains_itself(ws: Workspace, venue: RunningVenue) -> None:
    by_hand(venue, ws, 10)
    dry = run(ws)
    assert dry.figures["dry_run"] and dry.figures["behind"] > 0 and {f["subject"] for f in dry.figures["found"]} == {"AAPL", "cash"}
    assert book(ws).positions == {}, "a dry run takes nothing in"
    done = run(ws, reason="somebody bought by hand", execute=True)
    assert (done.status, done.verification) == (Status.OK, "verified"), done.summary
    assert done.figures["adopted"] == [] and "explains AAPL, cash" in done.summary and agrees(ws, venue)
    assert [r["client_order_id"] for r in ws.store.rows("SELECT client_order_id FROM fills")] == ["by-hand"]


def test_what_no_event_tells_of_is_adopted_and_the_desk_goes_on(ws: Workspace, venue: RunningVenue) -> None:
    venue.transfer("AAPL", 10, "440", cash=2_500)
    assert reconcile(ws).status == Status.CRITICAL and not agrees(ws, venue)
    ground = survey(ws)
    plan = decide(ground, {"AAPL": D(3)}, label="before", collar=D("0.02"))
    assert "nothing was sent" in act(ground, plan, meta={}).problem, "nothing is sent on books that differ"
    dry = run(ws)
    assert [(f["subject"], f["ours"], f["broker"], f["obstacle"]) for f in dry.figures["found"]] == [
        ("AAPL", "0", "10", None), ("cash", "5000000", "5002500", None)]
    assert "10 at 440 USD, the broker's average price" in dry.figures["found"][0]["booking"] and not agrees(ws, venue)
    assert run_procedure(ws, "reconcile_account", {"execute": True}).exit_code == 64, "an adoption needs a reason"
    before = book(ws)
    done = run(ws, reason="moved from the old account", execute=True)
    assert (done.status, done.verification) == (Status.OK, "verified"), done.summary
    assert done.figures["adopted"] == ["AAPL", "cash"] and agrees(ws, venue)
    entry = ws.journal.last("position.adopted")
    granted = ws.journal.last("approval.granted")
    assert entry.body["reason"] == "moved from the old account" == granted.body["params"]["reason"] and entry.correlation_id
    assert (entry.actor, granted.seq < entry.seq) == (granted.actor, True)
    now = book(ws, {"AAPL": "444.05"})
    assert now.deposits == before.deposits + 4400 + 2500 and now.profit == D("40.50")
    again = run(ws, reason="once more", execute=True)
    assert again.status == Status.OK and again.figures["adopted"] == [] and len(list(ws.journal.entries(kind="position.adopted"))) == 1
    ground = survey(ws)
    sent = act(ground, decide(ground, {"AAPL": D(3)}, label="after", collar=D("0.02")), meta={})
    assert not sent.problem and {r.what for r in sent.results} == {"filled"} and agrees(ws, venue)


def test_only_what_was_named_is_adopted(ws: Workspace, venue: RunningVenue) -> None:
    venue.transfer("AAPL", 10, "440", cash=-70)
    done = run(ws, symbols=["AAPL"], cash=False, reason="the shares are ours", execute=True)
    assert (done.status, done.verification) == (Status.CRITICAL, "verified") and done.figures["differs"] == ["cash"], done.summary
    assert book(ws).positions == {"AAPL": D(10)} and "cash differs still" in done.summary
    assert run(ws, reason="and a fee", execute=True).verification == "verified" and agrees(ws, venue)


def test_an_order_at_work_is_in_the_way(ws: Workspace, venue: RunningVenue) -> None:
    venue.transfer("AAPL", 10, "440")
    hand_in(venue, "low", 5, limit_price="400")
    done = run(ws, reason="moved here", execute=True)
    assert (done.status, done.verification) == (Status.CRITICAL, "refuted") and "low may still be filled" in done.summary, done.summary
    assert book(ws).positions == {}
    assert run(ws, "cancel_all_orders", execute=True).verification == "verified"
    later(venue, ws)
    assert run(ws, reason="moved here", execute=True).verification == "verified" and agrees(ws, venue)


def test_a_silent_broker_is_not_known(ws: Workspace, venue: RunningVenue) -> None:
    venue.faults({"kind": "error", "status": 500})
    done = run(ws, reason="moved here", execute=True)
    assert (done.status, done.verification) == (Status.UNKNOWN, "unknown") and "does not say" in done.summary


def test_positions_that_are_stale_are_not_believed_at_once(ws: Workspace, venue: RunningVenue) -> None:
    """The broker tells of a fill and still shows the old position: what our books would lose is what they just got."""
    venue.faults({"kind": "stale"})
    hand_in(venue, "by-hand", 10)
    done = run(ws, reason="hurry", execute=True)
    assert done.figures["adopted"] == [] and done.verification == "refuted" and "more may be on its way" in done.summary, done.summary
    venue.mend()
    assert run(ws).status == Status.OK and agrees(ws, venue)


def test_trading_is_resumed_once_the_books_agree(ws: Workspace, venue: RunningVenue) -> None:
    venue.transfer("AAPL", 10, "440")
    revoke(ws.state_dir)
    refused = run(ws, "resume_trading", reason="hurry", execute=True)
    assert (refused.status, refused.verification) == (Status.CRITICAL, "refuted") and "reconcile_account" in refused.recommended
    assert "reconcile_account" in run(ws, "check_account_status").recommended
    told = run(ws, "trading_system_error")
    assert "reconcile_account" in told.recommended and told.figures["proposal"] == "halt trading"
    assert "resume_trading" in run(ws, reason="moved here", execute=True).recommended
    assert run(ws, "resume_trading", reason="the books agree", execute=True).verification == "verified" and check(ws.state_dir)


def test_the_policy_at_a_start_keeps_to_its_bounds(tmp_path: Path, venue: RunningVenue, data_desk: Path) -> None:
    with Workspace.open(desk_at(venue, tmp_path / "desk", data_desk, more=POLICY)) as ws:
        assert reconcile(ws).status == Status.OK
        later(venue, ws)
        venue.transfer("AAPL", 10, "440", cash=2_500)
        started = reconcile(ws)
        assert (started.status, [f.kind for f in started.findings]) == (Status.WARNING, ["position.adopted", "cash.adopted"])
        assert agrees(ws, venue) and reconcile(ws).status == Status.OK
        later(venue, ws)
        venue.transfer("AAPL", 100, "440")
        for _ in range(2):
            beyond = reconcile(ws)
            assert (beyond.status, [f.kind for f in beyond.findings]) == (Status.CRITICAL, ["position.differs"])
            assert "beyond the 5,000.00 of broker.adopt" in beyond.findings[0].message and not agrees(ws, venue)

"""kill -9 at each step of orders' lives at a venue, before and after each journal entry and each request: nothing lost, nothing doubled."""
import os
import shutil
import signal
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("alpaca", reason="pip install 'gpt_trader[alpaca]'")
pytest.importorskip("starlette", reason="pip install 'gpt_trader[venue]'")

from venue_line import DeskAtVenue, open_desk, open_venue  # noqa: E402

from gpt_trader.core.clock import SimulatedClock  # noqa: E402
from gpt_trader.trading.broker import OrderRequest  # noqa: E402
from gpt_trader.trading.permit import Permit  # noqa: E402
from gpt_trader.trading.positions import book  # noqa: E402
from gpt_trader.trading.venue import Venue  # noqa: E402
from gpt_trader.trading.venuefaults import Faults  # noqa: E402

DAY = date(2013, 2, 28)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def limit(name: str, side: str, quantity: int, price: str) -> OrderRequest:
    return OrderRequest(name, "AAPL", side, D(quantity), "limit", D(price))


def plan(desk: DeskAtVenue, venue: Venue) -> None:
    """An order of each life: filled in parts, replaced, cancelled, rejected, filled at once. Again from anywhere: the same."""
    act, floor = desk.desk, venue.books.floor
    act.reconcile(DAY)
    act.place(OrderRequest("a-1", "AAPL", "buy", D(300)), session=DAY)
    if floor.order("a-1").filled_quantity < 300:
        venue.market.quote("AAPL", "100.00", "100.10", 1_000, 1_000)
    act.pull()
    act.place(limit("a-2", "sell", 100, "120.00"), session=DAY)
    if act.placement("a-2").status in ("created", "accepted", "unknown", "replaced"):
        act.replace("a-2", limit("a-3", "sell", 80, "118.00"), session=DAY)
    act.pull()
    act.cancel("a-3", "changed our mind")
    act.place(limit("a-4", "buy", 10_000_000, "99.00"), session=DAY)
    act.place(OrderRequest("a-5", "AAPL", "sell", D(50)), session=DAY)
    act.pull()
    act.reconcile(DAY)


def live(folder: Path, at: Callable[[str], None]) -> dict[str, Any]:
    """A desk and its venue live through the plan, from wherever their files are; what is true at the end."""
    clock = SimulatedClock(datetime(2013, 2, 28, 15, tzinfo=UTC))
    venue = open_venue(folder, clock, Faults())
    if venue.books.floor.hours() is None:
        venue.books.floor.open_session(DAY)
        venue.market.quote("AAPL", "100.00", "100.10", 1_000, 120)
    desk = open_desk(folder, clock, lambda: venue, at=at, permit=lambda: Permit(True, "test"), tick=lambda: 0.0, sleep=lambda s: None)
    try:
        plan(desk, venue)
        floor, now = venue.books.floor, book(desk.journal)
        assert desk.journal.verify().ok and desk.journal.check_projections() == []
        assert now.positions == {s: p.quantity for s, p in floor.positions().items()} and now.cash == floor.account().cash
        rows = desk.journal.store.rows("SELECT client_order_id, status, filled_quantity, average_price, replaced_by FROM orders ORDER BY 1")
        there = {r["client_order_id"]: floor.order(r["client_order_id"]) for r in rows if r["status"] != "rejected"}
        ours = {r["client_order_id"]: (r["status"], D(r["filled_quantity"])) for r in rows}
        assert all((o.status, o.filled_quantity) == ours[name] for name, o in there.items())
        accepted = [e.client_order_id for e in floor.events() if e.kind == "accepted"]
        assert sorted(accepted) == sorted(set(accepted)) == sorted(there)
        fills = desk.journal.store.rows("SELECT client_order_id, quantity, price FROM fills ORDER BY seq")
        return {"orders": rows, "fills": fills, "cash": now.cash, "positions": now.positions}
    finally:
        desk.close()
        venue.close()


def dies_at(folder: Path, n: int) -> bool:
    """Live in a process of its own that is killed at the n-th step; False when it came to the end first."""
    pid = os.fork()
    if pid == 0:
        left = [n]

        def step(_: str) -> None:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            live(folder, step)
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def test_killed_at_each_step(tmp_path: Path) -> None:
    (whole := tmp_path / "whole").mkdir()
    steps: list[str] = []
    expected = live(whole, steps.append)
    assert [r["status"] for r in expected["orders"]] == ["filled", "replaced", "cancelled", "rejected", "filled"]
    assert expected["positions"] == {"AAPL": 250} and len(expected["fills"]) == 3
    n = 0
    while True:
        (folder := tmp_path / str(n)).mkdir()
        killed = dies_at(folder, n)
        assert live(folder, lambda where: None) == expected, f"killed at step {n}: {steps[n] if n < len(steps) else 'the end'}"
        shutil.rmtree(folder)
        n += 1
        if not killed:
            break
    kinds = {s.partition(" ")[2] for s in steps}
    assert n == len(steps) + 1 >= 60
    assert {*(f"order.{k}" for k in ("created", "accepted", "filled", "replaced", "cancelled")), "POST /v2/orders"} <= kinds
    print(f"killed at {n - 1} steps, one after the other")

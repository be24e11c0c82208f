"""A desk at a venue, through Alpaca's own SDK, with a network that loses answers, a broker that refuses, and a desk that dies anywhere.

Whatever happens in whatever order: no order is lost, none is doubled, none goes over a limit; at the end positions and cash are the
venue's.
"""
import os
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal as D
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

pytest.importorskip("alpaca", reason="pip install 'gpt_trader[alpaca]'")
pytest.importorskip("starlette", reason="pip install 'gpt_trader[venue]'")

from venue_line import open_desk, open_venue  # noqa: E402

from gpt_trader.core.clock import SimulatedClock  # noqa: E402
from gpt_trader.trading.broker import BrokerError, OrderRequest  # noqa: E402
from gpt_trader.trading.execution import TradingHalted  # noqa: E402
from gpt_trader.trading.orders import OPEN  # noqa: E402
from gpt_trader.trading.permit import Permit  # noqa: E402
from gpt_trader.trading.positions import book  # noqa: E402
from gpt_trader.trading.venuefaults import Fault, Faults  # noqa: E402

RUNS = 2000 if os.environ.get("GPT_TRADER_SOAK") == "1" else 200
DAY, START = date(2013, 2, 28), datetime(2013, 2, 28, 15, tzinfo=UTC)
SYMBOLS, MOST = ("AAPL", "IBM"), 1_000  # shares of a symbol, whatever is working
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


class Died(BaseException):
    """The desk's process is gone."""


def within_the_limit(order: OrderRequest, context: Any) -> list[Any]:
    """At most MOST shares of a symbol, in the worst case of what is working."""
    held = context.positions.get(order.symbol, D(0))
    rows = [r for r in context.working if r["symbol"] == order.symbol]
    open_ = [(r["side"], D(r["quantity"]) - D(r["filled_quantity"])) for r in rows]
    coming = {side: sum((left for its, left in open_ if its == side), D(0)) for side in ("buy", "sell")}
    worst = held + coming["buy"] + order.quantity if order.side == "buy" else held - coming["sell"] - order.quantity
    if -MOST <= worst <= MOST:
        return []
    said = f"{worst} {order.symbol} would be too many"
    return [SimpleNamespace(limit="most", limit_value=str(MOST), order_value=str(worst), message=said)]


class Desk(RuleBasedStateMachine):
    """One desk, one venue, for one session."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.clock, self.seconds = SimulatedClock(START), 0.0
        self.permitted, self.amended, self.number = True, False, 0
        self.countdown: int | None = None
        self.ids: list[str] = []
        self.deaths = 0
        self.faults = Faults()
        self.venue = open_venue(self.folder, self.clock, self.faults)
        self.venue.books.floor.open_session(DAY)
        for symbol in SYMBOLS:
            self.venue.market.quote(symbol, D(100), D("100.10"))

    # ------------------------------------------------------------ processes
    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def at(self, where: str) -> None:
        """Somewhere at which a process may die."""
        if self.countdown is not None:
            self.countdown -= 1
            if self.countdown < 0:
                self.countdown = None
                raise Died(where)

    @initialize()
    def start(self) -> None:
        """The desk begins, or begins again after a death: nothing is left of it but its files."""
        made = open_desk(self.folder, self.clock, lambda: self.venue, at=self.at, checks=[within_the_limit], sleep=self.sleep,
                         permit=lambda: Permit(self.permitted, "as the test says"), tick=lambda: self.seconds)
        self.made, self.journal, self.desk = made, made.journal, made.desk
        self.does(lambda: self.desk.reconcile(DAY))

    def does(self, act: Callable[[], Any], dies_at: int | None = None) -> Any:
        """Something that the desk does, and may not live to finish."""
        self.countdown = dies_at
        try:
            return act()
        except (BrokerError, TradingHalted):
            return None
        except Died:
            self.deaths += 1
            self.made.close()
            self.start()
        finally:
            self.countdown = None

    # ------------------------------------------------------------ the market and the world
    @rule(symbol=st.sampled_from(SYMBOLS), cents=st.integers(9_000, 11_000), size=st.sampled_from([0, 7, 60, 100_000]))
    def quote(self, symbol: str, cents: int, size: int) -> None:
        self.venue.market.quote(symbol, D(cents) / 100, D(cents + 10) / 100, bid_size=size, ask_size=size)

    @rule(kind=st.sampled_from(["timeout", "reset", "error", "rate_limit"]), when=st.sampled_from(["before", "after"]),
          times=st.integers(1, 9), path=st.sampled_from(["/v2/*", "/v2/orders*", "/v2/account/activities", "/v2/positions"]),
          method=st.sampled_from(["*", "POST", "GET", "PATCH", "DELETE"]))
    def go_wrong(self, kind: str, when: str, times: int, path: str, method: str) -> None:
        self.faults.add(Fault(kind, method=method, path=path, when=when, next=times))

    @rule()
    def mend(self) -> None:
        self.faults.remove()
        self.sleep(60)

    @rule()
    def the_venue_restarts(self) -> None:
        self.venue.close()
        self.venue = open_venue(self.folder, self.clock, self.faults)

    @rule(allowed=st.booleans())
    def permit(self, allowed: bool) -> None:
        self.permitted = allowed

    @rule()
    def time_passes(self) -> None:
        self.clock.advance(timedelta(seconds=20))

    @precondition(lambda self: any(e.kind == "fill" for e in self.venue.books.floor.events()))
    @rule(data=st.data(), price=st.integers(9_900, 10_100), bust=st.booleans())
    def the_exchange_changes_its_mind(self, data: st.DataObject, price: int, bust: bool) -> None:
        fills = [e for e in self.venue.books.floor.events() if e.kind == "fill"]
        chosen = data.draw(st.sampled_from(fills))
        floor = self.venue.books.floor
        if bust:
            floor.bust(chosen.execution_id, reason="clearly erroneous")
        elif not any(e.kind == "bust" and e.refers_to == chosen.execution_id for e in floor.events()):
            now = [e for e in floor.events() if chosen.execution_id in (e.execution_id, e.refers_to)][-1]
            floor.correct(chosen.execution_id, quantity=now.quantity or D(1), price=D(price) / 100, reason="a wrong print")
        self.venue.books.refresh()
        self.amended = True

    # ------------------------------------------------------------ the desk
    dies = st.one_of(st.none(), st.integers(0, 14))
    trouble = st.one_of(st.none(), st.tuples(st.sampled_from(["timeout", "reset", "error"]), st.sampled_from(["before", "after"]),
                                             st.sampled_from([1, 2, 3, 8]), st.sampled_from(["*", "POST", "PATCH", "DELETE"])))

    def have(self, trouble: tuple[str, str, int, str] | None) -> None:
        """Let the next requests go wrong."""
        if trouble is not None:
            kind, when, times, method = trouble
            self.faults.add(Fault(kind, method=method, path="/v2/orders*", when=when, next=times))

    placing = {"symbol": st.sampled_from(SYMBOLS), "side": st.sampled_from(["buy", "sell"]), "quantity": st.sampled_from([1, 40, 300, 900]),
               "dies_at": dies, "trouble": trouble, "kind": st.sampled_from(["market", "limit", "stop", "ioc", "fok"]),
               "cents": st.integers(9_500, 10_500)}

    @rule(**placing)
    def place_another(self, **order: Any) -> None:
        self.place(**order)

    @rule(**placing)
    def place_one_more(self, **order: Any) -> None:
        self.place(**order)

    @rule(**placing)
    def place(self, symbol: str, side: str, quantity: int, kind: str, cents: int, dies_at: int | None,
              trouble: tuple[str, str, int, str] | None) -> None:
        self.have(trouble)
        self.number += 1
        price, more = D(cents) / 100, dict[str, Any]()
        if kind in ("limit", "ioc", "fok"):
            more = {"type": "limit", "limit_price": price, "time_in_force": "day" if kind == "limit" else kind}
        if kind == "stop":
            more = {"type": "stop", "stop_price": price, "time_in_force": "gtc"}
        order = OrderRequest(f"o-{self.number}", symbol, side, D(quantity), **more)
        self.ids.append(order.client_order_id)
        self.does(lambda: self.desk.place(order, session=DAY), dies_at)
        if self.desk.order_row(order.client_order_id) is not None:
            self.does(lambda: self.desk.place(order, session=DAY))  # whoever repeats himself orders once

    def working(self) -> list[dict[str, Any]]:
        return self.journal.store.rows(f"SELECT * FROM orders WHERE status IN ({','.join('?' * len(OPEN))}) ORDER BY created_seq", OPEN)

    @precondition(lambda self: self.working())
    @rule(data=st.data(), dies_at=dies, trouble=trouble)
    def cancel(self, data: st.DataObject, dies_at: int | None, trouble: tuple[str, str, int, str] | None) -> None:
        self.have(trouble)
        row = data.draw(st.sampled_from(self.working()))
        self.does(lambda: self.desk.cancel(row["client_order_id"], "changed our mind"), dies_at)

    @precondition(lambda self: any(r["type"] == "limit" for r in self.working()))
    @rule(data=st.data(), quantity=st.sampled_from([5, 200, 900]), cents=st.integers(9_500, 10_500), dies_at=dies, trouble=trouble)
    def replace(self, data: st.DataObject, quantity: int, cents: int, dies_at: int | None,
                trouble: tuple[str, str, int, str] | None) -> None:
        self.have(trouble)
        row = data.draw(st.sampled_from([r for r in self.working() if r["type"] == "limit"]))
        self.number += 1
        order = OrderRequest(f"o-{self.number}", row["symbol"], row["side"], D(quantity), "limit", D(cents) / 100, row["time_in_force"])
        self.ids.append(order.client_order_id)
        self.does(lambda: self.desk.replace(row["client_order_id"], order, session=DAY), dies_at)

    @rule(dies_at=dies)
    def look(self, dies_at: int | None) -> None:
        self.does(self.desk.pull, dies_at)

    @rule(dies_at=dies)
    def reconcile(self, dies_at: int | None) -> None:
        self.does(lambda: self.desk.reconcile(DAY), dies_at)

    # ------------------------------------------------------------ what must hold
    @invariant()
    def nothing_is_doubled_or_over_the_limit(self) -> None:
        floor = self.venue.books.floor
        names = [e.client_order_id for e in floor.events() if e.kind in ("accepted", "rejected")]
        assert len(names) == len(set(names)) and set(names) <= set(self.ids)
        if not self.amended:
            assert all(abs(p.quantity) <= MOST for p in floor.positions().values())

    def teardown(self) -> None:
        try:
            self.all_agree()
        finally:
            self.made.close()
            self.venue.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def all_agree(self) -> None:
        """With the network mended and the permit granted, the desk and the venue come to one truth by asking."""
        self.faults.remove()
        self.permitted = True
        self.sleep(120)
        for _ in range(3):
            report = self.desk.reconcile(DAY)
        assert [f for f in report.findings if f.kind != "order.expired"] == [], report.findings
        floor, store = self.venue.books.floor, self.journal.store
        ours = {r["client_order_id"]: r for r in store.rows("SELECT * FROM orders")}
        assert not [i for i, r in ours.items() if r["status"] in ("created", "unknown")]
        theirs = {e.client_order_id for e in floor.events() if e.kind == "accepted"}
        assert theirs <= set(ours), "lost: the venue has an order that our journal does not"
        for name in theirs:
            there, here = floor.order(name), ours[name]
            assert (there.status, there.filled_quantity) == (here["status"], D(here["filled_quantity"])), (there, here)
        for name, row in ours.items():
            assert name in theirs or not D(row["filled_quantity"]), "our journal has fills of an order that never was"
        now = book(self.journal)
        assert now.positions == {s: p.quantity for s, p in floor.positions().items()} and now.cash == floor.account().cash
        assert self.journal.verify().ok and self.journal.check_projections() == []


TestDesk = Desk.TestCase
TestDesk.settings = settings(max_examples=RUNS, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))

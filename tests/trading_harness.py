"""A small desk for the trading tests: a fixed plan over real prices, run here or in a process of its own that may be killed at any moment.

As a program: `python trading_harness.py ROOT BARS.json [N before|after]` runs the plan in the workspace ROOT, from wherever an
earlier process left it. With N it ends, without any goodbye, right before or right after the broker commits its N-th change.
"""
import json
import os
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from gpt_trader.core.clock import Clock, SimulatedClock
from gpt_trader.core.instruments import Instrument, Instruments
from gpt_trader.core.journal import Journal
from gpt_trader.core.store import Store
from gpt_trader.trading.broker import OrderRequest
from gpt_trader.trading.execution import Executor
from gpt_trader.trading.orders import PROJECTION
from gpt_trader.trading.paper import PaperBroker
from gpt_trader.trading.permit import check, grant
from gpt_trader.trading.positions import book

SYMBOLS = ("AAPL", "GOOG", "IBM", "MSFT")
ACTIONS = (  # as they were: Apple split two for one, IBM and Microsoft paid
    {"session": "2005-02-28", "symbol": "AAPL", "kind": "split", "ratio": "2"},
    {"session": "2005-02-15", "symbol": "MSFT", "kind": "dividend", "amount": "0.08"},
    {"session": "2005-02-08", "symbol": "IBM", "kind": "dividend", "amount": "0.18"},
)


@dataclass(frozen=True)
class Settings:
    """What broker.paper in config.yaml holds."""

    initial_cash: Decimal = Decimal(1_000_000)
    commission_per_share: Decimal = Decimal("0.005")
    commission_minimum: Decimal = Decimal(1)
    sell_fee_rate: Decimal = Decimal("0.0000224")
    slippage_bps: Decimal = Decimal(2)
    auction_participation: Decimal = Decimal("0.00005")
    day_participation: Decimal = Decimal("0.00015")
    seed: int = 7
    allow_shorting: bool = False


class Hours:
    """A calendar that opens and closes every day at New York's winter hours, and takes no time to load."""

    def open_close(self, day: date) -> tuple[datetime, datetime]:
        return datetime.combine(day, time(14, 30), UTC), datetime.combine(day, time(21), UTC)


def instruments(lot: str = "1") -> Instruments:
    """The four symbols, in cents."""
    return Instruments({s: Instrument(s, s, "XNAS", "USD", Decimal("0.01"), Decimal(lot), "XNYS") for s in SYMBOLS})


def real_bars(start: date, end: date) -> dict[str, list[dict[str, Any]]]:
    """The embedded history between two days, by session, ready for JSON."""
    import pandas as pd

    frame = pd.read_parquet(Path(sys.modules["gpt_trader"].__path__[0]) / "_data" / "market" / "stocks.parquet")
    days = pd.to_datetime(frame["session"]).dt.date
    frame = frame[(days >= start) & (days <= end) & frame["symbol"].isin(SYMBOLS)].assign(session=days.astype(str))
    columns = ["symbol", "open", "high", "low", "close", "volume"]
    return {str(s): [{c: str(v) for c, v in zip(columns, r, strict=True)} for r in g[columns].itertuples(index=False)]
            for s, g in frame.groupby("session")}


def plan(session: str, number: int) -> list[OrderRequest]:
    """What the desk wants in its n-th session: the same in every process that asks. Some of it fills in part, some is rejected."""
    orders = []
    for i, symbol in enumerate(SYMBOLS):
        k = number + i
        side = "sell" if k % 3 == 2 else "buy"
        quantity = Decimal((k * 37) % 9 * 50 + 50)
        force = ("day", "opg", "day", "ioc")[k % 4]
        orders.append(OrderRequest(f"{session}.{symbol}.{side}", symbol, side, quantity, time_in_force=force))
    orders.append(OrderRequest(f"{session}.limit", SYMBOLS[number % 4], "buy", Decimal(500), "limit", Decimal(40 + 10 * (number % 4))))
    return orders


class Fatal(BaseException):
    """The process dies here (for tests in one process)."""


class Deadly:
    """A broker whose caller dies right before or right after its n-th change is committed."""

    def __init__(self, broker: Any, fatal: int, when: str, die: Any) -> None:
        self.broker, self.left, self.when, self.die = broker, fatal, when, die
        self.name, self.simulated = broker.name, broker.simulated

    def __getattr__(self, name: str) -> Any:
        target = getattr(self.broker, name)
        if name not in ("submit", "on_bars", "on_actions", "cancel"):
            return target

        def call(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == 0 and self.when == "before":
                self.die()
            answer = target(*args, **kwargs)
            if self.left == 0 and self.when == "after":
                self.die()
            return answer

        return call


class SmallDesk:
    """State, broker and clock in one folder; `run` goes through the plan from wherever it stands."""

    def __init__(self, root: Path, durable: bool = True, lot: str = "1", settings: Settings | None = None) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.clock: Clock = SimulatedClock(datetime(2005, 2, 1, tzinfo=UTC))
        self.store = Store(root / "state.db", "state", durable=durable)
        self.journal = Journal(self.store, self.clock, actor="desk", projections=(PROJECTION,))
        self.broker = PaperBroker(root / "paper.db", instruments(lot), settings or Settings(), self.clock, calendar=Hours(),
                                  durable=durable)
        grant(root, actor="desk", reason="test", at=self.clock.now())

    def run(self, bars: dict[str, list[dict[str, Any]]], fatal: int = 0, when: str = "after", die: Any = None, say: Any = None) -> None:
        """Live through all sessions of `bars`."""
        broker = Deadly(self.broker, fatal, when, die)
        executor = Executor(self.journal, broker, permit=lambda: check(self.root))
        last = self.broker._last_session()
        for number, (session, rows) in enumerate(sorted(bars.items())):
            day = date.fromisoformat(session)
            if last is not None and day < last:
                continue
            self.clock.set(max(self.clock.now(), datetime.combine(day, time(13), UTC)))
            broker.on_actions(day, ACTIONS)
            executor.reconcile(day)
            for order in plan(session, number):
                executor.place(order, session=day)
            broker.on_bars(day, rows, ACTIONS)
            executor.pull_events()
            if say:
                say(session)

    def facts(self) -> dict[str, Any]:
        """Everything that must come out the same, however often the desk died: what happened, without when it was written down."""
        orders = self.store.rows("SELECT client_order_id, symbol, side, quantity, status, filled_quantity, average_price, fees FROM orders")
        fills = self.store.rows("SELECT execution_id, client_order_id, symbol, side, quantity, price, fee, cash FROM fills")
        held = {h.symbol: (h.quantity, h.cost, h.realised, h.fees, h.dividends) for h in book(self.store).holdings}
        events = sorted((e.execution_id, e.kind, e.quantity, e.price, e.cash) for e in self.broker.events() if e.quantity is not None)
        return {"orders": sorted(map(str, orders)), "fills": sorted(map(str, fills)), "positions": held, "cash": book(self.store).cash,
                "broker": events}

    def problems(self) -> list[str]:
        """What is wrong with the records, in sentences."""
        found = [] if self.journal.verify().ok else [str(self.journal.verify().problem)]
        found += self.journal.check_projections()
        created = [e.subject for e in self.journal.entries(kind="order.created")]
        found += [f"{i} was created twice" for i in {c for c in created if created.count(c) > 1}]
        sent = [r["client_order_id"] for r in self.broker.store.rows("SELECT client_order_id FROM orders")]
        found += [f"{i} is at the broker but not in the journal" for i in set(sent) - set(created)]
        fills = [e.body["execution_id"] for e in self.journal.entries(kind="order.filled")]
        found += [f"{i} was journalled twice" for i in {f for f in fills if fills.count(f) > 1}]
        theirs = {s: p.quantity for s, p in self.broker.positions().items()}
        if book(self.store).positions != theirs or book(self.store).cash != self.broker.account().cash:
            found.append("positions or cash differ from the broker's")
        return found

    def close(self) -> None:
        self.store.close()
        self.broker.close()


if __name__ == "__main__":
    folder, source = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    number, moment = (int(sys.argv[3]), sys.argv[4]) if len(sys.argv) > 3 else (0, "after")
    desk = SmallDesk(folder)
    print("ready", flush=True)
    desk.run(source, number, moment, die=lambda: os._exit(9), say=lambda s: print(s, flush=True))
    print("done", flush=True)

"""A broker whose account moves with events, with events that come late, and without any; and a desk that adopts, and may die of it."""
import os
import signal
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.journal import Journal
from gpt_trader.core.store import Store
from gpt_trader.trading.adoption import Mandate
from gpt_trader.trading.broker import Account, BrokerEvent, BrokerOrder, BrokerPosition, OrderRequest, to_cents
from gpt_trader.trading.execution import Executor
from gpt_trader.trading.ledger import Basis, book_split, trade
from gpt_trader.trading.orders import PROJECTION
from gpt_trader.trading.permit import Permit

D = Decimal
START = datetime(2013, 2, 28, 14, tzinfo=UTC)
MARKS = {"AAPL": D("441.40"), "IBM": D("200.65")}
FULL = Mandate("a person looked at it", positions=True, cash=True)


@dataclass
class Custody:
    """An account at a broker, in memory: everything is filled at once. Events that are held back are told by `tell`."""

    clock: SimulatedClock
    name: str = "custody"
    simulated: bool = True
    epoch: str = ""
    cash: Decimal = D(0)
    basis: dict[str, Basis] = field(default_factory=dict)
    happened: list[BrokerEvent] = field(default_factory=list)
    orders: dict[str, BrokerOrder] = field(default_factory=dict)
    told: int = 0  # of what happened
    working: list[BrokerOrder] = field(default_factory=list)

    def _happen(self, kind: str, late: bool, **what: Any) -> None:
        "Number an event; it is told at once unless it, or one before it, is late."
        number = len(self.happened) + 1
        self.happened.append(BrokerEvent(number, self.clock.now(), kind, f"x{number}", **what))
        self.cash += self.happened[-1].cash
        if not late and self.told == number - 1:
            self.told = number

    def deposit(self, amount: Decimal, late: bool = False) -> None:
        self._happen("deposit", late, cash=amount)

    def trade(self, symbol: str, shares: Decimal, price: Decimal, late: bool = False) -> None:
        """A trade by somebody else than the desk; it costs 35 cents."""
        fee, ident, gross = D("0.35"), f"hand-{len(self.happened) + 1}", to_cents(shares * price)
        side = "buy" if shares > 0 else "sell"
        self.orders[ident] = BrokerOrder(ident, ident, symbol, side, abs(shares), "market", None, "day", "filled", abs(shares),
                                         price, self.clock.now())
        self._happen("fill", late, client_order_id=ident, broker_order_id=ident, symbol=symbol, side=side, quantity=abs(shares),
                     price=price, fee=fee, cash=-gross - fee)
        self.basis[symbol] = trade(self.basis.get(symbol, Basis()), shares, gross)

    def bust(self, n: int, late: bool = False) -> None:
        """The n-th fill that stands is taken back, where there are any."""
        gone = {e.refers_to for e in self.happened}
        standing = [e for e in self.happened if e.kind == "fill" and e.execution_id not in gone]
        if standing:
            e = standing[n % len(standing)]
            self._happen("bust", late, client_order_id=e.client_order_id, symbol=e.symbol, side=e.side, quantity=D(0), price=e.price,
                         cash=-e.cash, refers_to=e.execution_id, reason="clearly erroneous")
            shares = e.quantity if e.side == "sell" else -e.quantity
            self.basis[e.symbol] = trade(self.basis[e.symbol], shares, to_cents(shares * e.price))

    def split(self, symbol: str, late: bool = False) -> None:
        """Two for one, of what is held."""
        held = self.basis.get(symbol, Basis())
        if held.quantity:
            self._happen("split", late, symbol=symbol, quantity=held.quantity, ratio=D(2), price=D(0))
            self.basis[symbol] = book_split(held, D(2), held.quantity, D(0))

    def transfer(self, symbol: str, shares: Decimal, price: Decimal) -> None:
        """Shares that come or go with no event."""
        self.basis[symbol] = trade(self.basis.get(symbol, Basis()), shares, to_cents(shares * price))

    def tell(self) -> None:
        self.told = len(self.happened)

    # ------------------------------------------------------------ what a desk may ask
    def positions(self) -> dict[str, BrokerPosition]:
        return {s: BrokerPosition(s, b.quantity, abs(b.average_price), MARKS[s]) for s, b in self.basis.items() if b.quantity}

    def account(self) -> Account:
        return Account(self.cash, self.cash, self.cash, False)

    def open_orders(self) -> list[BrokerOrder]:
        return self.working

    def order(self, client_order_id: str) -> BrokerOrder | None:
        return self.orders.get(client_order_id)

    def events(self, after: int = 0, limit: int = 10_000) -> list[BrokerEvent]:
        return self.happened[after:self.told][:limit]

    def submit(self, order: OrderRequest) -> BrokerOrder:
        """Filled at once, at the last price."""
        shares = order.quantity if order.side == "buy" else -order.quantity
        self.orders[order.client_order_id] = known = BrokerOrder(
            order.client_order_id, order.client_order_id, order.symbol, order.side, order.quantity, order.type, order.limit_price,
            order.time_in_force, "filled", order.quantity, MARKS[order.symbol], self.clock.now())
        gross = to_cents(shares * MARKS[order.symbol])
        self._happen("fill", False, client_order_id=order.client_order_id, broker_order_id=order.client_order_id, symbol=order.symbol,
                     side=order.side, quantity=order.quantity, price=MARKS[order.symbol], cash=-gross)
        self.basis[order.symbol] = trade(self.basis.get(order.symbol, Basis()), shares, gross)
        return known


def journal_at(path: Any, clock: SimulatedClock) -> Journal:
    """Our books, in a file or ':memory:'."""
    return Journal(Store(path, "state"), clock, actor="desk", projections=(PROJECTION,))


def desk_of(journal: Journal, custody: Custody) -> Executor:
    return Executor(journal, custody, permit=lambda: Permit(True, "test"))  # type: ignore[arg-type]


def scene(clock: SimulatedClock) -> Custody:
    """An account with money in it, one position that events tell of, and shares and money that none does."""
    custody = Custody(clock)
    custody.deposit(D(100_000))
    custody.trade("AAPL", D(20), D("440.10"))
    clock.advance(timedelta(hours=1))
    custody.transfer("IBM", D(30), D("199.95"))
    custody.transfer("AAPL", D(-5), D("441.40"))
    custody.cash += D("2207.00")
    return custody


def dies_at(root: Path, number: int, when: str) -> bool:
    """Reconcile with leave to adopt, in a process of its own that is killed right before or right after its number-th entry; False when it
    came to the end first."""
    pid = os.fork()
    if pid == 0:
        honest, left = Journal.append, [number]

        def append(self: Journal, *args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0 and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            entry = honest(self, *args, **kwargs)
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return entry

        try:
            Journal.append = append  # type: ignore[method-assign]
            clock = SimulatedClock(START)
            desk_of(journal_at(root / "state.db", clock), scene(clock)).reconcile(mandate=FULL)
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False

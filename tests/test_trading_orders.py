"""The order state machine against a model of it, and the tables against the journal."""
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.journal import Journal
from gpt_trader.core.store import Store
from gpt_trader.trading.broker import decimal_text
from gpt_trader.trading.orders import OPEN, PROJECTION, STEPS, TABLES, TERMINAL, IllegalTransition

ORDER = {"symbol": "AAPL", "side": "buy", "quantity": "100", "type": "market", "limit_price": None, "time_in_force": "day",
         "broker": "paper"}
ENDS = {"order.cancelled", "order.expired", "order.replaced", "order.unknown"}
LEGAL = {  # written out a second time, by hand: state -> kinds that may follow
    "created": ENDS | {"order.accepted", "order.filled", "order.rejected"},
    "accepted": ENDS | {"order.filled", "order.rejected"},
    "partially_filled": ENDS | {"order.filled"},
    "unknown": ENDS - {"order.unknown"} | {"order.accepted", "order.filled", "order.rejected"},
    "cancelled": {"order.filled"}, "expired": {"order.filled"}, "replaced": {"order.filled"},  # the news of a fill may come late
    "filled": set(), "rejected": set(), "refused": set(),
}


def journal() -> Journal:
    """An empty journal in memory."""
    return Journal(Store(":memory:"), SimulatedClock(datetime(2013, 2, 28, tzinfo=UTC)), actor="test", projections=(PROJECTION,))


def fill(execution_id: str, seq: int, side: str, quantity: int, price: str = "10") -> dict[str, Any]:
    """The body of a fill, with a fee of one dollar."""
    gross = quantity * Decimal(price) * (1 if side == "buy" else -1)
    return {"execution_id": execution_id, "broker": "paper", "broker_seq": seq, "at": "2013-02-28T14:30:00.000000Z", "symbol": "AAPL",
            "side": side, "quantity": str(quantity), "price": price, "fee": "1", "cash": decimal_text(-gross - 1)}


def test_every_state_is_in_the_table() -> None:
    assert set(OPEN) | set(TERMINAL) == set(LEGAL) and not set(OPEN) & set(TERMINAL)
    for kind, states in STEPS.items():
        assert {s for s, kinds in LEGAL.items() if kind in kinds} == set(states), kind


class Machine(RuleBasedStateMachine):
    """Random entries about a few orders; what the model forbids must be refused without a trace."""

    def __init__(self) -> None:
        super().__init__()
        self.journal = journal()
        self.orders: dict[str, dict[str, Any]] = {}
        self.fills: dict[str, tuple[str, dict[str, Any]]] = {}
        self.cash, self.held, self.seq = Decimal(0), 0, 0

    def attempt(self, legal: bool, kind: str, body: dict[str, Any], subject: str) -> bool:
        """Append; whether it was legal. An illegal one leaves the journal as it was."""
        head = self.journal.head()
        if legal:
            self.journal.append(kind, body, subject=subject)
            return True
        with pytest.raises(IllegalTransition, match=subject):
            self.journal.append(kind, body, subject=subject)
        assert self.journal.head() == head
        return False

    @rule(name=st.sampled_from("abc"), side=st.sampled_from(["buy", "sell"]),
          kind=st.sampled_from(["order.created", "order.refused", "order.adopted"]))
    def begin(self, name: str, side: str, kind: str) -> None:
        body = ORDER | {"side": side, "broker_order_id": "P1"}
        if self.attempt(name not in self.orders, kind, body, name):
            status = {"order.created": "created", "order.refused": "refused", "order.adopted": "accepted"}[kind]
            self.orders[name] = {"status": status, "side": side, "filled": 0}

    @precondition(lambda self: self.orders)
    @rule(data=st.data(), kind=st.sampled_from(sorted(set(STEPS) - {"order.filled"})))
    def step(self, data: st.DataObject, kind: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.orders)))
        order, target = self.orders[name], kind.removeprefix("order.")
        same = order["status"] == target  # said twice: nothing changes
        legal = kind in LEGAL[order["status"]] and not (kind == "order.rejected" and order["filled"])
        if self.attempt(legal or same, kind, {"broker_order_id": "P1", "reason": "test", "refers_to": "z"}, name) and not same:
            order["status"] = "partially_filled" if kind == "order.accepted" and order["filled"] else target

    @precondition(lambda self: self.orders)
    @rule(data=st.data(), quantity=st.integers(-5, 110), price=st.sampled_from(["10", "11.37", "9.99"]))
    def fill(self, data: st.DataObject, quantity: int, price: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.orders)))
        order = self.orders[name]
        self.seq += 1
        body = fill(f"x{self.seq}", self.seq, order["side"], quantity, price)
        legal = "order.filled" in LEGAL[order["status"]] and 0 < quantity <= 100 - order["filled"]
        if self.attempt(legal, "order.filled", body, name):
            order["filled"] += quantity
            ended = order["status"] in ("cancelled", "expired", "replaced")
            order["status"] = "filled" if order["filled"] == 100 else order["status"] if ended else "partially_filled"
            self.fills[f"x{self.seq}"] = (name, body)
            self.cash += Decimal(body["cash"])
            self.held += quantity if order["side"] == "buy" else -quantity

    @precondition(lambda self: self.fills)
    @rule(data=st.data())
    def late_duplicate(self, data: st.DataObject) -> None:
        name, body = self.fills[data.draw(st.sampled_from(sorted(self.fills)))]
        self.journal.append("order.filled", body, subject=name)

    @precondition(lambda self: self.fills)
    @rule(data=st.data(), quantity=st.integers(-1, 110), price=st.sampled_from(["10", "12.50"]))
    def taken_back(self, data: st.DataObject, quantity: int, price: str) -> None:
        """A correction; a bust where no share is left. Each changes the fill as it stands now."""
        execution = data.draw(st.sampled_from(sorted(self.fills)))
        name, now = self.fills[execution]
        order, was, self.seq = self.orders[name], int(now["quantity"]), self.seq + 1
        right = fill(execution, self.seq, order["side"], quantity, price) | ({} if quantity else {"fee": "0", "cash": "0"})
        body = right | {"execution_id": f"{execution}:{self.seq}", "refers_to": execution, "reason": "erroneous",
                        "cash": decimal_text(Decimal(right["cash"]) - Decimal(now["cash"]))}
        filled = order["filled"] + quantity - was
        if self.attempt(quantity >= 0 and 0 <= filled <= 100, "order.corrected" if quantity else "order.busted", body, name):
            self.journal.append("order.corrected" if quantity else "order.busted", body, subject=name)  # twice is once
            self.fills[execution] = (name, now | {"quantity": str(quantity), "cash": right["cash"]})
            order["filled"] = filled
            if order["status"] in ("accepted", "partially_filled", "filled") and filled < 100:
                order["status"] = "cancelled" if order["status"] == "filled" else "partially_filled" if filled else "accepted"
            self.cash += Decimal(body["cash"])
            self.held += (quantity - was) * (1 if order["side"] == "buy" else -1)

    @invariant()
    def the_tables_agree_with_the_model(self) -> None:
        rows = {r["client_order_id"]: (r["status"], r["side"], int(Decimal(r["filled_quantity"])))
                for r in self.journal.store.rows("SELECT * FROM orders")}
        assert rows == {n: (o["status"], o["side"], o["filled"]) for n, o in self.orders.items()}
        balance = self.journal.store.rows("SELECT balance FROM cash ORDER BY seq DESC LIMIT 1")
        assert Decimal(balance[0]["balance"] if balance else 0) == self.cash
        position = self.journal.store.rows("SELECT quantity FROM positions")
        assert Decimal(position[0]["quantity"] if position else 0) == self.held
        assert len(self.journal.store.rows("SELECT * FROM fills")) == len(self.fills)

    def teardown(self) -> None:
        assert self.journal.check_projections() == [] and self.journal.verify().ok
        before = {t: self.journal.store.rows(f"SELECT * FROM {t} ORDER BY 1") for t in TABLES}
        self.journal.rebuild()
        assert {t: self.journal.store.rows(f"SELECT * FROM {t} ORDER BY 1") for t in TABLES} == before
        self.journal.store.close()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_a_fill_for_another_symbol_or_side_is_refused() -> None:
    j = journal()
    j.append("order.created", ORDER, subject="a")
    j.append("order.accepted", {"broker_order_id": "P1"}, subject="a")
    with pytest.raises(IllegalTransition, match="cannot sell AAPL"):
        j.append("order.filled", fill("x", 1, "sell", 10), subject="a")
    with pytest.raises(IllegalTransition, match="no order 'b'"):
        j.append("order.filled", fill("x", 1, "buy", 10), subject="b")
    assert j.store.rows("SELECT * FROM fills") == []


def test_the_cursor_moves_with_the_event_and_never_back() -> None:
    j = journal()
    for seq in (5, 3):
        j.append("cash.deposited", {"execution_id": f"d{seq}", "broker": "paper", "broker_seq": seq, "cash": "10"}, subject="d")
        assert j.store.rows("SELECT broker_seq, execution_id FROM event_cursor") == [{"broker_seq": 5, "execution_id": "d5"}]
    with pytest.raises(RuntimeError), j.store.transaction():
        j.append("cash.deposited", {"execution_id": "d6", "broker": "paper", "broker_seq": 6, "cash": "10"}, subject="d")
        raise RuntimeError("the machine fails before the commit")
    assert j.store.rows("SELECT max(balance) AS b FROM cash") == [{"b": "20"}]
    assert j.store.rows("SELECT broker_seq FROM event_cursor") == [{"broker_seq": 5}]

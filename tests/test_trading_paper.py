"""The paper broker: value is conserved to the cent, caps hold, the same input gives the same events, and nothing happens twice."""
import threading
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trading_harness import SYMBOLS, Hours, Settings, instruments, real_bars

from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.outcome import DataError, UsageError
from gpt_trader.trading.broker import Bar, BrokerError, BrokerEvent, CorporateAction, OrderConflict, OrderRequest, to_cents
from gpt_trader.trading.paper import PaperBroker
from gpt_trader.trading.paperbooks import slippage

DAY = date(2013, 2, 28)
D = Decimal


def broker(where: Any = ":memory:", lot: str = "1", **changes: Any) -> PaperBroker:
    """A paper broker with a million dollars."""
    clock = SimulatedClock(datetime(2013, 2, 28, 13, tzinfo=UTC))
    return PaperBroker(where, instruments(lot), replace(Settings(), **changes), clock, calendar=Hours(), durable=False)


def bar(symbol: str = "AAPL", o: Any = 100, h: Any = 104, low: Any = 98, c: Any = 102, volume: Any = 1_000_000) -> dict[str, Any]:
    return {"symbol": symbol, "open": o, "high": h, "low": low, "close": c, "volume": volume}


def order(ident: str, side: str = "buy", quantity: Any = 100, symbol: str = "AAPL", **more: Any) -> OrderRequest:
    return OrderRequest(ident, symbol, side, D(quantity), **more)


def fills(events: list[BrokerEvent], ident: str = "") -> list[BrokerEvent]:
    return [e for e in events if e.kind == "fill" and (not ident or e.client_order_id == ident)]


# ---------------------------------------------------------------- properties, over prices made up for the purpose
PRICE = st.decimals("5", "400", places=2)


@st.composite
def bars(draw: st.DrawFn, symbol: str) -> dict[str, Any]:
    o, c, x, y = (draw(PRICE) for _ in range(4))
    return bar(symbol, o, max(o, c, x, y), min(o, c, x, y), c, draw(st.integers(0, 5_000_000)))


@st.composite
def sessions(draw: st.DrawFn) -> list[tuple[list[OrderRequest], list[dict[str, Any]], list[dict[str, Any]]]]:
    """Orders, bars and actions of some sessions."""
    lived = []
    for n in range(draw(st.integers(1, 4))):
        orders = []
        for i in range(draw(st.integers(0, 5))):
            kind = draw(st.sampled_from(["market", "limit"]))
            orders.append(OrderRequest(f"{n}.{i}", draw(st.sampled_from(SYMBOLS[:2])), draw(st.sampled_from(["buy", "buy", "sell"])),
                                       D(draw(st.integers(1, 6_000))), kind, draw(PRICE) if kind == "limit" else None,
                                       draw(st.sampled_from(["day", "opg", "ioc"]))))
        rows = [draw(bars(s)) for s in draw(st.sets(st.sampled_from(SYMBOLS[:2])))]
        ratio, amount = draw(st.sampled_from([None, "2", "0.3", "1.5"])), draw(st.sampled_from([None, "0.08", "2.655"]))
        actions = [{"session": DAY + timedelta(n), "symbol": "AAPL", "kind": kind, key: value}
                   for kind, key, value in (("split", "ratio", ratio), ("dividend", "amount", amount)) if value]
        lived.append((orders, rows, actions))
    return lived


def live(b: PaperBroker, lived: Any) -> None:
    for n, (orders, rows, actions) in enumerate(lived):
        for o in orders:
            b.submit(o)
        b.on_bars(DAY + timedelta(n), rows, actions)


def check_books(b: PaperBroker) -> None:
    """What must hold at any moment, recomputed from nothing but the events."""
    events = b.events()
    assert [e.seq for e in events] == list(range(1, len(events) + 1)) and len({e.execution_id for e in events}) == len(events)
    assert b.account().cash == sum((e.cash for e in events), D(0)) >= 0
    held: dict[str, Decimal] = {}
    for e in events:
        if e.kind == "fill":
            sign = 1 if e.side == "buy" else -1
            held[e.symbol] = held.get(e.symbol, D(0)) + sign * e.quantity
            assert e.cash == -sign * to_cents(e.quantity * e.price) - e.fee and e.fee >= 0
        elif e.kind == "split":
            held[e.symbol] += e.quantity
        elif e.kind == "dividend":
            assert e.quantity == held[e.symbol] and e.cash == to_cents(e.quantity * e.amount)
    assert {s: p.quantity for s, p in b.positions().items()} == {s: q for s, q in held.items() if q}
    assert all(q >= 0 for q in held.values())


@settings(max_examples=80, deadline=None)
@given(sessions())
def test_value_is_conserved_and_every_order_ends(lived: Any) -> None:
    b = broker()
    live(b, lived)
    check_books(b)
    assert b.open_orders() == []
    last: dict[str, str] = {}
    for e in b.events():
        if e.client_order_id:
            assert last.get(e.client_order_id) not in ("cancelled", "expired", "rejected"), "something happened to an order that had ended"
            last[e.client_order_id] = e.kind
    for o in (o for orders, _, _ in lived for o in orders):
        now, done = b.order(o.client_order_id), sum((e.quantity for e in fills(b.events(), o.client_order_id)), D(0))
        assert now is not None and now.request == o and now.filled_quantity == done <= o.quantity
        assert (now.status == "filled") == (done == o.quantity)
        assert last[o.client_order_id] == {"filled": "fill"}.get(now.status, now.status)


@settings(max_examples=60, deadline=None)
@given(sessions())
def test_prices_limits_and_caps_hold(lived: Any) -> None:
    b = broker()
    live(b, lived)
    wanted = {o.client_order_id: o for orders, _, _ in lived for o in orders}
    for n, (_, rows, _) in enumerate(lived):
        mine = [e for e in fills(b.events()) if e.session == DAY + timedelta(n)]
        for row in rows:
            auction = [e for e in mine if e.symbol == row["symbol"] and e.execution_id.endswith(":auction")]
            whole = [e for e in mine if e.symbol == row["symbol"]]
            assert sum((e.quantity for e in auction), D(0)) <= row["volume"] * b.auction_share
            assert sum((e.quantity for e in whole), D(0)) <= row["volume"] * b.day_share
            for e in whole:
                o = wanted[e.client_order_id]
                base = row["open"] if e in auction else (row["high"] + row["low"] + row["close"]) / 3
                worse = (e.price - base) * (1 if e.side == "buy" else -1)
                assert -D("0.01") < worse <= base * 2 * b.bps / 10_000 + D("0.01") and e.price == to_cents(e.price)
                if o.limit_price is not None:
                    assert e.price <= o.limit_price if o.side == "buy" else e.price >= o.limit_price
                assert o.time_in_force == "day" or e in auction
        assert {e.symbol for e in mine} <= {row["symbol"] for row in rows}


@settings(max_examples=40, deadline=None)
@given(sessions())
def test_the_same_input_gives_the_same_events_and_repeating_gives_none(lived: Any) -> None:
    one, two = broker(), broker()
    live(one, lived)
    for n, (orders, rows, actions) in enumerate(lived):
        for o in [*orders, *orders]:
            two.submit(o)
        two.on_actions(DAY + timedelta(n), actions)
        first = two.on_bars(DAY + timedelta(n), rows, actions)
        assert two.on_bars(DAY + timedelta(n), list(reversed(rows)), actions) == first
        assert two.on_actions(DAY + timedelta(n), actions) == []
    assert one.events() == two.events()
    assert one.account() == two.account() and one.positions() == two.positions()
    for o in (o for orders, _, _ in lived for o in orders):
        assert two.submit(o) == one.order(o.client_order_id)
    assert one.events() == two.events()


# ---------------------------------------------------------------- by hand, with figures worked out on paper
def test_partial_fills_through_both_caps() -> None:
    b = broker(slippage_bps=D(0), auction_participation=D("0.0001"), day_participation=D("0.0005"))
    b.submit(order("a", quantity=300))
    b.submit(order("b", quantity=300))
    events = b.on_bars(DAY, [bar()])  # 100 in the auction, 500 in all
    assert [(e.client_order_id, e.kind, e.quantity, e.price) for e in events] == [
        ("a", "fill", 100, 100), ("a", "fill", 200, D("101.34")), ("b", "fill", 200, D("101.34")), ("b", "expired", None, None)]
    assert events[0].at < events[1].at < events[3].at
    assert (b.order("a").status, b.order("a").average_price) == ("filled", (100 * 100 + 200 * D("101.34")) / 300)
    assert (b.order("b").status, b.order("b").filled_quantity) == ("expired", 200)


def test_opening_orders_are_cancelled_after_the_auction() -> None:
    b = broker(slippage_bps=D(0))
    for force in ("opg", "ioc"):
        b.submit(order(force, quantity=60, time_in_force=force))
    events = b.on_bars(DAY, [bar(volume=1_000_000)])  # 50 in the auction
    assert [(e.client_order_id, e.kind, e.quantity) for e in events] == [
        ("opg", "fill", 50), ("opg", "cancelled", None), ("ioc", "cancelled", None)]


def test_a_limit_order_waits_for_its_price() -> None:
    b = broker(slippage_bps=D(50))
    b.submit(order("low", type="limit", limit_price=D("99.99")))  # the open is 100, the typical price 101.33
    b.submit(order("open", type="limit", limit_price=D("100.00"), quantity=40))
    b.submit(order("day", quantity=10, type="limit", limit_price=D("101.40")))
    events = b.on_bars(DAY, [bar()])
    assert b.order("low").status == "expired" and b.order("low").filled_quantity == 0
    assert fills(events, "open")[0].price == D("100.00"), "slippage passed the limit"
    assert fills(events, "day")[0].price <= D("101.40")


def test_fees_have_a_minimum_for_the_order_and_a_levy_on_sales() -> None:
    b = broker(slippage_bps=D(0), commission_per_share=D("0.01"), sell_fee_rate=D("0.0001"), auction_participation=D("0.00008"),
               day_participation=D("0.001"))
    b.submit(order("buy", quantity=250))
    first = fills(b.on_bars(DAY, [bar()]), "buy")
    assert [(e.quantity, e.fee) for e in first] == [(80, D("1.00")), (170, D("1.50"))]  # 2.50 in all: the minimum is not taken twice
    b.submit(order("sell", "sell", 10))
    sold = fills(b.on_bars(DAY + timedelta(1), [bar()]), "sell")[0]
    assert sold.fee == D("1.00") + D("0.10") and sold.cash == 1000 - sold.fee


def test_sells_pay_for_buys_and_a_buy_is_cut_to_the_cash() -> None:
    b = broker(initial_cash=D(10_000), slippage_bps=D(0), auction_participation=D("0.01"), day_participation=D("0.01"))
    b.submit(order("in", quantity=99))
    b.on_bars(DAY, [bar(c=100)])
    assert b.account().cash == 99
    refused = b.submit(order("too-much", quantity=50, symbol="IBM", type="limit", limit_price=D(100)))
    assert refused.reason.startswith("insufficient buying power")
    b.submit(order("out", "sell", 50))
    swap = b.submit(order("swap", quantity=49, symbol="IBM", type="limit", limit_price=D(100)))
    assert swap.status == "accepted", "what the working sale will bring may be spent"
    b.on_bars(DAY + timedelta(1), [bar(o=90, low=90), bar("IBM", o=100)])  # the sale brings less than it should have
    assert b.order("swap").status == "cancelled" and b.order("swap").filled_quantity == 45
    assert b.order("swap").reason.startswith("insufficient buying power") and 0 <= b.account().cash < 100
    check_books(b)


def test_a_sale_entered_later_still_pays_for_a_buy() -> None:
    b = broker(initial_cash=D(10_000), slippage_bps=D(0), auction_participation=D("0.01"), day_participation=D("0.01"))
    b.submit(order("in", quantity=50))
    b.on_bars(DAY, [bar(c=100), bar("IBM", c=100)])
    assert b.submit(order("buy", quantity=45, symbol="IBM")).status == "accepted"
    b.submit(order("sell", "sell", 50))
    b.on_bars(DAY + timedelta(1), [bar(), bar("IBM", o=120, h=130)])  # the buy costs more than the cash alone holds
    assert (b.order("buy").status, b.order("sell").status) == ("filled", "filled")


def test_what_is_not_held_cannot_be_sold() -> None:
    b = broker()
    b.submit(order("in", quantity=30))
    b.on_bars(DAY, [bar()])
    assert b.submit(order("half", "sell", 20)).status == "accepted"
    refused = b.submit(order("other-half", "sell", 20))
    assert refused.status == "rejected"
    assert refused.reason == "insufficient shares: 30 AAPL held, 20 of them being sold already, 20 asked for"
    b.on_actions(DAY + timedelta(1), [{"session": DAY + timedelta(1), "symbol": "AAPL", "kind": "split", "ratio": "0.1"}])
    b.on_bars(DAY + timedelta(1), [bar()])
    assert b.order("half").filled_quantity == 3 and b.positions() == {}, "a reverse split leaves three shares to sell"


def test_selling_short_where_it_is_allowed() -> None:
    b = broker(initial_cash=D(10_000), allow_shorting=True, slippage_bps=D(0), auction_participation=D("0.01"), day_participation=D("0.01"))
    b.submit(order("seen", quantity=1))
    b.on_bars(DAY, [bar(c=100)])
    assert b.submit(order("too-short", "sell", 200)).status == "rejected"
    b.submit(order("short", "sell", 50))
    b.on_bars(DAY + timedelta(1), [bar(c=100)])
    assert b.positions()["AAPL"].quantity == -49
    paid = b.on_actions(DAY + timedelta(4), [{"session": DAY + timedelta(4), "symbol": "AAPL", "kind": "dividend", "amount": 1}])
    assert paid[0].cash == -49, "a short position pays the dividend"
    b.submit(order("cover", quantity=49))
    b.on_bars(DAY + timedelta(4), [bar(o=90, low=90, c=95)])
    assert b.positions() == {} and b.account().cash == sum(e.cash for e in b.events())


def test_splits_and_dividends_on_one_day() -> None:
    b = broker(lot="1", slippage_bps=D(0))
    b.submit(order("a", quantity=25))
    b.on_bars(DAY, [bar(c=102)])
    before, cost = b.account(), b.positions()["AAPL"].average_price * 25
    ex = DAY + timedelta(1)
    actions = [CorporateAction(ex, "AAPL", "split", ratio=D("0.1")), CorporateAction(ex, "AAPL", "dividend", amount=D("2.655")),
               CorporateAction(ex, "GOOG", "split", ratio=D(2)), CorporateAction(ex + timedelta(1), "AAPL", "dividend", amount=D(9))]
    dividend, split = b.on_actions(ex, actions)
    assert (dividend.kind, dividend.quantity, dividend.cash) == ("dividend", 25, D("66.38"))  # on the old shares; half to even
    assert (split.kind, split.quantity, split.price, split.cash) == ("split", -23, 1020, D("510.00"))  # 2.5 shares: 2 kept, a half paid out
    after = b.positions()["AAPL"]
    assert (after.quantity, after.mark) == (2, 1020) and after.average_price * 2 == cost - to_cents(cost / 5)
    assert b.account().equity == before.equity + dividend.cash
    assert b.on_bars(ex, [], actions) == []
    assert [e.kind for e in b.on_bars(ex + timedelta(1), [], actions)] == ["dividend"]


def test_actions_of_sessions_without_bars_are_not_lost() -> None:
    b = broker()
    b.submit(order("a", quantity=10))
    b.on_bars(DAY, [bar()])
    between = {"session": DAY + timedelta(2), "symbol": "AAPL", "kind": "split", "ratio": 2}
    assert [e.kind for e in b.on_bars(DAY + timedelta(5), [], [between])] == ["split"] and b.positions()["AAPL"].quantity == 20


def test_apples_real_split() -> None:
    history = real_bars(date(2005, 2, 25), date(2005, 2, 28))
    b = broker()
    b.submit(order("a", quantity=100))
    b.on_bars(date(2005, 2, 25), history["2005-02-25"])
    b.on_bars(date(2005, 2, 28), history["2005-02-28"], [{"session": "2005-02-28", "symbol": "AAPL", "kind": "split", "ratio": 2.0}])
    held = b.positions()["AAPL"]
    assert held.quantity == 200 and 40 < held.average_price < 50 and 40 < held.mark < 50


# ---------------------------------------------------------------- refusals
@pytest.mark.parametrize(("wrong", "error", "message"), [
    (lambda b: b.on_bars(DAY - timedelta(1), []), UsageError, "does not go back"),
    (lambda b: b.on_actions(DAY - timedelta(1), []), UsageError, "does not go back"),
    (lambda b: b.on_bars(DAY, [bar(c=103)]), DataError, "other bars"),
    (lambda b: b.on_bars(DAY + timedelta(1), [bar(), bar()]), DataError, "two bars"),
    (lambda b: b.on_bars(DAY + timedelta(1), [bar(low=101)]), DataError, "AAPL's bar cannot be"),
    (lambda b: b.on_bars(DAY + timedelta(1), [bar(o=float("nan"))]), DataError, "not a finite number"),
    (lambda b: b.submit(order("a", quantity=101)), OrderConflict, "already stands for another order"),
    (lambda b: b.cancel("never"), BrokerError, "no order 'never'"),
])
def test_what_is_refused_changes_nothing(wrong: Any, error: type[Exception], message: str) -> None:
    b = broker()
    b.submit(order("a"))
    b.on_bars(DAY, [bar()])
    seen, account = b.events(), b.account()
    with pytest.raises(error, match=message):
        wrong(b)
    assert b.events() == seen and b.account() == account


def test_a_rejection_is_for_good_and_an_event() -> None:
    b = broker(lot="10")
    for wrong, reason in ((order("lot", quantity=5), "lots of 10"), (order("tick", type="limit", limit_price=D("1.005")), "ticks of 0.01"),
                          (order("who", symbol="XYZ"), "no instrument 'XYZ'")):
        assert reason in b.submit(wrong).reason
    assert [e.kind for e in b.events(1)] == ["rejected"] * 3
    assert b.submit(order("lot", quantity=5)).status == "rejected" and len(b.events()) == 4


def test_a_session_happens_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    b = broker()
    for i in range(3):
        b.submit(order(str(i), quantity=10))
    seen, calls = b.events(), 0

    def break_down(*args: Any) -> Decimal:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError("the machine fails in the middle of the session")
        return slippage(*args)

    with monkeypatch.context() as patch:
        patch.setattr("gpt_trader.trading.matching.slippage", break_down)
        with pytest.raises(OSError, match="in the middle"):
            b.on_bars(DAY, [bar()])
    assert b.events() == seen and b.positions() == {} and len(b.open_orders()) == 3
    assert len(fills(b.on_bars(DAY, [bar()]))) == 3


def test_two_processes_share_the_books(tmp_path: Path) -> None:
    """Two connections, many threads, the same ids: each order is taken once."""
    one, two = broker(tmp_path / "paper.db"), broker(tmp_path / "paper.db")
    threads = [threading.Thread(target=lambda b=b, k=k: [b.submit(order(f"{i}", quantity=1)) for i in range(k, 20 + k)])
               for b in (one, two) for k in (0, 5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(one.open_orders()) == 25 == len(two.open_orders()) and [e.kind for e in two.events()] == ["deposit"] + ["accepted"] * 25
    two.on_bars(DAY, [Bar("AAPL", D(100), D(100), D(100), D(100), D(10_000_000))])
    assert one.account() == two.account() and one.positions()["AAPL"].quantity == 25
    one.close()
    two.close()

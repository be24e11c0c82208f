"""Pre-trade limits: each check alone, at its very edge, and the exits that always stay open."""
from dataclasses import dataclass, replace
from decimal import Decimal as D

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_trader.core.config import load_config
from gpt_trader.core.instruments import load_instruments
from gpt_trader.risk.limits import Book, Limits, limits_from
from gpt_trader.risk.measures import risk_report, scenario_returns
from gpt_trader.risk.pretrade import check_order

INSTRUMENTS = load_instruments(None)


@dataclass(frozen=True)
class Order:
    symbol: str
    side: str
    quantity: D
    limit_price: D | None = None
    client_order_id: str = "o-1"
    stop_price: D | None = None
    trail_price: D | None = None
    trail_percent: D | None = None
    time_in_force: str = "day"


BOOK = Book(equity=D(100_000), quantities={"AAPL": D(100)}, prices={"AAPL": D(400), "IBM": D(200)}, cash=D(60_000))


def refused(order, book=BOOK, **limits):
    return [r.limit for r in check_order(order, book, Limits(**limits), INSTRUMENTS)]


@pytest.mark.parametrize(("limits", "edge", "side"), [
    ({"max_order_notional": D(8_000)}, 40, "buy"),
    ({"max_position_weight": D("0.2")}, 100, "buy"),
    ({"max_gross_exposure": D("0.5")}, 50, "buy"),
    ({"max_net_exposure": D("0.5")}, 50, "buy"),
    ({"min_cash": D(50_000)}, 50, "buy"),
    ({"max_order_participation": 0.01}, 60, "buy"),
])
def test_each_size_limit_holds_at_its_very_edge(limits, edge, side):
    book = replace(BOOK, mean_volume={"IBM": 6_000.0})
    assert refused(Order("IBM", side, D(edge)), book, **limits) == []
    assert refused(Order("IBM", side, D(edge + 1)), book, **limits) == list(limits)


@pytest.mark.parametrize(("limits", "fine", "too_far"), [
    ({"max_orders_per_session": 3}, {"orders_sent": 2}, {"orders_sent": 3}),
    ({"max_open_orders": 3}, {"orders_open": 2}, {"orders_open": 3}),
    ({"max_daily_loss": D(1_000)}, {"session_pnl": D(-1_000)}, {"session_pnl": D("-1000.01")}),
    ({"max_drawdown": 0.1}, {"drawdown": 0.1}, {"drawdown": 0.1001}),
])
def test_each_activity_limit_stops_new_risk_and_lets_exits_pass(limits, fine, too_far):
    assert refused(Order("IBM", "buy", D(1)), replace(BOOK, **fine), **limits) == []
    assert refused(Order("IBM", "buy", D(1)), replace(BOOK, **too_far), **limits) == list(limits)
    assert refused(Order("AAPL", "sell", D(100)), replace(BOOK, **too_far), **limits) == []


def test_mistakes_are_refused_in_exits_too():
    assert refused(Order("AAPL", "sell", D("0.5"))) == ["lot"]
    assert refused(Order("AAPL", "sell", D(1), D("400.001"))) == ["tick"]
    assert refused(Order("AAPL", "sell", D(1), D("300")), price_collar=D("0.1")) == ["price_collar"]
    assert refused(Order("AAPL", "sell", D(1), D("360")), price_collar=D("0.1")) == []
    assert refused(Order("AAPL", "sell", D(1)), replace(BOOK, known_ids={"o-1"})) == ["duplicate_client_order_id"]
    refusal, = check_order(Order("APPL", "sell", D(1)), BOOK, Limits(), INSTRUMENTS)
    assert refusal.limit == "unknown_instrument" and "AAPL" in refusal.message


def test_no_short_selling_by_two_exits_at_once():
    working = replace(BOOK, working_sells={"AAPL": D(60)})
    assert refused(Order("AAPL", "sell", D(40)), working) == []
    assert refused(Order("AAPL", "sell", D(41)), working) == ["allow_short"]
    assert refused(Order("IBM", "sell", D(1))) == ["allow_short"]


def test_working_orders_count_in_the_worst_case():
    working = replace(BOOK, working_buys={"IBM": D(100)})
    assert refused(Order("IBM", "buy", D(1)), working, max_position_weight=D("0.2")) == ["max_position_weight"]
    assert refused(Order("IBM", "buy", D(201)), working, min_cash=D(0)) == ["min_cash"]
    # a sell that may not be filled does not make room
    leaving = replace(BOOK, working_sells={"AAPL": D(100)})
    assert refused(Order("IBM", "buy", D(51)), leaving, max_gross_exposure=D("0.5")) == ["max_gross_exposure"]


def test_what_cannot_be_measured_is_refused_unless_it_reduces():
    for blind in (replace(BOOK, prices={}), replace(BOOK, equity=None), replace(BOOK, equity=D(0)), replace(BOOK, prices={"IBM": D(200)})):
        assert refused(Order("IBM", "buy", D(1)), blind) == ["not_measurable"]
        assert refused(Order("AAPL", "sell", D(100)), blind) == []
    assert refused(Order("IBM", "buy", D(1)), max_order_participation=0.01) == ["max_order_participation"], "no volume, no share of it"
    assert refused(Order("IBM", "buy", D(1)), max_var=1e9, max_expected_shortfall=1e9) == ["max_var", "max_expected_shortfall"]


def _history():
    moves = np.random.default_rng(5).normal(0, 0.01, (400, 1))
    return pd.DataFrame(np.exp(np.hstack([moves, -moves]).cumsum(axis=0)), columns=["AAPL", "IBM"])


def test_var_after_the_order_is_the_reports():
    book, history = replace(BOOK, returns=scenario_returns(_history(), window=500)), _history()
    after = risk_report({"AAPL": 60_000.0}, history, equity=1e5)
    assert refused(Order("AAPL", "buy", D(50)), book, max_var=after.var, max_expected_shortfall=after.es) == []
    assert refused(Order("AAPL", "buy", D(50)), book, max_var=after.var * 0.999) == ["max_var"]
    assert refused(Order("AAPL", "buy", D(50)), book, max_expected_shortfall=after.es * 0.999) == ["max_expected_shortfall"]


def test_a_hedge_passes_although_var_is_above_its_limit():
    book = replace(BOOK, returns=scenario_returns(_history()))
    assert refused(Order("AAPL", "buy", D(1)), book, max_var=1.0) == ["max_var"]
    assert refused(Order("IBM", "buy", D(100)), book, max_var=1.0) == [], "IBM moves against Apple here: buying it lowers VaR"
    assert refused(Order("IBM", "buy", D(5)), book, max_var=1.0, max_expected_shortfall=1.0) == [], "a little is enough"


@given(held=st.integers(-500, 500), working=st.integers(0, 300), quantity=st.integers(1, 600), side=st.sampled_from(["buy", "sell"]))
def test_an_order_that_reduces_never_leaves_a_larger_or_opposite_position(held, working, quantity, side):
    book = Book(D(1), {"AAPL": D(held)}, working_buys={"AAPL": D(working)} if side == "buy" else {},
                working_sells={"AAPL": D(working)} if side == "sell" else {})
    sign = 1 if side == "buy" else -1
    if book.reduces(Order("AAPL", side, D(quantity))):
        after = held + sign * (working + quantity)
        assert abs(after) < abs(held) and after * held >= 0


def test_the_packaged_limits_are_all_in_force():
    limits = limits_from(load_config(None).risk)
    values = {name: getattr(limits, name) for name in Limits.__dataclass_fields__}
    assert all(value is not None for value in values.values()) and limits.allow_short is False
    assert limits.max_order_notional == D(1_000_000) and limits.max_position_weight == D("0.3") and isinstance(limits.min_cash, D)

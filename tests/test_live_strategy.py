"""The reference strategy: no look-ahead, the target met, the orders exact."""
from datetime import date
from decimal import Decimal as D

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_trader.core.config import load_config
from gpt_trader.core.instruments import load_instruments
from gpt_trader.core.outcome import UsageError
from gpt_trader.live.strategy import Momentum, View, capped, client_order_id, inverse_volatility, naive_probability, plan_orders

INSTRUMENTS = load_instruments(None)
DAY = date(2013, 1, 3)


def history(days=300, drifts=(0.002, 0.001, -0.002), seed=4):
    steps = np.random.default_rng(seed).normal(0, 0.01, (days, len(drifts))) + np.array(drifts)
    return pd.DataFrame(100 * np.exp(steps.cumsum(axis=0)), columns=["AAPL", "IBM", "MSFT"][:len(drifts)],
                        index=pd.bdate_range("2011-11-01", periods=days))


def test_only_what_rose_is_held_and_nothing_is_short():
    targets = Momentum().targets(View(DAY, history()))
    assert set(targets.weights) == {"AAPL", "IBM"} and all(w > 0 for w in targets.weights.values())


def test_the_last_month_does_not_count_as_momentum():
    prices = history()
    prices.iloc[-20:, 2] *= 5  # a jump inside the month that is left out
    assert "MSFT" not in Momentum().targets(View(DAY, prices)).weights


def test_the_target_volatility_is_met_until_a_cap_binds():
    prices = history()
    reasons = Momentum().targets(View(DAY, prices, target_volatility=0.05)).reasons
    base = pd.Series({s: why["base"] for s, why in reasons.items() if why["base"]})
    returns = (prices / prices.shift(1) - 1).tail(63)[base.index]
    assert np.sqrt(base @ returns.cov() @ base * 252) == pytest.approx(0.05)
    bound = Momentum().targets(View(DAY, prices, target_volatility=9.0, max_weight=0.3, max_gross=0.5)).weights
    assert sum(bound.values()) == pytest.approx(0.5) and max(bound.values()) <= 0.3


def test_the_caps_hold_for_any_weights():
    assert capped({"A": 0.5, "B": 0.2}, 1.0, 0.3) == {"A": 0.3, "B": 0.2}, "what is cut off stays in cash"
    assert capped({"A": 0.6, "B": 0.6}, 1.0, 1.0) == pytest.approx({"A": 0.5, "B": 0.5}) and capped({}, 1.0, 0.3) == {}


def test_two_calm_shares_weigh_more_than_two_wild_ones():
    returns = pd.DataFrame({"A": [0.01, -0.01] * 30, "B": [0.02, -0.02] * 30})
    weights = inverse_volatility(returns, 0.1)
    assert weights["A"] == pytest.approx(2 * weights["B"])
    assert inverse_volatility(returns[[]], 0.1) == {}


@pytest.mark.parametrize(("probability", "factor"), [(0.0, 1.25), (1.0, 0.75), (0.5, 1.0), (None, 1.0)])
def test_the_forecast_scales_the_size(probability, factor):
    assert Momentum().scale(probability) == pytest.approx(factor)


def test_the_parameters_come_from_the_configuration():
    stated = load_config(None).app.strategy
    strategy = Momentum.from_settings(stated)
    assert (strategy.lookback, strategy.skip) == (stated.lookback, stated.skip)
    assert (strategy.volatility_window, strategy.expansion_aversion) == (stated.volatility_window, stated.expansion_aversion)
    with pytest.raises(UsageError, match="make no sense"):
        Momentum(expansion_aversion=2)


def test_the_naive_vote_is_not_a_certainty():
    assert naive_probability(1.0, 0.6) == pytest.approx(0.6) and naive_probability(0.0, 0.6) == pytest.approx(0.4)
    assert naive_probability(None, 0.6) is None


weights = st.dictionaries(st.sampled_from(["AAPL", "IBM", "MSFT", "GOOG"]), st.floats(0, 0.5), max_size=4)
holdings = st.dictionaries(st.sampled_from(["AAPL", "IBM", "MSFT", "GOOG"]), st.integers(0, 5_000).map(D), max_size=4)
PRICES = {"AAPL": D("520.30"), "IBM": D("193.00"), "MSFT": D("27.25"), "GOOG": D("723.67")}


@settings(deadline=None)
@given(weights, holdings)
def test_orders_lead_to_the_targets_and_never_beyond(weights, holdings):
    equity, band = D(1_000_000), D("0.02")
    orders, skipped = plan_orders(DAY, "m", weights, equity=equity, quantities=holdings, prices=PRICES, instruments=INSTRUMENTS, band=band)
    assert len({o.client_order_id for o in orders}) == len(orders)
    assert [o.side for o in orders] == sorted((o.side for o in orders), reverse=True), "sells stand before buys"
    for symbol in {*weights, *holdings}:
        held, order = holdings.get(symbol, D(0)), next((o for o in orders if o.symbol == symbol), None)
        after = held + (0 if order is None else order.quantity if order.side == "buy" else -order.quantity)
        target = D(repr(weights.get(symbol, 0.0))) * equity
        assert after >= 0
        if order is not None:
            assert target - PRICES[symbol] < after * PRICES[symbol] <= target
        else:
            assert abs(after * PRICES[symbol] - target) < band * equity + PRICES[symbol] or symbol in skipped


def test_a_large_order_is_cut_and_a_large_exit_is_not():
    orders, _ = plan_orders(DAY, "m", {"IBM": 0.5}, equity=D(1_000_000), quantities={"MSFT": D(90_000)}, prices=PRICES,
                            instruments=INSTRUMENTS, band=D(0), largest={"IBM": D("100.7"), "MSFT": D(1)})
    assert [(o.symbol, o.side, o.quantity) for o in orders] == [("MSFT", "sell", 90_000), ("IBM", "buy", 100)]


def test_an_order_has_one_name():
    assert client_order_id(DAY, "momentum", "AAPL", "buy") == "20130103-momentum-AAPL-buy"

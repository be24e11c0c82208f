"""Risk measures: by hand, and by the properties that they must have."""
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_trader.core.outcome import DataError, UsageError
from gpt_trader.risk.measures import (
    component_es,
    component_var,
    drawdown,
    exposure,
    historical_es,
    historical_var,
    max_drawdown,
    risk_report,
    scenario_pnl,
    scenario_returns,
)

pnls = st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=300)
confidences = st.floats(0.5, 0.999)


def test_var_and_es_by_hand():
    # ten days; losses sorted: -5 -4 -3 -2 -1 0 1 2 8 10
    pnl = [5, 4, 3, 2, 1, 0, -1, -2, -8, -10]
    assert historical_var(pnl, 0.80) == 2 and historical_es(pnl, 0.80) == pytest.approx(9.0)
    assert historical_var(pnl, 0.90) == 8 and historical_es(pnl, 0.90) == pytest.approx(10.0)
    # 0.85 * 10 = 8.5: the VaR day is the 9th, half a day of it belongs to the tail of 1.5 days
    assert historical_var(pnl, 0.85) == 8 and historical_es(pnl, 0.85) == pytest.approx((10 + 0.5 * 8) / 1.5)


def test_a_sure_gain_is_a_negative_loss():
    assert historical_var([3.0] * 10, 0.95) == -3.0 and historical_es([3.0] * 10, 0.95) == pytest.approx(-3.0)


@given(pnls, confidences)
def test_es_is_never_below_var_and_never_above_the_worst_day(pnl, confidence):
    var, es, slack = historical_var(pnl, confidence), historical_es(pnl, confidence), 1e-9 * (1 + max(map(abs, pnl)))
    assert var <= es + slack and es <= -min(pnl) + slack


@given(pnls, confidences, st.floats(0.01, 100))
def test_doubling_the_book_doubles_the_risk(pnl, confidence, factor):
    scaled = factor * np.array(pnl)
    assert historical_var(scaled, confidence) == pytest.approx(factor * historical_var(pnl, confidence))
    assert historical_es(scaled, confidence) == pytest.approx(factor * historical_es(pnl, confidence), abs=1e-6)


@given(pnls, st.floats(0.5, 0.99), st.floats(0.0, 0.009))
def test_more_confidence_is_never_less_risk(pnl, confidence, more):
    assert historical_var(pnl, confidence) <= historical_var(pnl, confidence + more)


@given(pnls, st.floats(-1e5, 1e5), confidences)
def test_a_sure_amount_moves_the_risk_by_itself(pnl, cash, confidence):
    assert historical_var(np.array(pnl) + cash, confidence) == pytest.approx(historical_var(pnl, confidence) - cash, abs=1e-6)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(60, 400), confidences)
def test_components_sum_to_the_total(seed, positions, days, confidence):
    draws = np.random.default_rng(seed).standard_t(3, (days, positions))
    pnl = pd.DataFrame(draws, columns=[f"S{i}" for i in range(positions)])
    total = pnl.sum(axis=1)
    assert sum(component_var(pnl, confidence).values()) == pytest.approx(historical_var(total, confidence), abs=1e-9)
    assert sum(component_es(pnl, confidence).values()) == pytest.approx(historical_es(total, confidence), abs=1e-9)


def test_es_is_subadditive_where_var_is_not():
    # two bonds that default on different days: the classic case
    a, b = np.zeros(100), np.zeros(100)
    a[:4], b[4:8] = -100.0, -100.0
    assert historical_var(a, 0.95) + historical_var(b, 0.95) < historical_var(a + b, 0.95), "VaR is blind to each alone"
    assert historical_es(a + b, 0.95) <= historical_es(a, 0.95) + historical_es(b, 0.95)


def test_a_hedge_has_a_negative_component():
    day = np.random.default_rng(3).normal(size=500)
    parts = component_var(pd.DataFrame({"long": day, "hedge": -0.4 * day}))
    assert parts["hedge"] < 0 < parts["long"]


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1, 95])
def test_a_confidence_outside_its_range_is_refused(confidence):
    with pytest.raises(UsageError, match="between 0 and 1"):
        historical_var([1.0, 2.0], confidence)


def test_bad_scenarios_are_refused():
    with pytest.raises(DataError, match="no scenario"):
        historical_var([], 0.95)
    with pytest.raises(DataError, match="not a finite"):
        historical_es([1.0, math.nan], 0.95)
    prices = pd.DataFrame({"A": [1.0, 2.0]})
    with pytest.raises(DataError, match="no price history for B"):
        scenario_pnl({"B": 1.0}, scenario_returns(prices))
    with pytest.raises(DataError, match="not a finite"):
        scenario_pnl({"A": math.inf}, scenario_returns(prices))
    with pytest.raises(UsageError, match="horizon"):
        scenario_returns(prices, horizon=0)
    with pytest.raises(DataError, match="sorted"):
        scenario_returns(prices[::-1])


def test_the_horizon_compounds():
    prices = pd.DataFrame({"A": [100.0, 110.0, 121.0, 60.5]})
    assert scenario_returns(prices, 2)["A"].tolist() == pytest.approx([0.21, -0.45])
    assert scenario_returns(prices, 1, window=1)["A"].tolist() == pytest.approx([-0.5])


def test_exposure_and_drawdown_by_hand():
    book = exposure({"A": 60.0, "B": -40.0, "C": 0.0})
    assert (book.gross, book.net, book.long, book.short, book.largest) == (100, 20, 60, 40, "A")
    assert book.largest_share == 0.6 and book.herfindahl == pytest.approx(0.52)
    assert drawdown([100, 80, 90]) == pytest.approx(0.1) and max_drawdown([100, 80, 90]) == pytest.approx(0.2)


def _history(days=300, columns="AB"):
    walk = np.exp(np.random.default_rng(1).normal(0, 0.01, (days, len(columns))).cumsum(axis=0))
    return pd.DataFrame(100 * walk, columns=list(columns))


def test_the_report_says_when_it_cannot_tell():
    history = _history()
    history.loc[:250, "B"] = np.nan
    young = risk_report({"A": 1.0, "B": 1.0}, history, equity=10.0)
    assert young.var is None and young.es is None and "60 are needed" in young.problem
    assert young.exposure.gross == 2.0, "exposure is known all the same"
    missing = risk_report({"A": 1.0, "Z": 1.0}, history, equity=10.0)
    assert missing.var is None and "Z" in missing.problem


def test_the_report_of_a_flat_book_is_zero_not_unknown():
    report = risk_report({"A": 0.0}, _history(), equity=10.0)
    assert (report.var, report.es, report.exposure.gross, report.problem) == (0.0, 0.0, 0.0, None)


def test_the_report_agrees_with_its_parts():
    history = _history()
    report = risk_report({"A": 1000.0, "B": -500.0}, history, equity=10_000.0, confidence=0.9, window=200, equity_curve=[12_000, 10_000])
    pnl = scenario_pnl({"A": 1000.0, "B": -500.0}, scenario_returns(history, window=200)).sum(axis=1)
    assert report.scenarios == 200 and report.var == historical_var(pnl, 0.9) and report.es == historical_es(pnl, 0.9)
    assert report.volatility == pytest.approx(float((pnl / 10_000).std(ddof=1) * math.sqrt(252)))
    assert report.drawdown == pytest.approx(1 / 6)
    assert sum(report.component_var.values()) == pytest.approx(report.var)

"""Risk figures against published tables, other libraries, and closed forms; the tolerance stands in each test."""
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import minimize

from gpt_trader.core.outcome import ConfigError, DataError, UsageError
from gpt_trader.dataflow.providers import EmbeddedProvider
from gpt_trader.risk import tailmodels
from gpt_trader.risk.covariance import correlation_break, covariance, jennrich
from gpt_trader.risk.coverage import christoffersen, kupiec, traffic_light
from gpt_trader.risk.garch import garch
from gpt_trader.risk.horizon import horizon_risk, incremental_var, trade_var
from gpt_trader.risk.measures import (
    book_risk,
    component_es,
    component_var,
    historical_es,
    historical_var,
    scenario_pnl,
    scenario_returns,
)
from gpt_trader.risk.portfolio import hedge, propose, target_weights
from gpt_trader.risk.reverse import nearest_move, reverse_stress
from gpt_trader.risk.tailmodels import METHODS, tail_estimate


@pytest.fixture(scope="module")
def prices():
    embedded = EmbeddedProvider()
    return pd.DataFrame({s: embedded.bars(s).set_index("session")["adj_close"] for s in ("AAPL", "IBM", "MSFT", "GOOG")}).loc["2006":]


@pytest.fixture(scope="module")
def returns(prices):
    return scenario_returns(prices).dropna()


# ------------------------------------------------------------ tests of coverage

@pytest.mark.parametrize(("days", "p", "low", "high"), [
    (255, 0.01, 0, 7), (510, 0.01, 1, 11), (1000, 0.01, 4, 17), (255, 0.05, 6, 21), (510, 0.05, 16, 36), (1000, 0.05, 37, 65)])
def test_kupiecs_table_of_regions_that_do_not_reject(days, p, low, high):
    """Kupiec (1995), table 3, as in Jorion (2007), table 6-2: not rejected at 5 % for low < N < high; exact. For 255 days at 99 % the table
    prints only N < 7; the statistic at N = 0 is 5.13, which rejects."""
    kept = [n for n in range(days) if kupiec(n, days, 1 - p).p > 0.05]
    assert kept == list(range(low + 1, high))


@pytest.mark.parametrize(("exceptions", "cumulative"), [
    (0, 8.11), (1, 28.58), (2, 54.32), (3, 75.81), (4, 89.22), (5, 95.88), (6, 98.63), (7, 99.60), (8, 99.89), (9, 99.97), (10, 99.99)])
def test_basels_table_of_exceptions(exceptions, cumulative):
    """Basel Committee (1996), table 2: 250 days at 99 %; to the last digit printed."""
    light = traffic_light(exceptions, 250, 0.99)
    assert round(100 * light.probability, 2) == cumulative
    assert light.zone == ("green" if exceptions < 5 else "yellow" if exceptions < 10 else "red")


def test_christoffersen_is_the_likelihood_ratio_of_two_chains():
    """Against the likelihoods written out by scipy's binomial law; relative 1e-9."""
    h = np.random.default_rng(2).random(400) < 0.06
    before, after = h[:-1], h[1:]
    def log(n, k, p):
        return stats.binom.logpmf(k, n, p) - stats.binom.logpmf(k, n, k / n)
    p = after.mean()
    ratio = -2 * (log((~before).sum(), (~before & after).sum(), p) + log(before.sum(), (before & after).sum(), p))
    assert christoffersen(h).statistic == pytest.approx(ratio, rel=1e-9)


# ------------------------------------------------------------ estimators

def test_historical_figures_are_skfolios(returns):
    """skfolio's measures over the same scenarios; the figures are the same to 1e-12 where the tail is a whole number of days."""
    measures = pytest.importorskip("skfolio.measures")
    x = returns.mean(axis=1).to_numpy()[-500:]
    for confidence in (0.95, 0.99):
        assert historical_es(x, confidence) == pytest.approx(measures.cvar(x, beta=confidence), rel=1e-12)
        tail = np.sort(-x)
        assert historical_var(x, confidence) == tail[round(500 * confidence) - 1]
        assert measures.value_at_risk(x, beta=confidence) in (tail[round(500 * confidence) - 1], tail[round(500 * confidence)])


def test_the_gaussian_is_scipys():
    """Closed form, relative 1e-9."""
    x = np.random.default_rng(0).normal(100, 1000, 500)
    found = tail_estimate(pd.DataFrame({"x": x}), "normal", 0.99)
    z = stats.norm.ppf(0.99)
    assert found.var == pytest.approx(-x.mean() + x.std(ddof=1) * z) and found.es == pytest.approx(
        -x.mean() + x.std(ddof=1) * stats.norm.pdf(z) / 0.01)


@pytest.mark.parametrize(("skew", "kurtosis"), [(0.0, 0.0), (0.4, 1.0), (-0.3, 0.8), (0.6, 2.0)])
def test_the_bent_gaussians_tail_mean_is_its_integral(skew, kurtosis):
    """Against numerical integration of the expansion of Cornish and Fisher (1937) beyond the level; relative 1e-7."""
    def bent(u):
        z = stats.norm.ppf(u)
        return z + (z**2 - 1) * skew / 6 + (z**3 - 3 * z) * kurtosis / 24 - (2 * z**3 - 5 * z) * skew**2 / 36
    var, es = tailmodels._bent_tail(0.975, skew, kurtosis)
    assert var == pytest.approx(bent(0.975)) and es == pytest.approx(quad(bent, 0.975, 1)[0] / 0.025, rel=1e-7)


@pytest.mark.parametrize("freedom", [6, 10])
def test_monte_carlo_draws_the_student_law_that_it_fitted(freedom):
    """Closed form with the fitted degrees of freedom and the sample's deviation: VaR and ES within 3 %, with 50,000 draws."""
    x = 1000 * stats.t.rvs(freedom, size=20_000, random_state=3)
    found = tail_estimate(pd.DataFrame({"x": x}), "monte_carlo", 0.99)
    v = found.details["degrees_of_freedom"]
    q, scale = stats.t.ppf(0.99, v), x.std(ddof=1) * math.sqrt((v - 2) / v)
    assert 4.5 < v < 1.5 * freedom and found.var == pytest.approx(-x.mean() + scale * q, rel=0.03)
    assert found.es == pytest.approx(-x.mean() + scale * stats.t.pdf(q, v) / 0.01 * (v + q**2) / (v - 1), rel=0.03)


def test_the_extreme_value_tail_is_scipys_fit(returns):
    """McNeil, Frey and Embrechts (2015), equations 5.18 and 5.19, on scipy's maximum likelihood; relative 1e-3."""
    losses = -1e6 * returns.mean(axis=1).to_numpy()[-1000:]
    found = tail_estimate(pd.DataFrame({"x": -losses}), "evt", 0.99)
    u = np.quantile(losses, 0.90)
    excess = losses[losses > u] - u
    shape, _, scale = stats.genpareto.fit(excess / excess.mean(), floc=0)
    var = u + excess.mean() * scale / shape * ((0.01 * 1000 / len(excess)) ** -shape - 1)
    assert found.var == pytest.approx(var, rel=1e-3)
    assert found.es == pytest.approx(var / (1 - shape) + (excess.mean() * scale - shape * u) / (1 - shape), rel=1e-3)


def test_the_garch_filter_is_archs_own_forecast(returns):
    """The parameters and tomorrow's volatility of arch on returns in per cent, as its manual has it; relative 2e-3 (two optimisations)."""
    arch = pytest.importorskip("arch")
    x = returns["AAPL"].to_numpy()[-1000:]
    fit = garch(1e6 * x)
    theirs = arch.arch_model(100 * x, mean="Zero", vol="GARCH", p=1, q=1).fit(disp="off")
    assert (fit.alpha, fit.beta) == pytest.approx((theirs.params["alpha[1]"], theirs.params["beta[1]"]), rel=2e-3)
    tomorrow = math.sqrt(theirs.forecast(horizon=1).variance.iloc[-1, 0]) / 100 * 1e6
    assert fit.volatility[-1] == pytest.approx(tomorrow, rel=2e-3)
    found = tail_estimate(pd.DataFrame({"x": 1e6 * x}), "filtered_garch", 0.99)
    assert found.var == pytest.approx(historical_var(1e6 * x / fit.volatility[:-1] * fit.volatility[-1], 0.99))


def test_without_the_extra_the_garch_filter_says_what_to_install(monkeypatch, returns):
    def missing(*args, **kwargs):
        raise ConfigError("arch is needed for a GARCH volatility, and is not installed", mend="pip install 'gpt_trader[garch]'")
    monkeypatch.setattr("gpt_trader.risk.garch.need", missing)
    found = tail_estimate(returns * 1e6, "filtered_garch", 0.99)
    assert found.var is None and "gpt_trader[garch]" in found.problem
    assert set(METHODS) == {"historical", "filtered", "filtered_garch", "normal", "cornish_fisher", "monte_carlo", "evt"}


# ------------------------------------------------------------ horizon and parts

def test_a_horizon_by_both_rules(prices):
    values = {s: 1e6 for s in prices}
    ten = scenario_returns(prices, 10, 900).dropna().sum(axis=1) * 1e6
    overlapping = horizon_risk(values, prices, 10, confidence=0.9, window=900)
    assert overlapping.var == pytest.approx(historical_var(ten, 0.9)) and overlapping.independent == 90
    one = historical_var(scenario_returns(prices, 1, 900).dropna().sum(axis=1) * 1e6, 0.9)
    assert horizon_risk(values, prices, 10, rule="square_root", confidence=0.9, window=900).var == pytest.approx(math.sqrt(10) * one)
    with pytest.raises(DataError, match="independent"):
        horizon_risk(values, prices, 21, window=300)
    with pytest.raises(UsageError, match="square_root"):
        horizon_risk(values, prices, rule="square_rot")


def test_incremental_var_is_what_closing_takes_away(returns):
    values = {"AAPL": 2e6, "IBM": -1e6, "MSFT": 5e5}
    pnl = scenario_pnl(values, returns)
    for symbol, part in incremental_var(pnl).items():
        rest = {s: v for s, v in values.items() if s != symbol}
        assert part == pytest.approx(historical_var(pnl.sum(axis=1)) - historical_var(scenario_pnl(rest, returns).sum(axis=1)))
        before, after = trade_var(values, {symbol: -values[symbol]}, returns)
        assert before - after == pytest.approx(part)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(60, 300), st.sampled_from([0.9, 0.95, 0.99]))
def test_one_pass_gives_the_figures_of_the_single_functions(seed, positions, days, confidence):
    """Relative 1e-9, days with a gap left out by both."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.standard_t(4, (days, positions)) / 50, columns=[f"S{i}" for i in range(positions)])
    table.iloc[rng.integers(0, days, 3), rng.integers(0, positions)] = np.nan
    values = dict(zip(table.columns, rng.normal(0, 1e6, positions).tolist(), strict=True))
    one, pnl = book_risk(values, table, confidence), scenario_pnl(values, table)
    total = pnl.sum(axis=1)
    scale = pnl.abs().to_numpy().max()
    assert one.var == pytest.approx(historical_var(total, confidence), rel=1e-9, abs=1e-9 * scale)
    assert one.es == pytest.approx(historical_es(total, confidence), rel=1e-9, abs=1e-9 * scale)
    assert one.component_es == pytest.approx(component_es(pnl, confidence), rel=1e-9, abs=1e-9 * scale)
    assert sum(one.component_var.values()) == pytest.approx(one.var, abs=1e-6 * scale)
    assert one.component_var == pytest.approx(component_var(pnl, confidence), rel=1e-6, abs=1e-6 * scale)


# ------------------------------------------------------------ covariance and its breaks

@pytest.mark.parametrize("shape", [(60, 40), (500, 4), (25, 60)])
def test_shrinkage_is_scikit_learns(shape):
    """scikit-learn's LedoitWolf and OAS; relative 1e-10."""
    sklearn = pytest.importorskip("sklearn.covariance")
    x = np.random.default_rng(8).standard_t(5, shape) * 0.02
    for method, other in (("ledoit_wolf", sklearn.LedoitWolf()), ("oas", sklearn.OAS())):
        ours, theirs = covariance(pd.DataFrame(x), method), other.fit(x)
        assert ours.weight == pytest.approx(theirs.shrinkage_, rel=1e-10)
        np.testing.assert_allclose(ours.matrix, theirs.covariance_, rtol=1e-10, atol=1e-18)


def test_jennrich_of_two_variables_is_its_closed_form():
    """For a pair the statistic is nm/(n+m) (r1-r2)^2 / (1-r^2)^2 with the pooled r; relative 1e-10."""
    rng = np.random.default_rng(4)
    one, two = rng.standard_normal((90, 2)), rng.standard_normal((40, 2)) @ np.array([[1.0, 0.7], [0.0, 0.7]])
    r1, r2 = np.corrcoef(one.T)[0, 1], np.corrcoef(two.T)[0, 1]
    r = (90 * r1 + 40 * r2) / 130
    statistic, freedom = jennrich(one, two)
    assert statistic == pytest.approx(90 * 40 / 130 * (r1 - r2) ** 2 / (1 - r**2) ** 2, rel=1e-10) and freedom == 1


def test_jennrich_keeps_its_size_on_gaussian_days():
    """Under the null the statistic is chi-squared: 5 % of 2,000 samples beyond its 95 % point, within three standard errors."""
    rng, shape = np.random.default_rng(6), np.full((3, 3), 0.4) + 0.6 * np.eye(3)
    found = [jennrich(rng.multivariate_normal(np.zeros(3), shape, 200), rng.multivariate_normal(np.zeros(3), shape, 150))[0]
             for _ in range(2000)]
    assert np.mean(np.array(found) > stats.chi2.ppf(0.95, 3)) == pytest.approx(0.05, abs=0.015)


def test_a_volatile_stretch_is_no_break_and_a_change_of_correlation_is():
    rng = np.random.default_rng(9)
    shape = np.full((3, 3), 0.3) + 0.7 * np.eye(3)
    calm = rng.multivariate_normal(np.zeros(3), shape, 400)
    wild = np.vstack([calm[:337], 4 * calm[337:]])
    assert correlation_break(pd.DataFrame(wild), deals=99).p > 0.05
    tight = np.full((3, 3), 0.9) + 0.1 * np.eye(3)
    assert correlation_break(pd.DataFrame(np.vstack([calm[:337], rng.multivariate_normal(np.zeros(3), tight, 63)])), deals=99).p <= 0.02


# ------------------------------------------------------------ reverse stress

@pytest.mark.parametrize("seed", range(8))
def test_the_nearest_move_is_that_of_a_general_solver(seed):
    """scipy's SLSQP with bounds, from several starts; the distance within 1e-3, never below ours by more."""
    rng = np.random.default_rng(seed)
    exposures, root = rng.normal(0, 1e6, 5), rng.normal(0, 0.03, (5, 5))
    matrix, loss = root @ root.T + 1e-4 * np.eye(5), float(rng.uniform(0.1, 0.6) * np.abs(exposures).sum())
    ours = nearest_move(exposures, matrix, loss)
    assert ours is not None and exposures @ ours == pytest.approx(-loss) and ours.min() >= -1 - 1e-9
    inverse, unit = np.linalg.inv(matrix), 1e6
    loses = {"type": "eq", "fun": lambda m: (exposures @ m + loss) / unit, "jac": lambda m: exposures / unit}
    tries = [minimize(lambda m: m @ inverse @ m / 1e3, start, jac=lambda m: 2 * inverse @ m / 1e3, method="SLSQP", constraints=loses,
                      bounds=[(-1, None)] * 5, options={"maxiter": 1000, "ftol": 1e-12}) for start in (ours * 0.9, -np.sign(exposures) / 2)]
    best = min(tries, key=lambda r: r.fun if r.success else math.inf)
    assert best.success and ours @ inverse @ ours == pytest.approx(1e3 * best.fun, rel=1e-3)


def test_a_linear_books_distance_is_loss_over_its_deviation(returns):
    values = {"AAPL": 2e6, "IBM": -1e6, "MSFT": 5e5}
    found = reverse_stress(values, returns, 150_000, window=63)
    matrix = covariance(returns[sorted(values)].tail(63)).matrix.to_numpy()
    w = np.array([values[s] for s in sorted(values)])
    deviation = math.sqrt(w @ matrix @ w)
    assert found.distance == pytest.approx(150_000 / deviation) and sum(found.pnl.values()) == pytest.approx(-150_000)
    assert found.once_in == pytest.approx(1 / stats.norm.sf(150_000 / deviation))


# ------------------------------------------------------------ portfolios and hedges

def test_minimum_variance_is_the_solution_of_its_quadratic_programme(returns):
    """Against SLSQP on the same shrunk covariance; weights within 2e-3, variance within 1e-4."""
    pytest.importorskip("skfolio")
    used = returns.tail(500)
    weights = np.array(list(target_weights(used, "minimum_variance", max_weight=0.5).values()))
    matrix = covariance(used).matrix.to_numpy()
    best = minimize(lambda w: 1e4 * w @ matrix @ w, np.full(4, 0.25), method="SLSQP", bounds=[(0, 0.5)] * 4,
                    constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, options={"ftol": 1e-12})
    assert weights @ matrix @ weights == pytest.approx(best.fun / 1e4, rel=1e-4) and weights == pytest.approx(best.x, abs=2e-3)


def test_risk_parity_makes_contributions_equal(returns):
    """Each position's share of the variance is a quarter, within one percentage point."""
    pytest.importorskip("skfolio")
    used = returns.tail(500)
    w, matrix = np.array(list(target_weights(used, "risk_parity").values())), covariance(used).matrix.to_numpy()
    assert w * (matrix @ w) / (w @ matrix @ w) == pytest.approx(np.full(4, 0.25), abs=0.01)


def test_a_proposal_keeps_turnover_and_limits(returns):
    pytest.importorskip("skfolio")
    now = {"AAPL": 3e6, "IBM": 1e6}
    plan = propose(now, returns.tail(500), equity=5e6, method="minimum_cvar", max_weight=0.3, max_turnover=0.4)
    assert plan.turnover == pytest.approx(0.4) and plan.part < 1
    whole = propose(now, returns.tail(500), equity=5e6, method="hierarchical_risk_parity", max_weight=0.3)
    assert max(whole.after.values()) <= 0.3 + 1e-9 and sum(whole.after.values()) == pytest.approx(0.8)


def test_a_hedge_is_the_least_squares_line(returns):
    """Ederington's ratio is the slope of the book's P&L on the instrument's returns; relative 1e-9."""
    pnl = returns[["AAPL", "IBM"]].to_numpy() @ np.array([1e6, 2e6])
    found = hedge({"AAPL": 1e6, "IBM": 2e6}, returns, "MSFT")
    slope = stats.linregress(returns["MSFT"], pnl)
    assert found.value == pytest.approx(-slope.slope, rel=1e-9) and found.effectiveness == pytest.approx(slope.rvalue**2, rel=1e-9)

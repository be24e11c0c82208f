"""The backtests against each other: where their assumptions coincide, the desk's and the vectorised one agree to the cent."""
import shutil
from dataclasses import dataclass
from datetime import date
from decimal import Decimal as D

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_trader.core.approval import DryRun
from gpt_trader.core.clock import SimulatedClock, parse_utc
from gpt_trader.core.instruments import load_instruments
from gpt_trader.core.outcome import UsageError
from gpt_trader.core.workspace import Workspace
from gpt_trader.dataflow.ingestion import ingest
from gpt_trader.dataflow.providers import EmbeddedProvider
from gpt_trader.live.backtest import backtest
from gpt_trader.live.events import event_backtest
from gpt_trader.live.forecast import NaiveForecaster
from gpt_trader.live.market import Market
from gpt_trader.live.peak import reset_peak, since_reset
from gpt_trader.live.session import highest_level, last_session
from gpt_trader.live.strategy import Targets
from gpt_trader.live.tape import Costs, Tape, half_even, up
from gpt_trader.live.vector import shares_from_signals, vector_backtest

SYMBOLS = ["AAPL", "GOOG", "IBM", "MSFT"]
FIRST, LAST = date(2004, 12, 1), date(2005, 11, 30)  # with Apple's split of 28 February 2005 and the dividends of IBM and Microsoft
BAND = 0.01
LOOSE = """
limits: {max_var: 1e12, max_expected_shortfall: 1e12, max_position_weight: 1, max_order_notional: 1e12, max_order_participation: 1,
  max_gross_exposure: 2, max_net_exposure: 2, max_largest_share: 1, max_herfindahl: 1, max_daily_loss: 1e12, max_drawdown: 1}
"""
NO_SLIPPAGE = """
broker: {paper: {slippage_bps: 0, auction_participation: 1, day_participation: 1, initial_cash: 1_000_000}}
strategy: {rebalance_band: 0.01}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("backtest") / "desk"
    with Workspace.create(root, SimulatedClock(parse_utc("2013-03-05T00:00:00Z"))) as made:
        ingest(made, EmbeddedProvider(), SYMBOLS)
    (root / "config" / "risk.yaml").write_text(LOOSE)
    (root / "config" / "config.yaml").write_text(NO_SLIPPAGE)
    return root


@pytest.fixture(scope="module")
def ws(root):
    with Workspace.open(root) as ws:
        yield ws


@pytest.fixture
def stricter(root, tmp_path):
    """The same desk with other limits, given as a mapping that is merged into the loose ones."""
    opened = []

    def make(**limits) -> Workspace:
        copy = shutil.copytree(root, tmp_path / f"desk{len(opened)}")
        told = yaml.safe_load(LOOSE)
        told["limits"] |= limits
        (copy / "config" / "risk.yaml").write_text(yaml.safe_dump(told))
        opened.append(Workspace.open(copy))
        return opened[-1]

    yield make
    for ws in opened:
        ws.close()


@pytest.fixture(scope="module")
def market(ws):
    return Market.load(ws)


@dataclass(frozen=True)
class Table:
    """Wants what a table says."""

    weights: pd.DataFrame
    name: str = "table"

    def targets(self, view):
        row = self.weights.loc[pd.Timestamp(view.session)]
        return Targets({str(s): float(w) for s, w in row.items()})


def wandering(days: list[date], seed: int) -> pd.DataFrame:
    """Weights that change every fifth session, some of them to nothing; 45 % in all, so that buys need not wait for sales."""
    rng = np.random.default_rng(seed)
    raw = rng.dirichlet([1.0] * 4, len(days)) * 0.45 * (rng.random((len(days), 4)) > 0.2)
    table = pd.DataFrame(raw, index=pd.DatetimeIndex(days), columns=SYMBOLS)
    return table.iloc[np.arange(len(days)) // 5 * 5].set_axis(table.index)


def test_the_desk_and_the_vectorised_backtest_agree_to_the_cent(ws, market):
    days = [day for day in market.sessions() if FIRST <= day <= LAST]
    weights = wandering(days, 11)
    exact = backtest(ws, days, market=market, strategy=Table(weights), forecaster=NaiveForecaster(0.6))
    tape = Tape.of(market, ws.instruments).between(market.sessions()[market.position(days[0]) - 1], LAST)
    first = pd.DataFrame(np.nan, index=pd.DatetimeIndex(tape.sessions[:1]), columns=SYMBOLS)  # the prices that the first day is sized on
    quick = vector_backtest(tape, weights=pd.concat([first, weights]), deposit=1_000_000, band=BAND,
                            costs=Costs.of(ws.config.app.broker.paper))

    assert len(days) >= 200 and len(exact.fills) > 150
    assert (exact.report.refused, exact.report.partly_filled, exact.report.unfilled, exact.report.failed) == (0, 0, 0, 0)
    kinds = {(tape.symbols[a.column], a.ratio is not None) for a in tape.actions}
    assert ("AAPL", True) in kinds and ("MSFT", False) in kinds and ("IBM", False) in kinds, "a split and dividends lie in between"
    rows = exact.sessions
    for column, cents in (("equity", quick.equity_cents), ("cash", quick.cash_cents), ("fees", quick.fees.sum(axis=1).cumsum())):
        assert [int(D(value) * 100) for value in rows[column]] == cents[1:].tolist(), column
    trades = quick.trades()
    theirs = exact.fills.assign(quantity=exact.fills["quantity"].astype(int), price=exact.fills["price"].astype(float),
                                fee=exact.fills["fee"].astype(float), session=pd.to_datetime(exact.fills["session"]))
    order = ["session", "symbol", "side", "quantity", "price", "fee"]
    pd.testing.assert_frame_equal(trades[order].sort_values(order[:3], ignore_index=True),
                                  theirs[order].sort_values(order[:3], ignore_index=True), check_dtype=False)


def test_where_the_assumptions_do_not_hold_they_differ(ws, market):
    """The comparison can fail: with the broker's slippage, or a band of another width, the two are not the same."""
    days = [day for day in market.sessions() if date(2005, 2, 1) <= day <= date(2005, 3, 31)]
    tape = Tape.of(market, ws.instruments).between(market.sessions()[market.position(days[0]) - 1], days[-1])
    weights = wandering(days, 3).reindex(pd.DatetimeIndex(tape.sessions))
    runs = [vector_backtest(tape, weights=weights, costs=costs, band=band).equity_cents[-1]
            for costs, band in ((Costs(), BAND), (Costs(), 0.05), (Costs(D("0.005"), D(1)), BAND))]
    assert len(set(runs)) == 3


# ---------------------------------------------------------------- the arithmetic, against decimals
@given(n=st.integers(-10**12, 10**12), d=st.integers(1, 10**6))
def test_integer_rounding_is_the_decimals(n, d):
    assert half_even(n, d) == int((D(n) / d).quantize(D(1))) == half_even(np.array([n]), d)[0]
    assert up(n, d) == int((D(n) / d).to_integral_value("ROUND_CEILING")) == up(np.array([n]), d)[0]


def slowly(tape: Tape, shares: np.ndarray, costs: Costs, deposit: int) -> list[D]:
    """Equity by decimals, share by share, from the rules of the ledger that the broker uses."""
    from gpt_trader.trading.ledger import Basis, dividend, split, trade

    cash, held, found = D(deposit), {c: Basis() for c in range(len(tape.symbols))}, []
    for row in range(len(tape.sessions)):
        for a in (a for a in tape.actions if a.row == row):
            basis = held[a.column]
            if a.amount is not None:
                cash += dividend(basis.quantity, D(a.amount.numerator) / a.amount.denominator)
            else:
                ratio = D(a.ratio.numerator) / a.ratio.denominator
                result = split(basis, ratio, D(int(tape.lots[a.column])), D(int(tape.closes[row - 1, a.column])) / tape.unit / ratio)
                held[a.column], cash = result.basis, cash + result.cash
        for column in range(len(tape.symbols)):
            wish, opening = shares[row, column], int(tape.opens[row, column])
            if np.isnan(wish) or not opening or not (change := D(int(wish)) - held[column].quantity):
                continue
            tick = int(tape.ticks[column])
            price = D((-(-opening // tick) if change > 0 else opening // tick) * tick) / tape.unit
            gross = (change * price).quantize(D("0.01"))
            fee = max(costs.minimum, costs.per_share * abs(change)).quantize(D("0.01"), "ROUND_UP")
            fee += (abs(gross) * costs.sell_fee_rate).quantize(D("0.01"), "ROUND_UP") if change < 0 else 0
            held[column], cash = trade(held[column], change, gross), cash - gross - fee
        found.append(cash + sum((basis.quantity * D(int(tape.closes[row, c])) / tape.unit).quantize(D("0.01"))
                                for c, basis in held.items()))
    return found


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), start=st.integers(0, 3_200), length=st.integers(2, 60), holes=st.floats(0, 0.95), short=st.booleans())
def test_any_wishes_in_shares_are_booked_as_the_ledger_books_them(market, seed, start, length, holes, short):
    rng, whole = np.random.default_rng(seed), Tape.of(market, load_instruments(None))
    splits = [a.row for a in whole.actions if a.ratio]
    start = max(splits[seed % 3] - start % 50, 0) if seed % 2 else min(start, len(whole.sessions) - 2)  # half of them around a split
    tape = whole.between(whole.sessions[start], whole.sessions[min(start + length, len(whole.sessions) - 1)])
    shares = rng.integers(-300 if short else 0, 300, tape.closes.shape).astype(float)
    shares[rng.random(shares.shape) < holes] = np.nan
    costs = Costs(D("0.0035"), D("0.35"), D("0.0000278"))
    quick = vector_backtest(tape, shares=shares, costs=costs, deposit=1_000, overdraft=True)
    assert [D(int(c)) / 100 for c in quick.equity_cents] == slowly(tape, shares, costs, 1_000)


def test_a_split_of_an_odd_lot_pays_for_the_fraction():
    from fractions import Fraction

    from gpt_trader.live.tape import Action

    days = (date(2020, 1, 2), date(2020, 1, 3), date(2020, 1, 6))
    prices = np.array([[300_000], [300_000], [200_000]], dtype=np.int64)  # 30.00, 30.00, then 20.00 after three for two
    tape = Tape(days, ("AA",), prices, prices, 10_000, np.array([100]), np.array([1]), (Action(2, 0, ratio=Fraction(3, 2)),))
    result = vector_backtest(tape, shares=np.array([[7.0], [np.nan], [np.nan]]), deposit=1_000)
    assert result.shares[:, 0].tolist() == [7, 7, 10] and result.income[2, 0] == 1_000, "10.5 shares: half a share at 20.00"
    assert result.equity_cents.tolist() == [100_000, 100_000, 100_000]


def test_statistics_are_those_of_the_curve(market):
    tape = Tape.of(market, load_instruments(None)).between(date(2006, 1, 1), date(2007, 12, 31))
    weights = pd.DataFrame(0.2, index=pd.DatetimeIndex(tape.sessions), columns=SYMBOLS)
    result = vector_backtest(tape, weights=weights, costs=Costs(D("0.005"), D(1)), band=0.02)
    found, equity = result.statistics(), result.equity
    assert found["total_return"] == pytest.approx(equity.iloc[-1] / 1e6 - 1) and found["profit_usd"] == pytest.approx(equity.iloc[-1] - 1e6)
    assert found["max_drawdown"] == pytest.approx(float((1 - equity / equity.cummax()).max()))
    assert found["sharpe"] == pytest.approx(result.returns.mean() / result.returns.std() * 252**0.5)
    trades = result.trades()
    assert found["fees_usd"] == pytest.approx(trades["fee"].sum()) and found["orders"] == len(trades) > 8
    years = len(tape.sessions) / 252
    assert found["annual_turnover"] == pytest.approx((trades["quantity"] * trades["price"]).sum() / equity.mean() / years)
    assert result.equity.equals(result.cash + pd.Series((result.shares * tape.closes).sum(axis=1) / tape.unit, index=equity.index)) or (
        abs(result.equity - result.cash - (result.shares * tape.closes).sum(axis=1) / tape.unit).max() < 0.03), "within rounding to cents"


def test_the_account_is_never_lent_money(market):
    tape = Tape.of(market, load_instruments(None)).between(date(2006, 1, 1), date(2006, 3, 31))
    weights = pd.DataFrame(0.4, index=pd.DatetimeIndex(tape.sessions), columns=SYMBOLS)
    with pytest.raises(UsageError, match="overdrawn"):
        vector_backtest(tape, weights=weights)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), start=st.integers(0, 3_200), length=st.integers(2, 60))
def test_what_is_decided_morning_by_morning_is_booked_as_the_ledger_books_it(market, seed, start, length):
    rng, whole = np.random.default_rng(seed), Tape.of(market, load_instruments(None))
    splits = [a.row for a in whole.actions if a.ratio]
    start = max(splits[seed % 3] - start % 50, 0) if seed % 2 else min(start, len(whole.sessions) - 2)
    tape = whole.between(whole.sessions[start], whole.sessions[min(start + length, len(whole.sessions) - 1)])
    costs, wanted, equity = Costs(D("0.0035"), D("0.35"), D("0.0000278")), np.full(tape.closes.shape, np.nan), []

    def decide(morning):
        equity.append(morning.equity)
        orders = {symbol: int(n) for symbol, n in zip(tape.symbols, rng.integers(-60, 100, 4), strict=True) if rng.random() < 0.3}
        for symbol, change in orders.items():
            wanted[morning.row, morning.column(symbol)] = morning.shares(symbol) + change
        return orders

    found = event_backtest(tape, decide, deposit=10_000_000, costs=costs)
    expected = slowly(tape, wanted, costs, 10_000_000)
    assert [D(int(c)) / 100 for c in found.equity_cents] == expected
    quiet = [row for row in range(1, len(equity)) if row not in {a.row for a in tape.actions}]
    assert all(equity[row] == pytest.approx(float(expected[row - 1]), abs=0.03) for row in quiet), "the morning knows the evening before"


# ---------------------------------------------------------------- limits and the way back
CRASH = date(2008, 8, 1), date(2009, 2, 27)


def test_a_restricted_symbol_is_not_traded_by_the_desk(stricter, market):
    days = [day for day in market.sessions() if FIRST <= day <= LAST][:12]
    ws = stricter(restricted_symbols=["AAPL"], closing_only_symbols=["IBM"])
    found = backtest(ws, days, market=market, strategy=Table(wandering(days, 11)), forecaster=NaiveForecaster(0.6))
    refused = found.orders[found.orders["status"] == "refused"]
    assert set(refused["symbol"]) == {"AAPL", "IBM"} and not set(found.fills["symbol"]) & {"AAPL", "IBM"} and len(found.fills)
    assert refused["reason"].str.contains("is restricted: no order may be sent in it|may only be reduced").all()


def test_a_desk_that_fell_too_far_stays_flat_unless_a_rule_lets_it_begin_again(stricter, market):
    days = [day for day in market.sessions() if CRASH[0] <= day <= CRASH[1]]
    weights = wandering(days, 5)

    def run(**limits):
        ws = stricter(max_drawdown=0.05, **limits)
        return backtest(ws, days, market=market, strategy=Table(weights), forecaster=NaiveForecaster(0.6))

    def buys(result):
        return result.fills.loc[result.fills["side"] == "buy", "session"]

    stopped, resumed = run(), run(drawdown_reset_sessions=10)
    evening = stopped.sessions.set_index("session")["drawdown"].shift(1).fillna(0.0)
    assert (evening[buys(stopped)] <= 0.05).all(), "as safe as before: who says nothing stays stopped"
    assert evening.iloc[-60:].min() > 0.05 and not buys(stopped).isin(evening.index[-60:]).any()
    falls = resumed.sessions.set_index("session")["drawdown"]
    lower = resumed.sessions["peak"].astype(float).diff() < 0
    first = int(lower.to_numpy().argmax())
    assert first >= 10 and (falls.iloc[first - 10:first] > 0.05).all() and falls.iloc[first - 11] <= 0.05, "after ten sessions beyond it"
    assert buys(resumed).isin(falls.index[first:]).any()
    pd.testing.assert_frame_equal(resumed.sessions.iloc[:first], stopped.sessions.iloc[:first])


def test_a_new_peak_is_an_approved_act_and_on_record(stricter, market):
    ws = stricter()
    ws.journal.append("session.planned", {"strategy": "s", "forecast": "f", "equity": "1000", "orders": []}, session="2013-01-03")
    figures = dict.fromkeys(("cash", "pnl", "fees", "dividends", "gross_exposure", "net_exposure"), "0")
    figures |= {"equity": "880", "deposits": "1000"}
    figures |= dict.fromkeys(("orders", "filled", "partly_filled", "unfilled", "failed", "refused", "fills"), 0)
    figures |= {"var": None, "es": None, "volatility": None, "drawdown": 0.12}
    ws.journal.append("session.closed", figures, session="2013-01-03")
    head = ws.journal.head()
    assert highest_level(ws.store) == 1000, "closed by an earlier version, which recorded no peak: worked out from the curve"
    with pytest.raises(UsageError, match="reason"):
        reset_peak(ws, reason=" ", execute=True, confirm=lambda plan: True)
    assert isinstance(reset_peak(ws, reason="mended", execute=False), DryRun) and ws.journal.head() == head
    done = reset_peak(ws, reason="mended", execute=True, confirm=lambda plan: True, actor="dana")
    assert (done.level, done.drawdown) == (D(880), 0.12) and highest_level(ws.store) == 880
    assert since_reset(ws.store, last_session(ws.store))["drawdown"] == 0.0
    entry = ws.journal.last("drawdown.reset")
    assert (entry.actor, entry.body["reason"]) == ("dana", "mended") and ws.journal.check_projections() == [] and ws.journal.verify().ok


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40), st.sampled_from([100, -7]))
def test_signals_are_held_from_the_next_open_to_the_open_after_the_exit(signals, size):
    inside, expected = False, [0]
    for enter, leave in signals[:-1]:
        inside = not leave and (enter or inside)
        expected.append(size * inside)
    enter, leave = (np.array([[s[n]] for s in signals]) for n in (0, 1))
    assert shares_from_signals(enter, leave, size)[:, 0].tolist() == expected

"""The desk's day: the plan first, the figures true, every stop resumable, the backtest the same as the replay to the cent."""
import shutil
from datetime import date
from decimal import Decimal as D
from pathlib import Path

import pandas as pd
import pytest

from gpt_trader.core.clock import SimulatedClock, parse_utc, utc_text
from gpt_trader.core.metrics import latest_metric, metric_history
from gpt_trader.core.outcome import StorageError, UsageError
from gpt_trader.core.workspace import Workspace
from gpt_trader.dataflow.datasets import as_bars
from gpt_trader.dataflow.ingestion import ingest
from gpt_trader.dataflow.providers import EmbeddedProvider
from gpt_trader.live.backtest import backtest
from gpt_trader.live.desk import Desk, recorded_plan, within_limits
from gpt_trader.live.forecast import NaiveForecaster
from gpt_trader.live.market import Market
from gpt_trader.live.replay import replay
from gpt_trader.live.session import equity_curve, move_clock, session_moments, session_rows
from gpt_trader.live.strategy import Momentum
from gpt_trader.risk.limits import Limits
from gpt_trader.risk.measures import scenario_returns, tail_risk
from gpt_trader.trading.execution import TradingHalted
from gpt_trader.trading.paper import PaperBroker
from gpt_trader.trading.permit import grant, revoke

COUNTS = ("orders", "filled", "partly_filled", "unfilled", "failed", "refused", "fills")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("desk") / "template"
    with Workspace.create(root, SimulatedClock(parse_utc("2013-01-01T00:00:00Z"))) as ws:
        ingest(ws, EmbeddedProvider(), ["AAPL", "GOOG", "IBM", "MSFT"])
        grant(ws.state_dir, actor="test", reason="a replay", at=ws.clock.now())
    return root


@pytest.fixture
def ws(template, tmp_path):
    with Workspace.open(shutil.copytree(template, tmp_path / "desk")) as ws:
        yield ws


@pytest.fixture(scope="module")
def whole(template, tmp_path_factory):
    """A finished replay of the newest forty sessions: only to be read."""
    root = Path(shutil.copytree(template, tmp_path_factory.mktemp("whole") / "desk"))
    with Workspace.open(root) as ws:
        report = replay(ws, 40)
        yield ws, report


def test_the_replay_covers_the_forty_newest_sessions(whole):
    ws, report = whole
    assert (report.first, report.last, report.sessions, report.run) == (date(2013, 1, 3), date(2013, 3, 1), 40, 40)
    assert report.orders > 0 and report.partly_filled > 0 and report.failed == 0
    assert ws.journal.verify().ok and ws.journal.check_projections() == []


def test_profit_and_loss_add_up_to_the_cent(whole):
    ws, report = whole
    rows = session_rows(ws.store)
    assert report.pnl == sum(D(row["pnl"]) for row in rows) == D(rows[-1]["equity"]) - D(rows[-1]["deposits"])
    # cash is what was paid in, less what was bought, plus what was sold and received, less fees: line by line
    ledger = ws.store.rows("SELECT amount FROM cash")
    assert sum(D(line["amount"]) for line in ledger) == D(rows[-1]["cash"])
    closes = Market.load(ws).closes(report.last)
    held = ws.store.rows("SELECT symbol, quantity FROM positions")
    assert D(rows[-1]["equity"]) == D(rows[-1]["cash"]) + sum(D(p["quantity"]) * closes[p["symbol"]] for p in held)


def test_dividends_of_the_period_were_received(whole):
    ws, _ = whole
    paid = ws.store.rows("SELECT session, symbol, quantity, amount, cash FROM corporate_actions WHERE kind = 'dividend'")
    assert {(row["symbol"], row["amount"]) for row in paid} <= {("IBM", "0.85"), ("AAPL", "2.65"), ("MSFT", "0.23")} and paid
    assert all(D(row["cash"]) == D(row["quantity"]) * D(row["amount"]) for row in paid)


def test_the_plan_stands_in_the_journal_before_any_of_its_orders(whole):
    ws, _ = whole
    for row in session_rows(ws.store):
        plan = recorded_plan(ws.journal, date.fromisoformat(row["session"]))
        orders = ws.store.rows("SELECT client_order_id, created_seq FROM orders WHERE session = ? ORDER BY created_seq", [row["session"]])
        assert [o["client_order_id"] for o in orders] == [o.client_order_id for o in plan.orders]
        assert all(row["planned_seq"] < o["created_seq"] < row["closed_seq"] for o in orders)


def test_no_target_is_beyond_the_limits(whole):
    ws, _ = whole
    market, limits = Market.load(ws), ws.config.risk.limits
    for row in session_rows(ws.store):
        day = date.fromisoformat(row["session"])
        plan = recorded_plan(ws.journal, day)
        returns = scenario_returns(market.before(day), window=ws.config.risk.measures.window)
        risk = tail_risk({s: w * float(plan.equity) for s, w in plan.weights.items()}, returns, ws.config.risk.measures.confidence)
        assert risk.var <= limits.max_var * 1.000001 and risk.es <= limits.max_expected_shortfall * 1.000001
        assert max(plan.weights.values(), default=0) <= limits.max_position_weight
        bought = [o for o in plan.orders if o.side == "buy"]
        assert all(o.quantity * plan.prices[o.symbol] <= limits.max_order_notional for o in bought)


def test_the_recorded_risk_is_recomputed_from_positions_and_prices(whole):
    ws, report = whole
    market = Market.load(ws)
    closed = ws.journal.last("session.closed").body
    closes = market.closes(report.last)
    values = {symbol: float(D(quantity) * closes[symbol]) for symbol, quantity in closed["positions"].items()}
    risk = tail_risk(values, scenario_returns(market.through(report.last), window=500), 0.95)
    assert float(closed["var"]) == pytest.approx(risk.var, abs=0.005) and report.var == float(closed["var"])
    assert sum(closed["component_var"].values()) == pytest.approx(risk.var)


def test_metrics_are_those_of_the_sessions(whole):
    ws, report = whole
    history = metric_history(ws, "portfolio_var")
    rows = session_rows(ws.store)
    assert history["session"].tolist() == [row["session"] for row in rows]
    assert history["value"].round(2).tolist() == pytest.approx([float(row["var"]) for row in rows])
    assert latest_metric(ws, "equity").value == float(report.equity)
    needed = {rule.metric for rule in ws.config.alerts.rules.values() if rule.category in ("risk", "trading")} | {"data_feed_age_seconds"}
    assert all(latest_metric(ws, name) is not None for name in needed), needed
    after_close = session_moments(ws.calendar, report.last)[1]
    assert utc_text(latest_metric(ws, "equity").at) == utc_text(after_close) == utc_text(ws.clock.now())


def test_a_backtest_over_the_same_sessions_is_the_same_to_the_cent(whole):
    ws, report = whole
    result = backtest(ws, 40)
    assert result.report.equity == report.equity and result.report.pnl == report.pnl
    money = ["session", "equity", "cash", "pnl", "fees", "dividends", "gross_exposure", "var", "es", *COUNTS]
    pd.testing.assert_frame_equal(result.sessions[money], pd.DataFrame(session_rows(ws.store))[money])
    fills = ws.store.frame("SELECT execution_id, quantity, price, fee, cash FROM fills ORDER BY seq")
    pd.testing.assert_frame_equal(result.fills[list(fills.columns)], fills)
    pd.testing.assert_series_equal(result.equity, equity_curve(ws.store))


def test_a_second_replay_over_the_first_does_nothing(whole):
    ws, report = whole
    head = ws.journal.head()
    again = replay(ws, 40)
    assert (again.run, again.already_closed, again.equity) == (0, 40, report.equity) and ws.journal.head() == head


def test_sessions_before_the_newest_one_are_passed_over(ws):
    replay(ws, 2)
    report = replay(ws, 4)
    assert (report.run, report.already_closed, report.passed_over) == (0, 2, 2)


def test_parts_of_a_replay_make_the_whole(ws, whole):
    days = Market.load(ws).last(40)
    bars = Market.load(ws).bars
    for last in (days[4], days[9]):
        n = 5 if last == days[4] else 10
        replay(ws, n, market=Market(as_bars(bars[bars["session"] <= pd.Timestamp(last)])))
    columns = ["session", "equity", "pnl", "var", *COUNTS]
    mine, theirs = (pd.DataFrame(session_rows(w.store))[columns] for w in (ws, whole[0]))
    pd.testing.assert_frame_equal(mine, theirs.head(10)), "the future of the data changed the past of the desk"


def test_without_a_permit_nothing_begins(ws):
    revoke(ws.state_dir)
    with pytest.raises(TradingHalted, match="nothing was replayed"):
        replay(ws, 2)
    assert session_rows(ws.store, closed_only=False) == []


class Revoking(PaperBroker):
    """Somebody halts trading while the second order is being sent."""

    sent = 0

    def submit(self, order):
        answer = super().submit(order)
        Revoking.sent += 1
        if Revoking.sent == 2:
            revoke(self.state_dir)
        return answer


def test_a_halt_in_the_middle_stops_the_orders_and_the_session_goes_on_later(ws, whole):
    market, days = Market.load(ws), Market.load(ws).last(40)
    first = Market(as_bars(market.bars[market.bars["session"] <= pd.Timestamp(days[0])]))
    ws.simulate(session_moments(ws.calendar, days[0])[0])
    broker = Revoking(ws, ws.instruments, ws.config.app.broker.paper, ws.clock)
    broker.state_dir, Revoking.sent = ws.state_dir, 0
    with pytest.raises(TradingHalted):
        replay(ws, 1, market=first, broker=broker)
    planned, = session_rows(ws.store, closed_only=False)
    assert planned["closed_at"] is None and len(broker.open_orders()) == 2 < planned["planned_orders"]
    broker.store.close()
    grant(ws.state_dir, actor="test", reason="it is safe again", at=ws.clock.now())
    replay(ws, 1, market=first)
    closed, = session_rows(ws.store)
    expected = session_rows(whole[0].store)[0]
    assert {k: closed[k] for k in ("equity", "cash", *COUNTS)} == {k: expected[k] for k in ("equity", "cash", *COUNTS)}


def test_a_callback_that_died_is_called_again_before_the_next_session(ws):
    called = []

    def dies(day):
        called.append(day)
        raise RuntimeError("killed while the alerts were evaluated")

    with pytest.raises(RuntimeError):
        replay(ws, 3, dies)
    moments = []
    replay(ws, 3, lambda day: moments.append((day, ws.clock.now())))
    days = Market.load(ws).last(3)
    assert called == days[:1] and [day for day, _ in moments] == days
    assert all(now == session_moments(ws.calendar, day)[1] for day, now in moments), "each is called at its own session's close"


def test_one_desk_at_a_time(ws):
    with ws.lock("desk"), pytest.raises(StorageError, match="in use"):
        other = Workspace.open(ws.root)
        try:
            replay(other, 1)
        finally:
            other.close()


@pytest.mark.parametrize("sessions", [0, -3, 10**6])
def test_a_wrong_number_of_sessions_is_refused(ws, sessions):
    with pytest.raises(UsageError, match="sessions"):
        replay(ws, sessions)


def test_the_machines_clock_is_not_moved():
    from gpt_trader.core.clock import SystemClock

    with pytest.raises(UsageError, match="simulated clock"):
        move_clock(SystemClock(), parse_utc("2013-01-03"))


class Lying(PaperBroker):
    """A broker whose positions are not those of its events."""

    def positions(self):
        found = super().positions()
        return {symbol: p for symbol, p in found.items() if symbol != "IBM"}


def test_nothing_is_ordered_while_the_books_differ(ws):
    market, days = Market.load(ws), Market.load(ws).last(40)
    clock = ws.simulate(session_moments(ws.calendar, days[0])[0])
    make = (ws.instruments, ws.config.app.broker.paper, clock)
    desk = Desk(ws, market, PaperBroker(ws, *make), Momentum.from_settings(ws.config.app.strategy), NaiveForecaster(0.6))
    desk.run_session(days[0])
    lying = Desk(ws, market, Lying(ws, *make), desk.strategy, desk.forecaster)
    lying.run_session(days[1])
    plan = recorded_plan(ws.journal, days[1])
    assert plan.orders == () and any("differ" in why for why in plan.skipped.values())


def test_a_split_changes_shares_and_not_equity(ws):
    """Apple's two-for-one of 28 February 2005, held through it."""
    market = Market.load(ws)
    days = [d for d in market.sessions() if date(2005, 2, 18) <= d <= date(2005, 3, 4)]
    result = backtest(ws, days, forecaster=NaiveForecaster(0.6))
    before, after = (result.sessions.set_index("session").loc[d] for d in ("2005-02-25", "2005-02-28"))
    assert abs(float(after["equity"]) / float(before["equity"]) - 1) < 0.03
    assert result.report.refused < result.report.orders


def test_targets_are_cut_alike_to_the_limits():
    moves = pd.DataFrame({"A": [0.01, -0.02] * 100, "B": [0.01, -0.01] * 100})
    weights, equity = {"A": 0.5, "B": 0.5}, D(1_000_000)
    free = within_limits(weights, equity, moves, Limits(max_var=1e9))
    cut = within_limits(weights, equity, moves, Limits(max_var=7_500.0))
    assert free == weights and cut == pytest.approx({"A": 0.25, "B": 0.25})
    assert within_limits(weights, equity, moves.head(5), Limits(max_var=1.0)) == weights, "not measurable: left to the checks, which refuse"

"""The chain against the plain way, along random streams of orders; each new limit at its edge; and that no order goes round it."""
import ast
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal as D
from pathlib import Path

import grimp
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slow_limits import Said, check_slowly, values

import gpt_trader
from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.config import load_config
from gpt_trader.core.instruments import Instrument, Instruments, load_instruments
from gpt_trader.core.journal import Journal
from gpt_trader.core.store import Store
from gpt_trader.risk.booksums import BookSums, Scenarios
from gpt_trader.risk.limits import Book, Limits, likeness
from gpt_trader.risk.measures import exposure, tail_risk
from gpt_trader.risk.pretrade import PreTrade, check_order
from gpt_trader.trading.broker import OrderRequest
from gpt_trader.trading.execution import Executor, TradingHalted
from gpt_trader.trading.paper import PaperBroker
from gpt_trader.trading.permit import Permit

SYMBOLS = ("AA", "BB", "CC", "DD", "EE")
INSTRUMENTS = Instruments({s: Instrument(s, s, "XNYS", "USD", D("0.01"), D(1), "XNYS") for s in SYMBOLS})
DAY, MORNING = date(2013, 2, 28), datetime(2013, 2, 28, 14, 0, tzinfo=UTC)
PACKAGE = Path(gpt_trader.__file__).parent


def history(gap: bool) -> pd.DataFrame:
    """500 days of four symbols; with a gap, one has no returns for most of them. EE has no history at all."""
    moves = np.random.default_rng(8).standard_t(4, (500, 4)) * 0.01
    frame = pd.DataFrame(moves, columns=list(SYMBOLS[:4]))
    if gap:
        frame.loc[:460, "DD"] = np.nan
        frame.loc[::7, "CC"] = np.nan
    return frame


RETURNS = {gap: history(gap) for gap in (False, True)}
QUANTITY = st.integers(1, 400).map(D)
PRICES = {"AA": D("101.37"), "BB": D("49.5"), "CC": D("250"), "DD": D("12.08"), "EE": D("77.77")}


@st.composite
def orders(draw) -> OrderRequest:
    symbol, side, quantity = draw(st.sampled_from(SYMBOLS)), draw(st.sampled_from(["buy", "sell"])), draw(QUANTITY)
    near = PRICES[symbol] * D(draw(st.integers(60, 140))) / 100
    price = near.quantize(D(draw(st.sampled_from(["0.01", "0.001"]))))
    kind = draw(st.sampled_from(["market", "market", "market", "limit", "stop", "trailing_stop"]))
    prices = {"market": {}, "limit": {"limit_price": price}, "stop": {"stop_price": price},
              "trailing_stop": {"trail_percent": D(draw(st.integers(1, 40)))}}[kind]
    tif = draw(st.sampled_from(["day", "gtc", "opg", "cls", "ioc"])) if kind in ("market", "limit") else "day"
    return OrderRequest(f"o-{draw(st.integers(0, 200))}", symbol, side, quantity, kind, time_in_force=tif, **prices)


@st.composite
def books(draw) -> Book:
    some = st.dictionaries(st.sampled_from(SYMBOLS), st.integers(-300, 300).map(D), max_size=5)
    working = st.dictionaries(st.sampled_from(SYMBOLS), QUANTITY, max_size=3)
    prices = dict(PRICES)
    for symbol in draw(st.lists(st.sampled_from(SYMBOLS), max_size=1)) if draw(st.integers(0, 9)) == 0 else []:
        del prices[symbol]
    return Book(equity=D(draw(st.sampled_from([30_000, 100_000, 400_000]))), quantities=draw(some), prices=prices,
                working_buys=draw(working), working_sells=draw(working), cash=D(draw(st.integers(0, 100_000))),
                mean_volume={s: 20_000.0 for s in SYMBOLS[:4]}, returns=draw(st.sampled_from([None, *RETURNS.values(), *RETURNS.values()])),
                session_pnl=D(draw(st.integers(-3_000, 3_000))), drawdown=draw(st.sampled_from([0.0, 0.09, 0.11])),
                orders_sent=draw(st.integers(0, 12)), orders_open=draw(st.integers(0, 6)), now=MORNING, session=DAY)


LIMITS = Limits(max_order_notional=D(40_000), max_order_participation=0.015, max_position_weight=D("0.5"), max_gross_exposure=D(1),
                max_net_exposure=D("0.9"), max_largest_share=D("0.6"), max_herfindahl=D("0.5"), concentration_from=D("0.2"),
                max_daily_loss=D(2_500), max_drawdown=0.1, max_var=1_500.0, max_expected_shortfall=2_200.0, price_collar=D("0.2"),
                stop_collar=D("0.3"), duplicate_seconds=5, max_orders_per_minute=6, max_orders_per_session=14, max_open_orders=8,
                trading_hours=True, opening_cutoff_minutes=2, closing_cutoff_minutes=10, restricted_symbols=(), min_cash=D(1_000),
                closing_only_symbols=("CC",))


def agree(quick, slow: list[Said]) -> None:
    """The same limits are named, but for figures within half a cent of their bound."""
    mine, theirs = [r.limit for r in quick], [s.limit for s in slow if not s.close]
    close = {s.limit for s in slow if s.close}
    assert [name for name in mine if name not in close] == [name for name in theirs if name not in close], (quick, slow)
    for refusal in quick:
        figure = next((s.figure for s in slow if s.limit == refusal.limit), None)
        if refusal.limit in ("max_var", "max_expected_shortfall") and figure is not None:
            assert abs(float(refusal.order_value) - figure) <= 0.011


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(book=books(), stream=st.lists(st.tuples(orders(), st.integers(0, 40)), min_size=1, max_size=8), shorting=st.booleans())
def test_along_any_stream_of_orders_the_chain_says_what_the_plain_way_says(book, stream, shorting):
    limits = replace(LIMITS, allow_short=shorting)
    chain = PreTrade(book, limits, INSTRUMENTS)
    for order, seconds in stream:
        book = replace(book, now=book.now + timedelta(seconds=seconds))
        chain = chain.follow(book)
        refusals = chain.check(order)
        agree(refusals, check_slowly(order, book, limits, INSTRUMENTS))
        assert all(r.limit_value and r.order_value and r.message for r in refusals)
        if not refusals:
            side = "working_buys" if order.side == "buy" else "working_sells"
            working = {**getattr(book, side), order.symbol: getattr(book, side).get(order.symbol, D(0)) + order.quantity}
            book = replace(book, orders_sent=book.orders_sent + 1, orders_open=book.orders_open + 1,
                           known_ids={*book.known_ids, order.client_order_id}, recent=[*book.recent, (book.now, likeness(order))],
                           **{side: working})
            chain.sent(order)
            assert chain.sums.values == {s: v for s, v in values(replace(book, prices={**PRICES}), None).items() if s in book.prices}


@settings(max_examples=100, deadline=None)
@given(puts=st.lists(st.tuples(st.sampled_from(SYMBOLS[:4]), st.integers(-50_000, 50_000).map(lambda n: D(n) / 100)), max_size=25),
       gap=st.booleans())
def test_sums_that_are_kept_are_those_that_are_made_anew(puts, gap):
    kept, held = BookSums.of({}, Scenarios.of(RETURNS[gap]), 0.95), {}
    for symbol, value in puts:
        asked, tail = kept.with_exposure(symbol, value), kept.with_tail(symbol, value)
        kept.put(symbol, value)
        held = {s: v for s, v in (held | {symbol: value}).items() if v}
        made, slow = exposure(held), tail_risk({s: float(v) for s, v in held.items()}, RETURNS[gap], 0.95)
        assert kept.values == held and kept.gross == sum(map(abs, held.values())) and kept.net == sum(held.values())
        assert asked[:2] == (kept.gross, kept.net) and asked[3] == kept.squares == sum(v * v for v in held.values())
        assert float(asked[2]) == pytest.approx(made.largest_share * made.gross)
        for found in (tail, kept.now):
            assert (found.var is None) == (slow.var is None)
            if slow.var is not None:
                assert (found.var, found.es) == (pytest.approx(slow.var, abs=0.005), pytest.approx(slow.es, abs=0.005))


# ---------------------------------------------------------------- each new limit at its edge
BOOK = Book(equity=D(100_000), quantities={"AA": D(100)}, prices={"AA": D(100), "BB": D(50)}, now=MORNING, session=DAY)


def named(order: OrderRequest, book: Book = BOOK, **limits) -> list[str]:
    return [r.limit for r in check_order(order, book, Limits(**limits), INSTRUMENTS)]


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_the_same_order_again_is_refused_within_its_window_and_not_after(side):
    order, allowed = OrderRequest("o-2", "AA", side, D(10)), {"duplicate_seconds": 5.0}
    for seconds, expected in ((0, ["duplicate_seconds"]), (4.9, ["duplicate_seconds"]), (5, []), (60, [])):
        book = replace(BOOK, recent=[(MORNING - timedelta(seconds=seconds), likeness(order))])
        assert named(order, book, **allowed) == expected, f"{seconds} s, an exit too"
    book = replace(BOOK, recent=[(MORNING, likeness(order))])
    for other in (OrderRequest("o-2", "AA", side, D(11)), OrderRequest("o-2", "BB", "buy", D(10)),
                  OrderRequest("o-2", "AA", side, D(10), "limit", D(100))):
        assert named(other, book, **allowed) == []


def test_no_more_orders_in_any_minute_than_allowed_exits_included():
    recent = [(MORNING - timedelta(seconds=s), likeness(OrderRequest("x", "AA", "buy", D(s)))) for s in (61, 60, 59, 30, 1)]
    exit_ = OrderRequest("o-2", "AA", "sell", D(1))
    assert named(exit_, replace(BOOK, recent=recent), max_orders_per_minute=4) == []
    assert named(exit_, replace(BOOK, recent=recent), max_orders_per_minute=3) == ["max_orders_per_minute"]
    assert named(exit_, replace(BOOK, recent=recent, now=MORNING + timedelta(seconds=1)), max_orders_per_minute=3) == []


@pytest.mark.parametrize(("minute", "tif", "passes"), [
    ("21T20:59", "day", False), ("21T21:00", "day", True), ("23T17:59", "gtc", True), ("23T18:00", "gtc", False),
    ("23T14:27", "opg", True), ("23T14:28", "opg", False), ("23T17:49", "cls", True), ("23T17:50", "cls", False),
    ("23T14:29", "ioc", False), ("23T14:30", "ioc", True), ("23T18:00", "fok", False)])
def test_each_time_in_force_has_its_hours_on_a_short_day(minute, tif, passes):
    """The Friday after Thanksgiving closes at 13:00 in New York, 18:00 UTC; Thursday is no session."""
    book = replace(BOOK, now=datetime.fromisoformat(f"2012-11-{minute}:00+00:00"), session=date(2012, 11, 23))
    order = OrderRequest("o-2", "AA", "sell", D(1), time_in_force=tif)
    said = named(order, book, trading_hours=True, opening_cutoff_minutes=2, closing_cutoff_minutes=10)
    assert said == ([] if passes else ["trading_hours"])
    assert named(order, replace(book, session=date(2012, 11, 22)), trading_hours=True) == ["trading_hours"]


def test_restricted_symbols_are_closed_and_closing_only_ones_can_be_left():
    buy, sell = OrderRequest("o-2", "AA", "buy", D(1)), OrderRequest("o-2", "AA", "sell", D(1))
    assert [named(o, restricted_symbols=("AA",)) for o in (buy, sell)] == [["restricted_symbols"]] * 2
    assert [named(o, closing_only_symbols=("AA",)) for o in (buy, sell)] == [["closing_only_symbols"], []]


@pytest.mark.parametrize(("prices", "kind", "said"), [
    ({"stop_price": D("70.00")}, "stop", []), ({"stop_price": D("69.99")}, "stop", ["stop_collar"]),
    ({"stop_price": D("130.01")}, "stop", ["stop_collar"]), ({"trail_price": D("30.00")}, "trailing_stop", []),
    ({"trail_price": D("30.01")}, "trailing_stop", ["stop_collar"]), ({"trail_percent": D("30")}, "trailing_stop", []),
    ({"trail_percent": D("30.1")}, "trailing_stop", ["stop_collar"]), ({"stop_price": D(80), "limit_price": D(72)}, "stop_limit", []),
    ({"stop_price": D(80), "limit_price": D("71.99")}, "stop_limit", ["price_collar"]), ({"stop_price": D("80.001")}, "stop", ["tick"])])
def test_stops_have_a_collar_of_their_own(prices, kind, said):
    order = OrderRequest("o-2", "AA", "sell", D(1), kind, **prices)
    assert named(order, price_collar=D("0.1"), stop_collar=D("0.3")) == said, "an exit too"


def test_concentration_is_judged_once_there_is_a_book_and_lets_what_spreads_it_pass():
    limits = {"max_largest_share": D("0.6"), "max_herfindahl": D("0.5"), "concentration_from": D("0.1011")}
    assert named(OrderRequest("o-2", "AA", "buy", D(1)), **limits) == [], "10.1 % of equity: not yet"
    assert named(OrderRequest("o-2", "AA", "buy", D(2)), **limits) == ["max_largest_share", "max_herfindahl"]
    assert named(OrderRequest("o-2", "BB", "buy", D(80)), **limits) == [], "71 % in the largest, but all of it before"
    two = replace(BOOK, quantities={"AA": D(60), "BB": D(80)})
    one_more = OrderRequest("o-2", "AA", "buy", D(1))
    assert named(one_more, two, max_largest_share=D("0.6")) == ["max_largest_share"], "60 % before, more after"
    assert named(one_more, two, max_herfindahl=D("0.53")) == []


def test_cash_that_working_buys_will_take_is_counted_once_each():
    """Three buys of 10 shares at 50, 1,500 USD in all; a fourth needs 500 more."""
    for cash, passes in ((D(2_000), True), (D("1999.99"), False)):
        chain = PreTrade(replace(BOOK, cash=cash), Limits(min_cash=D(0)), INSTRUMENTS)
        for n in range(3):
            order = OrderRequest(f"b-{n}", "BB", "buy", D(10))
            assert chain.check(order) == []
            chain.sent(order)
        last = OrderRequest("b-3", "BB", "buy", D(10))
        assert (chain.check(last) == []) is passes
        same = chain.follow(replace(BOOK, cash=cash, working_buys={"BB": D(30)}))
        assert (same.check(last) == []) is passes and same.follow(replace(BOOK, cash=cash)).check(last) == []


def test_a_chain_follows_to_other_prices_and_to_a_history_that_it_did_not_have():
    order, limits = OrderRequest("b-1", "BB", "buy", D(100)), Limits(max_var=1e9, max_order_notional=D(5_000))
    chain = PreTrade(BOOK, limits, INSTRUMENTS)
    assert [r.limit for r in chain.check(order)] == ["max_var"], "no history"
    known = chain.follow(replace(BOOK, returns=RETURNS[False]))
    assert known.check(order) == []
    dearer = known.follow(replace(BOOK, returns=RETURNS[False], prices={"AA": D(100), "BB": D("50.01")}))
    assert [r.limit for r in dearer.check(order)] == ["max_order_notional"]


# ---------------------------------------------------------------- no way round
SENDER = "trading/sending.py"
BROKERS = {"trading/paper.py": "super()", "trading/floor.py": "super()",  # they are the broker: what they hand on has been sent already
           "trading/venueorders.py": "floor"}


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Every call of a method in a module: 'submit', and what it is called on, as text."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(node.func.attr, node) for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]


def pools(path: Path) -> set[str]:
    """What a module binds to a pool of threads or processes: `submit` means something else there."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        bound: list[tuple[ast.expr, ast.expr]] = []
        if isinstance(node, ast.withitem) and node.optional_vars is not None:
            bound = [(node.optional_vars, node.context_expr)]
        elif isinstance(node, ast.Assign):
            target = node.targets[0]
            both = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
            bound = list(zip(target.elts, node.value.elts, strict=True)) if both else [(target, node.value)]
        found |= {ast.unparse(name) for name, made in bound
                  if isinstance(made, ast.Call) and ast.unparse(made.func).endswith("PoolExecutor")}
    return found


def strays(package: Path) -> list[str]:
    """Where something but the sender hands an order to a broker, or where an order is journalled but by the executor."""
    found = []
    for path in sorted(package.rglob("*.py")):
        where, threads = path.relative_to(package).as_posix(), pools(path)
        for name, node in calls(path):
            on = ast.unparse(node.func.value)
            brokerish = (name == "submit" and on not in threads) or (name == "replace" and "broker" in on.lower())
            if brokerish and where != SENDER and on != BROKERS.get(where):
                found.append(f"{where}:{node.lineno} calls {on}.{name}")
            kind = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
            if name == "append" and kind == "order.created" and where != "trading/execution.py":
                found.append(f"{where}:{node.lineno} journals order.created")
    return found


def test_only_the_sender_hands_orders_to_a_broker_and_only_the_executor_creates_them():
    assert strays(PACKAGE) == []
    assert [name for name, node in calls(PACKAGE / SENDER) if name in ("submit", "replace")] == ["replace", "submit"]


def test_that_walk_sees_a_way_round(tmp_path):
    (tmp_path / "live").mkdir()
    lines = ("def f(broker, order, journal):", "    broker.submit(order)", "    self.broker.replace('a', order)",
             "    journal.append('order.created', {})", "    with ThreadPoolExecutor(1) as pool:",
             "        pool.submit(f)")
    (tmp_path / "live" / "desk.py").write_text("\n".join(lines))
    assert strays(tmp_path) == ["live/desk.py:2 calls broker.submit", "live/desk.py:3 calls self.broker.replace",
                                "live/desk.py:4 journals order.created"]


def test_every_executor_of_the_library_is_given_checks():
    """An executor without checks is for tests; in the library each one states them."""
    graph = grimp.build_graph("gpt_trader", cache_dir=None)
    users = {*graph.find_modules_that_directly_import("gpt_trader.trading.execution"), "gpt_trader.trading.execution"}
    made = []
    for module in sorted(users):
        path = PACKAGE.parent / Path(*module.split(".")).with_suffix(".py")
        if not path.exists():
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Executor":
                made.append(module)
                stated = len(node.args) >= 3 or any(k.arg == "checks" for k in node.keywords)
                assert stated, f"{module}:{node.lineno}: an executor without checks"
    assert "gpt_trader.live.desk" in made


# ---------------------------------------------------------------- exits under a halt
class Dies(PaperBroker):
    """A process that is killed as it sends."""

    killed = True

    def submit(self, order):
        if self.killed:
            raise KeyboardInterrupt
        return super().submit(order)


def halted_desk() -> tuple[Executor, Dies, list[bool]]:
    """A desk that holds 100 shares, and whether it has a permit."""
    clock = SimulatedClock(datetime(2013, 2, 27, 14, tzinfo=UTC))
    settings = load_config(None).app.broker.paper.model_copy(update={"auction_participation": D(1), "day_participation": D(1)})
    broker = Dies(":memory:", load_instruments(None), settings, clock, durable=False)
    journal, allowed = Journal(Store(":memory:", durable=False), clock, actor="test"), [True]
    desk = Executor(journal, broker, permit=lambda: Permit(allowed[0], "trading is halted: test"), exits_under_halt=True)
    broker.killed = False
    desk.place(OrderRequest("b-1", "AAPL", "buy", D(100)), session=date(2013, 2, 27))
    broker.on_bars(date(2013, 2, 27), [{"symbol": "AAPL", "open": 448, "high": 449, "low": 440, "close": 444, "volume": 10**7}])
    desk.pull_events()
    clock.set(MORNING)
    allowed[0] = False
    return desk, broker, allowed


def test_only_what_reduces_goes_under_a_halt_and_only_when_asked():
    desk, broker, _ = halted_desk()
    for order, asked in ((OrderRequest("s-1", "AAPL", "sell", D(100)), False), (OrderRequest("s-2", "AAPL", "sell", D(101)), True),
                         (OrderRequest("b-2", "AAPL", "buy", D(1)), True), (OrderRequest("s-3", "IBM", "sell", D(1)), True)):
        with pytest.raises(TradingHalted):
            desk.place(order, session=DAY, under_halt=asked)
        assert broker.order(order.client_order_id) is None and desk.order_row(order.client_order_id) is None
    assert desk.place(OrderRequest("s-4", "AAPL", "sell", D(60)), session=DAY, under_halt=True).status == "accepted"
    with pytest.raises(TradingHalted):
        desk.place(OrderRequest("s-5", "AAPL", "sell", D(41)), session=DAY, under_halt=True)
    assert desk.journal.last("order.created").body["under_halt"] == "trading is halted: test"


def test_an_exit_that_died_under_a_halt_is_not_sent_by_itself():
    desk, broker, allowed = halted_desk()
    broker.killed = True
    with pytest.raises(KeyboardInterrupt):
        desk.place(OrderRequest("s-1", "AAPL", "sell", D(100)), session=DAY, under_halt=True)
    broker.killed = False
    report = desk.reconcile(DAY)
    assert [f.kind for f in report.findings] == ["order.unsent"] and broker.order("s-1") is None, "the halt still stands"
    allowed[0] = True
    assert desk.reconcile(DAY).sent_again == 1 and broker.order("s-1") is not None

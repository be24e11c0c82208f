"""From decision to broker and back: permit, limits, time-outs, reconciliation; and a random walk through all of it over a bad line."""
import random
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from trading_harness import SYMBOLS, Hours, Settings, instruments

from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.journal import Journal
from gpt_trader.core.outcome import Status, UsageError
from gpt_trader.core.store import Store
from gpt_trader.core.workspace import Workspace
from gpt_trader.trading.broker import BrokerError, BrokerTimeout, OrderConflict, OrderRequest
from gpt_trader.trading.execution import Executor, OrderContext
from gpt_trader.trading.orders import OPEN, PROJECTION
from gpt_trader.trading.paper import PaperBroker
from gpt_trader.trading.permit import Permit, check, grant, revoke
from gpt_trader.trading.positions import book
from gpt_trader.trading.sending import TradingHalted

D = Decimal
DAY = date(2013, 2, 28)
BAR = {"symbol": "AAPL", "open": 100, "high": 104, "low": 98, "close": 102, "volume": 10_000_000}


class Line:
    """A line to a broker. `script` says what befalls the next calls: 'lost' on the way, 'unanswered' on the way back, 'broken', ''."""

    def __init__(self, broker: Any, script: list[str] | None = None) -> None:
        self.broker, self.script, self.calls = broker, script or [], []  # type: ignore[var-annotated]
        self.name, self.simulated = broker.name, broker.simulated

    def __getattr__(self, name: str) -> Any:
        target = getattr(self.broker, name)
        if name not in ("submit", "cancel", "order", "open_orders", "positions", "account", "events"):
            return target

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            fate = self.script.pop(0) if self.script else ""
            if fate == "lost":
                raise BrokerTimeout("no connection")
            if fate == "broken":
                raise BrokerError("the gateway is closed")
            answer = target(*args, **kwargs)
            if fate == "unanswered":
                raise BrokerTimeout("no answer within 10 s")
            return answer

        return call


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(datetime(2013, 2, 28, 13, tzinfo=UTC))


@pytest.fixture
def broker(clock: SimulatedClock) -> PaperBroker:
    return PaperBroker(":memory:", instruments(), Settings(), clock, calendar=Hours())


@pytest.fixture
def line(broker: PaperBroker) -> Line:
    return Line(broker)


@pytest.fixture
def journal(clock: SimulatedClock) -> Journal:
    return Journal(Store(":memory:"), clock, actor="test", projections=(PROJECTION,))


@pytest.fixture
def desk(journal: Journal, line: Line, tmp_path: Path, clock: SimulatedClock) -> Executor:
    """An executor with a permit file in tmp_path."""
    grant(tmp_path, actor="test", reason="test", at=clock.now())
    return Executor(journal, line, permit=lambda: check(tmp_path))


def order(ident: str = "a", side: str = "buy", quantity: int = 100, symbol: str = "AAPL", **more: Any) -> OrderRequest:
    return OrderRequest(ident, symbol, side, D(quantity), **more)


def kinds(journal: Journal, prefix: str = "order.") -> list[str]:
    return [e.kind.removeprefix("order.") for e in journal.entries(prefix=prefix)]


def sound(desk: Executor, broker: PaperBroker) -> None:
    """We and the broker agree, and the records are whole."""
    assert desk.journal.verify().ok and desk.journal.check_projections() == []
    assert book(desk.journal).cash == broker.account().cash
    assert book(desk.journal).positions == {s: p.quantity for s, p in broker.positions().items()}


# ---------------------------------------------------------------- placing
def test_an_order_is_journalled_before_it_is_sent(desk: Executor, line: Line, journal: Journal) -> None:
    seen = []
    submit = line.broker.submit
    line.broker.submit = lambda o: (seen.append(kinds(journal)), submit(o))[1]
    assert desk.place(order(), session=DAY, meta={"signal": "momentum"}).status == "accepted"
    assert seen == [["created"]] and kinds(journal) == ["created", "accepted"]
    assert next(journal.entries(kind="order.created")).body["meta"] == {"signal": "momentum"}


def test_the_same_id_is_one_order(desk: Executor, broker: PaperBroker, journal: Journal) -> None:
    first = desk.place(order(), session=DAY)
    assert not first.repeated and desk.place(order(), session=DAY).repeated
    assert len(broker.open_orders()) == 1 and kinds(journal) == ["created", "accepted"]
    with pytest.raises(OrderConflict, match="buy 100 AAPL"):
        desk.place(order(quantity=200), session=DAY)
    broker.on_bars(DAY, [BAR])
    desk.pull_events()
    again = desk.place(order(), session=DAY)
    assert (again.status, again.filled_quantity, again.average_price) == ("filled", 100, broker.order("a").average_price)


def test_without_a_permit_nothing_is_sent(desk: Executor, line: Line, journal: Journal, tmp_path: Path, clock: SimulatedClock) -> None:
    revoke(tmp_path)
    for damage in (None, b"", b"yes"):
        if damage is not None:
            (tmp_path / "trading.permit").write_bytes(damage)
        with pytest.raises(TradingHalted, match="trading is halted"):
            desk.place(order(), session=DAY)
    assert line.calls == [] and kinds(journal) == ["halted"] * 3 and line.broker.open_orders() == []
    grant(tmp_path, actor="test", reason="on we go", at=clock.now())
    assert desk.place(order(), session=DAY).status == "accepted"


def test_a_halt_between_the_record_and_the_send(journal: Journal, line: Line) -> None:
    looks = iter([True, False])
    desk = Executor(journal, line, permit=lambda: Permit(next(looks), "trading is halted: test"))
    with pytest.raises(TradingHalted):
        desk.place(order(), session=DAY)
    assert line.calls == [] and kinds(journal) == ["created", "cancelled", "halted"]


def test_a_halt_while_an_order_is_in_flight(journal: Journal, line: Line) -> None:
    looks = iter([True, True, False])
    desk = Executor(journal, line, permit=lambda: Permit(next(looks), "trading is halted: test"))
    line.script = ["lost", "lost"]
    with pytest.raises(TradingHalted):
        desk.place(order(), session=DAY)
    assert line.calls == ["submit", "order"] and desk.placement("a").status == "unknown"


def test_what_our_limits_refuse_is_recorded_and_not_sent(line: Line, journal: Journal) -> None:
    seen: list[OrderContext] = []

    def limit(o: OrderRequest, context: OrderContext) -> list[Any]:
        seen.append(context)
        return [SimpleNamespace(limit="max_order_notional", limit_value="5000", order_value="10000", message="too large")]

    desk = Executor(journal, line, [lambda o, c: [], limit])
    placed = desk.place(order(), session=DAY, marks={"AAPL": 100})
    assert placed.status == "refused" and [r.limit for r in placed.refusals] == ["max_order_notional"] and line.calls == []
    body = next(journal.entries(kind="order.refused")).body
    assert (body["limit"], body["limit_value"], body["order_value"]) == ("max_order_notional", "5000", "10000")
    assert (seen[0].session, seen[0].marks, seen[0].equity, seen[0].orders_in_session) == (DAY, {"AAPL": D(100)}, D(0), 0)
    assert desk.place(order(), session=DAY).status == "refused" and len(seen) == 1, "a refused id is not tried again"


def test_the_context_knows_what_is_held_and_under_way(desk: Executor, broker: PaperBroker) -> None:
    desk.place(order("a"), session=DAY)
    broker.on_bars(DAY, [BAR])
    desk.pull_events()
    desk.place(order("b", "sell", 40), session=DAY + timedelta(1))
    context = desk.context(DAY + timedelta(1), {"AAPL": "102"})
    assert context.positions == {"AAPL": 100} and [w["client_order_id"] for w in context.working] == ["b"]
    assert context.orders_in_session == 1 and context.equity == broker.account().equity
    assert desk.context(DAY).equity is None, "without a mark equity is not known"


def test_the_brokers_refusal_is_an_answer(desk: Executor, line: Line, broker: PaperBroker, journal: Journal) -> None:
    placed = desk.place(order("a", "sell"), session=DAY)
    assert placed.status == "rejected" and placed.reason.startswith("insufficient shares")
    line.script = ["broken"]
    assert (desk.place(order("b"), session=DAY).status, desk.placement("b").reason) == ("rejected", "the gateway is closed.")
    broker.submit(order("c", quantity=7))
    assert desk.place(order("c"), session=DAY).status == "rejected", "the id stands for another order there"
    desk.pull_events()
    assert broker.order("a").status == "rejected" and kinds(journal)[:2] == ["created", "rejected"]


# ---------------------------------------------------------------- silence
@pytest.mark.parametrize(("script", "history", "there"), [
    (["unanswered"], ["created", "unknown", "accepted"], 1),  # it arrived: found by asking
    (["lost"], ["created", "unknown", "accepted"], 1),  # it did not: sent again
    (["unanswered", "lost"], ["created", "unknown", "accepted"], 1),  # asking fails: sent again under the same id
    (["lost", "lost"] * 3, ["created", "unknown"], 0),
    (["unanswered", "unanswered"] * 3, ["created", "unknown"], 1),
])
def test_silence_is_not_an_answer(desk: Executor, line: Line, broker: PaperBroker, journal: Journal, script: list[str], history: list[str],
                                  there: int) -> None:
    line.script = list(script)
    assert desk.place(order(), session=DAY).status == history[-1]
    assert kinds(journal) == history and len(broker.open_orders()) == there
    line.script = []
    assert desk.reconcile(DAY).status == Status.OK and desk.placement("a").status == "accepted" and len(broker.open_orders()) == 1
    broker.on_bars(DAY, [BAR])
    desk.pull_events()
    sound(desk, broker)
    assert book(journal).positions == {"AAPL": 100}


def test_placing_again_resolves_an_unknown_order(desk: Executor, line: Line, journal: Journal) -> None:
    line.script = ["lost", "lost"] * 3
    assert desk.place(order(), session=DAY).status == "unknown"
    line.script = ["lost"]
    assert desk.place(order(), session=DAY).status == "unknown", "asking failed: it stays unknown"
    assert desk.place(order(), session=DAY).status == "accepted" and kinds(journal) == ["created", "unknown", "accepted"]


def test_placing_again_after_its_session_does_not_send(desk: Executor, line: Line, broker: PaperBroker) -> None:
    line.script = ["lost", "lost"] * 3
    desk.place(order(), session=DAY)
    assert desk.place(order(), session=DAY + timedelta(1)).status == "expired" and broker.order("a") is None


def test_a_cancellation_that_is_not_answered(desk: Executor, line: Line, broker: PaperBroker) -> None:
    desk.place(order(), session=DAY)
    line.script = ["unanswered"]
    assert desk.cancel("a", "test").status == "unknown"
    assert desk.reconcile(DAY).status == Status.OK and desk.placement("a").status == "cancelled" == broker.order("a").status


def test_cancelling(desk: Executor, line: Line, broker: PaperBroker, journal: Journal) -> None:
    desk.place(order("a"), session=DAY)
    assert desk.cancel("a", "changed our mind").status == "cancelled" and broker.order("a").status == "cancelled"
    line.script = ["lost", "lost"] * 3
    desk.place(order("b"), session=DAY)
    assert desk.cancel("b", "never mind").status == "cancelled" and broker.order("b") is None
    calls = len(line.calls)
    assert desk.cancel("b", "again").status == "cancelled" and len(line.calls) == calls
    with pytest.raises(UsageError, match="no order 'c'"):
        desk.cancel("c", "who")


# ---------------------------------------------------------------- events
def test_each_event_is_journalled_once(desk: Executor, broker: PaperBroker, journal: Journal) -> None:
    for i in range(4):
        desk.place(order(str(i), quantity=300), session=DAY)
    broker.on_bars(DAY, [BAR])
    events = desk.pull_events()
    assert [e.seq for e in events] == list(range(1, len(broker.events()) + 1)) and desk.pull_events() == []
    second = Executor(journal, broker)
    assert second.pull_events() == [] and len(kinds(journal, "order.filled")) == len([e for e in events if e.kind == "fill"])
    sound(desk, broker)


def test_two_processes_that_pull_at_once(desk: Executor, broker: PaperBroker, journal: Journal) -> None:
    desk.place(order("a"), session=DAY)
    broker.on_bars(DAY, [BAR])
    quicker = Executor(journal, broker)

    class Slow(Line):
        def events(self, after: int = 0, limit: int = 100) -> Any:
            seen = self.broker.events(after, limit)
            quicker.pull_events()
            return seen

    assert Executor(journal, Slow(broker)).pull_events() == []
    assert kinds(journal, "order.filled") == ["filled"] and len(kinds(journal, "cash.")) == 1
    sound(desk, broker)


def test_a_pull_that_fails_half_way_leaves_nothing(
    desk: Executor, broker: PaperBroker, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.place(order("a"), session=DAY)
    broker.on_bars(DAY, [BAR])
    head, honest, n = journal.head(), journal.append, 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal n
        n += 1
        if n == 2:
            raise OSError("the machine fails between two events")
        return honest(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(journal, "append", failing)
        with pytest.raises(OSError, match="between two events"):
            desk.pull_events()
    assert journal.head() == head and desk.cursor() == (0, "") and len(desk.pull_events()) == 3
    sound(desk, broker)


def test_an_event_that_cannot_be_does_not_stop_the_others(desk: Executor, line: Line, broker: PaperBroker, journal: Journal) -> None:
    desk.place(order("a"), session=DAY)
    broker.on_bars(DAY, [BAR])
    real = broker.events()
    doubled = [*real, replace(real[-1], seq=len(real) + 1, execution_id="again"), replace(real[-1], seq=len(real) + 2, kind="merger"),
               replace(real[-1], seq=len(real) + 3),  # a late duplicate: the same execution
               replace(real[-1], seq=len(real) + 4, client_order_id="nobody", execution_id="y"),
               replace(real[-1], seq=len(real) + 5, kind="deposit", client_order_id="", execution_id="d2", cash=D(7))]
    line.broker = SimpleNamespace(name="paper", simulated=True, epoch="", order=broker.order, positions=broker.positions,
                                  account=broker.account, events=lambda after=0, limit=9: [e for e in doubled if e.seq > after][:limit])
    report = desk.reconcile(DAY)
    assert [f.kind for f in report.findings] == ["event.refused"] * 3 + ["cash.differs"] and report.status == Status.CRITICAL
    assert len(kinds(journal, "broker.event_refused")) == 3 and desk.cursor() == (len(real) + 5, "d2")
    assert book(journal).positions == {"AAPL": 100} and book(journal).deposits == Settings.initial_cash + 7
    assert journal.check_projections() == []


# ---------------------------------------------------------------- reconciling
def test_a_broker_that_is_ahead_of_us(desk: Executor, broker: PaperBroker, journal: Journal) -> None:
    """As after a backup was restored: the broker has orders and fills of which our journal knows nothing."""
    broker.submit(order("x", quantity=100))
    broker.submit(order("y", quantity=10, symbol="IBM"))
    broker.on_bars(DAY, [BAR])
    broker.submit(order("z", "sell", 30))
    report = desk.reconcile(DAY + timedelta(1))
    assert sorted((f.kind, f.subject) for f in report.findings) == [("order.adopted", i) for i in "xyz"] and report.status == Status.WARNING
    assert [desk.placement(i).status for i in "xyz"] == ["filled", "expired", "accepted"]
    sound(desk, broker)
    assert desk.reconcile(DAY + timedelta(1)).status == Status.OK
    assert desk.place(order("x", quantity=100), session=DAY).repeated, "an adopted order is not sent again"


def test_an_order_that_the_broker_has_lost(desk: Executor, broker: PaperBroker) -> None:
    desk.place(order("a"), session=DAY)
    with broker.store.transaction() as db:
        db.execute("DELETE FROM orders")
    report = desk.reconcile(DAY)
    assert [f.kind for f in report.findings] == ["order.lost"] and report.status == Status.CRITICAL
    assert desk.placement("a").status == "unknown"
    again = desk.reconcile(DAY)
    assert [f.kind for f in again.findings] == ["order.lost"] and again.sent_again == 0 and broker.order("a") is None, "never sent again"


def never_sent(journal: Journal, ident: str, session: date | None) -> None:
    """The desk died between its record and the send."""
    journal.append("order.created", order(ident).to_json() | {"broker": "paper"}, subject=ident, session=session and session.isoformat())


def test_an_order_that_never_arrived(desk: Executor, broker: PaperBroker, journal: Journal, tmp_path: Path, clock: SimulatedClock) -> None:
    never_sent(journal, "a", DAY)
    revoke(tmp_path)
    halted = desk.reconcile(DAY)
    assert [(f.kind, f.status) for f in halted.findings] == [("order.unsent", Status.WARNING)] and broker.order("a") is None
    assert desk.placement("a").status == "unknown"
    grant(tmp_path, actor="test", reason="on we go", at=clock.now())
    report = desk.reconcile(DAY)
    assert (report.sent_again, report.status, desk.placement("a").status) == (1, Status.OK, "accepted")
    never_sent(journal, "b", DAY - timedelta(1))
    late = desk.reconcile(DAY)
    assert [f.kind for f in late.findings] == ["order.expired"] and broker.order("b") is None and desk.placement("b").status == "expired"


def test_an_id_that_stands_for_another_order_at_the_broker(desk: Executor, broker: PaperBroker, journal: Journal) -> None:
    broker.submit(order("a", quantity=7))
    never_sent(journal, "a", DAY)
    report = desk.reconcile(DAY)
    assert desk.placement("a").status == "rejected" and "another order under this id: buy 7 AAPL" in desk.placement("a").reason
    assert [f.kind for f in report.findings] == ["event.refused"] and report.status == Status.CRITICAL


def test_without_a_session_the_clock_decides(desk: Executor, broker: PaperBroker, journal: Journal, clock: SimulatedClock) -> None:
    never_sent(journal, "today", DAY)
    never_sent(journal, "yesterday", date(2013, 2, 27))
    assert [f.subject for f in desk.reconcile().findings] == ["yesterday"]
    assert (broker.order("today") is not None, broker.order("yesterday")) == (True, None)


def test_totals_that_differ_are_said_and_left(desk: Executor, broker: PaperBroker, journal: Journal) -> None:
    desk.place(order("a"), session=DAY)
    broker.on_bars(DAY, [BAR])
    desk.pull_events()
    with broker.store.transaction() as db:
        db.execute("UPDATE positions SET quantity = '99'")
        db.execute("UPDATE account SET cash = '1.25'")
    before = broker.events()
    found = {f.kind: (f.ours, f.theirs) for f in desk.reconcile(DAY).findings}
    assert found == {"position.differs": ("100", "99"), "cash.differs": (found["cash.differs"][0], "1.25")}
    assert broker.events() == before and broker.open_orders() == [], "a reconciliation does not trade"
    assert [e.body["kind"] for e in journal.entries(kind="reconcile.finding")] == ["position.differs", "cash.differs"]
    assert next(journal.entries(kind="reconcile.completed")).body["status"] == "critical"


def test_a_broker_whose_books_went_back(desk: Executor, line: Line, broker: PaperBroker, clock: SimulatedClock) -> None:
    desk.place(order("a"), session=DAY)
    broker.on_bars(DAY, [BAR])
    desk.pull_events()
    line.broker = PaperBroker(":memory:", instruments(), Settings(), clock, calendar=Hours())
    assert "broker.behind" in [f.kind for f in desk.reconcile(DAY).findings]


def test_a_silent_broker_is_an_unknown_state(desk: Executor, line: Line) -> None:
    line.script = ["lost"] * 50
    report = desk.reconcile(DAY)
    assert report.status == Status.UNKNOWN and [f.kind for f in report.findings] == ["broker.silent"]


# ---------------------------------------------------------------- in a workspace
def test_errors_of_orders_reach_the_orders_log(tmp_path: Path, clock: SimulatedClock) -> None:
    with Workspace.create(tmp_path, clock) as ws:
        broker = PaperBroker(ws, ws.instruments, ws.config.app.broker.paper, ws.clock)
        desk = Executor(ws, broker)
        with pytest.raises(TradingHalted):
            desk.place(order(), session=DAY)
        grant(ws.state_dir, actor="test", reason="test", at=ws.clock.now())
        desk.place(order("b", "sell"), session=DAY)
        log = next(ws.logs_dir.rglob("orders.log")).read_text()
        assert "order a was not sent" in log and "order b was rejected: insufficient shares" in log
        assert ws.state_dir.joinpath("paper.db").exists()
        broker.close()


def test_only_a_simulation_in_memory_goes_without_a_permit(tmp_path: Path, clock: SimulatedClock, broker: PaperBroker) -> None:
    journal = Journal(Store(tmp_path / "state.db", durable=False), clock, actor="test", projections=(PROJECTION,))
    with pytest.raises(UsageError, match="trading permit"):
        Executor(journal, broker)
    live = SimpleNamespace(name="live", simulated=False)
    with pytest.raises(UsageError, match="trading permit"):
        Executor(Journal(Store(":memory:"), clock, actor="test", projections=(PROJECTION,)), live)


# ---------------------------------------------------------------- a random walk
class Walk(RuleBasedStateMachine):
    """Orders, sessions, halts, crashes and reconciliations over a line on which anything may be lost."""

    @initialize(seed=st.integers(0, 10_000))
    def begin(self, seed: int) -> None:
        self.rng, self.day, self.allowed, self.wanted = random.Random(seed), DAY, True, {}  # type: ignore[var-annotated]
        self.clock = SimulatedClock(datetime(2013, 2, 28, 13, tzinfo=UTC))
        self.broker = PaperBroker(":memory:", instruments(), Settings(), self.clock, calendar=Hours())
        self.journal = Journal(Store(":memory:"), self.clock, actor="test", projections=(PROJECTION,))
        self.line = Line(self.broker)
        self.desk = self.new_desk()

    def new_desk(self) -> Executor:
        return Executor(self.journal, self.line, permit=lambda: Permit(self.allowed, "trading is halted: test"))

    def trouble(self) -> None:
        self.line.script = [self.rng.choice(["", "", "lost", "unanswered"]) for _ in range(self.rng.randrange(12))]

    @rule(n=st.integers(0, 8), side=st.sampled_from(["buy", "buy", "sell"]), quantity=st.integers(1, 900), bad=st.booleans())
    def place(self, n: int, side: str, quantity: int, bad: bool) -> None:
        ident = f"{self.day}.{n}"
        request = self.wanted.get(ident) or order(ident, side, quantity, SYMBOLS[n % 2])
        if bad:
            self.trouble()
        sent_before = self.broker.order(ident) is not None
        try:
            self.desk.place(request, session=self.day)
        except TradingHalted:
            assert not self.allowed and (self.broker.order(ident) is not None) == sent_before, "something was sent without a permit"
        if self.desk.order_row(ident):
            self.wanted[ident] = request
        self.line.script = []

    @rule()
    def live_a_session(self) -> None:
        self.broker.on_bars(self.day, [BAR | {"symbol": s} for s in SYMBOLS[:2]])
        self.day += timedelta(1)

    @rule(bad=st.booleans())
    def pull(self, bad: bool) -> None:
        if bad:
            self.trouble()
        try:
            self.desk.pull_events()
        except BrokerTimeout:
            assert bad
        self.line.script = []

    @rule(allowed=st.booleans())
    def permit(self, allowed: bool) -> None:
        self.allowed = allowed

    @rule(bad=st.booleans())
    def restart(self, bad: bool) -> None:
        self.desk = self.new_desk()
        if bad:
            self.trouble()
        self.desk.reconcile(self.day)
        self.line.script = []

    @invariant()
    def no_order_is_at_the_broker_that_was_not_journalled(self) -> None:
        if hasattr(self, "broker"):
            for row in self.broker.store.rows("SELECT client_order_id FROM orders"):
                assert self.broker.order(row["client_order_id"]).request == self.wanted[row["client_order_id"]]

    def teardown(self) -> None:
        if hasattr(self, "broker"):
            self.allowed = True
            self.live_a_session()
            report = self.new_desk().reconcile(self.day)
            assert {f.kind for f in report.findings} <= {"order.expired"}, report.to_json()
            sound(self.desk, self.broker)
            assert not {r["status"] for r in self.journal.store.rows("SELECT status FROM orders")} & set(OPEN)
            for ident in self.wanted:
                there, here = self.broker.order(ident), self.desk.placement(ident)
                assert here.filled_quantity == (there.filled_quantity if there else 0)
                assert here.status == there.status if there else here.status in ("expired", "cancelled")


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)

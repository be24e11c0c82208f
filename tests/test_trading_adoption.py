"""What the broker has and no event tells of: escalated or adopted by policy, paid in at a stated price, never counted twice."""
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest
from adoption_harness import FULL, MARKS, START, Custody, desk_of, dies_at, journal_at, scene
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_trader.core.brokersettings import AdoptSettings
from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.journal import Journal
from gpt_trader.core.outcome import Status
from gpt_trader.core.workspace import Workspace
from gpt_trader.trading.adoption import Mandate
from gpt_trader.trading.broker import BrokerOrder, OrderRequest
from gpt_trader.trading.execution import Executor
from gpt_trader.trading.paper import PaperBroker
from gpt_trader.trading.positions import Book, book

KINDS = ("position.adopted", "cash.adopted", "adoption.explained")


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(START)


@pytest.fixture
def custody(clock: SimulatedClock) -> Custody:
    return scene(clock)


@pytest.fixture
def journal(clock: SimulatedClock) -> Journal:
    return journal_at(":memory:", clock)


def adopted(journal: Journal) -> list[str]:
    """What was adopted and taken back, in order."""
    return [f"{e.kind.partition('.')[2]} {e.subject}" for e in journal.entries() if e.kind in KINDS]


def differing(journal: Journal, custody: Custody) -> set[str]:
    """Symbols, and 'cash', where our books are not the broker's."""
    now, there = book(journal), {s: p.quantity for s, p in custody.positions().items()}
    cash = {"cash"} if now.cash != custody.account().cash else set()
    return cash | {s for s in {*now.positions, *there} if now.positions.get(s, D(0)) != there.get(s, D(0))}


def sound(journal: Journal, custody: Custody) -> Book:
    """Our books are the broker's; profit has its names; the tables follow from the journal."""
    now = book(journal, MARKS)
    assert now.positions == {s: p.quantity for s, p in custody.positions().items()} and now.cash == custody.account().cash
    assert now.profit == now.realised + now.unrealised + now.dividends - now.fees
    assert journal.check_projections() == [] and journal.verify().ok
    return now


# ---------------------------------------------------------------- escalated, or adopted
def test_without_a_policy_it_is_escalated_and_nothing_is_taken_in(journal: Journal, custody: Custody) -> None:
    for _ in range(3):
        report = desk_of(journal, custody).reconcile()
        assert report.status == Status.CRITICAL
        assert [(f.kind, f.subject) for f in report.findings][-3:] == [("position.differs", "AAPL"), ("position.differs", "IBM"),
                                                                     ("cash.differs", "cash")]
    assert "30 IBM, our books 0; not adopted: people decide (gpt-trader reconcile-account" in report.findings[1].message
    assert adopted(journal) == [] and book(journal).positions == {"AAPL": 20}


def test_what_is_adopted_has_a_price_a_reason_and_an_actor(journal: Journal, custody: Custody) -> None:
    desk_of(journal, custody).reconcile()
    before = book(journal, MARKS)
    report = desk_of(journal, custody).reconcile(mandate=FULL)
    assert report.status == Status.WARNING and [f.kind for f in report.findings] == ["position.adopted"] * 2 + ["cash.adopted"]
    apple, ibm = journal.entries(kind="position.adopted")
    assert (apple.body["quantity"], apple.body["gross"], apple.body["basis"]) == ("-5", "-2207", "the last price")
    assert (ibm.body["quantity"], ibm.body["gross"], ibm.body["basis"]) == ("30", "5998.5", "the broker's average price")
    assert (ibm.body["ours"], ibm.body["theirs"], ibm.body["reason"], ibm.actor) == ("0", "30", "a person looked at it", "desk")
    now = sound(journal, custody)
    assert now.holdings[1].cost == D("5998.50") and now.deposits == before.deposits - 2207 + D("5998.50") + 2207
    assert now.holdings[0].realised == D("6.50"), "five went at 441.40, which had cost 440.10"
    assert now.profit == before.profit + 30 * (MARKS["IBM"] - D("199.95")), "what is new gains from its cost on; what went had gained"
    assert [f.kind for f in desk_of(journal, custody).reconcile(mandate=FULL).findings] == [] and len(adopted(journal)) == 3


def test_a_position_bought_by_hand_comes_to_nothing_but_its_gain(journal: Journal, clock: SimulatedClock) -> None:
    custody = Custody(clock)
    custody.deposit(D(10_000))
    custody.transfer("AAPL", D(10), D(440))
    custody.cash -= 4400
    desk_of(journal, custody).reconcile(mandate=FULL)
    now = sound(journal, custody)
    assert now.deposits == 10_000 and now.profit == D(14)


def test_what_grows_by_adoption_costs_what_the_broker_says(journal: Journal, clock: SimulatedClock) -> None:
    custody = Custody(clock)
    custody.deposit(D(10_000))
    custody.trade("AAPL", D(10), D(400))
    custody.transfer("AAPL", D(5), D(430))
    desk_of(journal, custody).reconcile(mandate=FULL)
    assert sound(journal, custody).holdings[0].cost == custody.basis["AAPL"].cost == D(6150)
    custody.transfer("AAPL", D(-20), D(441))
    desk_of(journal, custody).reconcile(mandate=FULL)
    turned = sound(journal, custody).holdings[0]
    assert (turned.quantity, turned.cost, turned.realised) == (-5, D(-2205), D("471.00")), "out at 441.40, short at 441"


def test_the_policys_bounds(journal: Journal, custody: Custody) -> None:
    """30 IBM are 6,019.50 USD, 5 Apple 2,207, the cash 2,207."""
    def found(**bounds: Any) -> list[str]:
        policy = AdoptSettings(**{"positions": "adopt", "cash": "adopt", "max_position_value": 10_000, "max_total_value": 10_000,
                                  "max_cash": 5_000, "quiet_seconds": 0} | bounds)
        fresh = journal_at(":memory:", custody.clock)
        return [f.kind for f in desk_of(fresh, custody).reconcile(mandate=Mandate.by_policy(policy)).findings if f.kind != "order.adopted"]

    kept, taken = ["position.differs"], ["position.adopted"]
    assert found() == taken * 2 + ["cash.adopted"]
    assert found(max_position_value=6_000) == taken + kept + ["cash.adopted"]
    assert found(max_total_value=8_226) == kept * 2 + ["cash.adopted"], "together they are 8,226.50"
    assert found(max_cash=2_206) == taken * 2 + ["cash.differs"]
    assert found(positions="escalate") == kept * 2 + ["cash.adopted"]
    assert found(cash="escalate") == taken * 2 + ["cash.differs"]


# ---------------------------------------------------------------- what stands in the way
def test_nothing_is_adopted_while_an_order_for_it_may_be_filled(journal: Journal, custody: Custody, clock: SimulatedClock) -> None:
    custody.working = [BrokerOrder("w", "w", "IBM", "buy", D(5), "limit", D(190), "day", "accepted", D(0), None, clock.now())]
    report = desk_of(journal, custody).reconcile(mandate=FULL)
    assert {f.subject: f.kind for f in report.findings if "order" not in f.kind} == {"AAPL": "position.adopted", "IBM": "position.differs",
                                                                                   "cash": "cash.differs"}
    assert "w may still be filled" in next(f.message for f in report.findings if f.subject == "IBM")
    custody.working = []
    journal.append("order.created", OrderRequest("ours", "IBM", "buy", D(5)).to_json() | {"broker": "custody"}, subject="ours")
    journal.append("order.accepted", {"broker": "custody", "broker_order_id": "1"}, subject="ours")
    report = desk_of(journal, custody).reconcile(mandate=FULL)
    assert "order.lost" in [f.kind for f in report.findings] and adopted(journal) == ["adopted AAPL"], "an order that is lost may be filled"


def test_what_moved_just_now_waits(journal: Journal, custody: Custody, clock: SimulatedClock) -> None:
    quiet = replace(FULL, quiet_seconds=7200)
    report = desk_of(journal, custody).reconcile(mandate=quiet)
    assert [f.kind for f in report.findings if "order" not in f.kind] == ["position.differs", "position.adopted", "cash.differs"]
    assert "it moved 3600 s ago" in next(f.message for f in report.findings if f.subject == "AAPL")
    clock.advance(timedelta(hours=1))
    assert desk_of(journal, custody).reconcile(mandate=quiet).status == Status.WARNING
    sound(journal, custody)


def test_books_that_are_not_the_ones_we_know_are_not_adopted(journal: Journal, custody: Custody) -> None:
    desk_of(journal, custody).reconcile()
    other = Custody(custody.clock)
    report = desk_of(journal, other).reconcile(mandate=FULL)
    assert [f.kind for f in report.findings][0] == "broker.behind" and adopted(journal) == []
    assert "not those that our events are from" in report.findings[-1].message


def test_a_price_that_nobody_knows(journal: Journal, custody: Custody) -> None:
    desk_of(journal, custody).reconcile()
    custody.transfer("AAPL", D(-15), D(440))
    report = desk_of(journal, custody).reconcile(mandate=FULL)
    assert "no price of AAPL is known" in report.findings[0].message and adopted(journal) == ["adopted IBM", "adopted cash"]
    desk_of(journal, custody).reconcile(mandate=FULL, marks={"AAPL": "442"})
    assert sound(journal, custody).holdings[0].realised == D("38.00"), "twenty went at 442 that had cost 440.10"


def test_another_process_that_took_in_events_in_between(journal: Journal, custody: Custody, monkeypatch: pytest.MonkeyPatch) -> None:
    desk, asked = desk_of(journal, custody), custody.open_orders

    def slow() -> list[BrokerOrder]:
        custody.deposit(D(5))
        desk.pull()
        return asked()

    monkeypatch.setattr(custody, "open_orders", slow)
    report = desk.reconcile(mandate=FULL)
    assert adopted(journal) == [] and all("meanwhile" in f.message for f in report.findings if f.kind.endswith("differs"))


# ---------------------------------------------------------------- what comes late
def test_a_fill_that_is_told_after_its_shares_were_adopted(journal: Journal, clock: SimulatedClock) -> None:
    custody = Custody(clock)
    custody.deposit(D(10_000))
    clock.advance(timedelta(minutes=1))
    custody.trade("AAPL", D(10), D(440), late=True)
    clock.advance(timedelta(minutes=1))
    desk = desk_of(journal, custody)
    desk.reconcile(mandate=FULL)
    sound(journal, custody)
    custody.tell()
    report = desk.reconcile()
    assert [f.kind for f in report.findings] == ["order.adopted", "adoption.explained", "adoption.explained"]
    now = sound(journal, custody)
    assert (now.deposits, now.holdings[0].cost, now.fees) == (10_000, 4400, D("0.35")), "as if it had been told in time"
    assert adopted(journal) == ["adopted AAPL", "adopted cash", "explained AAPL", "explained cash"]


def test_an_order_of_ours_sent_after_the_adoption_explains_nothing(journal: Journal, custody: Custody, clock: SimulatedClock) -> None:
    desk = desk_of(journal, custody)
    desk.reconcile(mandate=FULL)
    clock.advance(timedelta(hours=1))
    placed = desk.place(OrderRequest("new", "IBM", "buy", D(4)), session=START.date())
    custody.happened[-1] = replace(custody.happened[-1], at=START)  # the broker's clock is slow
    desk.pull()
    assert placed.status in ("accepted", "filled") and desk.placement("new").status == "filled"
    assert sound(journal, custody).positions["IBM"] == 34 and "explained IBM" not in adopted(journal)


_OPS = st.one_of(
    st.tuples(st.just("trade"), st.sampled_from(sorted(MARKS)), st.integers(-9, 9).filter(bool), st.integers(100, 900), st.booleans()),
    st.tuples(st.just("deposit"), st.integers(-500, 500).filter(bool), st.booleans()),
    st.tuples(st.just("split"), st.sampled_from(sorted(MARKS)), st.booleans()),
    st.tuples(st.just("bust"), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("transfer"), st.sampled_from(sorted(MARKS)), st.integers(-9, 9).filter(bool), st.integers(100, 900)),
    st.tuples(st.just("money"), st.integers(-500, 500).filter(bool)),
    st.tuples(st.sampled_from(["adopt", "look", "tell"])))


def play(custody: Custody, journal: Journal, ops: list[Any]) -> None:
    """Let it happen, a minute apart."""
    desk = desk_of(journal, custody)
    for op, *args in ops:
        custody.clock.advance(timedelta(minutes=1))
        if op == "trade":
            custody.trade(args[0], D(args[1]), D(args[2]), args[3])
        elif op == "transfer":
            custody.transfer(args[0], D(args[1]), D(args[2]))
        elif op == "money":
            custody.cash += args[0]
        elif op == "deposit":
            custody.deposit(D(args[0]), args[1])
        elif op == "adopt":
            desk.reconcile(mandate=FULL, marks=MARKS)
            sound(journal, custody)
            known = len(adopted(journal))
            desk.reconcile(mandate=FULL, marks=MARKS)
            assert len(adopted(journal)) == known, "adopting again changes nothing"
        elif op == "look":
            desk.reconcile()
        else:
            getattr(custody, op)(*args)
        now = book(journal, MARKS)
        assert now.profit == now.realised + now.unrealised + now.dividends - now.fees


@settings(max_examples=150, deadline=None)
@given(ops=st.lists(_OPS, max_size=14))
def test_whatever_happens_the_books_are_the_brokers_and_nothing_counts_twice(ops: list[Any]) -> None:
    clock = SimulatedClock(START)
    custody, journal = Custody(clock), journal_at(":memory:", clock)
    play(custody, journal, [("deposit", 10_000, False), *ops, ("look",)])
    apart = differing(journal, custody)
    play(custody, journal, [("adopt",)])
    held, seq = sound(journal, custody), journal.head().seq
    clock.advance(timedelta(minutes=1))
    custody.tell()
    desk_of(journal, custody).pull()
    assert not apart & differing(journal, custody), "with no further adoption, however many events were on their way"
    past = journal.as_of(seq)
    assert (book(past, MARKS).positions, book(past).cash, book(past).deposits) == (held.positions, held.cash, held.deposits)
    past.close()
    play(custody, journal, [("adopt",)])  # what had come to nothing together with events that nobody had told of yet


@settings(max_examples=100, deadline=None)
@given(ops=st.lists(_OPS.filter(lambda op: op[0] not in ("transfer", "money")), max_size=14))
def test_when_everything_was_told_it_is_as_if_nothing_had_been_adopted(ops: list[Any]) -> None:
    clock = SimulatedClock(START)
    custody, journal = Custody(clock), journal_at(":memory:", clock)
    play(custody, journal, [("deposit", 10_000, False), *ops, ("adopt",), ("tell",), ("look",)])
    plain = journal_at(":memory:", clock)
    desk_of(plain, custody).reconcile()
    facts = [(b.cash, b.deposits, [(h.symbol, h.quantity, h.cost, h.realised, h.fees) for h in b.holdings if h.quantity or h.realised])
             for b in (book(journal), book(plain))]
    assert facts[0] == facts[1]
    gains = [j.store.rows("SELECT execution_id, realised FROM fills ORDER BY execution_id") for j in (journal, plain)]
    assert gains[0] == gains[1]


# ---------------------------------------------------------------- dying
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_each_entry(tmp_path: Path, when: str) -> None:
    """kill -9 around every entry that the reconciliation journals; the next process finishes: nothing lost, nothing doubled."""
    number, killed, states = 0, True, set()
    while killed:
        number += 1
        root = tmp_path / str(number)
        root.mkdir()
        killed = dies_at(root, number, when)
        clock = SimulatedClock(START)
        custody, journal = scene(clock), journal_at(root / "state.db", clock)
        states.add(len(adopted(journal)))
        assert journal.verify().ok and journal.check_projections() == []
        desk_of(journal, custody).reconcile(mandate=FULL)
        sound(journal, custody)
        assert adopted(journal) == ["adopted AAPL", "adopted IBM", "adopted cash"]
        journal.store.close()
    assert number > 9 and states == {0, 3}, "all of it or nothing"


# ---------------------------------------------------------------- the policy of a workspace, at its start
@pytest.mark.parametrize("policy", ["escalate", "adopt"])
def test_the_policy_is_followed_at_every_start(tmp_path: Path, policy: str) -> None:
    with Workspace.create(tmp_path, SimulatedClock(START)) as made:
        bounds = "max_position_value: 50000, max_total_value: 50000, max_cash: 5000"
        (made.config_dir / "config.yaml").write_text(f"broker:\n  adopt: {{positions: {policy}, cash: {policy}, {bounds}}}\n")
    statuses, kinds = [], []
    for start in range(3):
        with Workspace.open(tmp_path) as ws:
            broker = PaperBroker(ws, ws.instruments, ws.config.app.broker.paper, ws.clock)
            if start == 0:
                Executor(ws, broker).reconcile()
                with broker.store.transaction() as db:
                    db.execute("INSERT INTO positions (symbol, quantity, cost) VALUES ('AAPL', '100', '44000')")
                    db.execute("INSERT INTO marks (symbol, session, price) VALUES ('AAPL', '2013-02-28', '441')")
                    db.execute("UPDATE account SET cash = '4996000'")
                ws.clock.advance(timedelta(hours=1))
            report = Executor(ws, broker).reconcile()
            statuses.append(report.status)
            kinds.append([f.kind for f in report.findings])
            theirs = {s: p.quantity for s, p in broker.positions().items()}
            agreed = book(ws, broker="paper").positions == theirs and book(ws).cash == D(4_996_000)
            assert agreed == (policy == "adopt")
            assert [e.body["reason"] for e in ws.journal.entries(kind="position.adopted")] == ["broker.adopt in config.yaml"] * agreed
            broker.close()
    if policy == "adopt":
        assert statuses == [Status.WARNING, Status.OK, Status.OK] and kinds[0] == ["position.adopted", "cash.adopted"]
    else:
        assert statuses == [Status.CRITICAL] * 3 and kinds == [["position.differs", "cash.differs"]] * 3

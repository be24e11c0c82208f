"""The desk dies, at the worst moments and at random ones, and is started again: no order is lost, none is doubled."""
import contextlib
import json
import os
import random
import subprocess
import sys
import time
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from trading_harness import Fatal, Hours, Settings, SmallDesk, instruments, real_bars

from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.journal import Journal
from gpt_trader.core.outcome import Status
from gpt_trader.core.store import Store
from gpt_trader.trading.broker import BrokerTimeout, OrderRequest
from gpt_trader.trading.execution import Executor
from gpt_trader.trading.floor import PaperFloor
from gpt_trader.trading.orders import PROJECTION
from gpt_trader.trading.permit import Permit
from gpt_trader.trading.positions import book

DAY = date(2005, 2, 25)
HARNESS = Path(__file__).with_name("trading_harness.py")
KILLS = 100 if os.environ.get("GPT_TRADER_SOAK") == "1" else 15


def die() -> None:
    raise Fatal


@pytest.fixture(scope="module")
def bars() -> dict[str, list[dict[str, Any]]]:
    return real_bars(date(2005, 2, 14), date(2005, 3, 4))


@pytest.fixture(scope="module")
def few(bars: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The session before Apple's split and the one after it."""
    return {s: bars[s] for s in ("2005-02-25", "2005-02-28")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, bars: Any, few: Any) -> dict[str, Any]:
    """What runs without a crash come to."""
    facts = {}
    for name, sessions in (("all", bars), ("few", few)):
        desk = SmallDesk(tmp_path_factory.mktemp(name), durable=False)
        desk.run(sessions)
        assert desk.problems() == []
        facts[name] = desk.facts()
        desk.close()
    return facts


def test_the_plan_is_worth_crashing(undisturbed: dict[str, Any], bars: Any) -> None:
    text = " ".join(undisturbed["all"]["orders"])
    assert all(f"'status': '{s}'" in text for s in ("filled", "cancelled", "expired", "rejected")), "an order never ends in one of the ways"
    assert any(k == "split" for _, k, *_ in undisturbed["all"]["broker"]) and len(bars) == 14


@pytest.mark.parametrize("when", ["before", "after"])
def test_dying_around_each_commit_of_the_broker(tmp_path: Path, few: Any, undisturbed: dict[str, Any], when: str) -> None:
    """Exhaustive, in one process: for every change at the broker, the desk is dropped there, opened anew and finished."""
    number, died = 0, True
    while died:
        number += 1
        desk = SmallDesk(tmp_path / str(number), durable=False)
        try:
            desk.run(few, number, when, die)
            died = False
        except Fatal:
            desk.close()
            desk = SmallDesk(tmp_path / str(number), durable=False)
            desk.run(few)
        assert desk.problems() == [] and desk.facts() == undisturbed["few"], f"died {when} change {number}"
        desk.close()
    assert number > 12


@pytest.mark.parametrize("when", ["before", "after"])
def test_dying_around_each_commit_of_ours(
    tmp_path: Path, few: Any, undisturbed: dict[str, Any], when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for every commit of the journal: the transaction is undone (before), or done and nothing after it (after)."""
    number, died, honest = 0, True, Journal.append
    while died:
        number += 1
        left = number

        def append(self: Journal, *args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if self.store.path == ":memory:":
                return honest(self, *args, **kwargs)
            left -= 1
            if left == 0 and when == "before":
                raise Fatal
            entry = honest(self, *args, **kwargs)
            if left == 0 and not self.store.db.conn.in_transaction:
                raise Fatal
            return entry

        monkeypatch.setattr(Journal, "append", append)
        desk = SmallDesk(tmp_path / str(number), durable=False)
        try:
            desk.run(few)
            died = left <= 0  # inside a longer transaction an entry is no commit of its own: nobody dies there
        except Fatal:
            monkeypatch.setattr(Journal, "append", honest)
            desk.close()
            desk = SmallDesk(tmp_path / str(number), durable=False)
            desk.run(few)
        monkeypatch.setattr(Journal, "append", honest)
        assert desk.problems() == [] and desk.facts() == undisturbed["few"], f"died {when} entry {number}"
        desk.close()
    assert number > 25


def at_once(root: Path) -> tuple[PaperFloor, Executor]:
    """A desk at a market that is open: what it sends is filled before the answer comes."""
    clock = SimulatedClock(datetime(2005, 2, 25, 15, tzinfo=UTC))
    floor = PaperFloor(root / "paper.db", instruments(), Settings(), clock, calendar=Hours(), durable=False)
    if floor.hours() is None:
        floor.open_session(DAY)
        floor.quote("AAPL", "44.00", "44.10", 1_000, 1_000)
    journal = Journal(Store(root / "state.db", durable=False), clock, actor="desk", projections=(PROJECTION,))
    return floor, Executor(journal, floor, permit=lambda: Permit(True, "test"))


@pytest.mark.parametrize("where", ["before the send", "after the send", "before an entry", "after a commit"])
def test_dying_while_an_order_is_placed_that_fills_at_once(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Acceptance and fill are one commit there: whatever is cut off, the order is one, filled once, and booked once."""
    orders = [OrderRequest(f"o-{n}", "AAPL", side, Decimal(10 * n)) for n, side in ((3, "buy"), (1, "sell"))]
    submit, append, number, died = PaperFloor.submit, Journal.append, 0, True

    def counted(honest: Any, before: str, after: str) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            left[0] -= where in (before, after)
            if left[0] == 0 and where == before:
                raise Fatal
            answer = honest(self, *args, **kwargs)
            if left[0] == 0 and where == after and (honest is submit or not self.store.db.conn.in_transaction):
                raise Fatal
            return answer
        return call

    while died:
        number, left = number + 1, [number + 1]
        root = tmp_path / str(number)
        root.mkdir()
        floor, desk = at_once(root)
        monkeypatch.setattr(PaperFloor, "submit", counted(submit, "before the send", "after the send"))
        monkeypatch.setattr(Journal, "append", counted(append, "before an entry", "after a commit"))
        with contextlib.suppress(Fatal):
            desk.reconcile(DAY)
            for o in orders:
                assert desk.place(o, session=DAY).status == "filled"
        died = left[0] <= 0
        monkeypatch.setattr(PaperFloor, "submit", submit)
        monkeypatch.setattr(Journal, "append", append)
        floor.close()
        desk.store.close()
        floor, desk = at_once(root)
        assert desk.reconcile(DAY).status == Status.OK
        for o in orders:
            desk.place(o, session=DAY)
        desk.pull()
        ours = book(desk.journal)
        assert ours.positions == {"AAPL": 20} == {s: p.quantity for s, p in floor.positions().items()} and ours.cash == floor.account().cash
        assert [e.kind for e in floor.events() if e.kind in ("accepted", "fill")] == ["accepted", "fill"] * 2
        kinds = [e.kind for e in desk.journal.entries(prefix="order.")]
        assert sorted(kinds) == sorted(["order.created", "order.accepted", "order.filled"] * 2), kinds
        assert desk.journal.verify().ok and desk.journal.check_projections() == []
        floor.close()
        desk.store.close()
    assert number > (6 if "entry" in where else 2)


def test_acceptance_and_fill_at_once_are_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    floor, desk = at_once(tmp_path)
    desk.reconcile(DAY)
    commits, append = [], Journal.append

    def noted(self: Journal, kind: str, *args: Any, **kwargs: Any) -> Any:
        commits.append((kind, self.store.db.conn.in_transaction))
        return append(self, kind, *args, **kwargs)

    monkeypatch.setattr(Journal, "append", noted)
    assert desk.place(OrderRequest("a", "AAPL", "buy", Decimal(10)), session=DAY).filled_quantity == 10
    assert commits == [("order.created", False), ("order.accepted", True), ("order.filled", True)]
    monkeypatch.setattr(floor, "events", lambda *a, **k: (_ for _ in ()).throw(BrokerTimeout("no news")))
    late = desk.place(OrderRequest("b", "AAPL", "buy", Decimal(10)), session=DAY)
    assert late.status == "accepted" and commits[-1] == ("order.accepted", False), "what arrived is acknowledged, and not sent again"
    monkeypatch.undo()
    desk.pull()
    assert desk.placement("b").filled_quantity == 10 and book(desk.journal).positions == {"AAPL": 20}
    floor.close()


def run_until_done(root: Path, source: Path, kills: int, rng: random.Random, longest: float) -> int:
    """Start the desk, kill it at a random moment, `kills` times; then let it finish. How many were killed before they had finished."""
    struck = 0
    for _ in range(kills):
        process = subprocess.Popen([sys.executable, str(HARNESS), str(root), str(source)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, longest))
        process.kill()
        rest = process.stdout.read()
        process.wait()
        process.stdout.close()
        if rest.endswith("done\n"):
            break
        struck += 1
    subprocess.run([sys.executable, str(HARNESS), str(root), str(source)], check=True, capture_output=True, timeout=120)
    return struck


def check(root: Path, expected: dict[str, Any]) -> None:
    desk = SmallDesk(root)
    assert desk.problems() == [] and desk.facts() == expected
    desk.close()


def test_processes_killed_at_random(tmp_path: Path, bars: Any, undisturbed: dict[str, Any]) -> None:
    source = tmp_path / "bars.json"
    source.write_text(json.dumps(bars))
    assert run_until_done(tmp_path / "desk", source, 2, random.Random(20050228), 0.1) >= 1
    check(tmp_path / "desk", undisturbed["all"])


def test_a_process_that_ends_between_the_brokers_commit_and_ours(tmp_path: Path, few: Any, undisturbed: dict[str, Any]) -> None:
    source = tmp_path / "bars.json"
    source.write_text(json.dumps(few))
    ended = subprocess.run([sys.executable, str(HARNESS), str(tmp_path / "desk"), str(source), "4", "after"], capture_output=True)
    assert ended.returncode == 9  # the third order was taken, and we never wrote that down
    subprocess.run([sys.executable, str(HARNESS), str(tmp_path / "desk"), str(source)], check=True, capture_output=True, timeout=120)
    check(tmp_path / "desk", undisturbed["few"])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_processes_killed_at_random(tmp_path: Path, bars: Any, undisturbed: dict[str, Any]) -> None:
    """At least KILLS kills that struck a running desk, over as many replays as it takes; each replay ends as if nothing had happened."""
    source, rng, struck, replay = tmp_path / "bars.json", random.Random(1), 0, 0
    source.write_text(json.dumps(bars))
    while struck < KILLS:
        replay += 1
        struck += run_until_done(tmp_path / str(replay), source, 10, rng, 0.15)
        check(tmp_path / str(replay), undisturbed["all"])

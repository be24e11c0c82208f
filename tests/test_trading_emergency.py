"""The emergency stop with all else against it: the store held, the disk full, the desk stopped in its tracks, the broker answering 500.

Each time trading is blocked, and the outcome says truthfully what is verified and what nobody knows.
"""
import contextlib
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

pytest.importorskip("alpaca", reason="pip install 'gpt_trader[alpaca]'")
pytest.importorskip("starlette", reason="pip install 'gpt_trader[venue]'")

from venue_harness import RunningVenue, desk_at, wait_until  # noqa: E402

from gpt_trader.core.outcome import Status  # noqa: E402
from gpt_trader.core.workspace import Workspace  # noqa: E402
from gpt_trader.trading.broker import OrderRequest  # noqa: E402
from gpt_trader.trading.brokers import open_broker  # noqa: E402
from gpt_trader.trading.emergency import CANCELLED, KEPT, emergency_stop, take_in  # noqa: E402
from gpt_trader.trading.execution import Executor  # noqa: E402
from gpt_trader.trading.permit import check  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def root(tmp_path: Path, venue: RunningVenue) -> Path:
    """A desk at the venue, permitted to trade, with two resting orders."""
    with Workspace.open(desk_at(venue, tmp_path / "desk")) as ws:
        desk, session = Executor(ws, open_broker(ws)), ws.calendar.session_of(ws.clock.now())
        desk.reconcile(session)
        for n in (1, 2):
            placed = desk.place(OrderRequest(f"rest-{n}", "AAPL", "buy", Decimal(10), "limit", Decimal("440.00")), session=session)
            assert placed.status == "accepted"
    return tmp_path / "desk"


def is_stopped(root: Path, venue: RunningVenue) -> None:
    """By the file, and by the venue's own books."""
    assert not check(root / ".gpt-trader")
    assert venue.floor.account().blocked and venue.floor.open_orders() == []
    assert {venue.floor.order(f"rest-{n}").status for n in (1, 2)} == {"cancelled"}


def test_with_everything_well(root: Path, venue: RunningVenue) -> None:
    stopped = emergency_stop(root, reason="drill", actor="ann")
    outcome = stopped.outcome()
    is_stopped(root, venue)
    assert (outcome.status, outcome.verification) == (Status.OK, "verified") and stopped.seq is not None
    assert {o.client_order_id: o.result for b in stopped.brokers for o in b.orders} == {"rest-1": CANCELLED, "rest-2": CANCELLED}
    with Workspace.open(root) as ws:
        assert ws.journal.last("emergency.stopped").actor == "ann" and ws.journal.verify().ok and ws.journal.check_projections() == []


def test_with_the_store_held_by_another_process(root: Path, venue: RunningVenue) -> None:
    holder = sqlite3.connect(root / ".gpt-trader" / "state.db")
    holder.execute("BEGIN IMMEDIATE")
    try:
        began = time.perf_counter()
        stopped = emergency_stop(root, reason="held")
        took = time.perf_counter() - began
        is_stopped(root, venue)
        outcome = stopped.outcome()
        assert took < 15 and (outcome.status, outcome.verification) == (Status.WARNING, "verified")
        assert stopped.seq is None and Path(stopped.waiting).parent.name == KEPT and "journal could not be written" in outcome.summary
    finally:
        holder.rollback()
        holder.close()
    with Workspace.open(root) as ws:
        assert take_in(ws) == 1 and ws.journal.last("emergency.stopped").body["reason"] == "held"
        assert ws.journal.last("permit.revoked") is not None and ws.journal.check_projections() == []
    assert not Path(stopped.waiting).exists()


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    """As on a full disk: this process can make no file larger, and learns so from the write."""
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def test_with_the_disk_full(root: Path, venue: RunningVenue) -> None:
    with no_room():
        stopped = emergency_stop(root, reason="full")
    is_stopped(root, venue)
    outcome = stopped.outcome()
    assert (outcome.status, outcome.verification) == (Status.WARNING, "verified")
    assert stopped.seq is None and stopped.waiting is None and "could not be kept elsewhere" in outcome.summary
    assert sum("the disk" in p or "too large" in p for p in stopped.problems) >= 2, stopped.problems


def test_with_the_desk_stopped_in_its_tracks(root: Path, venue: RunningVenue, tmp_path: Path) -> None:
    """A desk that is frozen, stopped, and thawed sends nothing any more."""
    said = tmp_path / "desk.log"
    with said.open("w") as out:
        desk = subprocess.Popen([sys.executable, str(Path(__file__).with_name("desk_at_venue.py")), str(root)], stdout=out,
                                stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: "loop-5 accepted" in said.read_text(), "the desk trades", 60)
        os.kill(desk.pid, signal.SIGSTOP)
        stopped = emergency_stop(root, reason="frozen desk")
        assert not check(root / ".gpt-trader") and venue.floor.account().blocked and venue.floor.open_orders() == []
        assert stopped.outcome().verification == "verified" and all(b.stopped for b in stopped.brokers)
        before = {e.client_order_id for e in venue.floor.events() if e.kind == "accepted"}
        os.kill(desk.pid, signal.SIGCONT)
        wait_until(lambda: said.read_text().count("HALTED") >= 5, "the desk finds that it is halted", 60)
        assert {e.client_order_id for e in venue.floor.events() if e.kind == "accepted"} == before, "it sent after it was stopped"
    finally:
        os.kill(desk.pid, signal.SIGCONT)
        desk.kill()
        desk.wait(30)


def test_from_the_halt_to_the_last_order(root: Path, venue: RunningVenue, tmp_path: Path) -> None:
    """A desk that runs is stopped by removing a file: what it had begun arrives, and nothing after it."""
    said = tmp_path / "desk.log"
    with said.open("w") as out:
        desk = subprocess.Popen([sys.executable, str(Path(__file__).with_name("desk_at_venue.py")), str(root)], stdout=out,
                                stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: "loop-20 accepted" in said.read_text(), "the desk trades", 60)
        called = time.time()
        (root / ".gpt-trader" / "trading.permit").unlink()
        wait_until(lambda: said.read_text().count("HALTED") >= 5, "the desk finds that it is halted", 60)
        lines = said.read_text().splitlines()
        last = max(float(line.split()[2]) for line in lines if " accepted " in line)
        halted = next(i for i, line in enumerate(lines) if line.startswith("HALTED"))
        assert not any(" accepted " in line for line in lines[halted:])
        print(f"the last order was taken {(last - called) * 1000:+.1f} ms after the permit was removed")
    finally:
        desk.kill()
        desk.wait(30)


def test_with_the_venue_answering_500(root: Path, venue: RunningVenue) -> None:
    """For ten seconds. Not known while it lasts, and said so; verified once the venue answers."""
    venue.faults({"kind": "error", "status": 500})
    stopped = emergency_stop(root, reason="first try", patience=1)
    outcome = stopped.outcome()
    assert not check(root / ".gpt-trader") and (outcome.status, outcome.verification) == (Status.UNKNOWN, "unknown")
    assert [b.stopped for b in stopped.brokers] == [None] and "not known" in outcome.summary and stopped.seq is not None
    mended = threading.Timer(10, venue.mend)
    mended.start()
    try:
        again = emergency_stop(root, reason="second try", patience=60)
    finally:
        mended.join()
    is_stopped(root, venue)
    assert (again.outcome().status, again.outcome().verification) == (Status.OK, "verified")


def test_the_command_acts_and_leaves_its_evidence(root: Path, venue: RunningVenue) -> None:
    program = [str(Path(sys.executable).with_name("gpt-trader")), "--workspace", str(root), "emergency-stop"]
    dry = subprocess.run([*program, "--json"], capture_output=True, text=True, timeout=120)
    assert dry.returncode == 1 and check(root / ".gpt-trader") and len(json.loads(dry.stdout)["figures"]["planned"]) == 4
    done = subprocess.run([*program, "--confirm", "--reason", "drill", "--json"], capture_output=True, text=True, timeout=240)
    is_stopped(root, venue)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["verification"] == "verified"
    first = done.stderr.splitlines()[0]
    assert first == "trading is halted: there is no permit", "the permit goes first"
    report = Path(next(line for line in done.stderr.splitlines() if line.strip().endswith("report.html")).strip())
    assert "rest-1" not in report.read_text() and "alpaca" in report.read_text(), "by then no order was open any more"

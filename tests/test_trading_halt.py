"""Halting takes the permit away before anything else, whatever state the databases are in, and nothing is sent from then on."""
import json
import sqlite3
import stat
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gpt_trader.cli.main import run_cli
from gpt_trader.core.approval import DryRun
from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.outcome import UsageError
from gpt_trader.core.workspace import Workspace
from gpt_trader.trading.broker import OrderRequest
from gpt_trader.trading.execution import Executor
from gpt_trader.trading.halt import Halt, halt, permit_state, resume
from gpt_trader.trading.paper import PaperBroker
from gpt_trader.trading.permit import PERMIT_NAME, check
from gpt_trader.trading.sending import TradingHalted

START, DAY = datetime(2013, 3, 1, 13, tzinfo=UTC), date(2013, 3, 1)


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.create(tmp_path / "desk", SimulatedClock(START)) as ws:
        resume(ws, reason="checked", actor="dana", execute=True)
        yield ws


def order(n: int) -> OrderRequest:
    return OrderRequest(f"20130301-{n}", "AAPL", "buy", Decimal(10))


def test_after_a_halt_the_desk_sends_nothing_and_after_a_resumption_it_does(ws: Workspace) -> None:
    broker = PaperBroker(ws, ws.instruments, ws.config.app.broker.paper, ws.clock, calendar=ws.calendar)
    desk = Executor(ws, broker)
    assert desk.place(order(1), session=DAY).status == "accepted"
    done = halt(ws, reason="quotes look stale", actor="ann")
    assert done.changed and done.working == 1 and done.outcome().verification == "verified"
    assert "1 orders may still" in done.outcome().summary
    with pytest.raises(TradingHalted):
        desk.place(order(2), session=DAY)
    assert [o.client_order_id for o in broker.open_orders()] == ["20130301-1"], "a halt cancels nothing, and says so"
    assert isinstance(resume(ws, reason="feed is back", actor="bob", execute=True), Halt)
    assert desk.place(order(3), session=DAY).status == "accepted"
    broker.close()
    acts = [(e.kind, e.actor) for e in ws.journal.entries() if e.kind.startswith(("permit.", "approval."))]
    assert acts == [("approval.granted", "dana"), ("permit.granted", "dana"), ("permit.revoked", "ann"), ("approval.granted", "bob"),
                    ("permit.granted", "bob")]


def test_the_permit_goes_before_a_locked_store_answers(ws: Workspace) -> None:
    other = sqlite3.connect(ws.state_dir / "state.db", check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(1.0, other.rollback)
    gone: list[tuple[bool, bool]] = []
    release.start()
    done = halt(ws.root, reason="now", actor="ann", told=lambda now: gone.append((bool(now), other.in_transaction)))
    release.join()
    assert gone == [(False, True)], "told while the store was still locked"
    assert done.seq is not None and done.problem is None and not check(ws.state_dir)


def test_a_full_disk_keeps_nobody_from_halting(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*a: Any, **k: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ws.journal, "append", full)
    done = halt(ws, reason="now")
    assert not check(ws.state_dir) and done.changed and "No space left" in str(done.problem) and done.outcome().status == "warning"
    with pytest.raises(OSError):
        resume(ws, reason="too early", execute=True)
    assert not check(ws.state_dir), "a permit that cannot be journalled does not stand"


def test_halting_again_changes_nothing(ws: Workspace) -> None:
    first, again = halt(ws, reason="a", actor="ann"), halt(ws, reason="b", actor="bob")
    assert first.seq and not again.changed and again.seq is None
    state = permit_state(ws)
    assert state is not None and "halted by ann" in state.message


def test_resuming_is_a_dry_run_until_it_is_asked_for_and_needs_a_reason(ws: Workspace) -> None:
    halt(ws)
    assert isinstance(resume(ws, reason="fine", execute=False), DryRun) and not check(ws.state_dir)
    refused = resume(ws, reason="fine", execute=True, confirm=lambda text: False)
    assert isinstance(refused, DryRun) and not check(ws.state_dir) and ws.journal.last("approval.refused") is not None
    with pytest.raises(UsageError, match="needs a reason"):
        resume(ws, reason="  ", execute=True)


def test_on_the_command_line(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--workspace", str(ws.root)]
    assert run_cli(["halt", "--reason", "quotes look stale", *where, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["verification"] == "verified" and said["figures"]["changed"] and not check(ws.state_dir)
    assert run_cli(["halt", *where]) == 0 and "trading is halted" in capsys.readouterr().err
    assert run_cli(["resume", "--reason", "back", *where]) == 0 and not check(ws.state_dir)
    assert run_cli(["resume", *where, "--execute"]) == 64 and "needs a reason" in capsys.readouterr().err
    assert run_cli(["resume", "--reason", "back", "--execute", *where]) == 0 and check(ws.state_dir)
    ws.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]
    (ws.state_dir / "workspace.json").write_text("damaged")
    assert run_cli(["halt", "--reason", "all is broken", *where]) == 1 and not check(ws.state_dir)


def test_a_permit_that_cannot_be_removed_is_said_to_stand(ws: Workspace, capsys: pytest.CaptureFixture[str],
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "unlink", refuse)
    assert run_cli(["halt", "--workspace", str(ws.root)]) == 74
    assert "could not be removed" in capsys.readouterr().err and check(ws.state_dir)
    assert (ws.state_dir / PERMIT_NAME).stat().st_mode & stat.S_IRUSR

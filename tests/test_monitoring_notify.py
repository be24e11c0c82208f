"""Notifications against a webhook on this machine: what arrives, what is claimed, what is kept."""
import json
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.metrics import record_metric
from gpt_trader.core.workspace import Workspace
from gpt_trader.monitoring.alerts import evaluate
from gpt_trader.monitoring.health import health
from gpt_trader.monitoring.notify import notify, notify_transitions, outbox, outbox_file

SECRET = "correct-horse-battery"


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, str]]]:
    heard: list[dict[str, str]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PAGER", f"json://desk:{SECRET}@127.0.0.1:{server.server_port}/")
        yield heard
        server.shutdown()


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.create(tmp_path / "desk", SimulatedClock(datetime(2013, 3, 1, 21, 5, tzinfo=UTC))) as found:
        (found.config_dir / "config.yaml").write_text("notify:\n  channels:\n    pager: {url: env:PAGER, minimum: P2}\n")
        yield found


def test_an_alert_is_told_once_and_its_end_too(ws: Workspace, hook: list[dict[str, str]]) -> None:
    record_metric(ws, "portfolio_var", 60_000)
    told = evaluate(ws)
    assert [d.status for d in notify_transitions(ws, told)] == ["delivered"] and notify_transitions(ws, told) == []
    ws.clock.advance(timedelta(days=1))  # type: ignore[attr-defined]
    record_metric(ws, "portfolio_var", 10_000)
    assert len(notify_transitions(ws, evaluate(ws))) == 1
    assert [m["title"].split(":")[0] for m in hook] == ["FIRING P2", "RESOLVED P2"] and "60,000" in hook[0]["message"]
    assert ws.journal.check_projections() == []


def test_a_dead_server_is_a_failure_and_the_secret_stays_hidden(ws: Workspace, monkeypatch: pytest.MonkeyPatch,
                                                                capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        free = s.getsockname()[1]
    monkeypatch.setenv("PAGER", f"json://desk:{SECRET}@127.0.0.1:{free}/")
    sent = notify(ws, "Trading halted", f"the password is password={SECRET}", severity="P1")
    assert sent.status == "failed" and {r.name: r.status for r in sent.results}["pager"] == "failed"
    entry = ws.journal.get(sent.seq)
    assert entry is not None
    kept = outbox_file(ws).read_text() + json.dumps(entry.body) + "".join(r.detail for r in sent.results) + "".join(capfd.readouterr())
    assert SECRET not in kept and outbox(ws)[0]["results"] is not None


def test_nobody_is_said_to_have_been_told(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAGER", raising=False)
    (ws.config_dir / "config.yaml").unlink()
    sent = notify(ws, "Trading halted", "by hand", severity="P1")
    assert sent.status == "outbox only" and {r.status for r in sent.results} == {"no channel configured"}


def test_health_survives_a_check_that_breaks(ws: Workspace) -> None:
    (ws.data_dir / "daily").mkdir(parents=True)
    (ws.data_dir / "daily" / "manifest.json").write_text("{broken")
    found = health(ws, full=True, seconds=0.05)
    rows = {c.name: c for c in found.checks}
    assert rows["data"].status == "unknown" and "could not be checked" in rows["data"].answer
    assert rows["journal"].status == "ok" and found.outcome().status in ("unknown", "critical")


def test_health_sees_a_chain_that_was_changed(ws: Workspace) -> None:
    connection = ws.store.db.conn
    connection.execute("DROP TRIGGER journal_is_append_only_update")
    connection.execute("UPDATE journal SET actor = 'nobody' WHERE seq = 1")
    connection.commit()
    found = health(ws, full=True, seconds=0.05)
    assert {c.name: c.status for c in found.checks}["journal"] == "critical" and found.outcome().exit_code == 2

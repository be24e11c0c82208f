"""A workspace of the past holds exactly what the workspace held then, in every table, whatever happened since."""
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_trader.core.asof import PastError, moment_of
from gpt_trader.core.clock import SimulatedClock, parse_utc, utc_text
from gpt_trader.core.metrics import latest_metric, record_metric
from gpt_trader.core.outcome import UsageError
from gpt_trader.core.workspace import Workspace
from gpt_trader.monitoring.silences import expire, silence, silences
from gpt_trader.trading.halt import halt, note_permit, permit_state, resume
from gpt_trader.trading.permit import grant, revoke

START = datetime(2013, 3, 1, 15, tzinfo=UTC)


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.create(tmp_path / "desk", SimulatedClock(START)) as ws:
        yield ws


def everything(ws: Workspace) -> dict[str, Any]:
    """All rows of all tables, the chain's head, and what the clock and the permit say."""
    found: dict[str, Any] = {"head": ws.journal.head(), "now": ws.clock.now(), "permit": permit_state(ws)}
    for table in (t for p in ws.journal.projections for t in p.tables):
        found[table] = ws.store.rows(f"SELECT * FROM [{table}] ORDER BY 1, 2")
    for table in ("metrics", "predictions", "runs"):
        found[table] = ws.telemetry.rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3")
    found["journal"] = ws.store.rows("SELECT * FROM journal ORDER BY seq")
    return found


def _run(ws: Workspace, name: str, stage: int) -> None:
    "A run as the runner records it, in three steps that may lie apart."
    if stage == 0:
        body = {"name": name, "mutates": False, "execute": False, "parameters": {}}
        ws.journal.append("procedure.started", body, subject=name)
    elif stage == 1:
        ws.journal.append("procedure.recorded", {"folder": name, "notebook_sha256": "", "seconds": 1.0}, subject=name)
        with ws.telemetry.transaction() as db:
            db.execute("INSERT OR REPLACE INTO runs VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
                       [name, name, name, "appendix", utc_text(START), 1.0, "ok", 0, "fine", "{}", None, name])


def act(ws: Workspace, what: str, n: int) -> None:
    """One thing that a desk may do."""
    if what == "measure":
        record_metric(ws, "portfolio_var", float(n) if n else None, {"head": "a"} if n % 2 else {})
    elif what == "predict":
        with ws.telemetry.transaction() as db:
            db.execute("INSERT OR IGNORE INTO predictions VALUES (?, 'A', 'h', 'v', .6, 1, NULL, 1, NULL, ?, NULL, 'f', 'served')",
                       [f"2013-03-{n + 1:02}", utc_text(ws.clock.now())])
    elif what == "settle":
        with ws.telemetry.transaction() as db:
            db.execute("UPDATE predictions SET label = 1, settled_at = ? WHERE session = ? AND label IS NULL",
                       [utc_text(ws.clock.now()), f"2013-03-{n + 1:02}"])
    elif what == "silence":
        silence(ws, ["rule=portfolio_var"], comment="known", duration=timedelta(minutes=n + 1))
    elif what == "expire" and (there := silences(ws, "active")):
        expire(ws, there[0].id)
    elif what == "permit":
        halt(ws, reason=f"{n}") if n % 2 else resume(ws, reason=f"{n}", execute=True)
    elif what == "start":
        _run(ws, f"run{n}", 0)
    elif what == "finish":
        _run(ws, f"run{n}", 1)


NAMES = ["measure", "predict", "settle", "silence", "expire", "permit", "start", "finish"]


@settings(max_examples=8, deadline=None)
@given(acts=st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 3), st.integers(1, 90)), min_size=4, max_size=10))
def test_the_past_is_what_the_present_was(tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, int, int]]) -> None:
    with Workspace.create(tmp_path_factory.mktemp("desk"), SimulatedClock(START)) as ws:
        note_permit(ws)
        halt(ws)  # from here on the record knows of the permit
        seen = {ws.clock.now(): everything(ws)}
        for what, n, seconds in acts:
            ws.clock.advance(timedelta(seconds=seconds))  # type: ignore[attr-defined]
            act(ws, what, n)
            seen[ws.clock.now()] = everything(ws)
        head = ws.journal.head()
        for moment, then in seen.items():
            with ws.as_of(moment) as past:
                assert everything(past) == then
                assert past.journal.verify().ok and past.journal.check_projections() == []
            with ws.as_of(moment + timedelta(microseconds=1) if moment < ws.clock.now() else moment) as past:
                assert everything(past) | {"now": moment} == then, "nothing happened in between"
        assert ws.journal.head() == head


def test_a_run_is_there_once_it_is_recorded(ws: Workspace) -> None:
    moments = []
    for stage in (0, 1):
        ws.clock.advance(timedelta(minutes=10))  # type: ignore[attr-defined]
        _run(ws, "long", stage)
        moments.append(ws.clock.now())
    for moment, rows in ((moments[0], 0), (moments[1] - timedelta(seconds=1), 0), (moments[1], 1)):
        with ws.as_of(moment) as past:
            assert len(past.telemetry.rows("SELECT * FROM runs")) == rows


def test_the_past_stands_while_the_present_goes_on(ws: Workspace) -> None:
    """Opened once, it does not change: neither by later entries nor by entries of the same moment."""
    record_metric(ws, "equity", 1.0)
    with ws.as_of(START) as past:
        before = everything(past)
        silence(ws, ["rule=portfolio_var"], comment="at this very moment", duration=timedelta(hours=1))
        halt(ws, reason="too")
        ws.clock.advance(timedelta(seconds=1))  # type: ignore[attr-defined]
        record_metric(ws, "equity", 2.0)
        assert everything(past) == before
        last = latest_metric(past, "equity")
        assert last is not None and last.value == 1.0


def test_many_threads_may_read_it(ws: Workspace) -> None:
    record_metric(ws, "equity", 1.0)
    with ws.as_of(START) as past:
        wrong: list[Any] = []

        def read() -> None:
            try:
                for _ in range(20):
                    assert everything(past)["metrics"][0]["value"] == 1.0
            except Exception as e:
                wrong.append(e)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not wrong


def test_a_permit_that_nobody_recorded_is_not_known(ws: Workspace) -> None:
    grant(ws.state_dir, actor="eve", reason="by hand", at=ws.clock.now())
    with ws.as_of(START) as past:
        assert permit_state(past) is None and permit_state(ws)
    ws.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]
    note_permit(ws)
    with ws.as_of(ws.clock.now()) as past:
        assert permit_state(past) == permit_state(ws)
    revoke(ws.state_dir)
    ws.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]
    with ws.as_of(ws.clock.now()) as past:
        assert permit_state(past), "removed by hand: the record does not know yet, and says what it knows"
    assert note_permit(ws) is not None


@pytest.mark.parametrize("text, moment", [
    ("2013-02-20", "2013-02-20T23:59:59.999999Z"), ("2013-02-20T21:05:00Z", "2013-02-20T21:05:00Z"),
    ("20130220", "2013-02-20T23:59:59.999999Z"),
    (" 2013-02-20 16:05-05:00 ", "2013-02-20T21:05:00Z"), ("2013-03-01", utc_text(START))])
def test_a_moment_as_people_write_it(text: str, moment: str) -> None:
    assert moment_of(text, START) == parse_utc(moment)


@pytest.mark.parametrize("text", ["", "yesterday", "2013-13-01", "2013-02-30T10:00:00Z", "20/02/2013"])
def test_what_is_no_moment_says_so(ws: Workspace, text: str) -> None:
    with pytest.raises(UsageError, match="not a moment"):
        ws.as_of(text)


@pytest.mark.parametrize("text, said", [("2013-02-28", "there was no workspace"), ("2013-03-02", "not come yet")])
def test_outside_of_its_life_there_is_nothing(ws: Workspace, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ws.as_of(text)


def test_round_the_gate_sqlite_itself_refuses(ws: Workspace) -> None:
    record_metric(ws, "equity", 1.0)
    with ws.as_of(START) as past:
        acts = ((past.store, "DELETE FROM silences"), (past.store, "DELETE FROM live.journal"), (past.store, "DROP TABLE approvals"),
                (past.telemetry, "DELETE FROM main.metrics"), (past.telemetry, "UPDATE runs SET name = ''"))
        for store, sql in acts:
            with pytest.raises(Exception, match="read-?only"):
                store.db.conn.execute(sql)
        with pytest.raises(PastError), past.store.transaction():
            pass
    assert json.dumps(ws.telemetry.rows("SELECT value FROM metrics")) == '[{"value": 1.0}]'

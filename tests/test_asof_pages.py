"""A page, and every reading function, of a past moment equals what it showed when that moment was the present."""
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
from asof_recorder import Record, differences, record

from gpt_trader.core.asof import PastError
from gpt_trader.core.clock import SimulatedClock, parse_utc
from gpt_trader.core.metrics import record_metric
from gpt_trader.core.outcome import UsageError
from gpt_trader.core.workspace import Workspace
from gpt_trader.dashboards.pages import PAGES
from gpt_trader.dataflow.ingestion import ingest
from gpt_trader.dataflow.providers import EmbeddedProvider
from gpt_trader.live.market import Market
from gpt_trader.live.replay import replay
from gpt_trader.ml.registry import train_and_register
from gpt_trader.monitoring.alerts import acknowledge, evaluate, open_alerts
from gpt_trader.monitoring.notify import notify_transitions
from gpt_trader.monitoring.silences import expire, silence
from gpt_trader.ops.backup import create_backup
from gpt_trader.runbook.engine import run_procedure
from gpt_trader.runbook.responder import respond
from gpt_trader.trading.halt import halt, resume

SESSIONS, RECORDED = 6, (1, 2, 4, 5)  # after which of them
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def live(root: Path) -> tuple[Workspace, dict[datetime, Record]]:
    """A desk that lives through some sessions, and what it shows at several moments of them."""
    ws = Workspace.create(root, SimulatedClock(parse_utc("2013-01-01T00:00:00Z")))
    ingest(ws, EmbeddedProvider(), ws.config.app.desk.universe)
    market, head = Market.load(ws), next(iter(ws.config.models.heads))
    train_and_register(ws, market.adjusted, head, end=market.sessions()[-SESSIONS - 1].isoformat())
    resume(ws, reason="the test's replay", execute=True)
    seen, made, day = {ws.clock.now(): record(ws)}, [], 0  # type: dict[datetime, Record], list[str], int

    def after(session: date) -> None:
        nonlocal day
        day += 1
        record_metric(ws, "memory_usage_percent", 40.0 + day)
        notify_transitions(ws, evaluate(ws, session=session.isoformat()))
        _eventful(ws, day, made)
        respond(ws, playbooks=False, reports=False)
        if day in RECORDED:
            seen[ws.clock.now()] = record(ws)
        if day == 2:  # without the permit the next session would end in TradingHalted
            ws.simulate(ws.clock.now() + timedelta(hours=1))
            resume(ws, reason="all is well", actor="bob", execute=True)

    replay(ws, SESSIONS, after)
    return ws, seen


def _eventful(ws: Workspace, day: int, made: list[str]) -> None:
    "Something of everything that a page shows."
    if day == 2:
        record_metric(ws, "portfolio_var", 60_000)
        notify_transitions(ws, evaluate(ws))
        acknowledge(ws, open_alerts(ws)[0]["alert_id"], actor="ann", note="looking")
        made.append(silence(ws, ["rule=portfolio_var"], comment="known", duration=timedelta(days=30), author="ann").id)
        halt(ws, reason="looking at the alert", actor="ann")
    elif day == 3:
        create_backup(ws)
    elif day == 4:
        expire(ws, made[0], actor="bob")
        run_procedure(ws, "list_positions")


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workspace, dict[datetime, Record]]]:
    ws, seen = live(tmp_path_factory.mktemp("desk") / "desk")
    yield ws, seen
    ws.close()


def test_every_reading_and_every_page_of_the_past_is_as_it_was(lived: tuple[Workspace, dict[datetime, Record]]) -> None:
    ws, seen = lived
    assert len(seen) == 5
    wrong = []
    for moment, then in seen.items():
        with ws.as_of(moment) as past:
            wrong += [f"{moment:%d %b %H:%M} {line}" for line in differences(then, record(past))]
    if wrong:
        pytest.fail(f"{len(wrong)} differences:\n" + "\n".join(wrong[:60]), pytrace=False)
    drawn = [f"{page.name}: {target.partition(':')[2]}" for page in PAGES.values() for target in page.panels]
    assert all(name in then and "could not be shown" not in str(then[name]) for then in seen.values() for name in drawn)
    changing = {name for name in drawn if len({str(then[name]) for then in seen.values()}) > 1}
    assert {name.partition(":")[0] for name in changing} == set(PAGES), "each page showed something else as time went by"


def test_nothing_can_be_written_into_the_past(lived: tuple[Workspace, dict[datetime, Record]], tmp_path: Path) -> None:
    ws, seen = lived
    head, files = ws.journal.head(), {p: p.stat().st_mtime_ns for p in ws.root.rglob("*") if p.is_file() and "-" not in p.suffix}
    with ws.as_of(sorted(seen)[2]) as past:
        fired = open_alerts(past)
        acts = [lambda: past.journal.append("journal.rebuilt", {}), past.journal.rebuild, lambda: record_metric(past, "equity", 1.0),
                lambda: evaluate(past), lambda: silence(past, ["rule=portfolio_var"], comment="x", duration=timedelta(hours=1)),
                lambda: halt(past), lambda: resume(past, reason="x", execute=True), lambda: run_procedure(past, "list_positions"),
                lambda: create_backup(past), lambda: ingest(past, EmbeddedProvider(), ["AAPL"]), lambda: replay(past, 1),
                lambda: past.simulate(ws.clock.now()), lambda: past.clock.advance(timedelta(1)),
                *([lambda: acknowledge(past, fired[0]["alert_id"], actor="eve")] if fired else [])]
        for act in acts:
            with pytest.raises(PastError, match="the past cannot be changed"):
                act()
    assert ws.journal.head() == head
    assert {p: p.stat().st_mtime_ns for p in ws.root.rglob("*") if p.is_file() and "-" not in p.suffix} == files


def test_there_is_no_past_before_the_beginning_and_none_after_now(lived: tuple[Workspace, dict[datetime, Record]]) -> None:
    ws, seen = lived
    second = timedelta(seconds=1)
    for moment, said in ((min(seen) - second, "there was no workspace"), (ws.clock.now() + second, "not come yet")):
        with pytest.raises(UsageError, match=said):
            ws.as_of(moment)

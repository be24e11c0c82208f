"""The panels of the trading, risk and model pages: their values are the procedures', empty desks and past moments are shown as they are."""
import json
import math

import pytest

from gpt_trader.core.clock import SimulatedClock, parse_utc
from gpt_trader.core.outcome import Status
from gpt_trader.core.workspace import Workspace
from gpt_trader.dashboards import model, risk, trading
from gpt_trader.dashboards.pages import PAGES, draw_page
from gpt_trader.dashboards.panel import Panel, Table, Tiles
from gpt_trader.dataflow.ingestion import ingest
from gpt_trader.dataflow.providers import EmbeddedProvider
from gpt_trader.live.replay import replay
from gpt_trader.live.session import session_rows
from gpt_trader.ml.prediction import store_predictions
from gpt_trader.runbook.engine import run_procedure
from gpt_trader.trading.permit import grant, revoke

MINE = ("trading", "risk", "model")


def tiles(panel: Panel) -> dict[str, object]:
    return {t.label: t.value for part in panel.parts if isinstance(part, Tiles) for t in part.items}


def table(panel: Panel, name: str = "") -> Table:
    return next(p for p in panel.parts if isinstance(p, Table) and name in ("", p.id))


def scalars(panel: Panel) -> None:
    """Whatever a panel holds is JSON, without NaN."""
    json.dumps(panel.to_json(), allow_nan=False)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Five replayed sessions, and forty predictions of which the first 36 have settled."""
    with Workspace.create(tmp_path_factory.mktemp("d") / "desk", SimulatedClock(parse_utc("2013-01-01T00:00:00Z"))) as ws:
        ingest(ws, EmbeddedProvider())
        grant(ws.state_dir, actor="test", reason="a book", at=ws.clock.now())
        replay(ws, 5)
        days = [r["session"] for r in session_rows(ws.store)]
        import pandas as pd

        frame = pd.DataFrame([(d, s) for d in days for s in ("AAPL", "GOOG", "IBM", "MSFT")], columns=["session", "symbol"])
        frame = frame.assign(head="range_expansion", model_version="by-hand", naive=1, majority=0, features_hash="-",
                             probability=[0.3 + 0.02 * i for i in range(len(frame))])
        frame["predicted"] = (frame["probability"] >= 0.5).astype(int)
        store_predictions(ws, frame)
        with ws.telemetry.transaction() as db:
            for i, day in enumerate(days[:4]):
                db.execute("UPDATE predictions SET label = ?, settled_at = ? WHERE session = ?", [i % 2, f"{day}T21:05:00.000000Z", day])
        yield ws


@pytest.fixture(scope="module")
def said(desk):
    """What the procedures say of the same desk."""
    names = ("list_positions", "calculate_risk_metrics", "check_model_performance", "run_stress_test")
    return {name: run_procedure(desk, name, {}).outcome for name in names}


def test_an_empty_workspace_has_pages_without_errors(tmp_path):
    with Workspace.create(tmp_path / "new", SimulatedClock(parse_utc("2013-01-01T00:00:00Z"))) as ws:
        for page in MINE:
            for panel in draw_page(ws, page):
                scalars(panel)
                assert "could not be shown" not in panel.text() and panel.html() and panel.status in (None, Status.WARNING), panel.text()
        ingest(ws, EmbeddedProvider())  # data, and no session yet
        for page in MINE:
            for panel in draw_page(ws, page):
                scalars(panel)
                assert "could not be shown" not in panel.text(), panel.text()
        assert table(trading.positions(ws)).rows == [] and tiles(risk.summary(ws))["VaR, USD"] == 0.0


def test_each_panel_of_a_page_has_its_own_name(desk):
    for page in MINE:
        drawn = draw_page(desk, page)
        assert [p.name for p in drawn] == [t.partition(":")[2] for t in PAGES[page].panels]
        for panel in drawn:
            scalars(panel)
            assert "could not be shown" not in panel.text()
            assert all(len(f.alt) > 30 and any(c.isdigit() for c in f.alt) for f in panel.figures()), "a figure says its main numbers"


def test_positions_are_those_of_the_procedure(desk, said):
    figures = said["list_positions"].figures
    assert [{k: v for k, v in r.items() if k != "_id"} for r in table(trading.positions(desk)).rows] == figures["positions"]
    shown = tiles(trading.summary(desk))
    assert (shown["Equity, USD"], shown["Cash, USD"]) == (figures["equity"], figures["cash"])
    assert shown["Gross exposure"] == figures["gross"] / figures["equity"] and shown["Trading permit"] == "granted"
    last = session_rows(desk.store)[-1]
    assert shown["Newest session, USD"] == float(last["pnl"]) and shown["Equity, USD"] == float(last["equity"])


def test_risk_is_that_of_the_procedure(desk, said):
    figures = said["calculate_risk_metrics"].figures
    shown = tiles(risk.summary(desk))
    assert (shown["VaR, USD"], shown["Expected shortfall, USD"], shown["Drawdown"]) == tuple(
        figures[k] for k in ("var", "expected_shortfall", "drawdown"))
    rows = {r["_id"]: r for r in table(risk.limits(desk)).rows}
    assert {k: (r["used"], r["status"]) for k, r in rows.items()} == {
        k: (None if v["value"] is None else v["value"] / v["allowed"], v["status"]) for k, v in figures["limits"].items()}
    assert {r["symbol"]: r["var"] for r in table(risk.exposure(desk)).rows} == figures["component_var"]
    assert risk.summary(desk).status == said["calculate_risk_metrics"].status


def test_stress_is_that_of_the_procedure(desk, said):
    scenarios = said["run_stress_test"].figures["scenarios"]
    rows = {r["_id"]: r for r in table(risk.stress(desk), "stress").rows}
    assert scenarios and {k: rows[k]["total"] for k in scenarios} == {k: v["total"] for k, v in scenarios.items()}
    assert set(scenarios) == {"current", "correlation_one", "wildest_volatility"} < set(rows)


def test_accuracy_is_that_of_the_procedure(desk, said):
    figures = said["check_model_performance"].figures
    row = table(model.accuracy(desk)).rows[0]
    assert figures["n"] == 16
    assert [row[k] for k in ("n", "accuracy", "majority", "naive")] == [figures[k] for k in ("n", "accuracy", "majority", "naive")]
    drawn = model.accuracy(desk)
    assert "too few" in drawn.text() and drawn.status == said["check_model_performance"].status == Status.UNKNOWN
    assert "not known yet" in model.calibration(desk).text(), "16 outcomes do not say whether 60 % means 60 %"
    waiting = [r for r in table(model.predictions(desk)).rows if r["outcome"]["text"] == "waits"]
    assert len(waiting) == 4


def test_orders_fills_and_refusals_are_all_there(desk):
    def count(sql: str) -> int:
        return desk.store.rows(sql)[0]["n"]

    assert len(table(trading.orders(desk), "recent-orders").rows) == count("SELECT count(*) AS n FROM orders WHERE status != 'refused'")
    rows = table(trading.fills(desk)).rows
    assert len(rows) == count("SELECT count(*) AS n FROM fills") and all(r["reference"] for r in rows)
    for r in rows:
        worse = (r["price"] - r["reference"]) * (1 if r["side"] == "buy" else -1)
        assert math.isclose(r["cost"], worse * r["quantity"], abs_tol=1e-6)
    refused = count("SELECT count(*) AS n FROM orders WHERE status = 'refused'")
    assert (max((r["orders"] for r in table(trading.refusals(desk)).rows), default=0) > 0) == (refused > 0)


def test_a_past_moment_shows_what_was_drawn_then(tmp_path):
    with Workspace.create(tmp_path / "desk", SimulatedClock(parse_utc("2013-01-01T00:00:00Z"))) as ws:
        ingest(ws, EmbeddedProvider())
        grant(ws.state_dir, actor="test", reason="a book", at=ws.clock.now())
        recorded: list[tuple] = []

        def draw() -> dict:
            return {(page, p.name): p for page in MINE for p in draw_page(ws, page)}

        replay(ws, 4, after_session=lambda day: recorded.append((ws.clock.now(), draw())))
        moment, then = recorded[1]
        now = draw()
        past = ws.as_of(moment)
        try:
            again = {(page, p.name): p for page in MINE for p in draw_page(past, page)}
        finally:
            past.close()
    assert [k for k in then if again[k].digest() != then[k].digest()] == []
    assert now["trading", "equity"].digest() != then["trading", "equity"].digest()


def test_a_removed_permit_and_a_broken_limit_are_seen(desk, tmp_path):
    import shutil

    with Workspace.open(shutil.copytree(desk.root, tmp_path / "desk")) as ws:
        revoke(ws.state_dir)
        (ws.config_dir / "risk.yaml").write_text("limits:\n  max_var: 1000\nstress:\n  max_loss: 0.01\n")
        with Workspace.open(ws.root) as other:
            assert tiles(trading.summary(other))["Trading permit"] == "removed" and trading.summary(other).status == Status.WARNING
            assert risk.limits(other).status == risk.summary(other).status == Status.CRITICAL
            assert risk.stress(other).status == Status.WARNING


def test_a_damaged_model_is_said_where_it_is_shown(desk, monkeypatch):
    from gpt_trader.core.outcome import StorageError

    def gone(*args: object) -> None:
        raise StorageError("walk_forward.parquet is not what was registered", where="models", mend="restore it from a backup")

    monkeypatch.setattr(model, "_walk_forward", gone)
    drawn = model.calibration(desk)
    assert drawn.status == Status.CRITICAL and "not what was registered" in drawn.text()

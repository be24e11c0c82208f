"""The risk procedures: what the library says, what the executed notebooks say, and that both are recomputed, not repeated."""
import json
import shutil
from decimal import Decimal as D

import pytest

from gpt_trader.core.outcome import Status, UsageError
from gpt_trader.core.workspace import Workspace
from gpt_trader.live.market import Market
from gpt_trader.live.riskview import positions_outcome, risk_outcome, risk_view
from gpt_trader.risk.measures import historical_var, scenario_pnl, scenario_returns
from gpt_trader.runbook.engine import run_procedure


@pytest.fixture
def ws(book_desk, tmp_path):
    with Workspace.open(shutil.copytree(book_desk, tmp_path / "desk")) as ws:
        yield ws


def test_var_is_that_of_the_held_shares(ws):
    view = risk_view(ws)
    market = Market.load(ws)
    closes = market.closes(view.session)
    rows = ws.store.rows("SELECT * FROM positions WHERE quantity <> '0'")
    held = {row["symbol"]: float(D(row["quantity"]) * closes[row["symbol"]]) for row in rows}
    pnl = scenario_pnl(held, scenario_returns(market.through(view.session), window=500)).sum(axis=1)
    assert view.report.var == pytest.approx(historical_var(pnl, 0.95))
    assert risk_view(ws, confidence=0.99).report.var == pytest.approx(historical_var(pnl, 0.99))
    assert risk_view(ws, window=120).report.scenarios == 120


def test_a_tightened_limit_turns_the_verdict(ws):
    before = risk_outcome(risk_view(ws))
    (ws.config_dir / "risk.yaml").write_text("limits:\n  max_var: 1000\n  max_position_weight: 0.001\n")
    with Workspace.open(ws.root) as other:
        after = risk_outcome(risk_view(other))
    assert before.status == Status.OK and before.recommended == ()
    assert after.status == Status.CRITICAL and after.recommended == ("list_positions",)
    assert after.figures["limits"]["max_var"]["status"] == "critical" and "max_position_weight" in after.summary


@pytest.mark.parametrize(("by", "column", "falling"), [("risk", "var", True), ("value", "value", True), ("pnl", "unrealised", False)])
def test_the_order_of_positions(ws, by, column, falling):
    figures = positions_outcome(risk_view(ws), by).figures["positions"]
    values = [row[column] for row in figures]
    assert len(values) > 1 and values == sorted(values, reverse=falling)


def test_an_unknown_order_names_the_nearest(ws):
    with pytest.raises(UsageError, match="Did you mean 'value'"):
        risk_view(ws).sorted("valeu")


def test_the_procedures_run_as_notebooks(ws):
    risk, listed = run_procedure(ws, "calculate-risk-metrics"), run_procedure(ws, "list_positions", {"sort_by": "pnl"})
    view = risk_view(ws)
    assert risk.error is None and risk.outcome.figures["var"] == pytest.approx(view.report.var) and risk.report.exists()
    assert listed.error is None and listed.outcome.figures["positions"][0]["symbol"] == view.sorted("pnl")["symbol"].iloc[0]
    assert json.loads(json.dumps(risk.to_json()))["status"] == "ok"
    with pytest.raises(UsageError, match="sort_by"):
        run_procedure(ws, "list_positions", {"sort_by": "rsik"})


def test_wrong_parameters_are_refused_by_the_notebook(ws):
    run = run_procedure(ws, "calculate_risk_metrics", {"confidence": 1.5})
    assert run.exit_code == 64 and "confidence" in str(run.error)

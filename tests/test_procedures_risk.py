"""The chapter Risk Limit Breach, rehearsed: a book that breaks its VaR limit, each resolution run as a notebook, the playbook to its end.

The desk has lived until 26 February 2013; the limit is then set below its VaR. Orders wait for the next session's open, which a test may
let happen.
"""
import os
import shutil
from decimal import Decimal as D

import pandas as pd
import pytest
from desk_harness import LAST

from gpt_trader.core.config import load_config
from gpt_trader.core.outcome import UsageError
from gpt_trader.core.workspace import Workspace
from gpt_trader.live.acting import decide, survey
from gpt_trader.live.market import Market
from gpt_trader.live.replay import replay
from gpt_trader.live.riskview import risk_view
from gpt_trader.live.session import last_session
from gpt_trader.risk.measures import historical_var, scenario_pnl, scenario_returns
from gpt_trader.runbook.engine import run_procedure
from gpt_trader.trading.brokers import open_broker
from gpt_trader.trading.permit import revoke

pytestmark = pytest.mark.usefixtures("warm_engine")
LIMIT = 30_000
BREACH = f"limits:\n  max_var: {LIMIT}\n  max_expected_shortfall: 60000\n"
MAY_ACT = "approvals:\n  procedures:\n    reduce_positions: none\n    close_high_risk_positions: none\n"


@pytest.fixture
def root(book_desk, tmp_path):
    copy = shutil.copytree(book_desk, tmp_path / "desk")
    (copy / "config" / "risk.yaml").write_text(BREACH)
    return copy


@pytest.fixture
def ws(root):
    with Workspace.open(root) as ws:
        yield ws


def var_of(ws, quantities, session=LAST):
    """VaR of these shares, worked out from prices alone."""
    market = Market.load(ws)
    day = pd.Timestamp(session).date()
    values = {s: float(q * market.closes(day)[s]) for s, q in quantities.items() if q}
    return historical_var(scenario_pnl(values, scenario_returns(market.through(day), window=500)).sum(axis=1), 0.95) if values else 0.0


def at_broker(ws):
    broker = open_broker(ws)
    return {s: p.quantity for s, p in broker.positions().items()}, broker.open_orders()


def expected(ws):
    """What the broker will hold once its open orders are filled."""
    held, orders = at_broker(ws)
    for o in orders:
        held[o.symbol] = held.get(o.symbol, D(0)) + (o.quantity if o.side == "buy" else -o.quantity)
    return {s: q for s, q in held.items() if q}


def test_a_dry_run_shows_the_plan_and_its_effect_and_sends_nothing(ws):
    before = ws.journal.head().seq
    run = run_procedure(ws, "reduce-positions")
    figures = run.outcome.figures
    assert run.error is None and run.status == "warning" and figures["dry_run"] and run.outcome.verification is None
    assert figures["limits"]["max_var"]["before"] == pytest.approx(var_of(ws, at_broker(ws)[0]))
    assert 0.94 * LIMIT < figures["limits"]["max_var"]["then"] <= 0.95 * LIMIT
    assert at_broker(ws)[1] == [] and len(figures["planned"]) == 2
    kinds = {e.kind for e in ws.journal.entries() if e.seq > before}
    assert kinds == {"procedure.started", "procedure.finished", "procedure.recorded"}


def test_reduced_positions_keep_the_limit_once_the_orders_are_filled(ws):
    run = run_procedure(ws, "reduce_positions", {"execute": True})
    assert run.error is None and (run.status, run.outcome.verification) == ("warning", "verified")
    figures = run.outcome.figures
    assert not figures["aim_met_now"] and figures["aim_met_then"] and {o["what"] for o in figures["orders"]} == {"working"}
    assert figures["limits"]["max_var"]["then"] == pytest.approx(var_of(ws, expected(ws)))
    meta = [e.body["meta"] for e in ws.journal.entries(kind="order.created") if e.correlation_id == run.run_id]
    assert meta and all(m["procedure"] == "reduce_positions" and m["run"] == run.run_id for m in meta)
    assert [r["granted"] for r in ws.store.rows("SELECT granted FROM approvals WHERE act = 'reduce_positions'")] == [1]
    wanted = expected(ws)
    replay(ws, 3)
    with Workspace.open(ws.root) as now:
        filled = now.store.rows("SELECT status FROM orders WHERE client_order_id LIKE '%-reduce'")
        view = risk_view(now)
    assert {r["status"] for r in filled} == {"filled"} and view.report.var <= LIMIT and wanted
    assert "order" in run.report.read_text()


def test_a_fraction_of_one_position(ws):
    held = at_broker(ws)[0]["IBM"]
    asked = {"symbols": ["IBM"], "fraction": 0.25, "collar": 0.02, "execute": True}
    run = run_procedure(ws, "reduce_positions", asked)
    [order] = at_broker(ws)[1]
    assert run.error is None and order.quantity == held - (held * 3 // 4) and order.type == "limit"
    assert run.outcome.verification == "verified"
    with pytest.raises(UsageError, match="Did you mean 'IBM'"):
        from gpt_trader.live.acting import survey
        from gpt_trader.live.resolutions import reduce
        reduce(survey(ws), ["IBN"])


def test_the_riskiest_position_is_closed(ws):
    parts = risk_view(ws).report.component_var
    run = run_procedure(ws, "close_high_risk_positions", {"execute": True})
    figures = run.outcome.figures
    closed = {o["symbol"] for o in figures["orders"]}
    assert run.error is None and max(parts, key=parts.get) in closed and not closed & set(expected(ws))
    assert (run.status, run.outcome.verification) == ("warning", "verified") and var_of(ws, expected(ws)) <= LIMIT


def test_without_a_permit_the_act_is_critical_and_nothing_is_at_the_broker(ws):
    revoke(ws.state_dir)
    run = run_procedure(ws, "close_high_risk_positions", {"symbols": ["IBM"], "execute": True})
    assert run.error is None and (run.status, run.outcome.verification) == ("critical", "verified")
    assert "permit" in run.outcome.summary and at_broker(ws)[1] == []
    assert {o["what"] for o in run.outcome.figures["orders"]} == {"not sent"}


def test_flatten_closes_the_whole_book_within_the_collar(ws):
    held = at_broker(ws)[0]
    dry = run_procedure(ws, "flatten_positions")
    assert dry.error is None and dry.status == "warning" and at_broker(ws)[1] == []
    run = run_procedure(ws, "flatten_positions", {"collar": 0.08, "execute": True})
    assert run.error is None and (run.status, run.outcome.verification) == ("warning", "verified"), run.outcome.summary
    closes = Market.load(ws).closes(pd.Timestamp(LAST).date())
    orders = at_broker(ws)[1]
    assert expected(ws) == {} and {o.symbol for o in orders} == set(held)
    for o in orders:
        assert o.type == "limit" and o.side == "sell" and closes[o.symbol] * D("0.92") <= o.limit_price <= closes[o.symbol] * D("0.9201")
    again = run_procedure(ws, "flatten_positions", {"execute": True})
    assert again.error is None and len(at_broker(ws)[1]) == len(orders), "what is on its way is not sent again"
    replay(ws, 1)
    with Workspace.open(ws.root) as now:
        filled = now.store.rows("SELECT symbol, status FROM orders WHERE client_order_id LIKE '%-flat'")
    assert {r["symbol"] for r in filled} == set(held) and {r["status"] for r in filled} == {"filled"}


@pytest.mark.parametrize(("policy", "asked", "sent"), [("false", False, 0), ("false", True, 0), ("true", False, 0), ("true", True, 1)])
def test_exits_leave_under_a_halt_only_where_the_policy_and_the_call_say_so(root, policy, asked, sent):
    (root / "config" / "risk.yaml").write_text(f"limits:\n  exits_under_halt: {policy}\n")
    with Workspace.open(root) as ws:
        revoke(ws.state_dir)
        run = run_procedure(ws, "flatten_positions", {"symbols": ["IBM"], "under_halt": asked, "execute": True})
        assert len(at_broker(ws)[1]) == sent
        assert (run.exit_code == 64) == (asked and policy == "false")
        if sent:
            assert (run.status, run.outcome.verification) == ("warning", "verified"), run.outcome.summary
        elif not asked:
            assert (run.status, run.outcome.verification) == ("critical", "verified"), run.outcome.summary


def test_a_book_that_cannot_be_hedged_says_so(ws):
    run = run_procedure(ws, "increase_hedging", {"execute": True})
    assert run.error is None and run.status == "critical" and "permits none" in run.outcome.summary
    assert run.outcome.recommended == ("reduce_positions", "close_high_risk_positions") and at_broker(ws)[1] == []


def test_a_hedge_keeps_the_limit_where_short_selling_is_allowed(root):
    limits = "limits:\n  max_var: 34000\n  allow_short: true\n"
    (root / "config" / "risk.yaml").write_text(limits + "resolution:\n  hedge_instruments: [AAPL, MSFT]\n")
    (root / "config" / "config.yaml").write_text("broker:\n  paper:\n    allow_shorting: true\n")
    with Workspace.open(root) as ws:
        assert var_of(ws, at_broker(ws)[0]) > 34_000
        run = run_procedure(ws, "increase_hedging", {"execute": True})
        figures = run.outcome.figures
        assert run.error is None and (run.status, run.outcome.verification) == ("warning", "verified")
        assert figures["aim_met_then"] and {(o["side"], o["what"]) for o in figures["orders"]} == {("sell", "working")}
        hedged = expected(ws)
        assert min(hedged.values()) < 0 and var_of(ws, hedged) == pytest.approx(figures["limits"]["max_var"]["then"])
        assert var_of(ws, hedged) <= 0.95 * 34_000


def test_sizes_follow_the_desks_rule_within_the_limits(ws):
    run = run_procedure(ws, "adjust_position_sizes", {"execute": True})
    assert run.error is None and (run.status, run.outcome.verification) == ("warning", "verified")
    assert run.outcome.figures["aim_met_then"] and var_of(ws, expected(ws)) <= 0.95 * LIMIT
    assert {o["side"] for o in run.outcome.figures["orders"]} == {"sell"}, "the book never grows"


def by(actor):
    """Who runs what follows."""
    os.environ["GPT_TRADER_ACTOR"] = actor


@pytest.fixture
def actors(monkeypatch):
    monkeypatch.setenv("GPT_TRADER_ACTOR", "anna")
    return by


def change(root, **params):
    with Workspace.open(root) as ws:
        run = run_procedure(ws, "adjust_risk_parameters", {"key": "limits.max_var", "reason": "test", **params})
    assert run.error is None
    return run


def test_a_limit_is_tightened_by_one_person_and_kept_with_its_past(root, actors):
    file = root / "config" / "risk.yaml"
    dry = change(root, value="25000")
    assert dry.status == "ok" and file.read_text() == BREACH
    done = change(root, value="25000", execute=True)
    assert (done.status, done.outcome.verification) == ("ok", "verified") and load_config(root / "config").risk.limits.max_var == 25_000
    assert file.read_text() == BREACH.replace("30000", "25000") and (root / done.outcome.figures["kept_at"]).read_text() == BREACH
    with Workspace.open(root) as ws:
        [row] = ws.store.rows("SELECT key, old, new, looser, actor FROM parameter_changes")
        assert row == {"key": "limits.max_var", "old": "30000.0", "new": "25000.0", "looser": 0, "actor": "anna"}
        assert ws.journal.verify().ok and ws.journal.check_projections() == []


def test_a_limit_is_loosened_by_two_people_only(root, actors):
    first, same = change(root, value="45000", execute=True), change(root, value="45000", execute=True)
    for run in (first, same):
        assert (run.status, run.outcome.verification) == ("warning", "verified") and "a second person" in run.outcome.summary
    actors("bert")
    other = change(root, value="60000", execute=True)
    assert other.status == "warning" and (root / "config" / "risk.yaml").read_text() == BREACH, "another value is another decision"
    done = change(root, value="45_000", execute=True)
    assert done.status == "ok" and done.outcome.figures["first_approval_by"] == "anna"
    assert load_config(root / "config").risk.limits.max_var == 45_000


def test_a_value_that_the_desk_would_not_read_is_refused_and_the_file_stays(root):
    with Workspace.open(root) as ws:
        run = run_procedure(ws, "adjust_risk_parameters", {"key": "limits.max_var", "value": "-5", "reason": "test", "execute": True})
    assert run.error is not None and run.exit_code == 64 and (root / "config" / "risk.yaml").read_text() == BREACH


@pytest.mark.slow
def test_the_playbook_proposes_with_the_expected_effect_where_a_person_is_to_decide(ws):
    run = run_procedure(ws, "risk_limit_breach")
    figures = run.outcome.figures
    assert run.error is None and not figures["carried_out"] and at_broker(ws)[1] == []
    share = max(p["share_of_var"] for p in risk_view(ws).positions.to_dict("records"))
    assert figures["procedure"] == ("close_high_risk_positions" if share > 0.5 else "reduce_positions")
    assert run.outcome.recommended[0] == figures["procedure"] and figures["aim_met_then"]
    steps = ["calculate_risk_metrics", "list_positions", "check_correlations", "run_stress_test"]
    assert [d["procedure"] for d in figures["diagnosis"]] == steps
    assert "Dry run" in run.outcome.summary and "Expected" in run.outcome.summary


@pytest.mark.slow
def test_the_playbook_acts_where_the_policy_lets_it_and_says_that_it_is_under_way(root):
    (root / "config" / "config.yaml").write_text(MAY_ACT)
    with Workspace.open(root) as ws:
        run = run_procedure(ws, "risk_limit_breach")
        figures = run.outcome.figures
        assert run.error is None and figures["carried_out"] and not figures["escalated"]
        assert (run.status, run.outcome.verification) == ("warning", "verified") and "under way" in run.outcome.summary
        assert var_of(ws, expected(ws)) <= LIMIT and figures["checked_again"]["status"] in ("warning", "critical")
        again = run_procedure(ws, "risk_limit_breach")
        assert len(at_broker(ws)[1]) == len(figures["steps"]) and again.error is None, "nothing is sent a second time"


@pytest.mark.slow
def test_the_playbook_calls_people_where_its_act_did_not_help(root):
    (root / "config" / "config.yaml").write_text(MAY_ACT)
    with Workspace.open(root) as ws:
        revoke(ws.state_dir)
        run = run_procedure(ws, "risk_limit_breach")
        assert run.error is None and run.status == "critical" and run.outcome.figures["escalated"]
        assert "Escalated" in run.outcome.summary
        assert at_broker(ws)[1] == [] and len(ws.store.rows("SELECT 1 FROM procedures WHERE name = 'send_alert'")) == 1


def test_the_diagnosis_asks_the_reverse_question_and_for_a_break(ws):
    asked = run_procedure(ws, "run_stress_test", {"scenario": "reverse", "loss": 200_000.0})
    figures = asked.outcome.figures
    assert asked.error is None and "standard deviations" in asked.outcome.summary
    assert sum(figures["pnl"].values()) == pytest.approx(-200_000)
    current = run_procedure(ws, "run_stress_test")
    further = current.outcome.figures["reverse"]["distance"]
    assert current.error is None and further > figures["distance"], "a quarter of equity is further away"
    found = run_procedure(ws, "check_correlations")
    assert found.error is None and 0 < found.outcome.figures["break_p"] <= 1


def test_resuming_after_a_drawdown_stop_lets_it_count_anew_where_that_is_asked(root):
    with Workspace.open(root) as ws:
        fall = last_session(ws.store)["drawdown"]
        assert fall > 0
        (ws.config_dir / "risk.yaml").write_text(f"limits:\n  max_drawdown: {fall / 2}\n")
        revoke(ws.state_dir)

    def refused(ws):
        plan = decide(survey(ws), {"AAPL": D(5)}, label="new")
        assert plan.orders or plan.refused
        return {r.limit for o in plan.refused for r in o.refusals}

    def resume(ws, **params):
        run = run_procedure(ws, "resume_trading", {"reason": "the feed was mended", **params})
        assert run.error is None, run.error
        return run.outcome

    with Workspace.open(root) as ws:
        assert "max_drawdown" in refused(ws)
        halfway = resume(ws, execute=True)
        assert halfway.status == "warning" and "only those that reduce" in halfway.summary and "max_drawdown" in refused(ws)
        head = [e.seq for e in ws.journal.entries(kind="drawdown.reset")]
        dry = resume(ws, reset_peak=True)
        assert any("count drawdowns from" in step for step in dry.figures["planned"]) and dry.figures["drawdown"] == pytest.approx(fall)
        assert head == [] == list(ws.journal.entries(kind="drawdown.reset")) and "max_drawdown" in refused(ws)
        done = resume(ws, reset_peak=True, execute=True)
        assert (done.status, done.verification, done.figures["drawdown"]) == ("ok", "verified", 0.0), done.summary
        entry = ws.journal.last("drawdown.reset")
        assert entry.body["reason"] == "the feed was mended" and entry.body["drawdown"] == pytest.approx(fall)
        assert [e.body["act"] for e in ws.journal.entries(kind="approval.granted") if e.seq < entry.seq][-1] == "reset_drawdown"
        assert "max_drawdown" not in refused(ws) and ws.journal.check_projections() == []

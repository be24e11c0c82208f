"""From targets to orders at the broker: what is planned, what is sent, what the broker says; nothing twice, nothing believed."""
import shutil
from dataclasses import replace
from decimal import Decimal as D

import pytest

from gpt_trader.core.clock import parse_utc
from gpt_trader.core.outcome import Status, StorageError
from gpt_trader.core.workspace import Workspace
from gpt_trader.live.acting import decide, survey
from gpt_trader.live.placing import act, follow, orders_outcome, verify
from gpt_trader.live.replay import replay
from gpt_trader.risk.pretrade import check_order
from gpt_trader.trading.broker import BrokerTimeout, OrderRequest
from gpt_trader.trading.permit import revoke


@pytest.fixture
def ws(book_desk, tmp_path):
    with Workspace.open(shutil.copytree(book_desk, tmp_path / "desk")) as ws:
        yield ws


class Silent:
    """A broker of which some questions are not answered."""

    def __init__(self, broker, *silent):
        self.broker, self.silent = broker, silent

    def __getattr__(self, name):
        if name in self.silent:
            def nothing(*args, **kwargs):
                raise BrokerTimeout(f"no answer to {name}")
            return nothing
        return getattr(self.broker, name)


def orders_at(ws):
    return {o.client_order_id: o for o in survey(ws).broker.open_orders()}


def test_what_is_planned_is_what_the_broker_gets_and_what_is_filled(ws):
    ground = survey(ws)
    held = ground.held
    plan = decide(ground, {s: D(0) for s in held}, label="flat")
    assert not orders_at(ws) and not ws.store.rows("SELECT 1 FROM orders WHERE status = 'accepted'"), "a plan sends nothing"
    acted = act(ground, plan, meta={"why": "test"})
    checked = verify(ground, acted)
    assert checked.state == "verified" and {r.what for r in acted.results} == {"working"}
    sent = orders_at(ws)
    assert {s: sum(o.quantity for o in sent.values() if o.symbol == s) for s in held} == held
    assert set(sent) == {o.request.client_order_id for o in plan.orders} == {r["order"] for r in checked.rows}
    replay(ws, 3)
    later = follow(ground, acted.results)
    assert {r.what for r in later} == {"filled"} and {s: sum(r.filled for r in later if r.symbol == s) for s in held} == held


def test_the_desk_leaves_a_symbol_alone_whose_orders_work(ws):
    ground = survey(ws)
    act(ground, decide(ground, {"IBM": D(0)}, label="out"), meta={})
    replay(ws, 3)
    planned = [e.body for e in ws.journal.entries(kind="session.planned") if e.session == "2013-02-27"][0]
    assert planned["skipped"]["IBM"] == "orders for it are working already" and all(o["symbol"] != "IBM" for o in planned["orders"])


def test_orders_keep_to_the_largest_size_and_exits_to_a_number_of_them(ws):
    ground = survey(ws)
    limits = ground.checks.limits
    plan = decide(ground, {"GOOG": D(0)}, label="x")
    assert len(plan.orders) > 1 and all(o.notional <= limits.max_order_notional for o in plan.orders)
    ground.checks.__dict__["limits"] = replace(limits, max_order_notional=D(1000), max_open_orders=5)
    few = decide(ground, {"GOOG": D(0)}, label="x")
    assert len(few.orders) == 5 and sum(o.request.quantity for o in few.orders) == ground.held["GOOG"]


def test_a_share_of_the_volume_spreads_an_exit_over_sessions(ws):
    ground = survey(ws)
    volume = ground.market.reference_volumes(ground.session)["IBM"]
    plan = decide(ground, {"IBM": D(0)}, label="x", participation=0.0005)
    sold = sum(o.request.quantity for o in plan.orders)
    assert sold == D(int(0.0005 * volume)) and f"{ground.held['IBM'] - sold} more are left for later sessions" in plan.skipped["IBM"]


def test_a_collar_is_a_limit_price_within_it_in_whole_ticks(ws):
    ground = survey(ws)
    close = ground.prices["IBM"]
    sell, = {o.request.limit_price for o in decide(ground, {"IBM": D(0)}, label="x", collar=D("0.013")).orders}
    assert close * D("0.987") <= sell < close * D("0.987") + D("0.01") and sell % D("0.01") == 0


def test_what_works_already_counts_and_what_works_against_goes_first(ws):
    ground = survey(ws)
    held = ground.held["IBM"]
    first = act(ground, decide(ground, {"IBM": held // 2}, label="half"), meta={})
    assert decide(survey(ws), {"IBM": held // 2}, label="again").empty
    more = decide(survey(ws), {"IBM": D(0)}, label="rest")
    assert sum(o.request.quantity for o in more.orders) == held // 2 and not more.cancels and "IBM" not in more.then
    back = survey(ws)
    plan = decide(back, {"IBM": held}, label="back")
    assert {r["client_order_id"] for r in plan.cancels} == {r.client_order_id for r in first.results} and not plan.orders
    done = act(back, plan, meta={"why": "the cut is called off"})
    assert {r.what for r in done.cancelled} == {"cancelled"} and not orders_at(ws) and verify(back, done).state == "verified"


def test_the_same_run_sends_nothing_twice_and_another_plan_on_the_old_book_nothing_at_all(ws):
    ground = survey(ws)
    plan = decide(ground, {"IBM": D(0)}, label="once")
    act(ground, plan, meta={})
    before = orders_at(ws)
    again = act(ground, plan, meta={})
    assert orders_at(ws) == before and verify(ground, again).state == "verified"
    stale = act(ground, decide(ground, {"GOOG": D(0)}, label="stale"), meta={})
    assert not stale.results and "other orders are working now" in stale.problem and orders_at(ws) == before


def test_two_acts_do_not_go_on_at_once(ws):
    ground = survey(ws)
    plan = decide(ground, {"IBM": D(0)}, label="x")
    with Workspace.open(ws.root) as other, other.lock("acting"), pytest.raises(StorageError, match="in use"):
        act(replace(ground, ws=ws), plan, meta={})
    assert not orders_at(ws)


def test_without_a_permit_nothing_is_sent_and_the_broker_confirms_it(ws):
    ground = survey(ws)
    plan = decide(ground, {s: D(0) for s in ground.held}, label="halted")
    revoke(ws.state_dir)
    acted = act(ground, plan, meta={})
    checked = verify(ground, acted)
    assert {r.what for r in acted.results} == {"not sent"} and "permit" in acted.problem and checked.state == "verified"
    assert {r["broker"] for r in checked.rows} == {"has never seen it"} and not orders_at(ws)
    assert orders_outcome(plan, acted, checked, aim="flat", now=False, then=False, figures={}).status == Status.CRITICAL


def test_limits_hold_whoever_places_the_order(ws):
    ground = survey(ws)
    plan = decide(ground, {"MSFT": D(200_000)}, label="big")
    assert not plan.orders and {"max_var", "max_position_weight"} & {r.limit for o in plan.refused for r in o.refusals}
    forced = replace(plan, orders=plan.refused[:1], refused=())
    acted = act(ground, forced, meta={})
    checked = verify(ground, acted)
    assert {r.what for r in acted.results} == {"refused"} and all(r.limit for r in acted.results)
    assert checked.state == "verified" and not orders_at(ws), "the executor asks the same checks again"


def test_the_checks_are_the_desks_own(ws):
    from gpt_trader.live.session import last_session
    from gpt_trader.trading.checks import Beside, limits_book

    ground = survey(ws)
    order = OrderRequest("x", "IBM", "buy", D(50_000))
    context = ground.executor.context(ground.session, ground.prices)
    last, volumes = last_session(ws.store), ground.market.reference_volumes(ground.session)
    beside = Beside(volumes, ground.checks.scenarios(ground.session), D(last["pnl"]), last["drawdown"])
    shown = limits_book(context, beside)
    assert ground.checks(order, context) == check_order(order, shown, ground.checks.limits, ws.instruments) != []


def test_a_broker_that_does_not_answer_leaves_it_unknown(ws):
    ground = survey(ws)
    plan = decide(ground, {"IBM": ground.held["IBM"] // 2}, label="silent")
    acted = act(ground, plan, meta={})
    deaf = replace(ground, broker=Silent(ground.broker, "order"))
    assert verify(deaf, acted).state == "unknown" and verify(deaf, acted).positions is None
    outcome = orders_outcome(plan, acted, verify(deaf, acted), aim="half", now=None, then=None, figures={})
    assert outcome.status == Status.UNKNOWN and outcome.verification == "unknown"


def test_a_send_that_times_out_is_unknown_until_the_broker_says(ws):
    ground = survey(ws)
    plan = decide(ground, {"IBM": ground.held["IBM"] - 100}, label="lost")
    dumb = Silent(ground.broker, "submit", "order")
    ground.executor.broker = dumb
    acted = act(ground, plan, meta={})
    assert [r.what for r in acted.results] == ["unknown"]
    assert verify(ground, acted).state == "unknown"
    assert "not known: reconcile first" in decide(survey(ws), {"IBM": D(0)}, label="next").skipped["IBM"]


def test_a_lie_is_refuted(ws):
    ground = survey(ws)
    acted = act(ground, decide(ground, {"IBM": ground.held["IBM"] // 2}, label="lie"), meta={})
    lie = replace(acted, results=tuple(replace(r, what="filled", filled=r.quantity) for r in acted.results))
    checked = verify(ground, lie)
    assert checked.state == "refuted" and "is filled with" in checked.findings[0] and "working with 0 there" in checked.findings[0]
    moved = replace(acted, before=acted.before | {"GOOG": D(7)})
    assert "its fills make 7" in verify(ground, moved).findings[0]


def test_old_prices_stop_what_opens_and_not_what_reduces(ws):
    ws.clock.set(parse_utc("2013-03-20T20:30:00Z"))
    ground = survey(ws)
    assert ground.marked.isoformat() == "2013-03-01" and ground.session.isoformat() == "2013-03-21" and ground.age == 13
    plan = decide(ground, {"IBM": D(0), "GOOG": ground.held["GOOG"] + 100}, label="old")
    assert "13 sessions old" in plan.skipped["GOOG"] and {o.request.symbol for o in plan.orders} == {"IBM"}

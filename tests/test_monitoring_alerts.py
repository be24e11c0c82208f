"""Alert rules: written-down series for the packaged rules, and what holds for every series."""
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.config import load_config
from gpt_trader.core.metrics import record_metric
from gpt_trader.core.workspace import Workspace
from gpt_trader.monitoring.alerts import evaluate, open_alerts, rules_of
from gpt_trader.monitoring.rules import AlertState, Instance, Rule, Sample, check_series, fingerprint, step

START = datetime(2013, 3, 1, 21, 5, tzinfo=UTC)

# What the packaged rules must say, in the manner of promtool's rule tests. interval: seconds between two evaluations.
SERIES = [
    {"name": "VaR at its limit is right, above it fires, far above raises it", "rule": "portfolio_var", "interval": 86400,
     "values": "49000 50000 50001 74999 75001 60000 50000", "states": "okx1 firingx3 resolved", "told": "fired raised resolved"},
    {"name": "VaR that nobody measures becomes undefined after five days", "rule": "portfolio_var", "interval": 86400,
     "values": "40000 _x5", "states": "okx5 undefined", "told": "undefined"},
    {"name": "VaR recorded without a value", "rule": "portfolio_var", "interval": 86400,
     "values": "none nan 40000", "states": "undefinedx1 ok", "told": "undefined defined"},
    {"name": "accuracy fires only when its whole interval is below", "rule": "model_accuracy", "interval": 86400, "width": 0.03,
     "values": "0.58 0.53 0.519 0.469", "states": "okx1 firingx1", "told": "fired raised"},
    {"name": "accuracy without an interval says nothing", "rule": "model_accuracy", "interval": 86400,
     "values": "0.30", "states": "undefined", "told": "undefined"},
    {"name": "a minute of 86 % memory starts the playbook", "rule": "memory_usage", "interval": 60,
     "values": "70 86 86 70", "states": "ok pending firing resolved", "told": "pending fired resolved"},
    {"name": "a short peak of the processor is no alert", "rule": "cpu_usage", "interval": 60,
     "values": "30 99x4 30 99x5", "states": "ok pendingx4 ok pendingx4 firing", "told": "pending cleared pending fired"},
    {"name": "one failed order is enough, five are critical", "rule": "order_execution", "interval": 86400,
     "values": "0 1 5 0", "states": "ok firingx1 resolved", "told": "fired raised resolved"},
    {"name": "latency is of no matter while nothing is served", "rule": "api_latency", "interval": 60,
     "values": "_ none 20", "states": "okx2", "told": ""},
]


@pytest.fixture(scope="module")
def rules() -> dict[str, Rule]:
    return rules_of(load_config(None, etc="/nonexistent", user="/nonexistent"))


def test_packaged_rules_say_what_the_runbook_says(rules: dict[str, Rule]) -> None:
    assert check_series(SERIES, rules) == []


def test_a_wrong_expectation_fails(rules: dict[str, Rule]) -> None:
    wrong = [{"name": "n", "rule": "portfolio_var", "values": "60000", "states": "ok"}]
    assert check_series(wrong, rules) == ["n: expected ok, got firing"]


def test_thresholds_carry_the_line_of_their_number(rules: dict[str, Rule]) -> None:
    file, line = rules["portfolio_var"].sources["threshold"].rsplit(":", 1)
    assert file.endswith("risk.yaml") and "max_var" in Path(file).read_text().splitlines()[int(line) - 1]


SAMPLES = st.lists(st.one_of(st.floats(0, 120, allow_nan=False), st.just(float("nan")), st.none(), st.just("gap")), max_size=40)


@settings(max_examples=300, deadline=None)
@given(values=SAMPLES, hold=st.integers(0, 4), clear=st.sampled_from([None, 60.0, 80.0]), missing=st.sampled_from(["undefined", "ignore"]))
def test_what_holds_for_every_series(values: list[object], hold: int, clear: float | None, missing: str) -> None:
    rule = Rule("r", "m", "above", 80, critical=90, hold=timedelta(minutes=hold), clear=clear, stale_after=timedelta(minutes=2),
                missing=missing)
    before, sample, told = Instance(), None, []
    for i, value in enumerate(values):
        now = START + timedelta(minutes=i)
        sample = sample if value == "gap" else Sample(value, now)  # type: ignore[arg-type]
        after, transition = step(rule, before, sample, now)
        again, repeated = step(rule, after, sample, now)
        assert repeated is None and again == after, "a second look at the same measurement tells nothing new"
        assert (transition is None) == (after == before), "nothing changes in silence"
        right = isinstance(value, float) and value <= (clear if clear is not None else 80)
        assert not (right and after.state in (AlertState.FIRING, AlertState.PENDING)), "what is right does not fire"
        unknown = sample is None or value is None or value != value
        assert not (unknown and after.state in (AlertState.OK, AlertState.RESOLVED) and missing == "undefined"), "unknown is never ok"
        told += [transition] if transition else []
        before = after
    episodes = [t for t in told if t in ("fired", "resolved")]
    assert all(a != b for a, b in zip(episodes, episodes[1:], strict=False)), "fired and resolved take turns"
    assert told.count("raised") <= told.count("fired")


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.create(tmp_path / "desk", SimulatedClock(START)) as found:
        yield found


def test_a_restart_keeps_the_timer(ws: Workspace) -> None:
    for minute in range(3):
        record_metric(ws, "memory_usage_percent", 86)
        told = [t.kind for t in evaluate(ws) if t.rule == "memory_usage"]
        assert told == [["alert.pending"], ["alert.fired"], []][minute]
        ws.clock.advance(timedelta(minutes=1))  # type: ignore[attr-defined]
        ws.close()
        ws.__dict__.pop("config", None)


def test_sixty_distinct_alerts_are_sixty(ws: Workspace) -> None:
    for host in range(60):
        record_metric(ws, "orders_failed", 9, {"host": f"h{host}"})
    fired = [t for t in evaluate(ws) if t.kind == "alert.fired"]
    assert len({t.fingerprint for t in fired}) == 60 and all(t.severity == "P1" for t in fired)
    assert [t for t in evaluate(ws) if t.kind == "alert.fired"] == []
    assert len(open_alerts(ws)) == 60 and ws.journal.check_projections() == []


def test_fingerprints_know_no_order_of_labels() -> None:
    assert fingerprint("r", {"a": "1", "b": "2"}) == fingerprint("r", {"b": "2", "a": "1"}) != fingerprint("r", {"a": "2", "b": "1"})


def test_the_tables_of_an_evening_are_rebuilt_as_of_then(ws: Workspace) -> None:
    record_metric(ws, "daily_loss", 80_000)
    evaluate(ws)
    noon = ws.clock.now()
    ws.clock.advance(timedelta(days=1))  # type: ignore[attr-defined]
    record_metric(ws, "daily_loss", 0)
    evaluate(ws)
    past = ws.journal.as_of(noon)
    assert past.rows("SELECT state FROM alerts WHERE rule = 'daily_loss'") == [{"state": "firing"}]
    assert ws.store.rows("SELECT state FROM alerts WHERE rule = 'daily_loss'") == [{"state": "resolved"}]
    past.close()

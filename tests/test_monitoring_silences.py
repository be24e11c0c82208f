"""Silences: an alert that is silenced goes on being judged and journalled, tells nobody, and speaks up when the silence ends."""
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gpt_trader.core.clock import SimulatedClock, parse_utc
from gpt_trader.core.metrics import record_metric
from gpt_trader.core.outcome import UsageError
from gpt_trader.core.workspace import Workspace
from gpt_trader.monitoring.alerts import acknowledge, evaluate, open_alerts
from gpt_trader.monitoring.notify import notify_transitions, outbox
from gpt_trader.monitoring.silences import Matcher, expire, labels_of, silence, silenced_by, silences
from gpt_trader.runbook.responder import take_on, untaken

START = datetime(2013, 3, 1, 15, tzinfo=UTC)
RULES = """
stale_after: 400d
rules:
  lone: {title: Lone, category: risk, metric: portfolio_var, comparison: above, threshold: 10, critical: 100, severity: P3,
         critical_severity: P2}
"""


def desk(folder: Path, rules: str = "") -> Workspace:
    """A workspace on a simulated clock; the same configuration is read once."""
    ws = Workspace.create(folder, SimulatedClock(START))
    if rules not in CONFIGS:
        (ws.config_dir / "alerts.yaml").write_text(rules or (ws.config_dir / "alerts.yaml").read_text())
        CONFIGS[rules] = ws.config
    ws.__dict__["config"] = CONFIGS[rules]
    return ws


CONFIGS: dict[str, Any] = {}


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    with desk(tmp_path / "desk") as ws:
        yield ws


def step(ws: Workspace, value: float, minutes: int = 10) -> list[str]:
    """Measure, judge, tell; the titles that people heard."""
    ws.clock.advance(timedelta(minutes=minutes))  # type: ignore[attr-defined]
    record_metric(ws, "portfolio_var", value)
    return [d.title for d in notify_transitions(ws, evaluate(ws))]


def statuses(ws: Workspace) -> list[str]:
    """What became of each message, oldest first."""
    return [r["status"] for r in ws.store.rows("SELECT status FROM notifications ORDER BY seq")]


def test_a_silenced_alert_is_journalled_and_tells_nobody_until_the_silence_ends(ws: Workspace) -> None:
    made = silence(ws, ["rule=portfolio_var"], comment="rebalancing", duration=timedelta(hours=1), author="ann")
    assert step(ws, 60_000) == []
    fired = [e for e in ws.journal.entries(kind="alert.fired")]
    assert [r["rule"] for r in open_alerts(ws)] == ["portfolio_var"] and len(fired) == 1
    note = ws.journal.last("alert.notification")
    assert note is not None and note.body["status"] == "silenced"
    assert made.id in note.body["reason"] and "ann: rebalancing" in note.body["reason"]
    assert outbox(ws) == [] and untaken(ws) == [] and take_on(ws) == []
    assert step(ws, 61_000) == [] and statuses(ws) == ["silenced"], "the reason is recorded once"
    assert [t.split()[0] for t in step(ws, 61_000, minutes=60)] == ["FIRING"] and statuses(ws)[-1] != "silenced"
    assert [e.seq for e in untaken(ws)] == [fired[0].seq] and len(take_on(ws)) == 1
    assert step(ws, 61_000) == [] and len(outbox(ws)) == 1, "told once"
    assert [t.split()[0] for t in step(ws, 1_000)] == ["RESOLVED"]


def test_what_ends_under_a_silence_stays_quiet(ws: Workspace) -> None:
    silence(ws, ["rule=portfolio_var"], comment="rebalancing", duration=timedelta(hours=1))
    assert step(ws, 60_000) == [] and step(ws, 1_000) == []
    assert step(ws, 1_000, minutes=120) == [] and set(statuses(ws)) == {"silenced"} and untaken(ws) == []


def test_nobody_is_told_of_the_end_of_what_nobody_heard_of(ws: Workspace) -> None:
    made = silence(ws, ["rule=portfolio_var"], comment="rebalancing", duration=timedelta(hours=1))
    assert step(ws, 60_000) == []
    ws.clock.advance(timedelta(minutes=1))  # type: ignore[attr-defined]
    expire(ws, made.id)
    assert step(ws, 1_000) == []
    note = ws.journal.last("alert.notification")
    assert note is not None and "nobody was told that it fired" in note.body["reason"]


def test_an_alert_that_was_told_and_then_silenced_is_not_told_again(ws: Workspace) -> None:
    assert [t.split()[0] for t in step(ws, 60_000)] == ["FIRING"]
    made = silence(ws, ["rule=portfolio_var"], comment="known", duration=timedelta(hours=1))
    expire(ws, made.id)
    assert step(ws, 60_000) == []


def test_a_silence_for_a_lower_severity_does_not_hold_back_a_graver_one(tmp_path: Path) -> None:
    ws = desk(tmp_path / "desk", RULES)
    silence(ws, ["rule=lone", "severity=P3"], comment="noise", duration=timedelta(days=1))
    assert step(ws, 20) == []
    assert [t.split(":")[0] for t in step(ws, 200)] == ["RAISED P2"]


def test_a_silence_can_be_called_off_before_it_begins(ws: Workspace) -> None:
    made = silence(ws, ["rule=portfolio_var"], comment="later", starts_at=START + timedelta(hours=1), duration=timedelta(hours=1))
    assert [t.split()[0] for t in step(ws, 60_000)] == ["FIRING"], "a pending silence holds nothing back"
    expire(ws, made.id, actor="bob")
    assert [s.expired_by for s in silences(ws, "expired")] == ["bob"]
    with pytest.raises(UsageError, match="already, ended by bob"):
        expire(ws, made.id)


def test_acknowledging_is_idempotent_and_names_who_and_when(ws: Workspace) -> None:
    step(ws, 60_000)
    first = acknowledge(ws, "portfolio_var", actor="ann", note="on it")
    again = acknowledge(ws, "portfolio_var", actor="ann", note="still")
    assert again == first, "the same person again is no new act"
    row = open_alerts(ws)[0]
    assert (row["acknowledged_by"], row["acknowledged_at"]) == ("ann", first.at)
    with pytest.raises(UsageError, match="portfolio_var"):
        acknowledge(ws, "portfolio_vra")


TEXTS = st.text(alphabet="ab.\"\\ =~é\n", max_size=6)


@given(name=st.sampled_from(["rule", "head", "x_1"]), operator=st.sampled_from(["=", "!=", "=~", "!~"]), value=TEXTS, label=TEXTS)
@example(name="rule", operator="=", value=' "', label=' "')
def test_a_matcher_reads_back_as_it_was_written(name: str, operator: str, value: str, label: str) -> None:
    try:
        matcher = Matcher(name, operator, value)
    except UsageError:
        return  # not a regular expression
    assert Matcher.parse(str(matcher)) == matcher
    other = Matcher(name, {"=": "!=", "!=": "=", "=~": "!~", "!~": "=~"}[operator], value)
    assert other.matches({name: label}) is not matcher.matches({name: label})


ACTS = st.one_of(
    st.tuples(st.just("measure"), st.sampled_from([1.0, 20.0, 200.0, None])),
    st.tuples(st.just("silence"), st.sampled_from(["rule=lone", "severity=P3", "severity=~P[23]", "metric=~portfolio_.*"]),
              st.integers(0, 3), st.integers(1, 4)),
    st.tuples(st.just("expire"), st.integers(0, 3)),
    st.tuples(st.just("wait"), st.integers(1, 3)))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=st.lists(ACTS, min_size=3, max_size=14))
def test_silences_change_who_hears_and_nothing_else(tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[Any, ...]]) -> None:
    """Against the same days without silences: the alerts are the same; nothing is told while it is silenced, nothing twice, and nothing
    that still fires is kept back once every silence is over."""
    def live(silencing: bool) -> Workspace:
        ws = desk(tmp_path_factory.mktemp("desk"), RULES)
        for act in acts:
            if act[0] == "measure":
                record_metric(ws, "portfolio_var", act[1])
            elif act[0] == "silence" and silencing:
                begins = ws.clock.now() + timedelta(minutes=act[2])
                silence(ws, [act[1], "rule=lone"], comment="known", starts_at=begins, duration=timedelta(minutes=act[3]))
            elif act[0] == "expire" and silencing and (there := silences(ws, "active", "pending")):
                expire(ws, there[act[1] % len(there)].id)
            elif act[0] == "wait":
                ws.clock.advance(timedelta(minutes=act[1]))  # type: ignore[attr-defined]
            changed = evaluate(ws)
            for d in notify_transitions(ws, changed):
                told = ws.journal.get(d.seq)
                about = ws.journal.get(told.body["alert_seq"]) if told else None
                assert about is not None and not silenced_by(ws, {**about.body, "severity": d.severity})
        return ws

    quiet, loud = live(True), live(False)
    try:
        def history(ws: Workspace) -> list[Any]:
            kinds = ("alert.fired", "alert.raised", "alert.resolved", "alert.undefined", "alert.defined")
            return [(e.at, e.kind, e.body) for e in ws.journal.entries(prefix="alert.") if e.kind in kinds]

        assert history(quiet) == history(loud)
        quiet.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]
        notify_transitions(quiet, [])
        assert notify_transitions(quiet, []) == []
        rows = quiet.store.rows("SELECT alert_seq, status FROM notifications")
        told = [r["alert_seq"] for r in rows if r["status"] != "silenced"]
        assert len(told) == len(set(told)), "nothing is told twice"
        for row in open_alerts(quiet):
            assert max(e.seq for kind in ("alert.fired", "alert.raised")
                       for e in quiet.journal.entries(kind=kind, subject=row["fingerprint"])) in told
        assert quiet.journal.check_projections() == []
    finally:
        quiet.close(), loud.close()


def test_the_labels_of_a_row_and_of_an_entry_are_the_same(ws: Workspace) -> None:
    step(ws, 60_000)
    fired, row = ws.journal.last("alert.fired"), open_alerts(ws)[0]
    assert fired is not None and labels_of(fired.body) == labels_of(row) and parse_utc(fired.at) == ws.clock.now()

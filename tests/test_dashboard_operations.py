"""The operations and runs panels: what they say is what the library and the command line say, on any workspace, at any moment."""
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from gpt_trader.cli.main import run_cli
from gpt_trader.core.clock import SimulatedClock, utc_text
from gpt_trader.core.outcome import Outcome, Status, UsageError
from gpt_trader.core.telemetry import record_metric
from gpt_trader.core.workspace import Workspace
from gpt_trader.dashboards import operations, opsacts, opsdata, runacts, runs
from gpt_trader.dashboards.forms import FieldErrors, read_form
from gpt_trader.dashboards.pages import PAGES, draw_page, panel_name
from gpt_trader.monitoring.alerts import evaluate, open_alerts
from gpt_trader.monitoring.health import health
from gpt_trader.monitoring.silences import silences as known_silences
from gpt_trader.runbook.catalogue import catalogue, find
from gpt_trader.runbook.procedure import started_body
from gpt_trader.runbook.responder import take_on

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'
START = datetime(2013, 3, 1, 21, 5, tzinfo=UTC)


@pytest.fixture
def ws(tmp_path):
    with Workspace.create(tmp_path / "desk", SimulatedClock(START)) as made:
        made.journal.actor = "ann"
        yield made


def said(capsys, *words):
    """What a command prints as JSON."""
    capsys.readouterr()
    run_cli(list(words))
    return json.loads(capsys.readouterr().out)


def rows(panel, part=0):
    return {r["_id"]: r for r in panel.parts[part].rows}


def tiles(ws):
    return {t.label: t for t in operations.standing(ws).parts[1].items}


def trouble(ws):
    """Two alerts of different gravity, one of them with labels."""
    record_metric(ws, "portfolio_var", 103_000.0)
    record_metric(ws, "error_rate_percent", 0.7, n=140, labels={"broker": HOSTILE})
    record_metric(ws, "model_accuracy", 0.47, labels={"head": "range_expansion"}, n=900, low=0.44, high=0.53)
    evaluate(ws)


# ---------------------------------------------------------------- the key metrics
def test_the_table_after_a_health_check_is_the_health_checks_own(ws):
    for value in (40.0, 50.0):
        record_metric(ws, "memory_usage_percent", value)
        ws.clock.advance(timedelta(minutes=1))
    checked = health(ws, seconds=0.05)
    expected = checked.outcome().figures["metrics"]
    shown = {r["key"]: r for r in opsdata.metric_rows(ws)}
    assert set(shown) == set(expected) and len(shown) == 6
    for key, figures in expected.items():
        assert {k: shown[key][k] for k in figures} == figures, key
    panel = rows(operations.key_metrics(ws))
    for key, figures in expected.items():
        assert panel[key]["now"]["value"] == figures["now"] and panel[key]["band"]["text"] == figures["band"]
    assert shown["memory_usage"]["history"][:2] == [40.0, 50.0] and len(shown["memory_usage"]["history"]) == 3


@pytest.mark.parametrize("value, band", [(float("nan"), "undefined"), (None, "undefined"), (float("inf"), "undefined"), (0.2, "watch"),
                                         (0.7, "alert"), (1.5, "critical"), (0.05, "normal")])
def test_a_metric_without_a_number_is_unknown_and_never_well(ws, value, band):
    record_metric(ws, "error_rate_percent", 0.01)
    ws.clock.advance(timedelta(minutes=1))
    record_metric(ws, "error_rate_percent", value)
    row = rows(operations.key_metrics(ws))["error_rate"]
    assert row["band"]["text"] == band
    assert (row["band"]["status"] == "unknown") == (band == "undefined")
    json.dumps(operations.key_metrics(ws).to_json(), allow_nan=False)
    assert operations.key_metrics(ws).html() and operations.key_metrics(ws).text()


def test_an_old_measurement_says_nothing_about_now(ws):
    record_metric(ws, "cpu_usage_percent", 45.0)
    assert rows(operations.key_metrics(ws))["cpu_usage"]["band"] == {"text": "normal", "status": "ok"}
    ws.clock.advance(timedelta(days=2))  # its alert rule: stale after a day
    assert rows(operations.key_metrics(ws))["cpu_usage"]["band"] == {"text": "stale", "status": "unknown"}
    assert tiles(ws)["Key metrics"].status is Status.UNKNOWN


def test_the_bands_are_those_of_the_configuration(ws):
    (ws.config_dir / "alerts.yaml").write_text("key_metrics: {cpu_usage: {normal_high: 50, alert: 61, critical: 71}}\n")
    record_metric(ws, "cpu_usage_percent", 65.0)
    with Workspace.open(ws.root) as again:
        row = rows(operations.key_metrics(again))["cpu_usage"]
    assert (row["normal"], row["alert"], row["critical"]) == ("30\u00a0to\u00a050\u00a0%", "over\u00a061\u00a0%", "over\u00a071\u00a0%")
    assert row["band"]["text"] == "alert" and row["source"].startswith("alerts.yaml:")


# ---------------------------------------------------------------- the standing of the desk
@pytest.mark.parametrize("page", ["operations", "runs"])
def test_an_empty_workspace_is_shown_whole(ws, page):
    panels = draw_page(ws, page)
    assert [p.name for p in panels] == [panel_name(t) for t in PAGES[page].panels]
    assert not any("could not be shown" in p.text() for p in panels)
    for p in panels:
        json.dumps(p.to_json(), allow_nan=False)
    if page == "operations":
        shown = tiles(ws)
        assert shown["Trading"].value == "halted" and shown["Open alerts"].value == 0 and shown["Last session"].value is None
        assert shown["Last backup"].value == "none" and shown["Journal"].value == ws.journal.head().seq


def test_reading_changes_nothing(ws):
    trouble(ws)
    take_on(ws)
    before, telemetry = ws.journal.head(), ws.telemetry.rows("SELECT count(*) AS n FROM metrics")
    files = sorted(p for p in ws.root.rglob("*") if p.is_file() and not p.name.endswith(("-wal", "-shm")))
    first = [p.digest() for page in ("operations", "runs") for p in draw_page(ws, page)]
    assert [p.digest() for page in ("operations", "runs") for p in draw_page(ws, page)] == first
    assert ws.journal.head() == before and ws.telemetry.rows("SELECT count(*) AS n FROM metrics") == telemetry
    assert sorted(p for p in ws.root.rglob("*") if p.is_file() and not p.name.endswith(("-wal", "-shm"))) == files


def test_alerts_are_those_of_the_command_line(ws, capsys):
    trouble(ws)
    opsacts.acknowledge_alert(ws, next(r["alert_id"] for r in open_alerts(ws) if r["rule"] == "portfolio_var"), note="looking")
    opsacts.silence_alert(ws, "model_accuracy", {"head": "range_expansion"}, duration="2h", comment="retraining")
    facts = said(capsys, "--workspace", str(ws.root), "alerts", "--json")
    shown = rows(operations.alerts(ws))
    assert set(shown) == {r["alert_id"] for r in facts["alerts"]} and len(shown) == 3
    for r in facts["alerts"]:
        mine = shown[r["alert_id"]]
        assert (mine["value"], mine["threshold"], mine["severity"]["text"], mine["since"]["value"]) == (
            r["value"], r["threshold"], r["severity"], r["fired_at"])
        assert bool(mine["silenced"]) == bool(r["silenced_by"]) and (mine["owner"] or "").startswith(r["acknowledged_by"] or "")
    assert set(rows(operations.silences(ws))) == {s["id"] for s in facts["silences"]}
    assert tiles(ws)["Open alerts"].value == 3 and tiles(ws)["Open alerts"].note == "1 P1, 1 P2, 1 P3; 2 not acknowledged"
    assert operations.alerts(ws).status == facts["status"]


def test_a_broken_journal_is_seen_at_the_next_look(ws):
    assert tiles(ws)["Journal"].status is Status.OK
    trouble(ws)
    assert tiles(ws)["Journal"].status is Status.OK
    with sqlite3.connect(ws.state_dir / "state.db") as intruder:
        intruder.execute("DROP TRIGGER journal_is_append_only_update")
        intruder.execute("UPDATE journal SET body = replace(body, '103000', '3000') WHERE kind = 'alert.fired' AND body LIKE '%103000%'")
    with Workspace.open(ws.root) as again:
        tile = tiles(again)["Journal"]
        assert tile.status is Status.CRITICAL and "was changed after it was written" in tile.note
        assert operations.standing(again).status is Status.CRITICAL


def test_hostile_texts_stay_texts(ws):
    trouble(ws)
    opsacts.acknowledge_alert(ws, next(r["alert_id"] for r in open_alerts(ws) if r["rule"] == "portfolio_var"), note=HOSTILE)
    opsacts.silence_alert(ws, "portfolio_var", {}, duration="2h", comment=HOSTILE)
    opsacts.resume_trading(ws, reason=HOSTILE)
    take_on(ws)
    ws.journal.append("procedure.started", started_body(find("send_alert"), {"message": HOSTILE}, "script", None), subject="r1")
    ws.journal.append("procedure.finished", {"name": "send_alert", "outcome": Outcome(Status.OK, HOSTILE).to_json()}, subject="r1")
    shown = "".join(p.html() for page in ("operations", "runs") for p in draw_page(ws, page))
    assert "<script>alert" not in shown and "<img" not in shown and shown.count("&lt;script&gt;alert") >= 6


# ---------------------------------------------------------------- the past
def test_a_page_of_the_past_is_the_page_that_was_there(ws):
    recorded = {}
    trouble(ws)
    opsacts.resume_trading(ws, reason="all is well")
    recorded[ws.clock.now()] = [p.digest() for p in draw_page(ws, "operations")]
    ws.clock.advance(timedelta(hours=1))
    opsacts.halt_trading(ws, reason="too risky")
    opsacts.acknowledge_alert(ws, next(r["alert_id"] for r in open_alerts(ws) if r["rule"] == "portfolio_var"), note="mine")
    quiet = opsacts.silence_alert(ws, "portfolio_var", {}, duration="2h", comment="known")
    take_on(ws)
    recorded[ws.clock.now()] = [p.digest() for p in draw_page(ws, "operations")]
    ws.clock.advance(timedelta(hours=1))
    opsacts.expire_silence(ws, quiet.figures["id"])
    record_metric(ws, "portfolio_var", 30_000.0)
    evaluate(ws)
    ws.clock.advance(timedelta(hours=1))
    assert len({tuple(d) for d in recorded.values()}) == 2
    for moment, digests in recorded.items():
        past = ws.as_of(moment)
        assert [p.digest() for p in draw_page(past, "operations")] == digests, moment
        for act in (lambda past=past: opsacts.halt_trading(past, reason="x"), lambda past=past: runacts.start(past, "list_positions"),
                    lambda past=past: opsacts.silence_matching(past, "rule=portfolio_var", "2h", "x"),
                    lambda past=past: opsacts.acknowledge_alert(past, "x")):
            with pytest.raises(UsageError, match="the past cannot be changed"):
                act()
        past.close()


# ---------------------------------------------------------------- acts
def test_halt_and_resume_are_verified_and_on_record(ws):
    assert opsacts.plan_resume(ws, reason="checked")[0].startswith("write the trading permit") and tiles(ws)["Trading"].value == "halted"
    assert opsacts.resume_trading(ws, reason="checked").verification == "verified"
    assert tiles(ws)["Trading"].value == "permitted" and "by ann" in tiles(ws)["Trading"].note
    assert [e.body["act"] for e in ws.journal.entries(kind="approval.granted")] == ["resume_trading"]
    assert opsacts.halt_trading(ws, reason="limits look wrong").verification == "verified"
    assert tiles(ws)["Trading"].value == "halted" and "limits look wrong" in tiles(ws)["Trading"].note
    assert ws.journal.last("permit.revoked").actor == "ann"
    with pytest.raises(UsageError, match="reason"):
        opsacts.resume_trading(ws, reason=" ")
    assert [r["who"] for r in operations.acts(ws).parts[0].rows][:2] == ["ann", "ann"]


def test_what_is_typed_wrong_is_said_at_its_field(ws):
    trouble(ws)
    for typed, field in ((("portfolio_var", {}, "soon", "x"), "duration"), (("portfolio_var", {}, "2h", ""), "comment")):
        with pytest.raises(FieldErrors) as found:
            opsacts.silence_alert(ws, *typed)
        assert set(found.value.fields) == {field}
    with pytest.raises(FieldErrors) as found:
        opsacts.silence_matching(ws, "rule=portfolio_vra", "2h", "x")
    assert "portfolio_var" in found.value.fields["matchers"] and known_silences(ws) == []


def test_every_procedure_has_the_form_that_its_cell_declares(ws):
    offered = {a.name.removeprefix("run:"): a for a in runs.procedures(ws).actions()}
    assert set(offered) == set(catalogue(ws.root))
    for name, entry in catalogue(ws.root).items():
        declared = [p for p in entry.declaration.parameters if p.name not in ("workspace", "execute")]
        form = {f.name: f for f in offered[name].fields}
        assert list(form) == [p.name for p in declared], name
        assert bool(offered[name].plan) == entry.declaration.mutates
        untouched = {f.name: f.value for f in offered[name].fields}
        missing = {p.name for p in declared if p.required}
        if missing:
            with pytest.raises(FieldErrors) as found:
                read_form(entry.declaration, untouched)
            assert set(found.value.fields) == missing
            untouched |= {p.name: p.choices[0] if p.choices else "1" for p in declared if p.required}
        values = read_form(entry.declaration, untouched)
        for p in declared:
            if not p.required:
                assert values.get(p.name, p.default) == p.default, (name, p.name)


def test_a_wrong_parameter_starts_nothing(ws):
    with pytest.raises(FieldErrors) as found:
        runacts.start(ws, "check_model_performance", last_hours="soon")
    assert "number" in found.value.fields["last_hours"] and runacts.jobs(ws) == []
    with pytest.raises(UsageError, match="list_positions"):
        runacts.start(ws, "list_position")
    assert [e for e in ws.journal.entries(prefix="procedure.")] == []


def nap(ws, mutates=False):
    """A procedure of the workspace's own."""
    lines = ['workspace: str = ""  # folder', "seconds: float = 0.0  # how long to sleep"]
    lines += ["execute: bool = False  # really do it"] if mutates else []
    opening = f'p = open_procedure("nap", globals(){", mutates=True" if mutates else ""})'
    act = 'p.plan("sleep on it")\nif p.approved:\n    p.ws.cache_dir.joinpath("slept").write_text("yes")\n' if mutates else ""
    head = "import time\nfrom gpt_trader.core.outcome import Outcome, Status\nfrom gpt_trader.runbook.procedure import open_procedure\n"
    steps = [head + opening, f"{act}time.sleep(p.params.seconds)", 'p.finish(Outcome(Status.OK, "Well rested"))']
    declared = new_code_cell("\n".join(lines), metadata={"tags": ["parameters"]})
    cells = [new_markdown_cell("# Nap\n\n> Sleeps"), declared, *map(new_code_cell, steps)]
    (ws.root / "procedures").mkdir()
    nbformat.write(new_notebook(cells=cells), ws.root / "procedures" / "nap.ipynb")


def wait_for(true, what):
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.1)


@pytest.mark.timeout(400)
def test_a_run_is_a_process_of_its_own_with_the_persons_name(ws):
    nap(ws)
    told = []
    done = runacts.run(ws, "nap", progress=told.append, seconds="0.1")
    assert done.status is Status.OK and done.summary == "Well rested" and told[-1].endswith("cells done")
    (past,) = runs.runs(ws).parts[0].rows
    assert (past["who"], past["status"], past["said"], past["with"]) == ("ann", "ok", "Well rested", "seconds 0.1")
    assert past["report"]["href"] == done.figures["href"] and (ws.root / done.figures["href"]).exists() and runacts.jobs(ws) == []
    assert runs.runs(ws, ("health_check",)).parts[0].rows == [] and len(runs.runs(ws, ("nap",), "ok").parts[0].rows) == 1


@pytest.mark.timeout(400)
def test_a_run_can_be_stopped_and_says_so(ws):
    nap(ws)
    started = runacts.start(ws, "nap", seconds=300)
    run_id = started.figures["run_id"]
    wait_for(lambda: list(ws.journal.entries(kind="procedure.started", subject=run_id)), "the notebook has not begun")
    (job,) = runs.running(ws).parts[0].rows
    assert job["who"] == "ann" and job["stop"].label == "Stop"
    assert runacts.cancel(ws, run_id).verification == "verified" and runacts.jobs(ws) == []
    (past,) = runs.runs(ws).parts[0].rows
    assert past["status"] == "unknown" and "as ann asked" in past["said"]
    with pytest.raises(UsageError, match="not under way"):
        runacts.cancel(ws, run_id)


@pytest.mark.timeout(400)
def test_a_procedure_that_changes_something_shows_its_dry_run_first(ws):
    nap(ws, mutates=True)
    steps = runacts.plan(ws, "nap", seconds=0)
    assert steps == ["Dry run, nothing was changed: Well rested", "sleep on it"] and not (ws.cache_dir / "slept").exists()
    done = runacts.run(ws, "nap", seconds=0)
    assert done.verification == "unknown" and (ws.cache_dir / "slept").exists()
    (granted,) = ws.journal.entries(kind="approval.granted")
    assert granted.actor == "ann" and granted.body["act"] == "nap"


def test_a_process_that_died_is_shown_until_it_is_dismissed(ws):
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    folder = ws.cache_dir / "jobs"
    folder.mkdir(parents=True)
    job = {"run_id": "0a1b", "name": "nap", "values": {}, "pid": dead.pid, "born": 0.0, "actor": "ann", "at": utc_text(START), "done": 0,
           "cells": None, "error": None}
    (folder / "0a1b.json").write_text(json.dumps(job))
    (folder / "half.json").write_text('{"run_')  # just being written
    (row,) = runs.running(ws).parts[0].rows
    assert row["state"] == "its process is gone without an outcome" and row["stop"].label == "Dismiss"
    assert runs.running(ws).status is Status.WARNING
    runacts.forget(ws, "0a1b")
    assert runacts.jobs(ws) == [] and not Path(folder / "0a1b.json").exists()
    shutil.rmtree(folder)

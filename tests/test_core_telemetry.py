"""Logs and metrics through the package: the runbook's snippet, correlation, redaction, rotation by several processes, exposition."""
import json
import multiprocessing
import os
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gpt_trader.core.approval import Approval, DryRun, require_approval
from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.secret import Secret, redact
from gpt_trader.core.telemetry import (
    StructuredLogger,
    correlation_id,
    get_logger,
    latest_metric,
    metric_history,
    prometheus_text,
    record_metric,
    record_metrics,
)
from gpt_trader.core.workspace import Workspace

CLOSE = datetime(2013, 3, 1, 21, 5, tzinfo=UTC)


@pytest.fixture
def ws(tmp_path: Path) -> Any:
    with Workspace.create(tmp_path / "desk", SimulatedClock(CLOSE)) as workspace:
        yield workspace


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


SNIPPET = """
from gpt_trader.monitoring import StructuredLogger

# Configure logger
logger = StructuredLogger(
    service="gpt-trader",
    log_level="INFO",
    enable_correlation=True,
    enable_tracing=True
)

# Use correlation context
with logger.correlation_context() as corr_id:
    logger.info("Processing trade", symbol="AAPL", quantity=100)
"""


def test_the_runbooks_snippet_runs_as_it_stands(ws: Workspace) -> None:
    environment = {**os.environ, "GPT_TRADER_HOME": str(ws.root)}
    done = subprocess.run([sys.executable, "-c", SNIPPET + "print(corr_id)"], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (line,) = lines(ws.logs_dir / "app.log")
    assert line["correlation_id"] == done.stdout.strip() and done.stderr == ""
    assert (line["event"], line["symbol"], line["quantity"]) == ("Processing trade", "AAPL", 100)
    assert (line["level"], line["service"], line["channel"]) == ("INFO", "gpt-trader", "app")
    assert len(line["trace_id"]) == 32 and len(line["span_id"]) == 16
    assert line["timestamp"] == "2013-03-01T21:05:00.000000Z", "the workspace's clock"


def test_without_a_workspace_lines_go_to_standard_error(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "GPT_TRADER_HOME"}
    done = subprocess.run([sys.executable, "-c", SNIPPET], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and json.loads(done.stderr)["symbol"] == "AAPL"


def test_lines_and_journal_entries_share_the_correlation_id(ws: Workspace) -> None:
    logger = get_logger(ws)
    with logger.correlation_context() as outer:
        logger.info("one")
        with get_logger(ws, "ml").correlation_context() as inner:
            get_logger(ws, "ml").info("two")
            granted = require_approval(ws, "send_alert", execute=True, params={})
    logger.info("three")
    assert inner == outer and correlation_id() is None and isinstance(granted, Approval)
    one, three = lines(ws.logs_dir / "app.log")
    assert one["correlation_id"] == lines(ws.logs_dir / "ml.log")[0]["correlation_id"] == outer and "correlation_id" not in three
    assert list(ws.journal.entries(kind="approval.granted"))[0].correlation_id == outer


def test_secrets_are_blotted_out_wherever_they_turn_up(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_KEY", "Zk3!correct-horse")
    secret = Secret("env:BROKER_KEY").resolve()
    logger = get_logger(ws, "trading").bind(api_key="k-1")

    def send(password: str) -> None:
        raise ConnectionError(f"refused: key {secret}, https://me:hunter2@host/?token=abcdef")

    try:
        send("local-variable")
    except ConnectionError as error:
        logger.exception("Order execution failed", why=error, nested={"Authorization": "Bearer abcdefghijk", "list": [{"password": "p-1"}]},
                         note=f"tried with {secret}", token="t-1", symbol="AAPL")
    for path in (ws.logs_dir / "trading.log", ws.logs_dir / "trading" / "orders.log"):
        text = path.read_text()
        for hidden in (secret, "hunter2", "abcdef", "k-1", "p-1", "t-1", "local-variable"):
            assert hidden not in text, hidden
        (line,) = lines(path)
        assert line["symbol"] == "AAPL" and line["exception"][0]["exc_type"] == "ConnectionError"


def test_redaction_leaves_the_rest_alone() -> None:
    harmless = {"symbol": "AAPL", "quantity": 100, "token": "env:TOKEN", "secret": None, "path": ["a", 1.5, True]}
    assert redact(harmless) == harmless


def test_orders_log_holds_errors_alone_and_greps(ws: Workspace) -> None:
    trading = get_logger(ws, "trading")
    trading.info("Order sent")
    orders = ws.logs_dir / "trading" / "orders.log"
    assert orders.exists() and orders.read_text() == ""
    trading.error("Order execution failed", client_order_id="a-1")
    get_logger(ws, "ml").error("Training failed")
    assert [line for line in orders.read_text().splitlines() if "ERROR" in line] == orders.read_text().splitlines() != []


class Mute:
    """An object that cannot be written."""

    def __str__(self) -> str:
        raise RuntimeError("no")


def test_what_json_cannot_hold_is_written_all_the_same(ws: Workspace) -> None:
    loop: list[Any] = []
    loop.append(loop)
    forged = "a\n{\"level\":\"ERROR\"}"
    get_logger(ws).info("odd", loop=loop, big=2**80, lone="\ud800", newline=forged, keys={1: {2}, "password": "p-1"}, mute=Mute())
    (line,) = lines(ws.logs_dir / "app.log")
    assert line["event"] == "odd" and line["level"] == "INFO" and line["big"] == str(2**80) and line["keys"]["password"] == "***"


def test_a_full_disk_is_told_once_and_stops_nobody(ws: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    ws.logs_dir.mkdir(exist_ok=True)
    (ws.logs_dir / "ml.log").symlink_to("/dev/full")
    logger = get_logger(ws, "ml")
    for _ in range(3):
        logger.info("lost")
    assert capfd.readouterr().err.count("being lost") == 1


def _write_many(root: str, who: int, count: int) -> None:
    with Workspace.open(root) as ws:
        logger = get_logger(ws, "ml")
        for number in range(count):
            logger.info("Trained", who=who, number=number, padding="x" * 200)


def test_several_processes_rotate_one_file_and_lose_nothing(ws: Workspace) -> None:
    (ws.config_dir / "config.yaml").write_text("logging: {rotate_mb: 0.02, rotate_keep: 100}\n")
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(str(ws.root), who, 150)) for who in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    files = sorted(ws.logs_dir.glob("ml.log*"))
    kept = sorted((line["who"], line["number"]) for path in files for line in lines(path))
    assert len(files) > 5 and kept == [(who, number) for who in range(3) for number in range(150)]


def test_rotation_keeps_what_is_configured(ws: Workspace) -> None:
    (ws.config_dir / "config.yaml").write_text("logging: {rotate_mb: 0.005, rotate_keep: 2}\n")
    with Workspace.open(ws.root) as again:
        for number in range(200):
            get_logger(again).info("x" * 100, number=number)
    assert sorted(p.name for p in ws.logs_dir.glob("app.log*")) == ["app.log", "app.log.1", "app.log.2"]
    assert lines(ws.logs_dir / "app.log")[-1]["number"] == 199


def test_a_machine_wide_installation_logs_where_it_is_told(ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ws.config_dir / "config.yaml").write_text(f"logging: {{folder: {tmp_path}/var}}\n")
    with Workspace.open(ws.root) as again:
        get_logger(again).info("by configuration")
        monkeypatch.setenv("GPT_TRADER_LOG_DIR", str(tmp_path / "unit"))
        get_logger(again).info("by environment")
    assert lines(tmp_path / "var" / "app.log")[0]["event"] == "by configuration"
    assert lines(tmp_path / "unit" / "app.log")[0]["event"] == "by environment"


def test_importing_telemetry_loads_no_heavy_library() -> None:
    code = textwrap.dedent("""
        import sys
        import gpt_trader.core.telemetry
        print(sorted({"structlog", "opentelemetry", "prometheus_client", "pandas", "pydantic", "yaml"} & set(sys.modules)))
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_metrics_keep_interval_session_and_order(ws: Workspace) -> None:
    record_metric(ws, "model_accuracy", 0.6, {"head": "range_expansion"}, n=1000, low=0.57, high=0.63, session="2013-03-01")
    ws.clock.advance(timedelta(days=3))  # type: ignore[attr-defined]
    record_metrics(ws, [{"name": "model_accuracy", "value": None, "labels": {"head": "range_expansion"}, "session": "2013-03-04"}])
    found = latest_metric(ws, "model_accuracy", {"head": "range_expansion"})
    assert found is not None and found.value is None and found.session == "2013-03-04", "a missing value hides last week's"
    history = metric_history(ws, "model_accuracy")
    assert history["n"].tolist()[0] == 1000 and history["low"].tolist()[0] == 0.57 and len(history) == 2


def test_a_measurement_repeated_at_one_moment_is_not_doubled(ws: Workspace) -> None:
    for value in (1.0, 2.0):
        record_metric(ws, "portfolio_var", value)
    assert metric_history(ws, "portfolio_var")["value"].tolist() == [2.0]


def test_exposition_parses_as_prometheus_reads_it(ws: Workspace) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    record_metric(ws, "portfolio_var", 48_200)
    record_metric(ws, "model_accuracy", 0.6, {"head": 'odd "name"\n\\'}, n=10, low=0.5, high=0.7)
    ws.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]
    samples = {(s.name, s.labels.get("head") or s.labels.get("metric")): s.value
               for family in text_string_to_metric_families(prometheus_text(ws)) for s in family.samples}
    assert samples["gpt_trader_portfolio_var", None] == 48_200 and samples["gpt_trader_model_accuracy_low", 'odd "name"\n\\'] == 0.5
    assert samples["gpt_trader_metric_age_seconds", "portfolio_var"] == 3600


def test_a_dry_run_leaves_no_trace_and_an_approval_does(ws: Workspace) -> None:
    before = ws.journal.head()
    assert isinstance(require_approval(ws, "restore_backup", execute=False, params={}), DryRun) and ws.journal.head() == before
    assert isinstance(require_approval(ws, "restore_backup", execute=True, params={}, confirm=lambda question: False), DryRun)
    params = {"date": CLOSE, "password": "hunter2"}
    granted = require_approval(ws, "restore_backup", execute=True, params=params, confirm=lambda question: True)
    assert isinstance(granted, Approval)
    assert [row["granted"] for row in ws.store.rows("SELECT granted FROM approvals ORDER BY seq")] == [0, 1]
    assert "hunter2" not in str(ws.store.rows("SELECT * FROM journal")) and ws.journal.verify().ok and ws.journal.check_projections() == []


def test_levels_below_the_configured_one_are_not_written(ws: Workspace) -> None:
    quiet = StructuredLogger(log_level="warning", workspace=ws)
    quiet.info("no")
    quiet.error("yes")
    assert [line["event"] for line in lines(ws.logs_dir / "app.log")] == ["yes"]

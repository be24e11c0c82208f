"""check_model_performance, run as the runbook runs it: its figures are what anyone recounts from the stored rows."""
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gpt_trader.core.clock import SimulatedClock, utc_text
from gpt_trader.core.workspace import Workspace
from gpt_trader.runbook.engine import run_procedure


@pytest.mark.slow
def test_its_figures_are_recounted_and_without_predictions_it_says_so(tmp_path: Path) -> None:
    with Workspace.create(tmp_path, SimulatedClock(datetime(2013, 3, 1, 22, tzinfo=UTC))) as ws:
        nothing = run_procedure(ws, "check_model_performance").outcome
        assert (nothing.status, nothing.figures["n"], nothing.figures["accuracy"]) == ("unknown", 0, None)
        assert "no prediction has settled" in nothing.summary.lower()
        at = utc_text(ws.clock.now())
        with ws.telemetry.transaction() as db:
            for day in range(30):
                for k, symbol in enumerate(("AAPL", "GOOG", "IBM", "MSFT")):
                    wrong, settled = (day + k) % 4, day < 29  # one of four is right; the newest session waits for its outcome
                    db.execute("INSERT INTO predictions VALUES (?,?,'range_expansion','v1',0.6,1,0,1,?,?,?,'','served')",
                               [f"2013-01-{day + 1:02d}", symbol, int(not wrong) if settled else None, at,
                                (at if day == 28 else "2013-02-01T00:00:00.000000Z") if settled else None])
        run = run_procedure(ws, "check-model-performance", {"last_hours": 24.0})
        rows = ws.telemetry.frame("SELECT * FROM predictions WHERE label IS NOT NULL")
        figures = run.outcome.figures
        assert figures["n"] == len(rows) == 116 and figures["correct"] == (rows["predicted"] == rows["label"]).sum() == 29
        assert figures["accuracy"] == 29 / 116 and figures["naive"] == 87 / 116 and figures["majority"] == 29 / 116
        assert (figures["recent"]["n"], figures["recent"]["correct"]) == (4, 1) and figures["waiting"] == 4
        assert run.outcome.status == "critical" and run.outcome.recommended == ("validate_data_quality",) and run.report.exists()
        refused = run_procedure(ws, "check_model_performance", {"last_hours": 0.0}).outcome
        assert refused.status == "unknown" and "last_hours" in refused.summary

"""What pages and reading functions say at a moment, as plain values: recorded while it is the present, compared when it is the past."""
import json
from collections.abc import Callable
from datetime import date, datetime
from typing import Any

import pandas as pd

from gpt_trader.core.metrics import latest_metrics, metric_history
from gpt_trader.core.workspace import Workspace
from gpt_trader.dashboards.pages import PAGES, draw_panel
from gpt_trader.dataflow.datasets import load_bars
from gpt_trader.dataflow.quality import check_workspace
from gpt_trader.live.riskview import positions_outcome, risk_outcome, risk_view
from gpt_trader.live.session import equity_curve, session_rows
from gpt_trader.ml.prediction import accuracy, check_model
from gpt_trader.ml.registry import champion, models
from gpt_trader.monitoring import health
from gpt_trader.monitoring.alerts import alert_rows, fired_between, open_alerts
from gpt_trader.monitoring.measure import error_rate, model_accuracy, recorded
from gpt_trader.monitoring.notify import outbox
from gpt_trader.monitoring.silences import silenced_by, silences
from gpt_trader.runbook.incident import incidents, timeline
from gpt_trader.runbook.procedure import runs
from gpt_trader.trading.halt import permit_state
from gpt_trader.trading.positions import book

Record = dict[str, Any]

# Reading functions, each asked of a live workspace and of a past one in the same words.
READERS: dict[str, Callable[[Workspace], Any]] = {
    "clock": lambda ws: ws.clock.now(),
    "journal head": lambda ws: ws.journal.head(),
    "journal verifies": lambda ws: ws.journal.verify(),
    "tables follow": lambda ws: ws.journal.check_projections(),
    "book": book,
    "positions": lambda ws: book(ws).frame(closed=True),
    "orders": lambda ws: ws.store.rows("SELECT * FROM orders ORDER BY created_seq"),
    "fills": lambda ws: ws.store.rows("SELECT * FROM fills ORDER BY seq"),
    "sessions": lambda ws: session_rows(ws.store, closed_only=False),
    "equity": lambda ws: equity_curve(ws.store),
    "risk": lambda ws: risk_outcome(risk_view(ws)).to_json(),
    "risk by position": lambda ws: positions_outcome(risk_view(ws), "risk").to_json(),
    "alerts": alert_rows,
    "open alerts": open_alerts,
    "fired": lambda ws: fired_between(ws, datetime.min.replace(tzinfo=ws.clock.now().tzinfo), ws.clock.now()),
    "silences": silences,
    "silenced": lambda ws: {r["alert_id"]: [s.id for s in silenced_by(ws, r)] for r in open_alerts(ws)},
    "outbox": lambda ws: [{k: v for k, v in r.items() if k != "results"} for r in outbox(ws)],
    "permit": permit_state,
    "metrics": latest_metrics,
    "history": lambda ws: metric_history(ws, "equity"),
    "recorded": recorded,
    "key metrics": lambda ws: health.key_metrics(ws, recorded(ws)),
    "error rate": error_rate,
    "measured accuracy": lambda ws: model_accuracy(ws, next(iter(ws.config.models.heads))),
    "accuracy": lambda ws: {head: accuracy(ws, head).to_json() for head in ws.config.models.heads},
    "model check": lambda ws: check_model(ws).to_outcome().to_json(),
    "models": lambda ws: [(m.head, m.version, m.status) for m in models(ws)],
    "champion": lambda ws: {head: champion(ws, head) for head in ws.config.models.heads},
    "predictions": lambda ws: ws.telemetry.frame("SELECT * FROM predictions ORDER BY head, session, symbol"),
    "runs": runs,
    "run index": lambda ws: ws.telemetry.rows("SELECT * FROM runs ORDER BY started_at, run_id"),
    "incidents": incidents,
    "timelines": lambda ws: {i.incident_id: timeline(ws, i) for i in incidents(ws)},
    "bars": lambda ws: _until_now(ws, load_bars(ws)),
    "quality": lambda ws: check_workspace(ws)[1].to_outcome().to_json(),
    **{f"health: {name}": lambda ws, name=name: getattr(health, f"check_{name}")(ws)
       for name in ("permit", "alerts", "data", "backup", "clock", "journal")},
}


def _until_now(ws: Workspace, bars: pd.DataFrame) -> pd.DataFrame:
    "Bars of sessions that are over: a replay holds all of its future, and the past is cut by its own clock."
    closed = [s for s in bars.session.unique() if ws.calendar.open_close(s.date())[1] <= ws.clock.now()]
    return bars[bars.session.isin(closed)].reset_index(drop=True)


def plain(value: Any) -> Any:
    """JSON values, for comparing and for showing what differs."""
    if isinstance(value, (pd.DataFrame, pd.Series)):
        return json.loads(value.to_json(orient="split", date_format="iso", double_precision=15))
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items() if k != "disabled"}  # acts are for the present only: the one wanted difference
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return value.isoformat() if isinstance(value, (date, datetime)) else repr(value)


def record(ws: Workspace) -> Record:
    """Every panel of every page and every reading, as they are at the workspace's moment."""
    found: Record = {name: plain(read(ws)) for name, read in READERS.items()}
    for page in PAGES.values():
        for target in page.panels:
            found[f"{page.name}: {target.partition(':')[2]}"] = plain(draw_panel(ws, target).to_json())
    return json.loads(json.dumps(found, default=repr))


def differences(then: Any, now: Any, where: str = "") -> list[str]:
    """Where two records differ, a line each."""
    if isinstance(then, dict) and isinstance(now, dict):
        return [line for k in sorted({*then, *now}) for line in differences(then.get(k, "nothing"), now.get(k, "nothing"), f"{where}/{k}")]
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        return [line for i, pair in enumerate(zip(then, now, strict=True)) for line in differences(*pair, f"{where}/{i}")]
    return [] if then == now else [f"{where}: was {str(then)[:300]}, is shown as {str(now)[:300]}"]
